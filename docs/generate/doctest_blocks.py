"""A griffe extension: examples in docstrings become code blocks, and placeholders such as <model> stay text."""

from __future__ import annotations

import html
import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
_CODE = re.compile(r"(^```.*?^```$|^    .*$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


class DoctestBlocks(griffe.Extension):
    """Rewrites docstrings in place, before they are rendered as Markdown."""

    def on_instance(self, *, obj: griffe.Object, **others: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", obj.docstring.value)
            parts = _CODE.split(text)  # text and code in turn
            parts[::2] = [html.escape(part, quote=False) for part in parts[::2]]
            obj.docstring.value = "".join(parts)
