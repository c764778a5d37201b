"""The registry's promises: near names, duplicates named at both places, our names win, broken plug-ins harm nothing."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import subprocess
import sys

import pytest
import torch

from registry import InputError, Registry, create_model, describe, is_model, list_models, model_config, register_model

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
    assert entry.doc == "Twice x." and entry.info == {"tags": ("even",)} and entry.place.startswith(__file__)
    assert things.names("d*") == ["double"] and things.names("x*") == [] and "double" in things


def test_an_unknown_name_suggests_near_ones(things):
    things.register("pblstm")(lambda: 1)
    with pytest.raises(InputError, match="no 'pbltsm'; did you mean pblstm"):
        things.get("pbltsm")
    with pytest.raises(InputError, match="there are: pblstm"):
        things.get("zzz")


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


def test_a_plug_in_is_found_by_its_entry_point(things, monkeypatch):
    _point(monkeypatch, things.group, root="math:sqrt")
    assert things.get("root")(9) == 3 and things.names() == ["root"]


def test_a_broken_plug_in_is_listed_and_breaks_nothing_else(things, monkeypatch):
    _point(monkeypatch, things.group, bad="no_such_module:f", root="math:sqrt")
    things.register("own")(lambda: 1)
    assert things.names() == ["own", "root"]
    assert list(things.broken()) == ["bad"] and "no_such_module" in things.broken()["bad"]
    with pytest.raises(InputError, match="plug-in 'bad' does not load: ModuleNotFoundError"):
        things.get("bad")


def test_our_own_name_wins_over_a_plug_in(things, monkeypatch):
    _point(monkeypatch, things.group, own="math:sqrt")
    things.register("own")(lambda x: "ours")
    assert things.get("own")(9) == "ours"
    assert things.broken() == {"own (math:sqrt)": "the name is taken by one of our own, which wins"}


def test_a_variant_has_its_own_defaults_and_refuses_foreign_ones():
    assert model_config("lstm_small", features=3, classes=4).hidden == 160
    assert model_config("lstm_small", features=3, classes=4, hidden=7).hidden == 7
    with pytest.raises(InputError, match="model 'lstm_small': no option hiden; it has .*hidden"):
        create_model("lstm_small", features=3, classes=4, hiden=7)
    with pytest.raises(TypeError, match="has no field wings"):

        @register_model("winged", wings=2)
        def winged(config: _Config) -> torch.nn.Module:
            return torch.nn.Identity()


@dataclasses.dataclass(frozen=True)
class _Config:
    features: int
    classes: int


def test_a_model_without_a_config_dataclass_is_refused():
    with pytest.raises(TypeError, match="annotated with its config dataclass"):

        @register_model("bare")
        def bare(size: int) -> torch.nn.Module:
            return torch.nn.Identity()


def test_lists_filter_by_glob_tags_and_parameters():
    assert list_models("pblstm*") == ["pblstm", "pblstm_large", "pblstm_small"]
    assert set(list_models(tags=("pyramid", "cpu"))) == {"pblstm_small", "las_small"}
    limit = describe("lstm_small").parameters
    assert "lstm_small" in list_models(max_params=limit) and "lstm_small" not in list_models(max_params=limit - 1)
    assert is_model("gru") and not is_model("no_such_model")


def test_the_count_is_that_of_the_model_built():
    model = create_model("cnn_lstm_small", features=28, classes=41)
    assert describe("cnn_lstm_small").parameters == sum(p.numel() for p in model.parameters())


def test_the_command_prints_a_table_and_json():
    table = subprocess.run([sys.executable, "-m", "registry", "gru*"], capture_output=True, text=True)
    lines = table.stdout.splitlines()
    assert table.returncode == 0 and lines[0].split()[:4] == ["name", "family", "parameters", "stride"]
    assert [line.split()[0] for line in lines[1:]] == ["gru", "gru_large", "gru_small"]
    printed = subprocess.run([sys.executable, "-m", "registry", "gru", "--json"], capture_output=True, text=True)
    row = json.loads(printed.stdout)["models"][0]
    assert row["name"] == "gru" and row["stride"] == 4 and row["parameters"] == describe("gru").parameters
    none = subprocess.run([sys.executable, "-m", "registry", "zzz"], capture_output=True, text=True)
    assert none.returncode == 2 and none.stdout == "" and none.stderr.startswith("error: no model matches 'zzz'")
