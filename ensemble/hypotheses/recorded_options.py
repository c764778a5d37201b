"""The options that a blend was made with, from the file next to its submission."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

from ensemble.hypotheses.open_inputs import InputOptions
from ensemble.members.sidecar import AGAIN, Sidecar
from registry.json_files import convert

AnyInputOptions = TypeVar("AnyInputOptions", bound=InputOptions)

INPUT_OPTIONS = tuple(field.name for field in dataclasses.fields(InputOptions))


def recorded_options(sidecar: Sidecar, where: str) -> InputOptions:
    """How the blend's inputs were built; its options are recorded as strings. `where` names the file in errors."""
    recorded: dict[str, Any] = {name: sidecar.options[name] for name in INPUT_OPTIONS if name in sidecar.options}
    if recorded.get("fit_limit") == "None":
        recorded["fit_limit"] = None
    return convert(recorded, InputOptions, f"{where}, options", AGAIN, strict=False)


def as_recorded(
    options: AnyInputOptions, sidecar: Sidecar, where: str, given: Collection[str] = ()
) -> AnyInputOptions:
    """`options`, with the recorded value for every option left at its default, unless it is among those `given`."""
    recorded, defaults = recorded_options(sidecar, where), InputOptions()
    plain = [name for name in INPUT_OPTIONS if getattr(options, name) == getattr(defaults, name) and name not in given]
    return dataclasses.replace(options, **{name: getattr(recorded, name) for name in plain})
