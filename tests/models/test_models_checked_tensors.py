"""Files of tensors: what was written is read, and every damaged bit is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.checked_tensors import read_tensors, write_tensors

TENSORS = {
    "matrix": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "half": torch.ones(3, dtype=torch.bfloat16),
    "step": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "none": torch.zeros(0, 4),
}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"header": "{}"})
    tensors, header = read_tensors(path)
    assert header == {"header": "{}"} and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    path, written = tmp_path / "x.safetensors", set()
    for _ in range(8):
        write_tensors(path, TENSORS, {"a": "\u00e9", "b": "2", "c": "3"})
        written.add(path.read_bytes())
    assert len(written) == 1 and read_tensors(path)[1] == {"a": "\u00e9", "b": "2", "c": "3"}


def test_every_flipped_bit_of_the_contents_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) - begin == 24 + 6 + 8 + 2
    for position in range(begin, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(SafetensorError, match="do not match their checksum"):
            read_tensors(path)


def test_a_changed_header_is_found_and_a_file_without_checksum_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"step": TENSORS["step"]}, {"header": "a"})
    path.write_bytes(path.read_bytes().replace(b'"header":"a"', b'"header":"b"'))
    with pytest.raises(SafetensorError, match="do not match their checksum"):
        read_tensors(path)
    save_file(load_file(path), path, {"header": "b"})
    assert read_tensors(path) == ({"step": torch.tensor(7)}, {"header": "b"})
