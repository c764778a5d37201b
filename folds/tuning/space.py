"""What a study searches over: numeric options of the model, the recipe and the masks, from their dataclasses' metadata.

A field with a `search` or a `search_factor` (`registry.bounds.number`) is searched unless it is fixed;
`--space name=low:high[:log|linear]` searches another field, or another range.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from folds.training.command_line import FROM_DATA, ModelOptions, parse
from folds.training.config_file import arguments_of
from folds.training.presets import PRESETS, device_type, find_preset
from models.network import usual_bounds
from registry import InputError
from registry.bounds import Bounds, bounds_of

SET_BY_STAGES = ("epochs", "minutes", "clock", "limit", "speakers")
"""Options that each stage of a trial sets itself."""
NO_HYPERPARAMETERS = ("keep", "select", "guide_weight", "teacher_weight")
"""Fields of the recipe that do not change the model of a plain run, or make its held-out distance optimistic."""

Values = dict[str, Any]
"""Options by name, as in the file that `folds.train --config` reads."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One searched option, from `low` to `high`, both included."""

    name: str
    low: float
    high: float
    log: bool
    integer: bool
    step: int = 1
    """Distance between integers on a linear scale; 2 for those that must be odd."""

    def __str__(self) -> str:
        """`0.01 to 0.02`."""
        return f"{self.low:g} to {self.high:g}" + (f" in steps of {self.step}" if self.step > 1 else "")

    def contains(self, value: object) -> bool:
        """Whether a value can be sampled."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        return not self.integer or (value - self.low) % self.step == 0


@dataclasses.dataclass(frozen=True)
class Space:
    """The options that are searched, and those that are fixed."""

    model: str
    preset: str
    device: str
    parameters: tuple[Parameter, ...]
    fixed: Values

    def arguments(self, values: Values) -> list[str]:
        """The arguments of `folds.train` for a trial with these values."""
        return arguments_of({"model": self.model, "preset": self.preset, "device": self.device, **self.fixed, **values})

    def preset_values(self) -> Values | None:
        """The values of the searched options in the preset; None if one of them is outside its range."""
        values = self._defaults()
        return values if all(parameter.contains(values[parameter.name]) for parameter in self.parameters) else None

    def outside(self) -> list[str]:
        """The values of the preset that cannot be sampled: `lr=0.002 is outside 0.01 to 0.02`."""
        values = self._defaults()
        return [
            f"{parameter.name}={values[parameter.name]:g} is outside {parameter}"
            for parameter in self.parameters
            if not parameter.contains(values[parameter.name])
        ]

    def _defaults(self) -> Values:
        """The values of the searched options in the preset."""
        defaults = option_fields(self.options({}))
        return {parameter.name: defaults[parameter.name].value for parameter in self.parameters}

    def options(self, values: Values) -> ModelOptions:
        """The training options with these values. Raises InputError for invalid values."""
        (options,) = parse(self.arguments(values))
        return options


@dataclasses.dataclass(frozen=True)
class OptionField:
    """A field of a model's config, of the recipe or of the masks, and its value in the preset."""

    field: dataclasses.Field[Any]
    type: Any
    value: Any
    bounds: Bounds | None
    """None if it is not a number, or has no bounds."""


def option_fields(options: ModelOptions) -> dict[str, OptionField]:
    """All fields by name, with the values that `options` have."""
    recipe = options.options.recipe.sized_for(device_type(options.options.device), 1)
    found = {}
    for owner in (recipe, recipe.augment, options.config):
        types = typing.get_type_hints(type(owner))
        for field in dataclasses.fields(typing.cast(Any, owner)):
            value = getattr(owner, field.name)
            if field.name in FROM_DATA or dataclasses.is_dataclass(value):
                continue
            bounds = bounds_of(field)
            if owner is options.config:
                bounds = bounds or usual_bounds(field, value)
            found[field.name] = OptionField(field, types[field.name], value, bounds)
    return found


def make_space(model: str, preset: str, device: str, ranges: Sequence[str], pins: Sequence[str]) -> Space:
    """The search space of a model, from the arguments of `--space` and `--fix`.

    Raises InputError for an unknown or unsearchable option, a range that is empty or outside the legal values, and if
    nothing is left to search.
    """
    found = find_preset(preset, model, device)
    preset = next(name for name, entry in PRESETS.items() if entry is found)  # what auto means on this device
    fixed = {name: _value(text) for name, text in _by_name(pins, "--fix", "name=value").items()}
    spans = _by_name(ranges, "--space", "name=low:high or name=low:high:log")
    unpinned = option_fields(Space(model, preset, device, (), {}).options({}))
    for name in fixed:
        _check_known(name, unpinned, "--fix")
        if name == "group_layer" and fixed[name] is not None:
            raise InputError(
                f"--fix group_layer={fixed[name]}: each stage has different {fixed[name]}s, so it could not start from "
                "the weights of the previous one: leave it out, and train the best recipe with --group-layer"
            )
    space = Space(model, preset, device, (), fixed)
    try:
        fields = option_fields(space.options({}))
    except InputError as error:
        raise InputError(_about_fixed(str(error), fixed)) from None
    parameters = {name: default for name, option in fields.items() if (default := _default_range(name, option))}
    for name, span in spans.items():
        _check_known(name, fields, "--space")
        parameters[name] = _given_range(f"{name}={span}", name, span, fields[name])
    if both := sorted({*fixed} & {*spans}):
        raise InputError(f"--fix {both[0]} and --space {both[0]}: expected one of the two")
    searched = tuple(parameter for name, parameter in parameters.items() if name not in fixed)
    if not searched:
        raise InputError("nothing is left to search: pass --space name=low:high, or fewer --fix")
    return dataclasses.replace(space, parameters=searched)


