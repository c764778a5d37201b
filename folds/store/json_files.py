"""JSON files of a run: written whole or not at all, and read with one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from registry import InputError, atomic_write


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON. Raises InputError for a missing or damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        message = f"{path}: not readable as JSON ({error}): delete this run's folder and train it again"
        raise InputError(message) from None
