"""What folds.tune says of a study: its winner, the recipe in best.json, the gain over the preset, and the cost."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from tuning_study import SPACE, STAGES

from folds import tune
from folds.competition.bootstrap import Interval
from folds.store.lease import Held
from folds.store.run_folder import RunFolder
from folds.training.presets import device_type
from folds.tuning import comparison
from folds.tuning.comparison import PRESET, Gain, Winner, find_winner, measure_gain, recipe_of, train_comparison
from folds.tuning.options import TuneOptions
from folds.tuning.space import Space, make_space
from folds.tuning.stage_runs import Tuning
from registry import InputError

PRESET_LR = 0.002


def tuning_of(paths, space: Space = SPACE, dataset: Any = None, **options: Any) -> Tuning:
    return Tuning(TuneOptions(**{"device": "cpu", "trials": 8, **options}), space, dataset, STAGES, paths)


def study_of(*trials: tuple[TrialState, float | None, float], **attributes: Any) -> optuna.Study:
    """A study whose trials have these states, values and learning rates."""
    made = optuna.create_study()
    distributions = {"lr": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)}
    for state, value, lr in trials:
        trial = create_trial(
            params={"lr": lr}, distributions=distributions, value=value, state=state, user_attrs=attributes
        )
        made.add_trial(trial)
    return made


def test_the_winner_has_the_lowest_distance_of_those_that_finished(paths):
    """A trial that ended earlier may have had a lower one, on fewer speakers or one fold."""
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    others = [(complete, 4.0, 0.01), (complete, 3.0, 0.03), (pruned, 2.0, 0.04), (TrialState.FAIL, None, 0.05)]
    assert find_winner(tuning_of(paths), study_of((complete, 5.0, PRESET_LR), *others)) == Winner(
        "trial0002", {"lr": 0.03}, False
    )
    of_preset = study_of((complete, 1.0, PRESET_LR), *others)
    fixed = dataclasses.replace(SPACE, fixed={"clip": 4.0})
    for space, is_preset in ((SPACE, True), (fixed, False)):
        winner = find_winner(tuning_of(paths, space), of_preset)
        assert winner == Winner("trial0000", {"lr": PRESET_LR}, is_preset)
    assert find_winner(tuning_of(paths), study_of(*others[2:])) is None


@pytest.mark.parametrize(("device", "clock"), [("cpu", "cpu"), ("cuda:1", "wall")])
def test_the_recipe_is_that_of_the_winner_s_full_run(device, clock, paths):
    space = dataclasses.replace(SPACE, fixed={"clip": 4.0})
    assert recipe_of(tuning_of(paths, space, device=device), Winner("trial0001", {"lr": 0.01}, False)) == {
        "model": "lstm_small",
        "preset": "quick",
        "clip": 4.0,
        "lr": 0.01,
        "minutes": STAGES[-1].minutes,
        "clock": clock,
    }


def test_full_runs_of_the_winner_and_of_the_plain_preset_are_compared(paths, monkeypatch):
    """The one that another process is training is waited for."""
    trained: list[tuple[Any, ...]] = []
    held = [Held("preset fold 2 is being worked on")]
    slept: list[float] = []

    def train(space, values, stage, name, fold, runs):
        if (name, fold) == (PRESET, 2) and held:
            raise held.pop()
        trained.append((name, fold, values, space.fixed, stage, runs))

    monkeypatch.setattr(comparison.time, "sleep", slept.append)
    space = dataclasses.replace(SPACE, fixed={"clip": 4.0})
    tuning: Any = SimpleNamespace(space=space, stages=STAGES, paths=paths, train=train)
    train_comparison(tuning, Winner("trial0001", {"lr": 0.01}, False))
    runs = [("trial0001", 2), ("trial0001", 3), (PRESET, 3), (PRESET, 2)]
    recipes = {"trial0001": ({"lr": 0.01}, {"clip": 4.0}), PRESET: ({}, {})}
    assert trained == [(name, fold, *recipes[name], STAGES[-1], paths.compare) for name, fold in runs]
    assert len(slept) == 1


def test_the_gain_is_the_winner_s_distance_minus_the_preset_s(paths, monkeypatch):
    """Held out, utterance by utterance; on dev, the mean over the two folds."""
    utterances = {("oof", 2): ["a", "b"], ("oof", 3): ["c"], ("dev", 2): ["x", "y"], ("dev", 3): ["x", "y"]}
    distances = {
        "trial0001": {("oof", 2): [1, 2], ("oof", 3): [3], ("dev", 2): [4, 4], ("dev", 3): [2, 2]},
        PRESET: {("oof", 2): [2, 4], ("oof", 3): [3], ("dev", 2): [4, 4], ("dev", 3): [4, 4]},
    }

    def fold_model(tuning, name, fold):
        def load(split):
            return SimpleNamespace(ids=utterances[split, fold], values=np.array(distances[name][split, fold]))

        return SimpleNamespace(load=load)

    monkeypatch.setattr(comparison, "_fold_model", fold_model)
    monkeypatch.setattr(comparison, "greedy_distances", lambda log_probs, split: log_probs.values)
    dataset: Any = SimpleNamespace(
        train=SimpleNamespace(ids=["c", "b", "a"], groups=["C", "B", "A"]),
        dev=SimpleNamespace(tokens=object(), groups=["X", "X"]),
        split=lambda name: None,
    )
    winner = Winner("trial0001", {"lr": 0.01}, False)
    gain = measure_gain(tuning_of(paths, dataset=dataset), winner)
    assert gain.held_out.mean == -1.0 and gain.held_out.low < -1.0 < gain.held_out.high
    assert gain.dev == Interval(-1.0, -1.0, -1.0)
    dataset.dev.tokens = None
    assert measure_gain(tuning_of(paths, dataset=dataset), winner) == Gain(gain.held_out, None)


def test_the_result_in_words(paths, monkeypatch):
    tuning = tuning_of(paths)
    monkeypatch.setattr(Tuning, "spent", lambda self: 9.5)
    monkeypatch.setattr(tune, "measure_gain", lambda *_: Gain(Interval(-0.5, -0.7, -0.3), Interval(-0.4, -0.6, 0.1)))
    # A trial in full would take as long as the last stage, on each of its two folds: 8 trials, 10 minutes of 7 runs.
    cost = (
        "8 trials took 9.5 CPU-minutes with the comparison; training all of them fully on two folds would take "
        f"{8 * 2 * 10 / 7:.1f}"
    )
    assert tune._result(tuning, Winner("trial0000", {"lr": PRESET_LR}, True), 8) == (
        f"no trial was better than the preset; {cost}"
    )
    assert tune._result(tuning, Winner("trial0001", {"lr": 0.01}, False), 8) == (
        "trial0001 against the preset, full runs of 1.4 CPU-minutes, two folds on which no trial was judged: held out "
        "-0.500 [-0.700, -0.300], on dev -0.400 [-0.600, +0.100] (edit distance, negative is better, 95 % over "
        f"speakers); {cost}"
    )


@pytest.mark.parametrize(
    ("attributes", "reason"), [({"refused": "diverged"}, "the first failed: diverged"), ({}, "pass more --minutes")]
)
def test_a_study_without_a_winner_ends_with_the_reason(attributes, reason, paths):
    study = study_of((TrialState.PRUNED, None, 0.01), **attributes)
    with pytest.raises(InputError, match=f"a.journal: no trial finished the last stage; {reason}$"):
        tune._report(tuning_of(paths), study)
    assert not paths.best.exists()


@pytest.mark.parametrize(("device", "minutes"), [("cpu", 7.0), ("cuda", 14.0)])
def test_the_minutes_of_all_runs_are_added_up(device, minutes, paths):
    for runs, name, wall, cpu in ((paths.stage(0), "trial0000", 4, 2), (paths.compare, PRESET, 10, 5)):
        folder = RunFolder.of(runs, name, 0)
        folder.path.mkdir(parents=True)
        folder.config.touch()
        folder.timing.write_text(json.dumps({"wall_s": 60 * wall, "cpu_s": 60 * cpu, "frames_per_s": 1}) + "\n")
    (paths.folder / "workers" / "host-0").mkdir(parents=True)
    assert tuning_of(paths, device=device).spent() == minutes


def settings_of(options: TuneOptions) -> dict[str, Any]:
    space = make_space(options.model, options.preset, device_type(options.device), options.space, options.fix)
    data: Any = SimpleNamespace(hash="0123")
    return options.settings(data, space)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "gru_small"},
        {"preset": "small"},
        {"trials": 9},
        {"minutes": 100.0},
        {"folds": 6},
        {"seed": 1},
        {"device": "cuda"},
        {"fix": ("clip=4",)},
        {"space": ("lr=0.0003:0.02",)},
        {"space": ("lr=0.0003:0.01:linear",)},
    ],
)
def test_a_study_keeps_to_what_its_trials_depend_on(changed):
    """With another value, its journal is refused; see `open_study`."""
    options = TuneOptions(model="lstm_small", device="cpu", trials=8)
    assert settings_of(options) == settings_of(dataclasses.replace(options, jobs=3, on="slurm"))
    assert settings_of(options) != settings_of(dataclasses.replace(options, **changed))
