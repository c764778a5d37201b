"""Plug-ins that fail: one line names them, the traceback is in a file, and nothing is called a bug of ours."""

from __future__ import annotations

import importlib
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import InputError, Registry, command
from registry.errors import PlugInError
from registry.plug_ins import plug_in_of

_names = (f"faulty_{number}" for number in itertools.count())


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Registry]:
    """A registry in which `mine` is the function of another module, with this body."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def make(body: str) -> Registry:
        name = next(_names)
        registry: Registry = Registry(f"{name}s", package="registry")
        (tmp_path / f"{name}.py").write_text(f"import json\ndef mine(value):\n    {body}\n")
        registry.register("mine")(importlib.import_module(name).mine)
        return registry

    return make


def ended(main: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit:
        command(main)
    return exit.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "reason", "line"),
    [
        ("return 1 / value", "ZeroDivisionError: division by zero", "mine.py:3"),
        ("raise SystemExit(0)", "SystemExit: 0", "mine.py:3"),
        ("return json.loads('{')", "JSONDecodeError: Expecting property name", "mine.py:3"),  # raised in a library
    ],
)
def test_what_a_plug_in_raises_is_its_own_wherever_it_is_called(faulty, capsys, tmp_path, body, reason, line):
    registry = faulty(body)
    status, error = ended(lambda: registry.get("mine")(0), capsys)
    (path,) = (tmp_path / "tmp").iterdir()
    kind = registry.kind.removesuffix("s")
    assert status == 2 and error.count("\n") == 1
    shown = kind.replace("_", " ")
    assert error.startswith(f"error: {shown} 'mine' ({tmp_path}/{line.replace('mine', kind)}): {reason}")
    assert error.endswith(f"; details in {path}\n") and "internal" not in error
    assert path.name.startswith("hw3p2-plug-in-error-") and "Traceback" in path.read_text()


def test_a_result_of_a_wrong_type_is_the_plug_in_s(faulty, capsys, tmp_path):
    registry = faulty("return None")

    def main() -> None:
        with registry.using("mine"):
            len(registry.get("mine")(0))

    status, error = ended(main, capsys)
    assert status == 2 and "'mine' (" in error and "TypeError: object of type 'NoneType' has no len()" in error
    assert "hw3p2-plug-in-error-" in error


def test_what_is_no_bug_stays_what_it_is(faulty):
    registry = faulty("return 1")
    machine = (FileNotFoundError(2, "no", "x"), MemoryError(), RuntimeError("CUDA error: out of memory"))
    for error in (InputError("a.npy: empty"), *machine, KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, registry.using("mine"):
            raise error
        assert raised.value is error


def test_our_own_entries_are_not_blamed():
    registry: Registry = Registry(next(_names), package="registry")
    registry.register("ours")(command)
    with pytest.raises(ValueError, match="x"), registry.using("ours"):
        raise ValueError("x")


def test_an_error_of_a_plug_in_is_an_input_error(faulty):
    registry = faulty("return 1")
    with pytest.raises(PlugInError, match=r"'mine' \(.*\.py:2\): KeyError: 'a'"), registry.using("mine"):
        raise KeyError("a")


def test_an_end_of_the_process_within_a_plug_in_is_an_error_of_it(faulty):
    registry = faulty("return 1")
    with pytest.raises(PlugInError, match=r"'mine' \(.*\): SystemExit: 0"), registry.using("mine"):
        raise SystemExit(0)


def test_of_two_plug_ins_the_one_that_raised_is_named(faulty):
    outer, inner = faulty("return value()"), faulty("return 1 / value")
    with pytest.raises(ZeroDivisionError) as raised:
        outer.get("mine")(lambda: inner.get("mine")(0))
    what, place = plug_in_of(raised.value)
    assert what == f"{inner.kind.removesuffix('s').replace('_', ' ')} 'mine'"
    assert place.endswith(f"/{inner.kind.removesuffix('s')}.py:3")


def test_all_modules_of_a_plug_ins_package_are_its_own(tmp_path, monkeypatch):
    package = next(_names)
    (tmp_path / package).mkdir()
    (tmp_path / package / "helper.py").write_text("def divide(value):\n    return 1 / value\n")
    entry = f"from {package}.helper import divide\ndef mine(value):\n    divide(value)\n"
    (tmp_path / package / "entry.py").write_text(entry)
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry = Registry(f"{package}_parts", package="registry")
    registry.register("mine")(importlib.import_module(f"{package}.entry").mine)
    with pytest.raises(ZeroDivisionError) as raised:
        registry.get("mine")(0)
    what, place = plug_in_of(raised.value)
    assert what.endswith("part 'mine'") and place == f"{tmp_path}/{package}/helper.py:2"
