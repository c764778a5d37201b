"""Presets: which recipe a model gets on which device, and what the command line changes of it."""

from __future__ import annotations

import dataclasses
import re

import pytest

from folds.training import presets
from folds.training.command_line import parse
from folds.training.options import RecipeOptions
from folds.training.presets import PRESETS, Preset, find_preset
from registry import InputError, describe, list_models, model_config


def recipe_of(*arguments):
    return parse(["--device", "cpu", *arguments])[0].options.recipe


def test_the_default_on_a_cpu_is_quick():
    recipe = recipe_of("--model", "pblstm_small")
    assert recipe == dataclasses.replace(RecipeOptions(), epochs=18, batch_frames=6000)
    assert recipe == recipe_of("--model", "pblstm_small", "--preset", "quick")


@pytest.mark.parametrize(
    ("model", "preset"), [("pblstm_small", "small"), ("pblstm", "base"), ("pblstm_large", "large")]
)
def test_the_default_on_a_gpu_follows_from_the_size(model, preset):
    assert find_preset("auto", model, "cuda") is PRESETS[preset]
    recipe = PRESETS[preset].recipe("cuda")
    assert recipe.consistency == 0.2 and recipe.augment.time_every == 75 and recipe.batch_frames is None
    # Two views of 32,000 frames are what the device computes at a time without CR-CTC, at the same learning rate.
    assert recipe.sized_for("cuda", 1).batch_frames == 32_000
    assert recipe.sized_for("cuda", 1).lr == RecipeOptions().sized_for("cuda", 1).lr


def test_every_registered_model_has_two_presets():
    for model in list_models():
        assert find_preset("quick", model, "cpu") is PRESETS["quick"]
        size = model.rpartition("_")[2]
        assert find_preset("auto", model, "cuda") is PRESETS[size if size in ("small", "large") else "base"]


@pytest.mark.parametrize("model", list_models())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_preset_that_is_added_is_nobodys_default(model, device, monkeypatch):
    parameters = describe(model).parameters
    defaults = [p for p in PRESETS.values() if p.default_on == device and p.fits(model, parameters)]
    monkeypatch.setattr(presets, "PRESETS", {**PRESETS, "added": Preset({"epochs": 3}, 6000)})
    assert defaults == [find_preset("auto", model, device)]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_what_a_preset_names_exists_and_is_in_bounds(preset):
    for device in ("cpu", "cuda"):
        preset.recipe(device)
    fitting = [model for model in list_models() if preset.fits(model, describe(model).parameters)]
    assert fitting
    for model in fitting:
        model_config(model, features=1, classes=2, **preset.shape)


def test_a_preset_is_for_more_parameters_than_the_least_and_up_to_the_most():
    preset = Preset({}, 6000, least=5, most=9)
    assert [preset.fits("gru", count) for count in (5, 6, 9, 10)] == [False, True, True, False]


def test_a_preset_of_unknown_options_is_refused_where_it_is_defined():
    with pytest.raises(ValueError, match=r"^preset: unknown values augment, epochz; expected fields of RecipeOptions"):
        Preset({"epochz": 3, "lr": 0.1, "time_mask": 4, "augment": None}, 6000)


def test_a_preset_for_one_model_sets_its_shape_too():
    (model,) = parse(["--device", "cpu", "--model", "pblstm_small", "--preset", "short", "--hidden", "64"])
    assert (model.config.hidden, model.config.bottom, model.config.layers) == (64, 90, 2)
    recipe = model.options.recipe
    assert (recipe.epochs, recipe.lr, recipe.augment.time_mask, recipe.batch_frames) == (12, 0.0038, 53, 4150)
    # On a GPU as well: its learning rate is for these batches, and is not scaled.
    assert PRESETS["short"].recipe("cuda").sized_for("cuda", 1).batch_frames == 4150
    assert PRESETS["quick"].recipe("cuda").sized_for("cuda", 1).batch_frames == 64_000
    (default,) = parse(["--device", "cpu", "--model", "pblstm_small"])
    assert (default.config.hidden, default.config.bottom) == (160, 96)


def test_options_override_the_preset():
    recipe = recipe_of("--model", "pblstm_small", "--preset", "small", "--epochs", "7", "--time-every", "120")
    assert (recipe.epochs, recipe.consistency, recipe.batch_frames, recipe.augment.time_every) == (7, 0.2, 4000, 120)


def test_several_models_have_a_preset_each(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    epochs = [model.options.recipe.epochs for model in parse(["--model", "gru_small,gru,gru_large"])]
    assert epochs == [30, 150, 200]


def test_the_help_text_shows_the_values_of_the_preset(capsys):
    with pytest.raises(SystemExit):
        parse(["--model", "pblstm_small", "--device", "cpu", "--preset", "small", "--help"])
    text = re.sub(r"[^\w.():-]+", " ", capsys.readouterr().out)
    assert re.search(r"--consistency FLOAT .*?\(default: 0\.2\)", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model", "pblstm_small", "--preset", "base"],
            "--preset base: not for pblstm_small, which has 1.5 M parameters: expected one of auto, short, quick",
        ),
        (["--model", "pblstm", "--preset", "best"], "--preset best: unknown; expected one of auto, short, quick"),
        (
            ["--model", "gru_small", "--preset", "short"],
            "--preset short: only for pblstm_small, not for gru_small: expected one of auto, quick, small",
        ),
        (["--model", "pblstm_small,pblstm", "--preset", "small"], "--preset small: not for pblstm, which has 12.4 M"),
    ],
)
def test_a_preset_of_another_model_is_refused(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse(arguments)
