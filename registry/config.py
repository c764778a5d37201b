"""Config dataclasses built from options, with one-line errors for unknown, missing or wrongly typed options."""

from __future__ import annotations

import dataclasses
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from registry.errors import InputError


class Config(Protocol):
    """Any model's config dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def features(self) -> int: ...

    @property
    def classes(self) -> int: ...


C = TypeVar("C")


def config_type(function: Callable[..., Any]) -> type:
    """The config dataclass of a model function: the annotation of its only parameter.

    Raises a one-line TypeError for a function without such a parameter.
    """
    name = getattr(function, "__qualname__", repr(function))
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    except NameError as error:
        raise TypeError(f"{name}: an annotation cannot be read ({error}): import what it names") from None
    annotation = parameters[0].annotation if len(parameters) == 1 else None
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    signature = ", ".join(map(str, parameters))
    raise TypeError(
        f"{name}({signature}): a model function takes one parameter, annotated with its config dataclass, such as "
        f"`def {name.rpartition('.')[2]}(config: RecurrentConfig) -> nn.Module`"
    )


def build_config(owner: str, config: type[C], options: Mapping[str, Any]) -> C:
    """`config(**options)`; lists become tuples where the field is a tuple.

    Raises InputError, starting with `owner`, for an option that is unknown, missing or of the wrong type.
    """
    checked = check_options(owner, config, options)
    missing = [field.name for field in _fields(config) if _is_required(field) and field.name not in checked]
    if missing:
        raise InputError(f"{owner}: option {', '.join(missing)} is required: it has no default")
    return config(**checked)


def check_options(owner: str, config: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with lists turned into tuples where the field is a tuple. Raises InputError like `build_config`."""
    names = [field.name for field in _fields(config)]
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise InputError(f"{owner}: no option {', '.join(unknown)}; it has {', '.join(names)}")
    hints = _types(config)
    checked = {name: _plain(value, hints[name]) for name, value in options.items()}
    for name, value in checked.items():
        if not _fits(value, hints[name]):
            found = f"{value!r} ({type(value).__name__})"
            raise InputError(f"{owner}: option {name} is {found}; expected {_described(hints[name])}")
    return checked


def _types(config: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(config)
    except NameError as error:
        raise InputError(f"{config.__name__}: an annotation cannot be read ({error}): import what it names") from None


def _fields(config: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(config) if field.init]


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any, hint: Any) -> Any:
    """Convert lists from JSON, which has no tuples, and NumPy's numbers to the type that the field expects."""
    if isinstance(value, list) and typing.get_origin(hint) is tuple:
        return tuple(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, int):
        return int(value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type made of classes, unions, Literal and tuple; True for type hints of other kinds."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[1:] == (...,):
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    expected = origin or hint
    if not isinstance(expected, type):
        return True
    if expected in (int, float):
        number = numbers.Integral if expected is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, expected)


def _described(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
