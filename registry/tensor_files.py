"""Open and write safetensors files such that errors of the operating system are reported as OSError."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors import safe_open

from registry.files import atomic_write, check_regular


def open_tensors(path: str | os.PathLike[str], framework: str) -> Any:
    """`safe_open(path, framework)`, to be used in a `with` statement.

    Raises OSError like `open` and `check_regular`, SafetensorError for a damaged file. `safe_open` alone reports every
    file that it cannot open as missing, whatever the reason.
    """
    check_regular(path)
    with open(path, "rb"):
        pass
    return safe_open(path, framework=framework)


def write_serialized(path: str | os.PathLike[str], data: bytes) -> None:
    """Write the result of `safetensors.numpy.save` or `safetensors.torch.save` atomically.

    Equal contents give equal bytes, so a hash of the file identifies them. Raises OSError like `open` and `write`: the
    library's `save_file` hides the errno of a full disk, and writes metadata in random order.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(_with_sorted_header(data))


def _with_sorted_header(data: bytes) -> bytes:
    """The same file with the keys of its header sorted.

    Format: eight bytes with the header's length, the header as JSON, padded with spaces to a multiple of eight bytes,
    and the tensors' data.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]
