"""Config dataclasses from options: types are checked, and what is wrong is named with what was found and expected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, Union

import numpy as np
import pytest

from registry import InputError
from registry.command_line import UnknownOptions, leading_options, parse_options
from registry.config import build_config, config_type


@dataclass(frozen=True)
class Options:
    features: Annotated[int, "hidden"]
    rate: float = 0.5
    gate: bool = False
    name: str = "a"
    kind: Literal["x", "y"] = "x"
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    limit: int | None = None
    extra: dict[str, int] = field(default_factory=dict)


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 1},
        {"rate": np.float32(0.5)},
        {"gate": True},
        {"kind": "y"},
        {"widths": ()},
        {"widths": (3,)},
        {"pair": (3, 1)},
        {"limit": None},
        {"limit": 3},
        {"extra": {"a": 1}},
    ],
)
def test_options_of_the_right_type_are_kept(options):
    built = build_config("model 'm'", Options, {"features": 3, **options})
    assert all(getattr(built, name) == value for name, value in options.items())


def test_lists_become_tuples_and_numpy_integers_plain_ones():
    built = build_config("model 'm'", Options, {"features": np.int64(3), "widths": [4, 5]})
    assert built.widths == (4, 5) and type(built.features) is int


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "3"}, "option features is '3' (str); expected int"),
        ({"features": True}, "option features is True (bool); expected int"),
        ({"features": 3.0}, "option features is 3.0 (float); expected int"),
        ({"features": None}, "option features is None (NoneType); expected int"),
        ({"rate": "x"}, "option rate is 'x' (str); expected float"),
        ({"gate": 1}, "option gate is 1 (int); expected bool"),
        ({"name": 1}, "option name is 1 (int); expected str"),
        ({"kind": "z"}, "option kind is 'z' (str); expected 'x' or 'y'"),
        ({"widths": 3}, "option widths is 3 (int); expected tuple[int, ...]"),
        ({"widths": (1, "2")}, "option widths is (1, '2') (tuple); expected tuple[int, ...]"),
        ({"pair": (1,)}, "option pair is (1,) (tuple); expected tuple[int, float]"),
        ({"limit": 1.5}, "option limit is 1.5 (float); expected int | None"),
        ({"extra": [1]}, "option extra is [1] (list); expected dict[str, int]"),
        ({"widht": 3}, "no option widht; it has features, rate, gate, name, kind, widths, pair, limit, extra"),
    ],
)
def test_an_option_of_a_wrong_type_is_one_line(options, message):
    with pytest.raises(InputError) as raised:
        build_config("model 'm'", Options, {"features": 3, **options})
    assert str(raised.value) == f"model 'm': {message}"


def test_a_missing_option_is_one_line():
    with pytest.raises(InputError, match="model 'm': option features is required: it has no default"):
        build_config("model 'm'", Options, {})


def test_unions_of_both_kinds_are_checked_and_computed_fields_are_no_options():
    @dataclass(frozen=True)
    class Others:
        old: Union[int, str] = 0  # noqa: UP007 - as in plug-ins for earlier versions of Python
        new: int | str = 0
        computed: int = field(default=3, init=False)

    assert build_config("model 'm'", Others, {"old": "a", "new": 1}) == Others("a", 1)
    for name in ("old", "new"):
        with pytest.raises(InputError, match=f"option {name} is 0.5 "):
            build_config("model 'm'", Others, {name: 0.5})
    with pytest.raises(InputError, match="no option computed; it has old, new$"):
        build_config("model 'm'", Others, {"computed": 4})


def test_the_config_of_a_class_is_that_of_its_constructor():
    class Network:
        def __init__(self, config: Options) -> None:
            self.config = config

    assert config_type(Network) is Options


def test_options_that_others_depend_on_are_read_first():
    arguments = ["--model=gru", "--epochs", "3", "--mod", "x", "--run-id", "a", "--data"]
    found = leading_options(arguments, "model", "mode", "run-id", "data", "preset")
    assert found == {"model": "gru", "mode": None, "run_id": "a", "data": None, "preset": None}


def test_options_that_a_command_does_not_have_are_named():
    with pytest.raises(UnknownOptions) as raised:
        parse_options(Options, "python -m x", ["--features", "3", "--fetures", "4", "--nothing"])
    assert raised.value.names == ["--fetures", "--nothing"]
    message = str(raised.value)
    assert message.startswith("Unrecognized options: --fetures, 4, --nothing; did you mean --features")
    assert message.endswith("?; see python -m x --help")
