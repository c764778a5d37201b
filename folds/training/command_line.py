"""The command line of `folds.train`: training options, and the options of the models it names.

A model's options are the fields of its config dataclass: `--model lstm --hidden 512`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import typing
from typing import IO, Annotated, Any

import tyro

from folds.data.dataset import Dataset
from folds.training.config_file import config_arguments
from folds.training.options import TrainOptions
from folds.training.presets import device_type, find_preset
from registry import InputError, model_config
from registry.command_line import leading_options, parse_options
from registry.config import Config

OF_LAUNCH = {"--models": "--model", "--seeds": "--seed", "--fold-count": "--folds", "--refits": "--folds 1"}
"""Options of folds.launch, and their names in folds.train."""
FROM_DATA = ("features", "classes")
"""Fields of every config that are determined by the data and are therefore not options."""


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What the command line specifies for one model."""

    name: str
    options: TrainOptions
    """Only the recipe differs between models, because each has its own preset."""
    config: Config
    """Its `features` and `classes` are not set yet; see `config_for`."""

    def config_for(self, dataset: Dataset) -> Config:
        """The config of a network for this data."""
        return dataclasses.replace(self.config, features=dataset.features, classes=dataset.alphabet.classes)


def parse(arguments: list[str]) -> list[ModelOptions]:
    """The training options and the config of each model named.

    An option that all of the models have applies to all of them. Options that are not given come from the `--config`
    file, the preset or the model's own defaults; the help text shows those of the first model. Raises InputError for an
    option that only some of the models have, and for a preset that does not fit a model.
    """
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in OF_LAUNCH:
            raise InputError(f"{option}: an option of folds.launch; here it is {OF_LAUNCH[option]}")
    path, from_file = config_arguments(arguments, instead_of=_other_budget(arguments))
    try:
        return _parse_models(from_file + arguments)
    except InputError as error:
        if path is not None and _complaint_about(from_file, arguments) == str(error):
            raise InputError(f"{path}: {error}") from None
        raise


def _other_budget(arguments: list[str]) -> str | None:
    """"minutes" if these arguments give --epochs, which overrides the --minutes of a file; else None.

    Raises InputError if both are given.
    """
    epochs, minutes = (leading_options(arguments, name)[name] for name in ("epochs", "minutes"))
    if epochs is not None and minutes not in (None, "None"):
        raise InputError(f"--epochs {epochs} with --minutes {minutes}: either decides how long a run is: pass only one")
    return None if epochs is None else "minutes"


def _complaint_about(from_file: list[str], arguments: list[str]) -> str:
    """What is wrong with the arguments in the file itself; empty if they are valid."""
    chosen = [f"--{option}={value}" for option, value in _leading(arguments).items() if value is not None]
    try:
        _parse_models(from_file + chosen)
    except InputError as error:
        return str(error)
    return ""


def _leading(arguments: list[str]) -> dict[str, str | None]:
    """The options that determine the defaults of others; None for those that are not given."""
    return leading_options(arguments, "model", "preset", "device")


def _parse_models(arguments: list[str]) -> list[ModelOptions]:
    """Like `parse`, for arguments without a `--config` file."""
    given = _leading(arguments)
    leading = {name: getattr(TrainOptions, name) if value is None else value for name, value in given.items()}
    names, device = leading["model"].split(","), device_type(leading["device"])
    presets = {name: find_preset(leading["preset"], name, device) for name in names}
    defaults = {
        name: dataclasses.replace(model_config(name, features=1, classes=2), **preset.shape)
        for name, preset in presets.items()
    }
    shared = _shared_options(defaults)
    _check_shared(arguments, defaults, shared)
    models = []
    for name, default in defaults.items():
        panel = default if len({type(config) for config in defaults.values()}) == 1 else _subset(default, shared)
        options, chosen = _parse(arguments, TrainOptions(recipe=presets[name].recipe(device)), panel)
        config = dataclasses.replace(default, **{option: getattr(chosen, option) for option in shared})
        models.append(ModelOptions(name, options, config))
    return models


def _option_names(config: Config) -> list[str]:
    return [field.name for field in dataclasses.fields(config) if field.name not in FROM_DATA]


def _shared_options(configs: dict[str, Config]) -> list[str]:
    """The options that all configs have, in the first one's order."""
    first, *others = (_option_names(config) for config in configs.values())
    return [name for name in first if all(name in names for names in others)]


def _check_shared(arguments: list[str], configs: dict[str, Config], shared: list[str]) -> None:
    """Raise InputError for an option in `arguments` that only some of the models have."""
    for argument in arguments:
        option = re.match(r"--(?:no-)?([\w-]+)", argument)
        name = option[1].replace("-", "_") if option else ""
        owners = [model for model, config in configs.items() if name in _option_names(config)]
        if owners and name not in shared:
            others = ", ".join(model for model in configs if model not in owners)
            raise InputError(
                f"--{name.replace('_', '-')}: an option of {', '.join(owners)}, which {others} does not have: train "
                "them with separate commands"
            )


def _subset(config: Config, names: list[str]) -> Any:
    """A dataclass instance with the values of these options only."""
    types = typing.get_type_hints(type(config), include_extras=True)
    subset = dataclasses.make_dataclass("Options", [(name, types[name]) for name in names], frozen=True)
    subset.__doc__ = "Options common to all of these models; `--help` with one model explains them."
    return subset(*(getattr(config, name) for name in names))


def _parse(arguments: list[str], options: TrainOptions, panel: Any) -> tuple[TrainOptions, Any]:
    """`options` and `panel`, updated with the values given for their fields."""
    # tyro uses the field names as panel titles in the help; they must not become part of the option names.
    options_type = Annotated[TrainOptions, tyro.conf.arg(name="")]
    schema: Any = dataclasses.make_dataclass("Command", [("options", options_type), ("model", type(panel))])
    schema.__doc__ = TrainOptions.__doc__
    default, names = schema(options, panel), (tyro.conf.OmitArgPrefixes,)
    with contextlib.redirect_stdout(typing.cast(IO[str], _ShortPanelTitles(sys.stdout))):
        command = parse_options(schema, "python -m folds.train", arguments, default=default, config=names)
    return command.options, command.model


class _ShortPanelTitles:
    """Standard output that shortens the title of a help panel from tyro's "recipe options" to "recipe"."""

    _COLOR = r"(?:\x1b\[[\d;]*m)*"
    _TITLE = re.compile(rf"^({_COLOR}╭?{_COLOR}─?{_COLOR} {_COLOR}\w+{_COLOR}) options({_COLOR} {_COLOR})", re.M)

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(self._TITLE.sub(self._shortened, text))

    @staticmethod
    def _shortened(title: re.Match[str]) -> str:
        # The rule above the panel keeps its length; there is none if the output is not UTF-8.
        return title[1] + title[2] + ("─" if "─" in title[1] else " ") * len(" options")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
