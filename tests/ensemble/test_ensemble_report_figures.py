"""The figures of a report from given distances: its cards and table, alarm, learning curves and measurements."""

from __future__ import annotations

import html
import itertools
import json
import os
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import planted_report as planted
import pytest
import simulated_members as simulated

from ensemble.beam import beam_search
from ensemble.blenders.base import BlendRecipe
from ensemble.blenders.best import FittedBlender
from ensemble.hypotheses.open_inputs import InputOptions, OpenedInputs
from ensemble.members.member import group_by_member
from ensemble.members.sidecar import Difference, Recipe, Sidecar
from ensemble.report_page import alarm
from ensemble.report_page.blends import Blend, open_blend
from ensemble.report_page.curves import learning_curves
from ensemble.report_page.headline import headline, leaderboard, measure_blend
from ensemble.report_page.systems import compare_systems
from ensemble.statistics.blend_tables import blender_table, describe_difference, describe_level
from ensemble.statistics.measured import (
    Measured,
    MeasuredBlender,
    fingerprint,
    measured_path,
    read_measured,
    write_measured,
)
from ensemble.statistics.member_baselines import Alternative, MemberBaseline, _without_lm, strongest
from folds.competition.alphabets import F22
from folds.competition.base import Rules
from folds.competition.bootstrap import bootstrap, paired_bootstrap
from folds.competition.metric import edit_distances
from folds.store.fold_model import find_fold_models
from folds.store.run_folder import SPLITS

REFERENCES = simulated.references(8, length=10)
SPEAKERS = tuple("aaabbbcc")
OURS = np.array([1, 0, 2, 0, 1, 0, 2, 1])
"""The blend's distances on dev."""
WEAK = np.array([3, 1, 2, 1, 2, 0, 4, 2])
STRONG = np.array([2, 1, 2, 1, 1, 1, 2, 2])
PATHS = {"a": ("r/a/fold0", "r/a/fold1"), "b": ("r/b/fold0",)}


def baseline(name: str, dev_lm: np.ndarray, **others: np.ndarray) -> MemberBaseline:
    """A member with these distances with the language model; without it, they are larger."""
    values = {"oof": dev_lm + 3, "dev": dev_lm + 2, "dev_mean": dev_lm + 1.5, "dev_lm": dev_lm} | others
    return MemberBaseline(name, recipe=BlendRecipe("single", {name: 1.0}), hypotheses=[], **values)


def blend_of(predicted=None, paths=PATHS, **facts) -> Blend:
    """The blend of members `a` and `b`, as described beside `s.csv`; it predicts `predicted` for dev."""
    recipe = Recipe("mbr", {"a": 0.6, "b": 0.4}, {}, paths)
    recorded = {"oof": 9.0, "nested": 9.25, "dev": float(OURS.mean()), "rules": Rules(4000, ())}
    sidecar = Sidecar(recipe, 3000, ("cpu",), **recorded | facts)
    return Blend("s.csv", sidecar, [], predicted, "" if predicted else "c is not among the members of this report")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`a` of two folds and `b` of one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, fold in (("a", 0), ("a", 1), ("b", 0)):
        log_probs = simulated.log_probs(REFERENCES, seed=fold + ord(name))
        simulated.write_run(folder, name, fold, dict.fromkeys(SPLITS, log_probs))
    return folder


@pytest.fixture(scope="module")
def opened(runs):
    members = group_by_member(find_fold_models(runs))
    dev, test = (
        simulated.inputs(
            {
                "a": [simulated.log_probs(REFERENCES, error=error, seed=seed) for seed in (1, 2)],
                "b": [simulated.log_probs(REFERENCES, error=error, seed=3)],
            },
            REFERENCES,
            outer_folds=1,
        )
        for error in (0.3, 0.6)
    )
    return OpenedInputs(members, dev, dev, test, None, InputOptions(), Rules(4000, ()), [], SPEAKERS)


def shown(page: str) -> str:
    return html.unescape(re.sub("(<[^>]*>)+", "|", page)).replace("\N{NO-BREAK SPACE}", " ")


def hypotheses() -> list[list[int]]:
    """The first phonemes of each reference are missing, as many as `OURS` says."""
    return [reference[missing:] for reference, missing in zip(REFERENCES, OURS.tolist(), strict=True)]


