"""`python -m registry [PATTERN] [--json]`: list the registered models with size, stride, tags and a description."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import tyro

from registry import MODELS, InputError, command, describe, list_models
from registry.command_line import parse_options
from registry.console import print_table
from registry.models import ModelRow


@dataclasses.dataclass(frozen=True)
class ModelListOptions:
    """List the registered models."""

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    """A glob, such as "*lstm*"."""
    json: bool = False
    """Print JSON instead of a table."""


def main() -> None:
    """Print the models that match, then the files and plug-ins that failed to import."""
    options = parse_options(ModelListOptions, "python -m registry")
    names = list_models(options.pattern)
    if not names:
        available = ", ".join(list_models())
        raise InputError(f"no model matches '{options.pattern}'; available: {available}{MODELS.broken_note()}")
    rows = [describe(name) for name in names]
    if options.json:
        print(json.dumps({"models": [dataclasses.asdict(row) for row in rows], "broken": MODELS.broken()}, indent=2))
        return
    print_table(["name", "family", "parameters", "stride", "tags", "description"], map(_cells, rows))
    for label, reason in MODELS.broken().items():
        print(f"broken: {label}: {reason}")


def _cells(row: ModelRow) -> tuple[str, ...]:
    if row.error:
        return row.name, row.family, "-", "-", ", ".join(row.tags), f"cannot be built: {row.error}"
    return row.name, row.family, f"{row.parameters / 1e6:.2f} M", str(row.stride), ", ".join(row.tags), row.doc


if __name__ == "__main__":
    command(main)
