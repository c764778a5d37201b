"""The options under which a blend was made, from the file beside its submission."""

from __future__ import annotations

import dataclasses
from typing import Any

from ensemble.hypotheses.open_inputs import InputOptions
from ensemble.members.sidecar import AGAIN, Sidecar
from registry.json_files import convert


def recorded_options(sidecar: Sidecar, where: str) -> InputOptions:
    """How the blend's inputs were made; its options are recorded as strings. `where` names the file in errors."""
    names = [field.name for field in dataclasses.fields(InputOptions)]
    recorded: dict[str, Any] = {name: sidecar.options[name] for name in names if name in sidecar.options}
    if recorded.get("fit_limit") == "None":
        recorded["fit_limit"] = None
    return convert(recorded, InputOptions, f"{where}, options", AGAIN, strict=False)


def as_recorded(options: Any, sidecar: Sidecar, where: str) -> Any:
    """`options`, an InputOptions, with the recorded value of every one that has its default."""
    recorded = recorded_options(sidecar, where)
    fields = dataclasses.fields(InputOptions)
    plain = [field.name for field in fields if getattr(options, field.name) == getattr(InputOptions(), field.name)]
    return dataclasses.replace(options, **{name: getattr(recorded, name) for name in plain})