def test_every_system_has_its_own_figures_and_interval(opened):
    baselines = [baseline("a", WEAK), baseline("b", STRONG)]
    rover = MeasuredBlender(8.0, 8.5, tuple((WEAK + 0.25).tolist()))
    measured = Measured("", "", (), {"mbr": MeasuredBlender(0, 0, (0,)), "rover": rover}, "mbr", ())
    blend = replace(blend_of(hypotheses()), measured=measured)
    table = leaderboard(opened, baselines, [measure_blend(blend, opened, baselines)])
    assert list(table)[:6] == ["system", "dev, with LM", "95 % interval", "kind", "oof", "oof, nested"]
    rows = table.set_index("system").fillna("").to_dict("index")
    assert list(rows) == ["s.csv", "b", "a", "rover"]
    for name, distances in (("s.csv", OURS), ("b", STRONG), ("a", WEAK), ("rover", WEAK + 0.25)):
        interval = bootstrap(distances, SPEAKERS)
        assert rows[name]["dev, with LM"] == interval.mean
        assert rows[name]["95 % interval"] == f"{interval.low:.2f} to {interval.high:.2f}"
    assert [(row["oof"], row["oof, nested"]) for row in rows.values()] == [
        (9.0, 9.25), (STRONG.mean() + 3, ""), (WEAK.mean() + 3, ""), (8.0, 8.5),
    ]  # fmt: skip
    assert (rows["a"]["dev"], rows["a"]["dev, mean of folds' frames"]) == (WEAK.mean() + 2, WEAK.mean() + 1.5)
    assert rows["s.csv"]["kind"] == "submission: mbr, 3 networks" and rows["rover"]["kind"] == "blend, not chosen"
    assert [row["parameters"] for row in rows.values()] == [3000, 1000, 2000, ""]


def test_the_cards_have_level_difference_and_share_of_the_parameters(opened):
    baselines = [baseline("a", WEAK), baseline("b", STRONG)]
    text = shown(headline([measure_blend(blend_of(hypotheses()), opened, baselines)], baselines, opened, ""))
    level, difference = bootstrap(OURS, SPEAKERS), paired_bootstrap(OURS, STRONG, SPEAKERS)
    assert f"|{level.mean:.3f} [{level.low:.3f}, {level.high:.3f}]|" in text
    length = np.mean([len(reference) for reference in REFERENCES])
    assert f"with a mean length of {length:.1f} phonemes: {100 * OURS.mean() / length:.1f} per 100. In" in text
    assert f"|{difference}|significantly better than b with the language model (".replace("-", "−") in text
    assert "|2 members, 3 networks, by mbr|" in text and "|of 4,000 allowed; tags: cpu|" in text
    assert "75.0 % of the parameters allowed" in text


def test_without_a_submission_the_strongest_member_is_shown(opened):
    level = bootstrap(STRONG, SPEAKERS)
    text = shown(headline([], [baseline("a", WEAK), baseline("b", STRONG)], opened, "s.csv.json"))
    assert "|none: s.csv.json does not exist|" in text
    assert f"|{level.mean:.3f} [{level.low:.3f}, {level.high:.3f}]|b with the language model; edits per" in text


def test_a_recorded_difference_names_the_member_that_it_was_measured_against(opened):
    """It need not be among the members of the report."""
    baselines = [baseline("a", WEAK), baseline("b", STRONG)]
    blend = blend_of(dev_minus_best_member=Difference("c", -0.5, -0.75, -0.25))
    text = shown(headline([measure_blend(blend, opened, baselines)], baselines, opened, ""))
    assert "|−0.500 [−0.750, −0.250]|significantly better than c|" in text


def test_a_distance_that_is_not_the_recorded_one_has_a_note(opened):
    baselines = [baseline("a", WEAK)]
    for recorded, notes in ((OURS.mean(), 0), (OURS.mean() + 0.0004, 0), (OURS.mean() - 0.0006, 1), (0.625, 1)):
        measured = measure_blend(blend_of(hypotheses(), dev=float(recorded)), opened, baselines)
        assert len(measured.notes) == notes
    assert measured.notes[0].startswith("s.csv: 0.625 on dev when it was made, and 0.875 now: the runs or options")


