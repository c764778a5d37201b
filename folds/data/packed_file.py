"""The cache's file: a safetensors file written in one pass and mapped, which notices when it is damaged.

The safetensors library wants all tensors in memory before it writes; 4 GB of features are better streamed. The format
allows it: the header, which comes first but is known last, gets a fixed room filled up with spaces. Large tensors are
streamed first, small ones follow. This module knows neither utterances nor competitions.

Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

# 8 bytes of length and the header's text; a multiple of 64 keeps the first tensor aligned.
_HEADER = 4096
_CHUNK = 1 << 22
# How many chunks of the streamed tensors are compared with their sums when a file is opened: all of a small file, a
# spread over a large one, because opening must not read 4 GB. A file cut short always shows, in its size.
_CHECKED_CHUNKS = 32
_DTYPES = {"<f4": "F32", "<i8": "I64", "<i2": "I16", "<u4": "U32"}
_SUMS = "sums"


class PackWriter:
    """Writes a packed file, front to back, into an open binary file.

    `stream` rows, then `name` what was streamed; again for the next large tensor; last `finish` with the small ones.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._entries: dict[str, dict] = {}
        self._sums: list[int] = []
        self._held = bytearray()
        self._size = 0
        file.write(b" " * _HEADER)

    def stream(self, array: np.ndarray) -> None:
        """Append an array's bytes to the tensor under way."""
        self._held += array.tobytes()
        while len(self._held) >= _CHUNK:
            self._emit(_CHUNK)

    def name(self, name: str, shape: tuple[int, ...], dtype: str = "<f4") -> None:
        """Give all that was streamed since the last call its name and shape."""
        self._enter(name, dtype, shape)

    def finish(self, small: Mapping[str, np.ndarray]) -> None:
        """Append the small tensors and fill in the header."""
        self._emit(len(self._held))
        streamed = self._size
        small = {**small, _SUMS: np.array(self._sums, dtype="<u4")}
        for name, array in small.items():
            self._file.write(array.tobytes())
            self._enter(name, array.dtype.str, array.shape)
        digest = _digest(self._entries, [array.tobytes() for array in small.values()])
        metadata = {"streamed": str(streamed), "digest": digest}
        text = json.dumps({"__metadata__": metadata, **self._entries}, separators=(",", ":")).encode()
        if len(text) > _HEADER - 8:
            raise ValueError(f"a header of {len(text)} bytes does not fit its room")
        self._file.seek(0)
        self._file.write(struct.pack("<Q", _HEADER - 8) + text.ljust(_HEADER - 8))

    def _enter(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        end = self._size + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._entries[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [self._size, end]}
        self._size = end

    def _emit(self, size: int) -> None:
        if size:
            chunk = bytes(self._held[:size])
            del self._held[:size]
            self._sums.append(zlib.crc32(chunk))
            self._file.write(chunk)


def open_packed(path: Path) -> dict[str, np.ndarray] | None:
    """Tensors of a packed file by name: streamed ones mapped and read-only, small ones in memory.

    None when there is no such file or it is not what `PackWriter` wrote: cut short, overwritten, of another making.
    """
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size == _HEADER - 8 else {}
        metadata = header.pop("__metadata__")
        streamed = int(metadata["streamed"])
        if path.stat().st_size != _HEADER + max(entry["data_offsets"][1] for entry in header.values()):
            return None
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=_HEADER)
        small = [entry for entry in header.values() if _in_memory(entry, streamed)]
        if _digest(header, [data[slice(*entry["data_offsets"])] for entry in small]) != metadata["digest"]:
            return None
        tensors = {name: _tensor(data, entry, streamed) for name, entry in header.items()}
        return tensors if _sound(data[:streamed], tensors.pop(_SUMS)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        # Whatever the bytes are that stand there, they are no packed file; it is made again.
        return None


def _in_memory(entry: dict, streamed: int) -> bool:
    return entry["data_offsets"][0] >= streamed and entry["data_offsets"][1] > streamed


def _tensor(data: np.ndarray, entry: dict, streamed: int) -> np.ndarray:
    raw = data[slice(*entry["data_offsets"])]
    # Copying a small tensor mends its alignment, which an odd number of int16 before it has spoilt.
    raw = np.array(raw) if _in_memory(entry, streamed) else raw
    numpy_dtype = {ours: theirs for theirs, ours in _DTYPES.items()}[entry["dtype"]]
    return raw.view(numpy_dtype).reshape(entry["shape"])


def _sound(data: np.ndarray, sums: np.ndarray) -> bool:
    chosen = np.unique(np.linspace(0, len(sums) - 1, min(len(sums), _CHECKED_CHUNKS)).astype(int))
    return all(zlib.crc32(data[index * _CHUNK : (index + 1) * _CHUNK]) == sums[index] for index in chosen)


def _digest(entries: Mapping[str, dict], small: Sequence[bytes | np.ndarray]) -> str:
    """Of what the file says of its tensors and of the small ones whole."""
    digest = hashlib.sha256(json.dumps(entries).encode())
    for part in small:
        digest.update(part)
    return digest.hexdigest()
