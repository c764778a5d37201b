"""The registry: similar names, duplicates, built-in entries before plug-ins, broken plug-ins listed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import runpy

import pytest

from registry import InputError, Registry

_kinds = (f"test_kind_{number}" for number in itertools.count())


@pytest.fixture
def things():
    return Registry(next(_kinds))


def _point(monkeypatch, group, **values):
    points = [importlib.metadata.EntryPoint(name, value, group) for name, value in values.items()]

    def entry_points(*, group: str):
        return [point for point in points if point.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_what_is_registered_is_found_with_its_documentation(things):
    @things.register("double", tags=("even",))
    def double(x):
        """Twice x.

        More.
        """
        return 2 * x

    assert things.get("double")(4) == 8
    entry = things.entry("double")
    assert entry.summary == "Twice x." and entry.info == {"tags": ("even",)} and entry.location.startswith(__file__)
    assert things.names("d*") == ["double"] and things.names("x*") == [] and "double" in things


def test_an_unknown_name_suggests_near_ones(things):
    things.register("pblstm")(lambda: 1)
    with pytest.raises(InputError, match=r"unknown test kind \d+ 'pbltsm'; did you mean pblstm\?$"):
        things.get("pbltsm")
    with pytest.raises(InputError, match=r"unknown test kind \d+ 'zzz'; available: pblstm$"):
        things.get("zzz")


def test_up_to_three_near_names_are_suggested(things):
    for name in ("pblstm", "pblstm_small", "pblstm_large", "gru"):
        things.register(name)(lambda: 1)
    with pytest.raises(InputError, match=r"; did you mean pblstm_small, pblstm or pblstm_large\?$"):
        things.get("pblstm_smal")


def test_a_decorated_function_is_where_it_is_written(things):
    @things.register("managed")
    @contextlib.contextmanager
    def managed():
        yield 1

    assert things.entry("managed").location == f"{__file__}:{managed.__wrapped__.__code__.co_firstlineno}"


def test_a_duplicate_names_both_places(things):
    @things.register("one")
    def first():
        return 1

    line = first.__code__.co_firstlineno
    with pytest.raises(ValueError, match=rf"'one' is registered twice, at .*:{line} and at .*:{line + 7}"):

        @things.register("one")
        def second():
            return 2

    assert things.get("one")() == 1


def test_a_notebook_cell_can_be_run_again(things, tmp_path):
    for number in (1, 2):
        cell = tmp_path / f"cell{number}.py"
        cell.write_text(f"@THINGS.register('mine')\ndef mine():\n    return {number}\n")
        runpy.run_path(str(cell), {"THINGS": things}, run_name="__main__")
    assert things.get("mine")() == 2


def test_a_module_that_is_run_after_its_import_is_the_same_code(things, tmp_path):
    module = tmp_path / "module.py"
    module.write_text("@THINGS.register('mine')\ndef mine():\n    return __name__\n")
    for name in ("module", "__main__"):
        runpy.run_path(str(module), {"THINGS": things}, run_name=name)
    assert things.get("mine")() == "__main__"


def test_a_decorator_without_a_name_is_refused(things):
    with pytest.raises(TypeError, match=r"the name is missing: write @register\('name'\) above .*test_registry.py:\d+"):

        @things.register
        def nameless():
            return 1


def test_a_plug_in_is_found_by_its_entry_point(things, monkeypatch):
    _point(monkeypatch, things.group, root="math:sqrt")
    assert things.get("root")(9) == 3 and things.names() == ["root"]


def test_a_broken_plug_in_is_listed_and_breaks_nothing_else(things, monkeypatch):
    _point(monkeypatch, things.group, bad="no_such_module:f", root="math:sqrt")
    things.register("own")(lambda: 1)
    assert things.names() == ["own", "root"]
    assert list(things.broken()) == ["bad"] and "no_such_module" in things.broken()["bad"]
    with pytest.raises(InputError, match="plug-in 'bad' failed to import: ModuleNotFoundError"):
        things.get("bad")


def test_our_own_name_wins_over_a_plug_in(things, monkeypatch):
    _point(monkeypatch, things.group, own="math:sqrt")
    things.register("own")(lambda x: "ours")
    assert things.get("own")(9) == "ours"
    location = things.entry("own").location
    reason = f"the name is used by {location}, which takes precedence: rename the plug-in's"
    assert things.broken() == {"own (math:sqrt)": reason}
    with pytest.raises(InputError, match="; available: own$"):  # which has nothing to do with the plug-in
        things.get("zzz")


def test_of_two_plug_ins_with_one_name_the_second_is_listed(things, monkeypatch):
    points = [importlib.metadata.EntryPoint("root", value, things.group) for value in ("math:sqrt", "cmath:sqrt")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points)
    assert things.get("root")(9) == 3.0 and list(things.broken()) == ["root (cmath:sqrt)"]
