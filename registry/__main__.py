"""`python -m registry [PATTERN] [--json]`: the registered models with size, stride, tags and a line of what each is."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import tyro

from registry import MODELS, InputError, command, describe, list_models


@dataclasses.dataclass(frozen=True)
class Options:
    """List the registered models."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """A glob, such as "*lstm*"."""
    json: bool = False
    """Print JSON instead of a table."""


def main() -> None:
    """Print the models that match, and the plug-ins that do not load."""
    options = tyro.cli(Options, prog="python -m registry")
    names = list_models(options.pattern)
    if not names:
        raise InputError(f"no model matches '{options.pattern}'; there are: {', '.join(list_models())}")
    rows = [describe(name) for name in names]
    if options.json:
        print(json.dumps({"models": [dataclasses.asdict(row) for row in rows], "broken": MODELS.broken()}, indent=2))
        return
    cells = [("name", "family", "parameters", "stride", "tags", "what it is")]
    for row in rows:
        size = f"{row.parameters / 1e6:.2f} M"
        cells.append((row.name, row.family, size, str(row.stride), ",".join(row.tags), row.error or row.doc))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)) + "  " + line[5])
    for name, reason in MODELS.broken().items():
        print(f"broken plug-in {name}: {reason}")


if __name__ == "__main__":
    command(main)
