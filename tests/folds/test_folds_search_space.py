"""What folds.tune searches: the ranges in the dataclasses, `--space` and `--fix`, and what is refused."""

from __future__ import annotations

import dataclasses
import re

import pytest

import models
from folds.training.options import RecipeOptions
from folds.tuning.space import NO_HYPERPARAMETERS, SET_BY_STAGES, Parameter, make_space
from models import ModelConfig
from registry import MODELS, InputError, list_models, register_model
from registry.bounds import number


def space_of(model: str = "pblstm_small", space: tuple[str, ...] = (), fix: tuple[str, ...] = ()):
    return make_space(model, "auto", "cpu", space, fix)


def ranges(space) -> dict[str, tuple[float, float]]:
    return {parameter.name: (parameter.low, parameter.high) for parameter in space.parameters}


def test_ranges_come_from_the_dataclasses_and_follow_the_variants_default():
    small, large = ranges(space_of()), ranges(space_of("pblstm_large"))
    assert small["lr"] == large["lr"] == (3e-4, 1e-2)
    assert small["hidden"] == (80, 320) and large["hidden"] == (224, 896)
    assert {"speed", "time_every", "dropout", "weight_decay"} <= small.keys()
    assert not small.keys() & {*SET_BY_STAGES, *NO_HYPERPARAMETERS}


@pytest.mark.parametrize("model", list_models("*_small"))
def test_the_preset_is_a_point_of_every_models_space(model):
    space = space_of(model)
    values = space.preset_values()
    assert values is not None and values.keys() == ranges(space).keys()
    assert values["lr"] == 0.002 and values["time_every"] == 120
    options = space.options(values)
    default = space.options({})
    assert options.config == default.config
    assert options.options.recipe == dataclasses.replace(default.options.recipe, lr=0.002)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewConfig(ModelConfig):
    width: int = number(32, at_least=1, at_most=1000, scale="log", search=(16, 64))
    depth: int = 3


def new_model(config: NewConfig):
    return models.create_model("gru_small", features=config.features, classes=config.classes)


def test_the_fields_of_a_new_model_are_searched_without_another_list(monkeypatch):
    models.create_model("gru_small", features=3, classes=4)  # the registry is discovered once
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    register_model("new_model")(new_model)
    found = ranges(space_of("new_model", ("depth=2:5",)))
    assert found["width"] == (16, 64) and found["depth"] == (2, 5)


def test_space_overrides_a_range_and_fix_takes_an_option_out():
    space = space_of(space=("hidden=128:512:log", "kernel=4:12", "batch-frames=3000:8000"), fix=("lr=0.003",))
    by_name = {parameter.name: parameter for parameter in space.parameters}
    assert by_name["hidden"] == Parameter("hidden", 128, 512, log=True, integer=True)
    assert by_name["kernel"] == Parameter("kernel", 5, 11, log=False, integer=True, step=2)
    assert by_name["batch_frames"].log and "lr" not in by_name
    (lr,) = [parameter for parameter in space_of(space=("lr=0.001:0.01:linear",)).parameters if parameter.name == "lr"]
    assert lr == Parameter("lr", 0.001, 0.01, log=False, integer=False)
    options = space.options({"hidden": 200})
    assert options.options.recipe.lr == 0.003 and options.config.hidden == 200  # type: ignore[attr-defined]


def test_a_preset_outside_the_space_is_no_point_of_it():
    space = space_of(space=("lr=0.005:0.01", "hidden=8:16", "kernel=9:13"))
    assert space.preset_values() is None
    outside = ["hidden=160 is outside 8 to 16", "kernel=7 is outside 9 to 13 in steps of 2"]
    assert sorted(space.outside()) == [*outside, "lr=0.002 is outside 0.005 to 0.01"]
    assert space_of().outside() == []


@pytest.mark.parametrize(
    ("space", "fix", "message"),
    [
        (("hiden=1:2",), (), "--space hiden: no such option of the model, the recipe or SpecAugment; did you mean"),
        (("epochs=1:9",), (), "--space epochs=1:9: the study sets it itself: leave it out"),
        (("select=0:1",), (), "--space select=0:1: not a number that can be searched"),
        (("prior=0:1",), (), "--space prior=0:1: not a number that can be searched"),
        (("lr=0.1:0.1",), (), "--space lr=0.1:0.1: the range is empty"),
        (("lr=0.2:0.1",), (), "--space lr=0.2:0.1: the range is empty"),
        (("lr=nan:0.1",), (), "--space lr=nan:0.1: the range is empty"),
        (("lr=0:0.1",), (), "--space lr=0:0.1: expected more than 0"),
        (("dropout=0:1",), (), "--space dropout=0:1: expected a fraction in [0, 1)"),
        (("dropout=0:0.5:log",), (), "--space dropout=0:0.5:log: expected a low end above 0"),
        (("hidden=5.2:5.8",), (), "--space hidden=5.2:5.8: expected a range with at least two valid whole numbers"),
        (("lr=0.1",), (), "--space lr=0.1: expected name=low:high or name=low:high:log, both numbers"),
        (("lr=a:b",), (), "--space lr=a:b: expected name=low:high"),
        (("lr=0.1:0.2:exp",), (), "--space lr=0.1:0.2:exp: expected log or linear"),
        (("lr",), (), "--space lr: expected name=low:high"),
        ((), ("lr",), "--fix lr: expected name=value"),
        ((), ("minutes=3",), "--fix minutes: the study sets it itself"),
        ((), ("lrr=3",), "--fix lrr: no such option"),
        ((), ("lr=-3",), "--fix lr=-3: expected more than 0"),
        ((), ("clip=5", "lr=fast"), "--fix lr=fast: expected a number or None"),
        ((), ("batch-frames=1.5",), "--fix batch_frames=1.5: expected a whole number or None"),
        ((), ("group_softsign=true",), "--fix group_softsign=True: there is no group layer"),
        ((), ("lr=0.1", "lr=0.2"), "--fix lr: given twice, 0.1 and 0.2: expected one of the two"),
        (("lr=0.1:0.2", "lr=0.1:0.3"), (), "--space lr: given twice, 0.1:0.2 and 0.1:0.3: expected one of the two"),
        (("lr=0.1:0.2",), ("lr=0.1",), "--fix lr and --space lr: expected one of the two"),
    ],
)
def test_what_cannot_be_searched_is_one_line(space, fix, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        space_of(space=space, fix=fix)
    assert "\n" not in str(error.value) and "folds.train" not in str(error.value)


def test_a_layer_for_each_speaker_cannot_go_through_stages():
    """Each has other speakers, and so other layers."""
    with pytest.raises(InputError, match="--fix group_layer=speaker: each stage has different speakers"):
        space_of(fix=("group_layer=speaker",))


def test_a_space_without_parameters_is_refused():
    names = ranges(space_of("gru_small"))
    fix = tuple(f"{name}={0 if name in ('speed', 'warmup', 'dropout') else 1}" for name in names)
    with pytest.raises(InputError, match="nothing is left to search"):
        space_of("gru_small", fix=fix)


def test_a_search_range_must_be_legal():
    for search in ((0.5, 0.5), (0.5, 2.0), (-1.0, 0.5)):
        with pytest.raises(TypeError, match="within the bounds"):
            number(0.5, at_least=0, at_most=1, search=search)
    with pytest.raises(TypeError, match="logarithmic"):
        number(0.5, at_least=0, at_most=1, scale="log", search=(0.0, 0.5))
    assert RecipeOptions().weight_decay == 0.01
