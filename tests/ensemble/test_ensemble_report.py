"""The report: the distances that `ensemble.blend` prints, for the same options; and what it refuses."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import sys

import numpy as np
import pytest
import simulated_members as simulated

from ensemble import InputOptions, blend, open_inputs, report
from ensemble.members.member import group_by_member
from ensemble.members.sidecar import sidecar_path
from ensemble.report_page.alarm import Alarm
from ensemble.report_page.headline import alarm_text
from ensemble.statistics.blend_tables import member_table
from ensemble.statistics.member_baselines import measure_members
from folds.competition.metric import edit_distances
from folds.store.fold_model import find_fold_models
from registry import InputError

OPTIONS = ["--nbest", "10", "--pool", "20", "--lm-order", "3"]


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """A member of two folds."""
    folder = tmp_path_factory.mktemp("runs")
    for fold in (0, 1):
        held = [row for row, speaker in enumerate(dataset.train.groups) if int(speaker) % 2 == fold]
        rows = {"oof": (dataset.train, held), "dev": (dataset.dev, range(6)), "test": (dataset.test, range(6))}
        splits = {
            name: simulated.log_probs(
                [split.labels(row).tolist() if split.tokens is not None else [1, 2] for row in chosen],
                error=0.5,
                seed=fold,
                classes=dataset.alphabet.classes,
                alphabet=dataset.alphabet.hash,
                ids=[split.ids[row] for row in chosen],
            )
            for name, (split, chosen) in rows.items()
        }
        simulated.write_run(folder, "a", fold, splits)
    return folder


@pytest.fixture(scope="module")
def inputs(dataset, runs):
    members = group_by_member(find_fold_models(runs))
    return open_inputs(members, dataset, InputOptions(nbest=10, pool=20, lm_order=3))


@pytest.fixture(scope="module")
def submission(tiny, runs, tmp_path_factory):
    """A submission of minimum Bayes risk on the member, with what was measured beside it."""
    out = tmp_path_factory.mktemp("blend") / "mbr.csv"
    fixed = ["--data", str(tiny), "--runs", str(runs), "--out", str(out), "--method", "mbr", "--max-params", "4000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["blend", *fixed, *OPTIONS])
        blend.main()
    return out


def write_report(tiny, runs, out, monkeypatch, *options):
    fixed = ["report", "--data", str(tiny), "--runs", str(runs), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*fixed, *OPTIONS, *map(str, options)])
    report.main()
    text = out.read_text()
    return text, json.loads(text.split("id=data>")[1].split("</script>")[0])


def leaderboard(text):
    """Rows of the first table, by heading."""
    head, *rows = re.findall(r"<tr>(.*?)</tr>", html.unescape(text.split("</table>")[0]))
    names = re.findall(r"<th[^>]*>(.*?)</th>", head)
    return [dict(zip(names, re.findall(r"<td[^>]*>(.*?)</td>", row), strict=True)) for row in rows]


def test_members_and_blends_have_the_same_distances_as_in_the_blend(
    tiny, runs, inputs, submission, tmp_path, monkeypatch
):
    moved = tmp_path / "moved.csv"  # without what was measured, so that it is measured again
    shutil.copy(sidecar_path(submission), sidecar_path(moved))
    text, data = write_report(tiny, runs, tmp_path / "report.html", monkeypatch, "--submission", moved)
    baselines = measure_members(inputs)
    (row,) = member_table(inputs.members, baselines).to_dict("records")
    of_blend, of_member = leaderboard(text)
    for name, value in row.items():
        cell = of_member[{"member": "system"}.get(name, name)]
        assert cell == (value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.3f}")
    dev = json.loads(sidecar_path(submission).read_text())["dev"]
    assert (of_blend["system"], of_blend["dev, with LM"]) == (str(moved), f"{dev:.3f}")
    assert np.mean(data["distances"][0]) == dev
    assert data["distances"][1] == edit_distances(baselines[0].hypotheses, inputs.dev.references).tolist()
    assert "50.0 % of the parameters allowed" in text and "2,000" in text
    assert "utterances (too narrow, since there is only one speaker)" in text
    assert set(map(int, data["details"])) == set(range(6))

    def measured_again(inputs):
        raise AssertionError("the blend has measured the members")

    monkeypatch.setattr(report, "measure_members", measured_again)
    kept, _ = write_report(tiny, runs, tmp_path / "kept.html", monkeypatch, "--submission", submission)
    assert kept.replace(str(submission), str(moved)) == text
    with pytest.raises(AssertionError, match="has measured"):  # other options are measured again
        write_report(tiny, runs, tmp_path / "other.html", monkeypatch, "--submission", submission, "--pool", "15")


def test_test_has_no_references(tiny, runs, inputs, submission, tmp_path, monkeypatch):
    options = ["--submission", submission, "--split", "test", "--compare", submission, "a", "--hardest", "2"]
    text, data = write_report(tiny, runs, tmp_path / "report.html", monkeypatch, *options)
    assert not data["labelled"] and "confusions" not in data and data["compare"] == [0, 1]
    assert "Without transcripts: greedy hypotheses of two members differ" in text
    with open(submission, encoding="utf-8", newline="") as file:
        strings = [label for _, label in list(csv.reader(file))[1:]]
    assert [len(target) for target in data["targets"]] == list(map(len, strings))
    assert data["pairwise"][0][1] < 1  # the member's hypotheses are of test, too
    # Of test, every utterance has two simulated phonemes, of two frames each, and two frames more.
    assert [[part["frames"] for part in detail["posteriors"]] for detail in data["details"].values()] == [[6]] * 2


def test_a_blend_that_cannot_be_computed_again_shows_its_own_figures(tiny, runs, tmp_path, monkeypatch):
    content = {"recipe": {"method": "decode", "weights": {"a": 1.0}}, "parameters": 5, "tags": ["cpu"], "dev": 1.25}
    (tmp_path / "x.csv.json").write_text(json.dumps(content))
    text, data = write_report(tiny, runs, tmp_path / "r.html", monkeypatch, "--submission", tmp_path / "x.csv")
    assert "decode is not a blender, so only the figures beside the submission are shown" in text
    assert leaderboard(text)[0]["dev, with LM"] == "1.250"
    assert [(system["name"], system["weight"]) for system in data["systems"]] == [("a", 1.0)]
    assert data["weightedBy"] == str(tmp_path / "x.csv")


def test_disagreement_on_test_raises_an_alarm(inputs):
    alarm = report.measure_alarm(inputs)
    assert alarm.dev == pytest.approx(greedy_disagreement(inputs.dev)) and alarm.test > 0
    assert "3.00 of 100 phonemes on test and in 0.00 on dev: the speech in test" in alarm_text(Alarm(dev=0.0, test=3.0))
    assert "2.60 of 100 phonemes on test and in 2.00 on dev, 1.30 times as much: the" in alarm_text(Alarm(2.0, 2.6))
    assert type(alarm)(dev=2.0, test=2.6).raised and not type(alarm)(dev=2.0, test=2.4).raised


def greedy_disagreement(split):
    """Mean distance of the two fold models' best paths per 100 phonemes, by hand."""
    decoded = []
    for index in split.prediction_indices():
        log_probs = split.load(index)
        paths = [log_probs[row].argmax(axis=1).tolist() for row in range(len(log_probs))]
        decoded.append([[t for k, t in enumerate(p) if t and (k == 0 or p[k - 1] != t)] for p in paths])
    phonemes = np.mean([sum(map(len, system)) for system in decoded])
    return 100 * edit_distances(*decoded).sum() / phonemes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", "a", "b"], r"--compare b: expected a member \(a\) or a submission with a .json beside it"),
        (["--compare", "a", "decoded.csv"], "--compare decoded.csv: cannot be recomputed: decode is not a blender"),
        (["--split", "train"], "invalid choice 'train' for argument '--split'"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tiny, runs, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decoded.csv.json").write_text(
        '{"recipe": {"method": "decode", "weights": {"a": 1}}, "parameters": 5, "tags": []}'
    )
    with pytest.raises((InputError, SystemExit), match=message):
        write_report(tiny, runs, tmp_path / "report.html", monkeypatch, *options)
    assert not (tmp_path / "report.html").exists()


