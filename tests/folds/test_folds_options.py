"""The training command's line: the options of several models, and the panels of the help text."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys

import pytest

from folds.training.command_line import parse
from registry import InputError, model_config


def defaults_of(name: str):
    return model_config(name, features=1, classes=2)


def configs_of(arguments):
    return {model.name: model.config for model in parse(arguments)}


def test_each_model_named_has_its_own_defaults_and_what_is_given():
    models = parse(["--model", "gru_small,gru", "--hidden", "176", "--folds", "3"])
    assert [(model.name, model.options.folds) for model in models] == [("gru_small", 3), ("gru", 3)]
    for model in models:
        assert model.config == dataclasses.replace(defaults_of(model.name), hidden=176)
    both = configs_of(["--model", "gru_small,conformer_small"])
    assert both == {name: defaults_of(name) for name in ("gru_small", "conformer_small")}


@pytest.mark.parametrize("option", ["--model", "--preset"])
def test_an_empty_name_is_not_the_default(option):
    """As of a variable of the shell that is not set."""
    with pytest.raises(InputError, match="unknown"):
        parse([option, ""])


def test_an_option_that_all_models_have_applies_to_all():
    """Their configs are of different classes."""
    configs = configs_of(["--model", "gru_small,pblstm_small", "--hidden", "64", "--dropout=0.2"])
    for name, config in configs.items():
        assert config == dataclasses.replace(defaults_of(name), hidden=64, dropout=0.2)
    assert type(configs["gru_small"]) is not type(configs["pblstm_small"])


@pytest.mark.parametrize("option", [["--bottom", "64"], ["--bottom=64"]])
def test_an_option_of_one_model_is_refused_for_several(option):
    message = "--bottom: an option of pblstm_small, pblstm, which gru_small does not have: train them with separate"
    with pytest.raises(InputError, match=message):
        parse(["--model", "gru_small,pblstm_small,pblstm", *option])
    configs = configs_of(["--model", "pblstm_small,pblstm", *option])
    assert configs == {name: dataclasses.replace(defaults_of(name), bottom=64) for name in configs}


def test_what_the_data_decide_is_no_option(capsys):
    for option in ("--features", "--classes"):
        for names in ("gru_small", "gru_small,pblstm_small"):
            with pytest.raises(SystemExit):
                parse(["--model", names, "--help"])
            assert option not in re.findall(r"--[\w-]+", capsys.readouterr().out)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("models", ["gru_small", "gru_small,pblstm_small"])
def test_the_help_text_has_a_panel_for_each_kind_of_option(models, encoding, monkeypatch):
    """Drawn with lines where the output can have them."""
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(sys, "stdout", output)
        parse(["--model", models, "--help"])
    output.seek(0)
    text = output.read()
    title = r"^╭─ (.+?) ─+╮$" if encoding == "utf-8" else r"^ (\S.*?) +\n -+ $"
    assert exit.value.code == 0 and "TODO" not in text
    assert re.findall(title, text, re.MULTILINE) == ["options", "recipe", "SpecAugment", "model"]
    assert len({len(line) for line in text.splitlines() if line.startswith(("╭", "│", "╰"))}) <= 1
    panels = re.split(title, text, flags=re.MULTILINE)[1:]
    options = {name: re.findall(r"--[\w-]+", panel) for name, panel in zip(panels[::2], panels[1::2], strict=True)}
    assert {"--data", "--allow-pickle", "--runs", "--restart-from"} <= set(options["options"])
    assert {"--epochs", "--intermediate"} <= set(options["recipe"]) and "--speed" in options["SpecAugment"]
    assert "--hidden" in options["model"]


def test_options_in_a_file_are_overridden_by_the_command_line(tmp_path):
    path = tmp_path / "best.json"
    values = {"model": "gru_small", "hidden": 24, "channels": [8, 16], "lr": 0.003, "prior": False, "minutes": None}
    path.write_text(json.dumps(values))
    (model,) = parse(["--config", str(path), "--lr", "0.005", "--time-every", "75"])
    assert model.name == "gru_small" and model.options.config == path
    assert model.config == dataclasses.replace(defaults_of("gru_small"), hidden=24, channels=(8, 16))
    recipe = model.options.recipe
    assert (recipe.lr, recipe.prior, recipe.minutes, recipe.augment.time_every) == (0.005, False, None, 75)
    (other,) = parse([f"--config={path}", "--model", "lstm_small"])
    assert other.config == dataclasses.replace(defaults_of("lstm_small"), hidden=24, channels=(8, 16))


def test_epochs_on_the_command_line_replace_the_minutes_of_a_file(tmp_path):
    path = tmp_path / "best.json"
    path.write_text('{"model": "gru_small", "minutes": 20, "clock": "cpu"}')
    (of_file,) = parse(["--config", str(path)])
    assert of_file.options.recipe.minutes == 20
    (longer,) = parse(["--config", str(path), "--epochs", "30", "--folds", "1", "--with-dev"])
    assert (longer.options.recipe.epochs, longer.options.recipe.minutes) == (30, None)
    with pytest.raises(InputError, match="--epochs 30 with --minutes 5: either decides how long a run is"):
        parse(["--config", str(path), "--epochs", "30", "--minutes", "5"])


def test_a_file_of_options_may_need_those_of_the_command_line(tmp_path):
    path = tmp_path / "student.json"
    path.write_text('{"model": "gru_small", "teacher_weight": 0.3, "with_dev": true}')
    (student,) = parse(["--config", str(path), "--folds", "1", "--teacher", "x.json"])
    assert student.options.recipe.teacher_weight == 0.3
    with pytest.raises(InputError, match=r"student\.json: --teacher-weight 0.3: there is no teacher"):
        parse(["--config", str(path), "--folds", "1"])
    with pytest.raises(InputError, match="^--lr -1"):
        parse(["--config", str(path), "--folds", "1", "--teacher", "x.json", "--lr", "-1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"best\.json: expected object, found array: expected an object of options of folds\.train"),
        ('{"lr"', r"best\.json: not readable as JSON"),
        ('{"lr": {"a": 1}}', r"best\.json: \[\.\.\.\]: expected .*, found object"),
        ('{"config": "other.json"}', r"best\.json: 'config': expected the name of an option"),
        ('{"--lr": 1}', r"best\.json: '--lr': expected the name of an option"),
        ('{"widht": 3}', r"best\.json: .*--widht"),
        ('{"lr": -1}', r"best\.json: --lr -1.0: expected more than 0"),
        ('{"model": "gru_smal"}', r"best\.json: .*gru_smal.*gru_small"),
    ],
)
def test_a_file_of_options_that_is_wrong_is_named(content, message, tmp_path):
    path = tmp_path / "best.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        parse(["--config", str(path)])


def test_a_file_of_options_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"best\.json: no such file"):
        parse(["--config", str(tmp_path / "best.json")])


@pytest.mark.parametrize(
    ("option", "instead"),
    [("--models", "--model"), ("--seeds=1,2", "--seed"), ("--fold-count", "--folds"), ("--refits", "--folds 1")],
)
def test_options_of_a_launch_are_named(option, instead):
    name = option.partition("=")[0]
    with pytest.raises(InputError, match=f"^{name}: an option of folds.launch; here it is {instead}$"):
        parse([option, "lstm_small"])
