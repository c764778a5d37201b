"""Options in a JSON file, `folds.train --config FILE`: an object that maps option names to values.

    {"model": "gru_small", "lr": 0.003, "channels": [128, 256], "dropout": 0.2}

They are turned into arguments, which the command line's own arguments follow and override, so they are checked
alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from registry import InputError
from registry.command_line import leading_options
from registry.json_files import read_json

Scalar: TypeAlias = bool | int | float | str | None
OptionValue: TypeAlias = Scalar | list[Scalar]


def arguments_of(values: Mapping[str, Any]) -> list[str]:
    """The command-line arguments that set these options.

    >>> arguments_of({"batch_frames": 4000, "channels": [8, 16], "prior": False})
    ['--batch-frames=4000', '--channels', '8', '16', '--no-prior']
    """
    arguments = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list | tuple):
            arguments += [f"--{option}", *map(str, value)]
        else:
            arguments.append(f"--{option}={value}")
    return arguments


def config_arguments(arguments: list[str], instead_of: str | None = None) -> tuple[Path | None, list[str]]:
    """The file given as `--config` in `arguments`, and the arguments in it; None and an empty list without one.

    The option `instead_of` is left out, since the command line gives another one in its place. Raises InputError for a
    file that is not a JSON object of options and their values.
    """
    name = leading_options(arguments, "config")["config"]
    if name is None:
        return None, []
    path = Path(name)
    values = read_json(path, dict[str, OptionValue], "expected an object of options of folds.train and their values")
    for name in values:
        if not re.fullmatch(r"[a-z]\w*", name) or name == "config":
            raise InputError(f"{path}: {name!r}: expected the name of an option of folds.train, such as batch_frames")
    return path, arguments_of({name: value for name, value in values.items() if name != instead_of})