def test_a_submission_of_unknown_distance_is_called_so(tiny, runs, tmp_path, monkeypatch):
    """As `ensemble.decode` writes one."""
    content = {"recipe": {"method": "decode", "weights": {"a": 1.0}}, "parameters": 5, "tags": ["cpu"]}
    (tmp_path / "x.csv.json").write_text(json.dumps(content))
    text, _ = write_report(tiny, runs, tmp_path / "r.html", monkeypatch, "--submission", tmp_path / "x.csv")
    shown = text.split("id=data>")[0]
    assert "<strong>unknown</strong><span>it was not measured when it was written" in shown
    assert "nan" not in re.sub("<[^>]*>", " ", shown).split()


def test_the_options_of_the_submission_hold_for_its_report(tiny, runs, tmp_path, monkeypatch):
    """Frames averaged over two fold models are another system than their hypotheses together."""
    out, plain = tmp_path / "frames.csv", tmp_path / "plain.csv"
    for path, options in ((out, ["--fold-mean", "frames", "--nbest", "8", "--pool", "16"]), (plain, [])):
        fixed = ["--data", str(tiny), "--runs", str(runs), "--out", str(path), "--method", "mbr"]
        monkeypatch.setattr(sys, "argv", ["blend", *fixed, "--lm-order", "3", "--threads", "1", *options])
        blend.main()
    fixed = ["report", "--data", str(tiny), "--runs", str(runs), "--out", str(tmp_path / "r.html"), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*fixed, "--submission", str(out), str(plain)])
    report.main()
    text = html.unescape((tmp_path / "r.html").read_text())
    of_blends = {row["system"]: row["dev, with LM"] for row in leaderboard(text)}
    for path in (out, plain):
        assert of_blends[str(path)] == f"{json.loads(sidecar_path(path).read_text())['dev']:.3f}"
    assert "differ; blend again" not in text
    assert f"{plain}: it was blended with --fold-mean sequence --networks both, unlike this page" in text


