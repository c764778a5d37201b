"""The cache's file format: a safetensors file, written in one pass, memory-mapped for reading, checked for damage.

The safetensors library needs all tensors in memory before it writes; 4 GB of features are better streamed. The format
allows this: the header comes first but is known last, so a fixed number of bytes is reserved and padded with spaces.
Large tensors are streamed first; small ones follow.

Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np

from registry.errors import InputError
from registry.files import check_regular
from registry.json_files import convert

# Bytes reserved for the header: 8 for its length, then its text. A multiple of 64 keeps the first tensor aligned.
_HEADER = 4096
_CHUNK = 1 << 22
# Number of chunks of the streamed tensors verified against their checksums when a file is opened: all of a small file,
# evenly spaced ones of a large file, because opening must not read 4 GB. A truncated file is detected by its size.
_CHECKED_CHUNKS = 32
_DTYPES = {"<f4": "F32", "<i8": "I64", "<i2": "I16", "<u4": "U32", "|u1": "U8"}
_CHECKSUMS = "sums"


class _Metadata(msgspec.Struct):
    streamed: str
    digest: str


class _ArrayEntry(msgspec.Struct):
    """The header's entry for a tensor."""

    dtype: Literal["F32", "I64", "I16", "U32", "U8"]
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class PackWriter:
    """Writes a packed file, front to back, into an open binary file.

    Call `stream` for the rows of a large tensor and then `name`, once per large tensor; at the end, `finish` with the
    small ones.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._entries: dict[str, dict] = {}
        self._checksums: list[int] = []
        self._buffer = bytearray()
        self._size = 0
        file.write(b" " * _HEADER)

    def stream(self, array: np.ndarray) -> None:
        """Append an array's bytes to the current tensor."""
        self._buffer += array.tobytes()
        while len(self._buffer) >= _CHUNK:
            self._emit(_CHUNK)

    def name(self, name: str, shape: tuple[int, ...], dtype: str = "<f4") -> None:
        """Set the name and shape of the tensor that was streamed since the last call."""
        self._enter(name, dtype, shape)

    def finish(self, small: Mapping[str, np.ndarray]) -> None:
        """Append the small tensors and fill in the header."""
        self._emit(len(self._buffer))
        streamed = self._size
        small = {**small, _CHECKSUMS: np.array(self._checksums, dtype="<u4")}
        for name, array in small.items():
            self._file.write(array.tobytes())
            self._enter(name, array.dtype.str, array.shape)
        digest = _digest(self._entries, [array.tobytes() for array in small.values()])
        metadata = {"streamed": str(streamed), "digest": digest}
        text = json.dumps({"__metadata__": metadata, **self._entries}, separators=(",", ":")).encode()
        if len(text) > _HEADER - 8:
            raise ValueError(f"a header of {len(text)} bytes does not fit into the {_HEADER - 8} bytes reserved")
        self._file.seek(0)
        self._file.write(struct.pack("<Q", _HEADER - 8) + text.ljust(_HEADER - 8))

    def _enter(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        end = self._size + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._entries[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [self._size, end]}
        self._size = end

    def _emit(self, size: int) -> None:
        if size:
            chunk = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._checksums.append(zlib.crc32(chunk))
            self._file.write(chunk)


def open_packed(path: Path) -> dict[str, np.ndarray] | None:
    """Tensors of a packed file by name: streamed ones memory-mapped and read-only, small ones in memory.

    None if there is no such file, or if it is not an intact file of `PackWriter`.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = convert(json.loads(file.read(size)) if size == _HEADER - 8 else None, dict[str, Any], str(path))
        metadata = convert(header.pop("__metadata__"), _Metadata, str(path))
        convert(header, dict[str, _ArrayEntry], str(path))
        streamed = int(metadata.streamed)
        if path.stat().st_size != _HEADER + max(entry["data_offsets"][1] for entry in header.values()):
            return None
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=_HEADER)
        small = [entry for entry in header.values() if _in_memory(entry, streamed)]
        if _digest(header, [data[slice(*entry["data_offsets"])].tobytes() for entry in small]) != metadata.digest:
            return None
        tensors = {name: _tensor(data, entry, streamed) for name, entry in header.items()}
        return tensors if _intact(data[:streamed], tensors.pop(_CHECKSUMS)) else None
    except (OSError, InputError, ValueError, KeyError, OverflowError, RecursionError, struct.error):
        # Not a packed file, whatever it is: the caller writes it again.
        return None


def _in_memory(entry: dict, streamed: int) -> bool:
    return entry["data_offsets"][0] >= streamed and entry["data_offsets"][1] > streamed


def _tensor(data: np.ndarray, entry: dict, streamed: int) -> np.ndarray:
    raw = data[slice(*entry["data_offsets"])]
    # The copy of a small tensor is aligned; in the file, an odd number of int16 values may precede it.
    raw = np.array(raw) if _in_memory(entry, streamed) else raw
    numpy_dtype = {name: dtype for dtype, name in _DTYPES.items()}[entry["dtype"]]
    return raw.view(numpy_dtype).reshape(entry["shape"])


def _intact(data: np.ndarray, checksums: np.ndarray) -> bool:
    chosen = np.unique(np.linspace(0, len(checksums) - 1, min(len(checksums), _CHECKED_CHUNKS)).astype(int))
    return all(zlib.crc32(data[index * _CHUNK : (index + 1) * _CHUNK].data) == checksums[index] for index in chosen)


def _digest(entries: Mapping[str, dict], small: Sequence[bytes]) -> str:
    """Hash of the header's entries and of the small tensors."""
    digest = hashlib.sha256(json.dumps(entries).encode())
    for part in small:
        digest.update(part)
    return digest.hexdigest()
