"""Every numeric option of every command at doubtful values: accepted, or one line that names the option."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ensemble.blend import BlendOptions
from ensemble.decode import DecodeOptions
from ensemble.joint import JointOptions
from ensemble.report import ReportOptions
from folds.data.augmentation import SpecAugment
from folds.demo import DemoOptions
from folds.launch import parse as parse_launch
from folds.soup import SoupOptions
from folds.training.command_line import FROM_DATA, parse
from folds.training.options import RecipeOptions, TrainingRecipe, TrainOptions
from folds.tuning.options import TuneOptions
from registry import InputError, list_models, model_config
from registry.bounds import Bounded, bounds_of, number
from registry.command_line import parse_options
from submit.__main__ import SubmitOptions

COMMANDS = (
    *(BlendOptions, DecodeOptions, JointOptions, ReportOptions, DemoOptions, SoupOptions, SubmitOptions),
    TuneOptions,
)
TRAINING = (TrainOptions, RecipeOptions, SpecAugment)
MODELS = ("lstm", "pblstm", "cnn_lstm", "conformer", "las")
BAD = ("-1", "0", "nan", "inf", "1e99", str(10**23))


def configs() -> dict[str, Any]:
    return {model: type(model_config(model, features=1, classes=2)) for model in MODELS}


def numeric_fields(options: type) -> Iterator[tuple[dataclasses.Field[Any], str]]:
    """The fields whose type is or contains int or float, with the type's text."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        text = str(hints[field.name])
        plain = {hints[field.name], *typing.get_args(hints[field.name])}
        if plain & {int, float} and field.name not in FROM_DATA:
            kind = "int" if int in plain else "float"
            yield field, f"tuple of {kind}" if text.startswith("tuple") else kind


def options_of(*types: type) -> list[tuple[type, str, str]]:
    return [(options, field.name, kind) for options in types for field, kind in numeric_fields(options)]


def outcome(make: Callable[[], object], option: str) -> str:
    """Empty if the value is accepted, else the one line of the refusal, which must name the option and no other."""
    try:
        make()
    except InputError as error:
        line = str(error)
        assert len(line.splitlines()) == 1 and len(line) < 200, line
        assert line.startswith(f"{option} ") and " --" not in line.partition("; see python -m")[0], line
        return line
    return ""


def assert_bad_values_are_refused(
    make: Callable[..., object], name: str, kind: str, may_be_negative: bool = False
) -> None:
    """What the parser makes of a doubtful value is refused, save for 0, which some options take, and -1, which few."""
    option = f"--{name.replace('_', '-')}"
    for text in BAD:
        try:
            value = int(text) if kind.endswith("int") else float(text)
        except ValueError:
            continue  # the parser refuses it: see test_doubtful_numbers_on_command_lines
        given = (value,) if kind.startswith("tuple of") else value
        accepted = not outcome(functools.partial(make, **{name: given}), option)
        assert not accepted or value == 0 or (value == -1 and may_be_negative), f"{option} {text} is accepted"


@pytest.mark.parametrize(("options", "name", "kind"), options_of(*COMMANDS, *TRAINING, TrainingRecipe))
def test_numbers_of_commands(options: type, name: str, kind: str) -> None:
    make = functools.partial(options, run=(Path("fold0"),)) if options is SoupOptions else options
    assert_bad_values_are_refused(make, name, kind, name in ("lm_weight", "length_bonus"))


@pytest.mark.parametrize("model", MODELS)
def test_numbers_of_models(model: str) -> None:
    default = model_config(model, features=1, classes=2)
    for field, kind in numeric_fields(type(default)):
        assert_bad_values_are_refused(functools.partial(dataclasses.replace, default), field.name, kind)


@pytest.mark.parametrize("value", BAD)
def test_doubtful_numbers_on_command_lines(value: str) -> None:
    assert outcome(lambda: parse_options(DemoOptions, "python -m folds.demo", ["--speakers", value]), "--speakers")
    assert outcome(lambda: parse(["--model", "gru_small", "--epochs", value]), "--epochs")
    assert outcome(lambda: parse(["--model", "gru_small", "--lr", value]), "--lr")
    assert outcome(lambda: parse(["--model", "gru_small", "--hidden", value]), "--hidden")


