"""The models by name: variants, configs, tags, sizes; the listing, with what cannot be built or failed to import."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from registry import MODELS, InputError, create_model, describe, is_model, list_models, model_config, register_model


@pytest.fixture
def models(monkeypatch):
    """The registry of models, which is after the test as it was before."""
    MODELS.names()
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    return MODELS


def test_a_variant_has_its_own_defaults_and_refuses_foreign_ones():
    assert model_config("lstm_small", features=3, classes=4).hidden == 160
    assert model_config("lstm_small", features=3, classes=4, hidden=7).hidden == 7
    with pytest.raises(InputError, match="model 'lstm_small': no option hiden; it has .*hidden"):
        create_model("lstm_small", features=3, classes=4, hiden=7)
    with pytest.raises(TypeError, match="model 'winged': no option wings; it has features, classes"):

        @register_model("winged", wings=2)
        def winged(config: _Config) -> torch.nn.Module:
            return torch.nn.Identity()


def test_a_model_is_built_from_its_config_as_it_is(models):
    received = []

    @register_model("test_receiver")
    def receiver(config: _Config) -> torch.nn.Module:
        received.append(config)
        return create_model("lstm_small", features=config.features, classes=config.classes, hidden=2)

    config = _Config(features=3, classes=4)
    create_model("test_receiver", config)
    assert received == [config] and received[0] is config
    create_model("test_receiver", features=3, classes=4)
    assert received[1] == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "model 'lstm_small': features and classes are required, or a config"),
        ({"features": 3}, "model 'lstm_small': features and classes are required, or a config"),
        ({"config": "own", "hidden": 3}, "model 'lstm_small': found a config and options beside it"),
        ({"config": "own", "features": 3}, "model 'lstm_small': found a config and options beside it"),
        ({"config": "own", "classes": 4}, "model 'lstm_small': found a config and options beside it"),
        ({"config": "other"}, "model 'lstm_small': the config is a CNNConfig; expected a RecurrentConfig"),
        ({"features": 3, "classes": 4, "hidden": "3"}, r"'lstm_small': option hidden is '3' \(str\); expected int"),
        ({"features": 3.0, "classes": 4}, r"'lstm_small': option features is 3.0 \(float\); expected int"),
    ],
)
def test_a_model_that_cannot_be_specified_so_is_one_line(arguments, message):
    if "config" in arguments:
        of = {"own": "lstm_small", "other": "cnn_lstm"}[arguments["config"]]
        arguments = arguments | {"config": model_config(of, features=3, classes=4)}
    with pytest.raises(InputError, match=message) as raised:
        create_model("lstm_small", **arguments)
    assert "\n" not in str(raised.value)


@dataclasses.dataclass(frozen=True)
class _Config:
    features: int
    classes: int


@dataclasses.dataclass(frozen=True)
class _NoClasses:
    features: int
    width: int = 3


def test_a_model_without_a_config_dataclass_is_refused():
    with pytest.raises(TypeError, match="annotated with its config dataclass"):

        @register_model("bare")
        def bare(size: int) -> torch.nn.Module:
            return torch.nn.Identity()

    with pytest.raises(TypeError, match=r"two\(config: .*, size: int\): a model function takes one parameter"):

        @register_model("two")
        def two(config: _Config, size: int) -> torch.nn.Module:
            return torch.nn.Identity()

    with pytest.raises(TypeError, match="'no_classes': _NoClasses has no field classes: derive it from models.Mode"):

        @register_model("no_classes")
        def no_classes(config: _NoClasses) -> torch.nn.Module:
            return torch.nn.Identity()

    with pytest.raises(TypeError, match="an annotation cannot be read .name 'Missing' is not defined.: import what"):

        @register_model("missing")
        def missing(config: Missing) -> torch.nn.Module:  # noqa: F821 - the point
            return torch.nn.Identity()

    with pytest.raises(TypeError, match=r"model 'wrong': option features is '3' \(str\); expected int"):

        @register_model("wrong", features="3")
        def wrong(config: _Config) -> torch.nn.Module:
            return torch.nn.Identity()


def test_lists_filter_by_glob_tags_and_parameters():
    assert list_models("pblstm*") == ["pblstm", "pblstm_large", "pblstm_small"]
    assert set(list_models(tags=("pyramid", "cpu"))) == {"pblstm_small", "las_small"}
    limit = describe("lstm_small").parameters
    assert "lstm_small" in list_models(max_params=limit) and "lstm_small" not in list_models(max_params=limit - 1)
    assert is_model("gru") and not is_model("no_such_model")


def test_a_string_is_one_tag(models):
    assert list_models("pblstm*", tags="cpu") == ["pblstm_small"]

    @register_model("test_tagged", tags="recurrent")
    def tagged(config: _Config) -> torch.nn.Module:
        return torch.nn.Identity()

    assert describe("test_tagged").tags == ("recurrent",)
    assert "test_tagged" in list_models(tags="recurrent") and list_models(tags="r") == []


def test_a_model_that_cannot_be_built_has_no_size(models):
    @register_model("test_unbuildable")
    def unbuildable(config: _Config) -> torch.nn.Module:
        raise RuntimeError("no\nway")

    row = describe("test_unbuildable")
    assert row.error == "RuntimeError: no way" and row.parameters == 0
    assert "test_unbuildable" in list_models() and "test_unbuildable" not in list_models(max_params=10**12)


def test_a_model_that_reads_values_while_it_is_built_has_a_size(models):
    """Listing builds models without values if possible; this one needs them, and torch's random state is kept."""

    @register_model("test_reads_values")
    def reads_values(config: _Config) -> torch.nn.Module:
        rates = [rate.item() for rate in torch.linspace(0.0, 0.1, 3)]
        return create_model("lstm_small", features=3, classes=4, hidden=2, dropout=rates[-1])

    state = torch.get_rng_state()
    row = describe("test_reads_values")
    assert row.error == "" and row.parameters > 0 and row.stride == 4
    assert torch.equal(torch.get_rng_state(), state)


