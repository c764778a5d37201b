"""The figures of a report: counted independently, and planted faults that must show where they are."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path

import numpy as np
import planted_report as planted
import pytest
import rapidfuzz.distance
import simulated_members as simulated

from ensemble.report_page import payload as payload_module
from ensemble.report_page.details import LEAST, pack_details, pack_features, pack_posteriors
from ensemble.report_page.ledger import read_scores
from ensemble.report_page.page import html_page
from ensemble.report_page.payload import comparison_payload, symbols
from ensemble.report_page.systems import Comparison, System
from ensemble.report_page.terms import TERMS, glossary
from ensemble.statistics.confusions import edits_by_position, list_edits, phonemes_by_position, wrong_phonemes
from ensemble.statistics.diversity import error_correlation, near_copies, only_right, pairwise_distances
from folds.competition.alphabets import F22
from folds.competition.bootstrap import paired_bootstrap
from registry import InputError


@pytest.fixture(scope="module")
def figures(comparison):
    return comparison_payload(comparison, F22)


def by_name(comparison: Comparison, name: str) -> int:
    return [system.name for system in comparison.systems].index(name)


def test_counts_equal_those_of_rapidfuzz(comparison, figures):
    for index, system in enumerate(comparison.systems):
        kinds, pairs = Counter(), Counter()
        for hypothesis, reference in zip(system.hypotheses, comparison.targets, strict=True):
            for edit in rapidfuzz.distance.Levenshtein.editops(reference, hypothesis):
                kinds[edit.tag] += 1
                expected = 0 if edit.tag == "insert" else reference[edit.src_pos]
                pairs[expected, 0 if edit.tag == "delete" else hypothesis[edit.dest_pos]] += 1
        assert figures["counts"][index] == [kinds["replace"], kinds["insert"], kinds["delete"]]
        assert {(e, r): count for e, r, count in figures["confusions"][index]} == dict(pairs)
        assert sum(figures["distances"][index]) == sum(kinds.values()) == sum(figures["positions"][index])


def test_edits_in_the_page_give_the_hypotheses(comparison, figures):
    number = {symbol: index for index, symbol in enumerate(figures["symbols"])}
    for row, target in enumerate(comparison.targets):
        assert [number[symbol] for symbol in figures["targets"][row]] == target
        for system, text in zip(comparison.systems, figures["edits"][row], strict=True):
            tokens, copied, at = [], 0, 0
            for step, what in zip(text[::2], text[1::2], strict=True):
                at += number[step]
                tokens += target[copied:at]
                copied = at if number[what] >= F22.classes else at + 1
                tokens += [number[what] % F22.classes] if number[what] else []
            assert tokens + target[copied:] == system.hypotheses[row]


def test_the_planted_confusion_is_the_most_frequent(figures):
    for confusions in figures["confusions"][:4]:
        assert max(confusions, key=lambda pair: pair[2])[:2] == [planted.EXPECTED, planted.RECOGNISED]


def test_the_bad_speaker_has_the_highest_error_rate(comparison, figures):
    speakers, lengths = np.array(figures["speakers"]), np.array(figures["lengths"])
    for distances in figures["distances"]:
        rates = {s: np.array(distances)[speakers == s].sum() / lengths[speakers == s].sum() for s in set(speakers)}
        assert max(rates, key=rates.get) == planted.BAD_SPEAKER


def test_the_useless_member_and_the_copy_are_named(comparison, figures):
    redundancy = {comparison.systems[entry["system"]].name: entry for entry in figures["redundancy"]}
    # Wrong wherever another is: what it alone has right comes from ties between alignments.
    assert redundancy["useless"]["alone"] * 20 < redundancy["other"]["alone"]
    wrong = [wrong_phonemes(comparison.edits[member], comparison.lengths) for member in comparison.members]
    assert [entry["alone"] for entry in redundancy.values()] == only_right(np.array(wrong)).tolist()
    copies = {name: entry["copy"] for name, entry in redundancy.items() if entry["copy"] is not None}
    assert copies == {"copy": by_name(comparison, "good")}
    correlation = np.array(figures["correlation"], float)
    good, other, copy = (by_name(comparison, name) for name in ("good", "other", "copy"))
    assert correlation[good, copy] > 0.9 > 0.5 > correlation[good, other]


def test_intervals_are_those_of_the_paired_bootstrap(comparison, figures):
    expected = paired_bootstrap(comparison.distances[0], comparison.distances[2], comparison.groups)
    assert figures["differences"][0][2] == pytest.approx([expected.mean, expected.low, expected.high], abs=1e-4)
    assert figures["differences"][2][0] == pytest.approx([-expected.mean, -expected.high, -expected.low], abs=1e-4)


def test_without_references_hypotheses_are_compared_with_each_other():
    comparison = planted.planted_comparison(labelled=False)
    figures = comparison_payload(comparison, F22)
    assert "confusions" not in figures and "differences" not in figures and not figures["labelled"]
    assert set(figures["distances"][0]) == {0}  # the first system's own hypotheses are the targets
    members = [comparison.systems[index].hypotheses for index in comparison.members]
    distance = rapidfuzz.distance.Levenshtein.distance
    pairs = [(a, b) for k, a in enumerate(members) for b in members[k + 1 :]]
    expected = [np.mean([distance(a[row], b[row]) for a, b in pairs]) for row in range(planted.UTTERANCES)]
    np.testing.assert_allclose(figures["disagreement"], expected, atol=0.006)


def test_the_easiest_utterances_lose_their_hypotheses_where_they_are_too_many(comparison, monkeypatch):
    monkeypatch.setattr(payload_module, "HYPOTHESES_BYTES", 4000)
    figures = comparison_payload(comparison, F22)
    kept = [row for row, edits in enumerate(figures["edits"]) if edits is not None]
    assert 0 < len(kept) < planted.UTTERANCES
    assert sorted(comparison.hardest_first[: len(kept)].tolist()) == kept
    assert len(figures["distances"][0]) == planted.UTTERANCES
    means = np.mean(figures["distances"], axis=0)[comparison.hardest_first]
    assert means[0] > means[-1] and (np.diff(means) <= 0).all()


def test_distances_between_systems_are_means_over_utterances(comparison, figures):
    distance = rapidfuzz.distance.Levenshtein.distance
    good, other = (comparison.systems[by_name(comparison, name)].hypotheses for name in ("good", "other"))
    expected = np.mean([distance(ours, theirs) for ours, theirs in zip(good, other, strict=True)])
    assert figures["pairwise"][1][2] == figures["pairwise"][2][1] == pytest.approx(expected, abs=5e-5)
    counts = Counter(token for target in comparison.targets for token in target)
    assert figures["phonemeCounts"] == [counts[token] for token in range(F22.classes)]


def test_symbols_are_distinct_and_need_no_escape():
    text = symbols(300)
    assert len(set(text)) == len(text) == 300
    assert len(json.dumps(text, ensure_ascii=False)) == 302
    assert not set(text) & set("<>&\"'\\ ")


class TestStatistics:
    REFERENCE = (1, 2, 3, 4)
    EDITS = (list_edits([9, 2, 3, 4, 5], REFERENCE), list_edits([1, 2], [1, 2, 3, 3]), list_edits([7], []))
    LENGTHS = np.array([4, 4, 0])

    def test_positions(self):
        # A substitution first, an insertion at the end; two deletions in the second half; an insertion into nothing.
        assert edits_by_position(self.EDITS, self.LENGTHS, 2).tolist() == [2, 3]
        assert phonemes_by_position(self.LENGTHS, 2).tolist() == [4, 4]
        assert phonemes_by_position(np.array([0]), 3).tolist() == [0, 0, 0]

    def test_wrong_phonemes(self):
        expected = [True, False, False, False, False, False, True, True]
        assert wrong_phonemes(self.EDITS, self.LENGTHS).tolist() == expected

    def test_correlation_is_that_of_numpy_and_nan_for_a_constant(self):
        wrong = np.random.default_rng(0).random((3, 50)) < 0.3
        np.testing.assert_allclose(error_correlation(wrong), np.corrcoef(wrong), atol=1e-12)
        wrong[1] = False
        assert np.isnan(error_correlation(wrong)[1]).all()

    def test_only_right(self):
        wrong = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)
        assert only_right(wrong).tolist() == [1, 1, 0]

    def test_pairwise_distances_are_symmetric(self):
        distances = pairwise_distances([[[1, 2], [3]], [[1], [3]], [[], [4, 5]]])
        assert distances[0, 1].tolist() == [1, 0] and distances[2, 0].tolist() == [2, 2]
        assert (distances == distances.transpose(1, 0, 2)).all()

    def test_a_near_copy_is_that_of_the_better_one(self):
        distances = np.array([[0, 1, 9, 9], [1, 0, 9, 9], [9, 9, 0, 9], [9, 9, 9, 0]])
        assert near_copies(distances, np.array([5.0, 4.0, 6.0, 7.0])) == {0: 1}
        assert near_copies(distances, np.array([4.0, 4.0, 6.0, 7.0])) == {1: 0}
        assert near_copies(distances[:2, :2], np.array([5.0, 4.0])) == {}
        distances[0, 1] = distances[1, 0] = 3  # more than a quarter of the median
        assert near_copies(distances, np.array([5.0, 4.0, 6.0, 7.0])) == {}


def unpacked(packed: dict, classes: int) -> np.ndarray:
    """The probabilities of packed posteriors, without those of the blank."""
    probabilities, frame = np.zeros((packed["frames"], classes)), 0
    for step, index, value in np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(-1, 3).tolist():
        frame += step
        probabilities[frame, index] += value / 255
    return probabilities


class TestDetails:
    def test_posteriors_are_unpacked_to_what_they_were(self):
        rng = np.random.default_rng(0)
        probabilities = rng.dirichlet(np.full(6, 0.2), 700)
        probabilities[100:650, 1:] = 0.0  # a gap that one byte cannot bridge
        packed = pack_posteriors(probabilities)
        kept = np.where(probabilities >= LEAST, probabilities, 0.0)
        np.testing.assert_allclose(unpacked(packed, 6)[:, 1:], kept[:, 1:], atol=1 / 255)
        assert packed["frames"] == 700

    def test_features_are_means_of_two_frames(self):
        features = np.repeat(np.arange(11.0), 2)[:21, None] * [1.0, -3.0]
        packed = pack_features(features)
        values = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(packed["frames"], 2)
        assert packed["frames"] == 10 and (np.diff(values[:, 0].astype(int)) > 0).all()
        np.testing.assert_array_equal(values[:, 0], 255 - values[:, 1])

    def test_a_members_posteriors_are_the_mean_over_its_networks_for_as_many_utterances_as_fit(self):
        split, references = planted.planted_split(), planted.references()
        networks = {
            name: [simulated.log_probs(references, classes=F22.classes, seed=seed) for seed in seeds]
            for name, seeds in (("a", (1, 2)), ("b", (3,)))
        }
        inputs = simulated.inputs(networks, references, outer_folds=1)
        details = pack_details(inputs, split, [7, 3], 10**6)
        assert list(details) == [7, 3]
        for row, detail in details.items():
            assert detail["features"] == pack_features(split.features(row))
            for of_member, packed in zip(networks.values(), detail["posteriors"], strict=True):
                mean = np.mean([np.exp(log_probs[row]) for log_probs in of_member], axis=0)
                kept = np.where(mean >= LEAST, mean, 0.0)
                np.testing.assert_allclose(unpacked(packed, F22.classes)[:, 1:], kept[:, 1:], atol=1 / 255)
        parts = [part for detail in details.values() for part in (detail["features"], *detail["posteriors"])]
        size = sum(len(part["data"]) + 40 for part in parts)
        assert list(pack_details(inputs, split, [7, 3], size)) == [7, 3]
        assert list(pack_details(inputs, split, [7, 3], size - 1)) == [7]
        assert pack_details(inputs, split, [], size) == {}

    def test_the_hardest_utterances_have_details(self):
        comparison = planted.planted_comparison()
        data = planted.planted_data(comparison)
        assert list(data["details"]) == comparison.hardest_first[:12].tolist()
        assert len(json.dumps(data["details"])) < 12 * 10_000


class TestPage:
    def test_nothing_from_the_data_ends_the_script_or_is_markup(self, tmp_path):
        text = planted.planted_page(tmp_path / "page.html").read_text()
        assert text.count("<script") == text.count("</script") == 2
        assert "<b>4" not in text and "planted <i>" not in text and "<!--" not in text
        data = text.split("id=data>")[1].split("</script>")[0]
        assert json.loads(data)["ids"][0] == planted.HOSTILE

    def test_there_is_no_address_to_request(self, tmp_path):
        text = planted.planted_page(tmp_path / "page.html").read_text()
        assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
        assert "default-src 'none'" in text

    def test_the_glossary_has_each_method_once_and_no_markup_from_names(self):
        text = glossary(["mbr", "rank", "mbr", "<b>unknown"])
        assert text.count("<dt>mbr</dt>") == text.count("<dt>rank</dt>") == 1
        assert "unknown" not in text and text.count("<dt>") == len(TERMS) + 2

    def test_two_systems_asked_for_come_first(self):
        data = planted.planted_data(planted.planted_comparison(), compare=[1, 2])
        text = html_page("t", "s", {}, data)
        assert text.index("<section id=compare") < text.index("<section id=curves")

    def test_one_system_alone(self, tmp_path):
        split, targets = planted.planted_split(), planted.references()
        alone = Comparison(split, [System("good", "member", targets)], targets)
        figures = comparison_payload(alone, F22)
        assert figures["differences"] == [[[0.0, 0.0, 0.0]]] and figures["correlation"] == [[None]]


class TestLedger:
    def test_scored_submissions(self, tmp_path):
        lines = [
            {"event": "attempt", "id": "a", "file": "runs/x.csv", "blend": {"nested": 9.5, "oof": 9.4, "dev": 9.0}},
            {"event": "attempt", "id": "b", "file": "y.csv", "blend": {}},
            {"event": "score", "id": "a", "public_score": "9.7", "private_score": ""},
            {"event": "score", "id": "unknown", "public_score": "1"},
            {"event": "failed", "id": "b", "reason": "…"},
        ]
        path = tmp_path / "submissions.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        expected = {"file": "x.csv", "nested": 9.5, "oof": 9.4, "dev": 9.0, "public": 9.7, "private": None}
        assert read_scores(path) == [expected]

    def test_none_without_a_ledger_and_one_line_for_a_damaged_one(self, tmp_path):
        assert read_scores(Path(tmp_path / "none.jsonl")) == []
        (tmp_path / "bad.jsonl").write_text('{"event": "score", "id": 1}\n')
        with pytest.raises(InputError, match="line 1: id: expected str, found int"):
            read_scores(tmp_path / "bad.jsonl")
