"""The report: the distances that `ensemble.blend` prints, for the same options."""

from __future__ import annotations

import re
import sys

import pytest
import simulated_members as simulated

from ensemble import InputOptions, open_inputs, report
from ensemble.members.member import group_by_member
from ensemble.statistics.blend_tables import member_table
from ensemble.statistics.member_baselines import measure_members
from folds.data.cache import load_dataset
from folds.store.fold_model import find_fold_models
from registry import InputError

OPTIONS = ["--nbest", "10", "--pool", "20", "--lm-order", "3"]


@pytest.fixture(scope="module")
def dataset(tiny):
    return load_dataset(tiny, progress=False)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """A member of two folds."""
    folder = tmp_path_factory.mktemp("runs")
    for fold in (0, 1):
        held = [row for row, speaker in enumerate(dataset.train.speakers) if int(speaker) % 2 == fold]
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


def test_a_member_has_the_same_distances_as_in_the_blend(tiny, runs, dataset, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    fixed = ["report", "--data", str(tiny), "--runs", str(runs), "--out", str(out), "--submission", "none.csv"]
    monkeypatch.setattr(sys, "argv", [*fixed, *OPTIONS])
    report.main()
    inputs = open_inputs(group_by_member(find_fold_models(runs)), dataset, InputOptions(nbest=10, pool=20, lm_order=3))
    (row,) = member_table(inputs.members, measure_members(inputs)).itertuples(index=False)
    cells = re.findall(r"<td>(.*?)</td>", out.read_text().split("</table>")[0])
    expected = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
    assert cells[: len(expected)] == expected
    assert "utterances (too narrow, since there is only one speaker)" in out.read_text()


def test_without_members_that_have_folds_there_is_nothing_to_report(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", "--data", str(tiny), "--runs", str(tmp_path)])
    with pytest.raises(InputError, match="no finished member with folds to report on"):
        report.main()
