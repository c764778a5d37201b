"""The stages of `folds.tune`: which trials go on, and what a fault in one of them ends."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from tuning_study import SETTINGS, SPACE, STAGES, ask

from folds.store.run_folder import RunFolder
from folds.training.resumption import FinishedOtherwise, StartedOtherwise
from folds.tuning import stage_runs, trials
from folds.tuning.options import TuneOptions
from folds.tuning.space import Space
from folds.tuning.study import StudyPaths, open_study
from registry import InputError
from registry.errors import MachineFault


def stub_tuning(paths: StudyPaths, most: int) -> stage_runs.Tuning:
    """A study of `most` trials on data of which only the lengths are known."""
    data: Any = SimpleNamespace(train=SimpleNamespace(tokens=SimpleNamespace(lengths=np.array([9, 11]))))
    return stage_runs.Tuning(TuneOptions(trials=most), SPACE, data, STAGES, paths)


@pytest.fixture
def run_stages(paths, monkeypatch):
    """Run the next stages of a study of `most` trials: they have the distances given, or raise the error given."""
    opened = open_study(paths, SETTINGS)

    def run(*outcomes, most=4):
        for outcome in outcomes:

            def found(*_, outcome=outcome):
                answer = outcome() if callable(outcome) else outcome
                if isinstance(answer, Exception):
                    raise answer
                return answer

            monkeypatch.setattr(stage_runs, "_train_stage", found)
            with ask(opened, paths, most=most) as trial:
                stage_runs.run_stage(stub_tuning(paths, most), opened, trial)
        return opened.trials[-1]

    return run


def test_the_best_trial_goes_through_all_stages(run_stages, capsys):
    waiting = run_stages(9.0, 8.5, 9.5)
    assert waiting.state == TrialState.PRUNED and waiting.intermediate_values == {1: 9.5}
    run_stages(9.9)
    assert capsys.readouterr().out.endswith("trial0003 stage 1 of 3: held-out distance 9.900, place 4 of 4\n")
    second = run_stages(8.2)
    assert second.state == TrialState.PRUNED and second.intermediate_values == {1: 8.5, 4: 8.2}
    last = run_stages(7.0)
    assert last.state == TrialState.COMPLETE and last.value == 7.0
    assert last.intermediate_values == {1: 8.5, 4: 8.2, 16: 7.0}
    assert capsys.readouterr().out.splitlines() == [
        "trial0001 advances to stage 2 of 3",
        "trial0001 stage 2 of 3: held-out distance 8.200, place 1 of 1",
        "trial0001 advances to stage 3 of 3",
        "trial0001 stage 3 of 3: held-out distance 7.000, place 1 of 1",
    ]


@pytest.mark.parametrize(("distance", "warned"), [(9.1, True), (8.9, False)])
def test_a_first_stage_that_taught_the_preset_nothing_is_warned_of(run_stages, capsys, distance, warned):
    run_stages(distance)
    assert ("warning: the preset learnt next to nothing" in capsys.readouterr().out) is warned
    run_stages(9.9)  # others may be worse than the preset
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(("distance", "warned"), [(9.1, True), (8.9, False)])
def test_without_the_preset_the_best_of_all_trials_must_have_learnt_something(
    run_stages, capsys, monkeypatch, distance, warned
):
    """And one that is refused, even the first, says nothing about the others."""
    monkeypatch.setattr(Space, "preset_values", lambda self: None)
    assert run_stages(InputError("diverged")).state == TrialState.PRUNED
    run_stages(9.9, distance, 9.8)
    assert "warning" not in capsys.readouterr().out
    assert run_stages(7.0).intermediate_values == {1: distance, 4: 7.0}
    assert ("warning: even the best trial learnt next to nothing in its" in capsys.readouterr().out) is warned


def test_a_configuration_that_cannot_be_trained_ends_its_trial_but_not_the_study(run_stages):
    run_stages(9.0)
    refused = run_stages(InputError("diverged"))
    assert refused.state == TrialState.PRUNED and refused.user_attrs["refused"] == "diverged"
    assert refused.value is None and run_stages(8.0, 8.5).intermediate_values == {1: 8.5}


def test_a_refused_trial_ends_no_process_while_another_trains_the_first(paths, run_stages):
    with ask(open_study(paths, SETTINGS), paths, most=4) as preset:
        assert preset.number == 0
        assert run_stages(InputError("diverged")).state == TrialState.PRUNED


def test_a_fault_of_the_machine_is_no_trial_s(run_stages):
    run_stages(9.0)
    with pytest.raises(MachineFault, match="not available"):
        run_stages(MachineFault("--device cuda: not available on this machine"))


def test_a_run_that_another_study_trained_is_no_trial_s_and_is_kept(run_stages, paths):
    run_stages(9.0)
    folder = RunFolder.of(paths.stage(0), "trial0001", 0, 0, 5)
    folder.weights.parent.mkdir(parents=True)
    folder.weights.touch()
    for error in (FinishedOtherwise, StartedOtherwise):
        with pytest.raises(error, match="different settings"):
            run_stages(error("with different settings"))
    assert folder.weights.exists()


def test_if_nothing_can_be_trained_the_study_ends_with_the_reason(run_stages):
    with pytest.raises(InputError, match="too short for their labels"):
        run_stages(InputError("too short for their labels"))


def test_a_process_that_was_suspended_while_another_took_its_trial_over_tells_nothing(run_stages, paths, capsys):
    opened = open_study(paths, SETTINGS)

    def taken_over():
        opened.tell(0, state=TrialState.FAIL)
        return 5.0

    assert run_stages(taken_over).state == TrialState.FAIL
    assert "another process took it over" in capsys.readouterr().out and not trials.latest_stages(opened)


def test_the_weights_of_trials_that_cannot_go_on_are_deleted(run_stages, paths):
    """And so are their training states and predictions. Of 8 trials, 2 go on to the second stage, and 1 to the last."""
    folders = [RunFolder.of(paths.stage(0), f"trial{number:04d}", 0, 0, 5) for number in range(8)]
    files = [[folder.weights, folder.checkpoint(5), folder.predictions("oof"), folder.timing] for folder in folders]
    for path in itertools.chain(*files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def kept() -> list[int]:
        assert all(timing.exists() for *_, timing in files)
        return [number for number, (*large, _) in enumerate(files) if any(path.exists() for path in large)]

    run_stages(9.0, 8.0, 8.5, 9.5, most=8)
    assert kept() == [1, 2, 4, 5, 6, 7]
    run_stages(9.9, 9.8, 8.1, 9.7, most=8)
    assert kept() == [1, 6]
    run_stages(7.6, 7.5, most=8)
    assert kept() == [6]
    assert run_stages(6.0, most=8).state == TrialState.COMPLETE and kept() == [6]


def test_only_the_first_fold_continues_from_the_stage_before(paths, monkeypatch):
    """The weights of that stage were trained on what the second one holds out. The distance is the mean of both."""
    starts = {}

    def train(tuning, values, index, name, fold, start):
        starts[index, fold] = start
        folder = RunFolder.of(paths.stage(index), name, fold)
        folder.path.mkdir(parents=True)
        distances = {"oof": 9.0 - index - fold, "dev": 1.0}
        folder.summary.write_text(json.dumps({"cpu_minutes": 1, "greedy_distance": distances}))
        return folder

    monkeypatch.setattr(stage_runs, "_train_when_free", train)
    for index, mean in enumerate((9.0, 8.0, 6.5)):
        assert stage_runs._train_stage(stub_tuning(paths, 8), {}, index, "trial0000") == mean
    assert starts == {(0, 0): None, (1, 0): paths.stage(0), (2, 0): paths.stage(1), (2, 1): None}