@pytest.mark.parametrize(
    ("paths", "weights", "obstacle"),
    [
        ({"a": ["/elsewhere/a/fold0", "/elsewhere/a/fold1"]}, {"a": 1.0}, ""),  # the runs folder may have been moved
        ({"a": ["r/a/fold0", "r/a/fold7"]}, {"a": 1.0}, "not all of its networks are in the runs folders"),
        ({"c": ["r/c/fold0"]}, {"c": 1.0}, "c is not among the members of this report"),
        ({"a": ["r/a/fold0"]}, {"a": None}, "its recipe has no weights"),
        ({}, {"a": 1.0}, "not all of its networks are in the runs folders"),
    ],
)
def test_a_blend_is_predicted_again_only_with_all_its_networks(opened, tmp_path, monkeypatch, paths, weights, obstacle):
    monkeypatch.setattr(Blend, "predict", lambda blend, inputs: [[network.fold for network in blend.kept[0].networks]])
    content = {"recipe": {"method": "mbr", "weights": weights, "members": paths}, "parameters": 1, "tags": []}
    (tmp_path / "s.csv.json").write_text(json.dumps(content))
    blend = open_blend(tmp_path / "s.csv", opened, SimpleNamespace(hash="data"))
    assert (blend.obstacle, blend.dev) == (obstacle, None if obstacle else [[0, 1]])


def test_a_network_with_several_delays_counts_once():
    paths = {"a": ("r/a/fold0", "r/a/fold1"), "a.delay2": ("r/a.delay2/fold0", "r/a.delay2/fold1")}
    assert blend_of(paths=paths).networks == 2


def test_the_strongest_is_the_best_of_all_ways_to_use_a_member_alone():
    a = baseline("a", WEAK, refit=WEAK - 0.5, refit_lm=WEAK - 1.0)
    assert [found.name for found in a.alternatives] == [
        "a", "a with the language model", "the refit of a", "the refit of a with the language model",
    ]  # fmt: skip
    assert a.alternatives[0].dev.tolist() == (WEAK + 1.5).tolist()
    assert strongest([a, baseline("b", WEAK - 0.75)]).name == "the refit of a with the language model"
    assert strongest([a, baseline("b", WEAK - 1.25)]).name == "b with the language model"


def test_without_the_language_model_networks_are_measured_each_and_by_their_mean(opened):
    dev = opened.dev
    each, of_mean = _without_lm(dev, 0)
    distances = [edit_distances(dev.nbest(index).best, REFERENCES) for index in (0, 1)]
    np.testing.assert_allclose(each, np.mean(distances, axis=0))
    assert distances[0].tolist() != distances[1].tolist()
    probabilities = np.mean([np.exp(dev.load(index).values.astype(np.float32)) for index in (0, 1)], axis=0)
    mean = replace(dev.load(0), values=np.log(probabilities))
    decoded = [nbest[0].tokens for nbest in beam_search(*mean.padded(range(8)), beam=20)]
    assert of_mean.tolist() == edit_distances(decoded, REFERENCES).tolist()


def test_the_table_of_blenders_has_their_distances_and_differences():
    fitted = {"mbr": FittedBlender(BlendRecipe("mbr", {"a": 1.0}), WEAK, WEAK + 1)}
    dev = {"folds": {"mbr": OURS}, "both": {"mbr": OURS + 0.5}}
    table = blender_table(fitted, dev, "both", Alternative("b", STRONG), SPEAKERS)
    difference = paired_bootstrap(OURS + 0.5, STRONG, SPEAKERS)
    assert table.to_dict("records") == [
        {
            "blender": "mbr",
            "oof, fitted": WEAK.mean(),
            "oof, nested": WEAK.mean() + 1,
            "dev, fold models": describe_level(bootstrap(OURS, SPEAKERS)),
            "dev, fold models and refits": describe_level(bootstrap(OURS + 0.5, SPEAKERS)),
            "fold models and refits - strongest member": f"{difference} (-8.3 %)",  # -0.125 of 1.5
        }
    ]
    assert describe_difference(OURS * 0, OURS * 0, None) == "+0.000 [+0.000, +0.000]"