@pytest.mark.parametrize("options", [*COMMANDS, *TRAINING, TrainingRecipe, *configs().values()])
def test_every_number_has_bounds_that_its_default_meets(options: type) -> None:
    """A search over hyperparameters reads them; without an upper bound, infinity would be accepted."""
    for field, _ in numeric_fields(options):
        bounds = bounds_of(field)
        assert bounds is not None, f"{options.__name__}.{field.name} has no bounds"
        assert math.isfinite(bounds.lower) and math.isfinite(bounds.upper) and bounds.lower < bounds.upper
        default = field.default if isinstance(field.default, tuple) else (field.default,)
        assert all(value is None or not bounds.complaint(value) for value in default)


@pytest.mark.parametrize("name", list_models())
def test_registered_models_meet_their_bounds(name: str) -> None:
    assert model_config(name, features=28, classes=41).classes == 41


@dataclasses.dataclass(frozen=True)
class Example(Bounded):
    open: float = number(0.5, above=0, below=1)
    half_open: float = number(0.5, at_least=0, below=1)
    closed: float | None = number(None, at_least=-2.5, at_most=1000)
    log: float = number(1.0, above=0, at_most=1e6, scale="log")
    width: tuple[int, ...] = number((3,), at_least=1, at_most=1001, odd=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"open": 0.0}, "--open 0.0: expected a fraction in (0, 1)"),
        ({"open": 1.0}, "--open 1.0: expected a fraction in (0, 1)"),
        ({"half_open": math.nan}, "--half-open nan: expected a fraction in [0, 1)"),
        ({"half_open": -0.1}, "--half-open -0.1: expected a fraction in [0, 1)"),
        ({"closed": -2.6}, "--closed -2.6: expected at least -2.5"),
        ({"closed": math.inf}, "--closed inf: expected at most 1,000"),
        ({"log": 0}, "--log 0: expected more than 0"),
        ({"log": 1e7}, "--log 10000000.0: expected at most 1e+06"),
        ({"width": (3, 0)}, "--width (3, 0): expected at least 1"),
        ({"width": (3, 4)}, "--width (3, 4): expected an odd number, so that output lengths are exact"),
    ],
)
def test_the_message_names_the_bound_that_is_passed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Example(**values)
    assert str(error.value) == message


def test_bounds_themselves_are_accepted_where_they_are_included() -> None:
    Example(half_open=0.0, closed=-2.5, log=1e6, width=(1, 1001))
    Example(closed=1000)


@pytest.mark.parametrize(
    "bounds",
    [
        {"at_least": 0},
        {"at_most": 1},
        {"at_least": 0, "above": 0, "at_most": 1},
        {"at_least": 0, "at_most": 1, "scale": "log"},
    ],
)
def test_a_number_without_both_bounds_is_an_error(bounds: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="lower bound|logarithmic"):
        number(0.5, **bounds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "abc"], "--seed abc: expected a whole number; see python -m folds.demo --help"),
        (["--seed"], "Missing value for argument '--seed'. Expected 1 values; see python -m folds.demo --help"),
    ],
)
def test_what_the_parser_refuses_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_options(DemoOptions, "python -m folds.demo", arguments)
    assert str(error.value).endswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["--model", "--preset", "--device", "--config"])
def test_an_option_that_is_read_first_needs_a_value(option: str) -> None:
    """Defaults of others depend on these, so they are looked for before all options are parsed."""
    with pytest.raises(InputError, match=f"{option}"):
        parse([option, "--data", "missing"])
    with pytest.raises(InputError, match="--on"):
        parse_launch(["--models", "gru_small", "--on", "--data", "missing"])


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "ascii"])
def test_a_complaint_is_complete_whatever_frame_the_parser_draws(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(InputError, match="^Unrecognized options: --epocs, 3; did you mean --epochs"):
        parse(["--epocs", "3"])
    with pytest.raises(InputError, match="^--epochs x: expected a whole number"):
        parse(["--epochs", "x"])


def test_help_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse_options(DemoOptions, "python -m folds.demo", ["--help"])
    printed = capsys.readouterr()
    assert exit.value.code == 0 and not printed.err
    assert "--speakers INT" in printed.out and "Total number of speakers, at least 4" in printed.out
