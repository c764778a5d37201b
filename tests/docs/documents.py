"""The documents and the blocks in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("registry", "models", "folds", "ensemble", "submit")
# In the order in which a reader meets them.
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)


def blocks(document: str, language: str) -> list[str]:
    """The blocks of a document in this language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def languages(document: str) -> set[str]:
    """The languages of its blocks; empty for a block without."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return set(re.findall(r"^```(\w*)\n.*?^```$", text, re.DOTALL | re.MULTILINE))


def path_of(block: str) -> str | None:
    """The file that a Python block is, named in its first line."""
    named = re.match(r"# (\w+(?:/\w+)+\.py)\n", block)
    return named[1] if named else None


def is_notebook_cell(block: str) -> bool:
    """Whether a Python block has lines that only a notebook runs."""
    return any(line.startswith(("!", "%")) for line in block.splitlines())
