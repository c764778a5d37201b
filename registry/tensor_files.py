"""Open safetensors files with the operating system's own errors."""

from __future__ import annotations

import os
from typing import Any

from safetensors import safe_open

from registry.files import check_regular


def open_tensors(path: str | os.PathLike[str], framework: str) -> Any:
    """`safe_open(path, framework)`, to be used in a `with` statement.

    Raises OSError as `open` and `check_regular` do, SafetensorError for a damaged file. `safe_open` alone says of every
    file that it cannot open, whatever the reason, that it does not exist.
    """
    check_regular(path)
    with open(path, "rb"):
        pass
    return safe_open(path, framework=framework)