def _about_fixed(message: str, fixed: Values) -> str:
    """An error message of folds.train about an option, turned into one about `--fix`, which set it.

    >>> _about_fixed("--lr abc: expected a number; see python -m folds.train --help", {"lr": "abc"})
    '--fix lr=abc: expected a number'
    """
    message = message.removesuffix("; see python -m folds.train --help")
    for name, value in fixed.items():
        option = f"--{name.replace('_', '-')}"
        if re.match(rf"{option}\b", message):
            return f"--fix {name}={value}: {message.partition(': ')[2] or message}"
    return f"--fix: {message}"


def _default_range(name: str, option: OptionField) -> Parameter | None:
    """The range in the field's metadata, if there is one."""
    if option.bounds is None or not _is_number(option) or name in (*SET_BY_STAGES, *NO_HYPERPARAMETERS):
        return None
    span = option.bounds.search_range(option.value)
    return None if span is None else _parameter(name, option, *span, log=option.bounds.scale == "log")


def _given_range(text: str, name: str, span: str, option: OptionField) -> Parameter:
    """The range given by `--space`."""
    if name in (*SET_BY_STAGES, *NO_HYPERPARAMETERS) or option.bounds is None or not _is_number(option):
        if name in SET_BY_STAGES:
            raise InputError(f"--space {text}: the study sets it itself: leave it out")
        raise InputError(f"--space {text}: not a number that can be searched: leave it out, or pin a value with --fix")
    ends, scale = span.split(":")[:2], span.split(":")[2:]
    try:
        low, high = map(float, ends)
    except ValueError:
        raise InputError(f"--space {text}: expected name=low:high or name=low:high:log, both numbers") from None
    if scale not in ([], ["log"], ["linear"]):
        raise InputError(f"--space {text}: expected log or linear after the range")
    log = scale == ["log"] or (not scale and option.bounds.scale == "log")
    if not low < high:
        raise InputError(f"--space {text}: the range is empty: expected a low end below the high one")
    parameter = _parameter(name, option, low, high, log)
    for end in (parameter.low, parameter.high):
        if expected := option.bounds.complaint(end):
            raise InputError(f"--space {text}: expected {expected}")
    if log and low <= 0:
        raise InputError(f"--space {text}: expected a low end above 0 on a logarithmic scale")
    if not parameter.low < parameter.high:
        raise InputError(f"--space {text}: expected a range with at least two valid whole numbers")
    return parameter


def _parameter(name: str, option: OptionField, low: float, high: float, log: bool) -> Parameter:
    integer = int in _types(option) and float not in _types(option)
    if not integer:
        return Parameter(name, low, high, log, integer)
    first, last = math.ceil(low), math.floor(high)
    if option.bounds is not None and option.bounds.odd:
        # Optuna has no steps on a logarithmic scale.
        first, last = first + (first % 2 == 0), last - (last % 2 == 0)
        return Parameter(name, first, last, False, integer, step=2)
    return Parameter(name, first, last, log, integer)


def _types(option: OptionField) -> tuple[Any, ...]:
    return typing.get_args(option.type) or (option.type,)


def _is_number(option: OptionField) -> bool:
    return isinstance(option.value, (int, float)) and not isinstance(option.value, bool)


def _check_known(name: str, fields: Mapping[str, OptionField], option: str) -> None:
    if name in fields and not (option == "--fix" and name in SET_BY_STAGES):
        return
    if name in fields:
        raise InputError(f"--fix {name}: the study sets it itself: leave it out")
    similar = difflib.get_close_matches(name, fields, n=3)
    advice = f"did you mean {' or '.join(similar)}?" if similar else f"expected one of {', '.join(sorted(fields))}"
    raise InputError(f"{option} {name}: no such option of the model, the recipe or SpecAugment; {advice}")


def _by_name(texts: Sequence[str], option: str, expected: str) -> dict[str, str]:
    """What follows "=" in each text, by the name before it. Raises InputError for a name that is given twice."""
    found: dict[str, str] = {}
    for name, value in (_split(text, option, expected) for text in texts):
        if name in found:
            raise InputError(f"{option} {name}: given twice, {found[name]} and {value}: expected one of the two")
        found[name] = value
    return found


def _split(text: str, option: str, expected: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"{option} {text}: expected {expected}")
    return name.replace("-", "_"), value


def _value(text: str) -> Any:
    """The value that a text has as JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