def test_the_count_is_that_of_the_model_built():
    model = create_model("cnn_lstm_small", features=28, classes=41)
    assert describe("cnn_lstm_small").parameters == sum(p.numel() for p in model.parameters())


def _registry_command(*arguments, prefix=("-m", "registry")):
    return subprocess.run([sys.executable, *prefix, *map(str, arguments)], capture_output=True, text=True)


def test_the_command_prints_a_table_and_json():
    table = _registry_command("pblstm*")
    lines = table.stdout.splitlines()
    assert table.returncode == 0 and lines[0].split()[:4] == ["name", "family", "parameters", "stride"]
    assert [line.split()[0] for line in lines[1:]] == ["pblstm", "pblstm_large", "pblstm_small"]
    printed = _registry_command("gru", "--json")
    row = json.loads(printed.stdout)["models"][0]
    assert row["name"] == "gru" and row["stride"] == 4 and row["parameters"] == describe("gru").parameters
    none = _registry_command("zzz")
    assert none.returncode == 2 and none.stdout == "" and none.stderr.startswith("error: no model matches 'zzz'")


BROKEN = """
from models import ModelConfig
from registry import register_model

@register_model("half_done")
def half_done(config: ModelConfig):
    return None

undefined_name
"""
UNBUILDABLE = """
from models import ModelConfig
from registry import register_model

@register_model("gru_unbuildable")
def gru_unbuildable(config: ModelConfig):
    raise ValueError("this one cannot")
"""
# The command with another folder of model files, then a model of the broken file.
WITH_FOLDER = """
import sys, models
from registry import command, create_model
from registry.__main__ import main
models.__path__.append(sys.argv.pop(1))
main()
command(lambda: create_model("half_done", features=1, classes=2) and None)
"""


def test_a_broken_model_file_disables_itself_alone_and_is_listed(tmp_path):
    (tmp_path / "my_broken.py").write_text(BROKEN)
    (tmp_path / "my_unbuildable.py").write_text(UNBUILDABLE)
    done = _registry_command(tmp_path, "gru_[lu]*", prefix=("-c", WITH_FOLDER))
    *rows, broken = done.stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["gru_large", "gru_unbuildable"]
    assert rows[-1].endswith("cannot be built: ValueError: this one cannot")
    reason = "models/my_broken.py: NameError: name 'undefined_name' is not defined (line 9)"
    assert broken == f"broken: {reason}"
    assert done.returncode == 2 and done.stderr.startswith("error: unknown model 'half_done'; ")
    assert done.stderr.endswith("; " + reason.replace(": NameError", " failed to import: NameError") + "\n")
    assert done.stderr.count("\n") == 1
