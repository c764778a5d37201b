"""Tensors in safetensors files with a checksum in the header, so that a flipped bit is detected before it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save as to_bytes
from torch import Tensor

from registry.tensor_files import open_tensors, write_serialized

_CHECKSUM = "checksum"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, metadata and the checksum of both atomically."""
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    header = dict(metadata or {})
    header[_CHECKSUM] = _checksum(contiguous, header)
    write_serialized(path, to_bytes(contiguous, header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file; files written by versions up to 0.1 have no checksum.

    Raises SafetensorError for a damaged file, OSError for one that cannot be read.
    """
    with open_tensors(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        header = dict(file.metadata() or {})
    checksum = header.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors, header):
        raise SafetensorError("the contents do not match their checksum")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of the header and of the tensors with their names, types and shapes."""
    digest = hashlib.sha256(repr(sorted(header.items())).encode(errors="surrogatepass"))
    for name, value in sorted(tensors.items()):
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode(errors="surrogatepass"))
        if value.numel():
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
