"""Options of the decode command that must reach the decoder, and what is recorded of them beside a submission."""

from __future__ import annotations

import json
import shutil

import pytest
from test_ensemble_decode import add_refit, run, runs

from ensemble.decode import DecodeOptions, open_task
from ensemble.decoding.batched import decode_in_batches
from ensemble.decoding.decoders import get_decoder
from ensemble.members.member import group_by_member
from folds.store.fold_model import find_fold_models
from registry.errors import InputError

__all__ = ["run", "runs"]  # fixtures


def test_the_decoder_and_its_settings_are_those_of_the_options(run, runs, dataset, tmp_path):
    out, (member,) = tmp_path / "s.csv", group_by_member(find_fold_models(runs))
    plain, with_lm = DecodeOptions(), DecodeOptions(lm="train", lm_order=2)
    cases = [
        (["--decoder", "greedy"], "greedy", plain, {"beam": 50, "lm_weight": 0.0, "length_bonus": 0.0}),
        (["--beam", 4, "--length-bonus", 3], "beam", plain, {"beam": 4, "lm_weight": 0.0, "length_bonus": 3.0}),
        (
            ["--beam", 3, "--lm", "train", "--lm-order", 2, "--lm-weight", 2, "--length-bonus", -1],
            "beam",
            with_lm,
            {"beam": 3, "lm_weight": 2.0, "length_bonus": -1.0},
        ),
    ]
    found = []
    for options, decoder, how, settings in cases:
        run("--split", "test", "--out", out, *options)
        nbest_lists = decode_in_batches(open_task(member, "test", dataset, how), get_decoder(decoder), **settings)
        found.append([dataset.alphabet.to_string(nbest[0].tokens) for nbest in nbest_lists.hypotheses])
        assert [line.split(",")[1] for line in out.read_text().splitlines()[1:]] == found[-1]
        language_model = {"decoder": decoder, "lm": how.lm, "lm_order": how.lm_order, "nbest": 1}
        assert json.loads((tmp_path / "s.csv.json").read_text())["recipe"]["settings"] == language_model | settings
    assert len(set(map(tuple, found))) == 3


def test_tuning_starts_from_the_given_settings(run, capsys):
    run("--lm", "train", "--tune", "--beam", 2, "--lm-weight", 0.7, "--length-bonus", 1.5)
    printed = capsys.readouterr()
    assert printed.err.startswith("  weight 0.700 bonus +1.500: out-of-fold distance ")
    assert "gru: 6 utterances" in printed.out and "tuned on these utterances" not in printed.out


def test_a_submission_is_of_one_member(run, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    add_refit(tmp_path / "runs", runs)
    out = tmp_path / "s.csv"
    with pytest.raises(InputError, match=r"--out with 2 members \(gru, gru.all\): choose one with --members"):
        run("--runs", tmp_path / "runs", "--split", "test", "--out", out)
    assert not out.exists()
