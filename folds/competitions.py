"""`python -m folds.competitions`: list the known competitions, with their metrics and rules."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from folds.competition.base import COMPETITIONS
from registry.command_line import parse_options
from registry.console import print_table
from registry.errors import command


@dataclasses.dataclass(frozen=True)
class CompetitionListOptions:
    """List the competitions whose folders are recognised."""

    json: bool = False
    """Print JSON instead of a table."""


def rows() -> list[dict[str, Any]]:
    """One row per competition."""
    described = []
    for name in COMPETITIONS.names():
        kind, entry = COMPETITIONS.get(name), COMPETITIONS.entry(name)
        limits = [f"at most {kind.rules.max_params:,} parameters"] if kind.rules.max_params is not None else []
        limits += [f"no {tag}" for tag in kind.rules.forbid]
        described.append(
            {
                "name": name,
                "classes": kind.alphabet.classes,
                "metric": kind.metrics[0].name,
                "folds by": kind.grouped_by,
                "submission": ",".join(kind.columns),
                "rules": ", ".join(limits),
                "folder": entry.summary.split(": ", 1)[-1],
            }
        )
    return described


def main() -> None:
    """Print the competitions, then the files and plug-ins that failed to import."""
    options = parse_options(CompetitionListOptions, "python -m folds.competitions")
    if options.json:
        print(json.dumps({"competitions": rows(), "broken": COMPETITIONS.broken()}, indent=2))
        return
    table = rows()
    print_table(list(table[0]), [tuple(map(str, row.values())) for row in table])
    for label, reason in COMPETITIONS.broken().items():
        print(f"broken: {label}: {reason}")


if __name__ == "__main__":
    command(main)