def test_systems_are_blends_and_then_members_strongest_first_with_their_weights():
    split, references = planted.planted_split(), planted.references()
    baselines = [baseline(name, WEAK + k, dev=WEAK + 9 - k) for k, name in enumerate("abc")][::-1]
    blend = blend_of([reference[1:] for reference in references])
    comparison = compare_systems(None, split, baselines, [blend, blend_of()])
    assert [(system.name, system.weight) for system in comparison.systems] == [
        ("s.csv", None), ("a", 0.6), ("b", 0.4), ("c", 0.0),
    ]  # fmt: skip
    assert comparison.targets == references and comparison.members == [1, 2, 3]
    assert comparison.weighted_by == "s.csv"
    assert compare_systems(None, split, baselines, []).weighted_by is None


def test_of_each_member_one_network_is_compared(opened, monkeypatch):
    monkeypatch.setattr(alarm, "BATCH", 3)
    found = alarm.measure_alarm(opened)

    def disagreement(inputs):
        paths = [[inputs.load(index)[row].argmax(axis=1).tolist() for row in range(8)] for index in (0, 2)]
        decoded = [[[token for token, _ in itertools.groupby(path) if token] for path in of_one] for of_one in paths]
        return 100 * edit_distances(*decoded).sum() / np.mean([sum(map(len, of_one)) for of_one in decoded])

    assert (found.dev, found.test) == pytest.approx((disagreement(opened.dev), disagreement(opened.test)))
    alone = simulated.inputs({"a": [simulated.log_probs(REFERENCES)]}, REFERENCES, outer_folds=1)
    assert alarm.measure_alarm(replace(opened, dev=alone, test=alone)) is None


def test_learning_curves_are_the_held_out_distances_of_each_fold_model(runs, tmp_path):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    epochs = [{"epoch": 1, "held_out": 9.12346}, {"epoch": 2, "held_out": None}, {"epoch": 3, "held_out": 0.0}]
    for run in ("a/fold1", "b/fold0"):
        lines = epochs if run == "a/fold1" else epochs[:1]
        (tmp_path / run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert learning_curves(group_by_member(find_fold_models(tmp_path))) == [
        {"name": "a fold 1", "member": 0, "points": [[1, 9.1235], [3, 0.0]]},
        {"name": "b fold 0", "member": 1, "points": [[1, 9.1235]]},
    ]


def test_measurements_are_read_as_written_for_the_same_inputs_and_submission(tmp_path):
    submission = tmp_path / "s.csv"
    submission.write_text("index,label\n")
    refit = {"refit": WEAK - 0.5, "refit_lm": WEAK - 1.0}
    baselines = [replace(baseline("a", WEAK, **refit), hypotheses=[[1, 2]] * 8), baseline("b", STRONG)]
    blenders = {"mbr": MeasuredBlender(1.0, 2.0, (3.0,))}
    write_measured(submission, "key", F22, baselines, blenders, "mbr", [[3], []])
    sha256 = json.loads(measured_path(submission).read_text())["sha256"]
    measured = read_measured(submission, "key", sha256)
    assert measured.blenders == blenders and measured.chosen == "mbr" and measured.dev(F22) == [[3], []]
    for found, written in zip(measured.baselines(F22), baselines, strict=True):
        assert (found.name, found.recipe, found.hypotheses) == (written.name, written.recipe, written.hypotheses)
        for field in ("oof", "dev", "dev_mean", "dev_lm", "refit", "refit_lm"):
            np.testing.assert_array_equal(getattr(found, field), getattr(written, field))
    assert read_measured(submission, "other", sha256) is None and read_measured(submission, "key", "0" * 64) is None


def test_measurements_hold_for_the_same_predictions_options_rules_and_data(runs, opened, tmp_path):
    moved = shutil.copytree(runs, tmp_path / "moved")
    inputs = replace(opened, members=group_by_member(find_fold_models(moved)))
    key = fingerprint(opened, "data")
    assert fingerprint(inputs, "data") == key  # the same files in another folder
    others = [fingerprint(inputs, "other"), fingerprint(replace(inputs, options=InputOptions(pool=7)), "data")]
    others += [fingerprint(replace(inputs, rules=Rules(5000, ())), "data")]
    for split in SPLITS:
        path = moved / "a" / "fold1" / f"{split}.safetensors"
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        others.append(fingerprint(inputs, "data"))
    assert len({key, *others}) == 7
