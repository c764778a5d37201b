"""How entries are found: a package's files are imported one by one, and none of them can disable the others."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import sys

import pytest

from registry import InputError, Registry

_packages = (f"discovered_{number}" for number in itertools.count())
GOOD = "from {package} import THINGS\n@THINGS.register('{name}')\ndef {name}():\n    return '{name}'\n"


@pytest.fixture
def make_registry(tmp_path, monkeypatch):
    """A registry whose package has the given files; `{package}` in them is the package's name."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(files: dict[str, str]) -> Registry:
        package = next(_packages)
        (tmp_path / package / "parts").mkdir(parents=True)
        (tmp_path / package / "parts" / "__init__.py").write_text("")
        (tmp_path / package / "__init__.py").write_text(
            f"from registry import Registry\nTHINGS = Registry('{package}', package='{package}.parts')\n"
        )
        for name, text in files.items():
            (tmp_path / package / "parts" / f"{name}.py").write_text(text.replace("{package}", package))
        return importlib.import_module(package).THINGS

    return make


def good(name: str) -> str:
    return GOOD.replace("{name}", name)


def test_every_file_of_the_package_is_imported(make_registry):
    things = make_registry({"a": good("one"), "b": good("two")})
    assert things.names() == ["one", "two"] and things.get("two")() == "two" and things.broken() == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (good("early") + "1 / 0\n", "ZeroDivisionError: division by zero (line 5)"),
        ("def f(:\n", "SyntaxError: invalid syntax (b.py, line 1)"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' (line 1)"),
        ("raise SystemExit('no')\n", "SystemExit: no (line 1)"),
        ("\ndef f():\n    raise ValueError('two\\nlines')\nf()\n", "ValueError: two lines (line 3)"),
    ],
)
def test_a_file_that_raises_is_listed_and_disables_itself_alone(make_registry, text, reason):
    things = make_registry({"a": good("one"), "b": text, "c": good("three")})
    for _ in range(2):  # the second look-up finds the same
        assert things.names() == ["one", "three"] and things.get("three")() == "three"
        assert things.broken() == {f"{things.kind}/parts/b.py": reason}
    with pytest.raises(InputError, match=r"unknown discovered \d+ 'early'; .*parts/b.py failed to import: ") as raised:
        things.get("early")
    assert str(raised.value).endswith(reason) and "\n" not in str(raised.value)


def test_a_file_that_takes_another_s_name_is_listed_with_both_places(make_registry):
    things = make_registry({"a": good("one"), "b": good("one").replace("def one", "def other")})
    (reason,) = things.broken().values()
    assert things.get("one")() == "one" and "registered twice" in reason
    assert "parts/a.py:2" in reason and "parts/b.py:2" in reason


def test_a_name_twice_in_a_file_is_an_error(make_registry):
    things = make_registry({"a": good("one") + good("one"), "b": good("two")})
    (reason,) = things.broken().values()
    assert things.names() == ["two"] and "parts/a.py:2 and at " in reason and "parts/a.py:6: rename one" in reason


def test_what_a_package_does_as_a_command_is_not_done(make_registry):
    things = make_registry({"a": good("one"), "__main__": good("two") + "raise SystemExit(3)\n"})
    assert things.names() == ["one"] and things.broken() == {}


def test_a_file_may_look_up_names_while_it_is_imported(make_registry):
    looks_up = good("two") + "assert 'one' in THINGS\n"
    things = make_registry({"a": good("one"), "b": looks_up})
    assert things.names() == ["one", "two"] and things.broken() == {}


def test_an_interrupted_discovery_starts_again(make_registry):
    text = "import sys\n"
    text += "if not hasattr(sys, 'interrupted_once'):\n    sys.interrupted_once = 1\n    raise KeyboardInterrupt\n"
    things = make_registry({"a": good("one"), "b": text + good("two"), "c": good("three")})
    try:
        with pytest.raises(KeyboardInterrupt):
            things.names()
        assert things.names() == ["one", "three", "two"]
    finally:
        del sys.interrupted_once


def test_a_package_that_does_not_import_is_an_error_every_time():
    things = Registry(next(_packages), package="no_such_package")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            things.names()


def write_plug_in(folder, things: Registry, name: str) -> str:
    """A plug-in's module that registers `name`; returns the module's name."""
    module = f"plug_in_of_{things.kind}"
    text = good(name).replace("{package}", things.kind).replace(f"return '{name}'", "return 'plug-in'")
    (folder / f"{module}.py").write_text(text)
    return module


def test_our_own_name_wins_over_a_plug_in_imported_before(make_registry, tmp_path):
    things = make_registry({"a": good("one"), "b": good("two")})
    module = write_plug_in(tmp_path, things, "one")
    importlib.import_module(module)
    assert things.names() == ["one", "two"] and things.get("one")() == "one"
    ((label, reason),) = things.broken().items()
    assert label == f"one ({module}:one)"
    assert reason.endswith("parts/a.py:2, which takes precedence: rename the plug-in's")


def test_a_plug_in_imported_before_is_its_entry_point(make_registry, tmp_path, monkeypatch):
    things = make_registry({"a": good("one")})
    module = write_plug_in(tmp_path, things, "mine")
    importlib.import_module(module)
    point = importlib.metadata.EntryPoint("mine", f"{module}:mine", things.group)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point])
    assert things.names() == ["mine", "one"] and things.get("mine")() == "plug-in" and things.broken() == {}


def test_a_module_as_entry_point_registers_under_names_of_its_own(make_registry, tmp_path, monkeypatch):
    things = make_registry({"a": good("one")})
    module = write_plug_in(tmp_path, things, "mine")
    (tmp_path / "without_entries.py").write_text("")
    modules = {"my_parts": module, "nothing": "without_entries"}
    points = [importlib.metadata.EntryPoint(name, value, things.group) for name, value in modules.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points)
    assert things.names() == ["mine", "one"] and things.get("mine")() == "plug-in"
    ((name, reason),) = things.broken().items()
    assert name == "nothing" and "is a module" in reason


def test_a_plug_in_that_fails_half_way_leaves_nothing(make_registry, tmp_path, monkeypatch):
    things = make_registry({"a": good("one")})
    module = write_plug_in(tmp_path, things, "mine")
    (tmp_path / f"{module}.py").open("a").write("raise RuntimeError('half way')\n")
    point = importlib.metadata.EntryPoint("mine", f"{module}:mine", things.group)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point])
    assert things.names() == ["one"] and things.broken() == {"mine": "RuntimeError: half way (line 5)"}
    with pytest.raises(InputError, match="the plug-in 'mine' failed to import: RuntimeError: half way"):
        things.get("mine")