def test_options_that_are_given_are_not_those_of_the_submission(tiny, runs, submission, tmp_path, monkeypatch, capsys):
    """Not even with their default values; and a submission of one member has options of other meanings."""
    opened = []
    monkeypatch.setattr(report, "open_inputs", lambda members, dataset, options, rules: opened.append(options))
    decoded = tmp_path / "decoded.csv"
    content = {"recipe": {"method": "decode", "weights": {"a": 1.0}}, "parameters": 5, "tags": []}
    content |= {"options": {"nbest": "1", "lm_order": "2"}}
    sidecar_path(decoded).write_text(json.dumps(content))
    fixed = ["report", "--data", str(tiny), "--runs", str(runs), "--out", str(tmp_path / "r.html"), "--submission"]
    for more in ([str(submission)], [str(submission), "--nbest=200", "--lm-order", "4"], [str(decoded)]):
        monkeypatch.setattr(sys, "argv", [*fixed, *more])
        with pytest.raises(AttributeError):  # nothing was opened
            report.main()
    assert [(options.nbest, options.pool, options.lm_order) for options in opened] == [
        (10, 20, 3),
        (200, 20, 4),
        (InputOptions.nbest, InputOptions.pool, InputOptions.lm_order),
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"options recorded with {submission}: --nbest 10 --pool 20 --lm-order 3",
        f"options recorded with {submission}: --pool 20",
    ]


def test_word_error_rates_are_not_shown_as_distances(tiny, runs, tmp_path, monkeypatch):
    difference = {"member": "gru", "mean": -0.004, "low": -0.006, "high": -0.002}
    content = {"recipe": {"method": "words", "weights": {"a": 1.0}}, "parameters": 5, "tags": [], "oof": 0.09}
    content |= {"metric": "word error rate", "nested": 0.091, "dev": 0.085, "dev_minus_best_member": difference}
    (tmp_path / "w.csv.json").write_text(json.dumps(content))
    text, _ = write_report(tiny, runs, tmp_path / "r.html", monkeypatch, "--submission", tmp_path / "w.csv")
    assert "<strong>8.50 %</strong><span>word error rate on dev</span>" in text
    assert "<strong>−0.40 % [−0.60, −0.20]</strong><span>significantly better than gru</span>" in text
    row = leaderboard(text)[0]
    assert row["system"].endswith("w.csv") and not row["oof"] + row["oof, nested"] + row["dev, with LM"]


def test_the_rules_of_the_submission_hold_for_its_report(tiny, runs, tmp_path, monkeypatch):
    shutil.copytree(runs, tmp_path / "runs")
    for fold in (0, 1):
        path = shutil.copytree(runs / "a" / f"fold{fold}", tmp_path / "runs" / "las" / f"fold{fold}")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"model": "las", "tags": ["attention"]}))
    out = tmp_path / "mbr.csv"
    fixed = ["--data", str(tiny), "--runs", str(tmp_path / "runs"), "--out", str(out), "--method", "mbr"]
    monkeypatch.setattr(sys, "argv", ["blend", *fixed, *OPTIONS, "--forbid", "attention"])
    blend.main()

    def measured_again(inputs):
        raise AssertionError("the blend has measured the members")

    monkeypatch.setattr(report, "measure_members", measured_again)
    text, _ = write_report(tiny, tmp_path / "runs", tmp_path / "r.html", monkeypatch, "--submission", out)
    assert [row["system"] for row in leaderboard(text)] == [str(out), "a"]
    assert "left out by the rules: las (tag attention)" in text


def test_without_members_that_have_folds_there_is_nothing_to_report(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", "--data", str(tiny), "--runs", str(tmp_path)])
    with pytest.raises(InputError, match="no finished member; train one with python -m folds.train"):
        report.main()
