"""One contract for every registered decoder; third-party decoders against our beam where they are installed."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.beam.search import beam_search
from ensemble.decoding.batched import DecodingTask, decode_in_batches, decoded_batches
from ensemble.decoding.decoders import DECODERS, HOW_TO_INSTALL, collapse, get_decoder, register_acoustic_decoder
from ensemble.decoding.third_party import installed
from ensemble.lm.ngram import estimate
from folds.store.log_probs import LogProbs
from folds.store.ragged import offsets_of
from models.ctc import greedy, log_likelihood
from registry.errors import InputError, PlugInError

CLASSES = 12
PACKAGES = {"ctcdecode": "ctcdecode", "flashlight": "flashlight.lib.text", "fast_ctc_decode": "fast_ctc_decode"}


def batch(count: int = 4, frames: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Peaky posteriors with a tenth of the frames ambiguous."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, frames, CLASSES))
    best = np.where(random.random((count, frames)) < 0.3, random.integers(1, CLASSES, (count, frames)), 0)
    np.put_along_axis(logits, best[..., None], 7.0, axis=2)
    logits[random.random((count, frames)) < 0.1] *= 0.4
    log_probs = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    return log_probs.astype(np.float32), random.integers(frames // 2, frames + 1, count)


def test_ours_are_always_registered_and_third_party_ones_where_installed():
    assert {"greedy", "beam"} <= set(DECODERS.names())
    for name, package in PACKAGES.items():
        assert (name in DECODERS) == installed(package)
    assert set(HOW_TO_INSTALL) == set(PACKAGES)


@pytest.mark.parametrize("name", DECODERS.names())
def test_every_decoder_keeps_the_contract(name):
    log_probs, lengths = batch()
    nbest_lists = get_decoder(name)(log_probs, lengths, beam=20)
    assert [len(nbest) for nbest in nbest_lists] == [1] * len(lengths)
    for row, (best,) in enumerate(nbest_lists):
        assert all(0 < token < CLASSES for token in best.tokens)
        exact = log_likelihood(log_probs[row, : lengths[row]], [best.tokens])[0]
        assert best.ctc <= exact + 1e-3
        assert len(best.frames) == len(best.confidences) and len(best.frames) in (0, len(best.tokens))
        assert list(best.frames) == sorted(set(best.frames))


@pytest.mark.parametrize("name", DECODERS.names())
def test_every_decoder_refuses_bad_input(name):
    log_probs, lengths = batch(2)
    log_probs[1, 3, 2] = np.nan
    with pytest.raises(InputError, match="utterance 1, frame 3: NaN"):
        get_decoder(name)(log_probs, lengths)
    with pytest.raises(InputError, match="length 61; expected 1 to 60"):
        get_decoder(name)(log_probs, np.array([60, 61]))
    with pytest.raises(InputError, match="^beam is 0; expected 1 or more$"):
        get_decoder(name)(log_probs[:1], np.array([60]), beam=0)
    with pytest.raises(InputError, match="^nbest is 0; expected 1 to 7, the beam$"):
        get_decoder(name)(log_probs[:1], np.array([60]), beam=7, nbest=0)


WITHOUT_LM = [name for name in DECODERS.names() if DECODERS.entry(name).info.get("language_model") is False]


@pytest.mark.parametrize("name", sorted(set(DECODERS.names()) - set(WITHOUT_LM)))
def test_every_decoder_with_a_language_model_adds_up_its_scores(name):
    log_probs, lengths = batch()
    lm, bonus = estimate([[1, 2, 3], [3, 3]], CLASSES, order=2), np.linspace(0, 1, CLASSES)
    settings = {"lm": lm, "lm_weight": 0.5, "length_bonus": 0.25, "token_bonus": bonus}
    for nbest in get_decoder(name)(log_probs, lengths, beam=20, nbest=3, **settings):
        assert 1 <= len(nbest) <= 3 and nbest == sorted(nbest, key=lambda one: -one.score)
        for one in nbest:
            assert one.lm == pytest.approx(lm.score(one.tokens), abs=1e-3)
            added = 0.5 * one.lm + 0.25 * len(one.tokens) + bonus[list(one.tokens)].sum()
            assert one.score == pytest.approx(one.ctc + added, abs=1e-3)


@pytest.mark.parametrize(
    ("result", "found"),
    [
        ([[([1], (0,))]] * 2, "returned 2 N-best lists for 3 utterances; expected one each"),
        ([[1, 2]] * 3, r"returned \[1, 2\] for utterance 0; expected a list of hypotheses \(tokens, frames\)"),
        ([[([1, 2], (0,))]] * 3, r"returned \[\(\[1, 2\], \(0,\)\)\] for utterance 0; expected"),
        ([[([1], ())], [], [([1], ())]], r"returned \[\] for utterance 1; expected"),
        ([[([1], ())], None, [([1], ())]], "returned None for utterance 1; expected"),
    ],
)
def test_a_search_that_returns_something_else_is_refused(result, found, monkeypatch):
    monkeypatch.setattr(DECODERS, "_entries", dict(DECODERS._entries))
    register_acoustic_decoder("faulty", lambda *arguments: result)
    with pytest.raises(InputError, match=f"^decoder faulty: {found}"):
        get_decoder("faulty")(*batch(3))


def test_a_decoder_that_leaves_out_an_utterance_is_refused():
    log_probs, lengths = batch(3, frames=12)
    values = np.concatenate([rows[:length] for rows, length in zip(log_probs, lengths, strict=True)])
    stored = LogProbs(values, offsets_of(lengths), ("a", "b", "c"), "", 0, 1)
    task = DecodingTask(stored, None, np.zeros(3, np.int64), {0: None})
    with pytest.raises(ValueError, match="^returned 2 N-best lists for 3 utterances; expected one each$"):
        decode_in_batches(task, lambda *arguments, **settings: beam_search(*arguments)[1:])


def test_a_search_of_a_plug_in_that_fails_is_the_plug_in_s(monkeypatch):
    def search(*arguments):
        raise KeyError("beam")

    monkeypatch.setattr(DECODERS, "_entries", dict(DECODERS._entries))
    register_acoustic_decoder("faulty", search)
    assert not DECODERS.is_built_in("faulty") and DECODERS.is_built_in("greedy")
    message = r"^decoder 'faulty' \(.*test_ensemble_decoders.py:\d+\): KeyError"
    with pytest.raises(PlugInError, match=message), DECODERS.using("faulty"):
        get_decoder("faulty")(*batch(1))


@pytest.mark.parametrize("name", WITHOUT_LM)
def test_a_decoder_refuses_what_it_does_not_support(name):
    log_probs, lengths = batch(1)
    with pytest.raises(InputError, match=f"decoder {name}: supports no language model"):
        get_decoder(name)(log_probs, lengths, lm=estimate([[1, 2]], CLASSES), lm_weight=0.5)
    with pytest.raises(InputError, match=f"decoder {name}: supports no language model and no length bonus"):
        get_decoder(name)(log_probs, lengths, length_bonus=1.0)
    with pytest.raises(InputError, match=f"decoder {name}: supports no language model and no length bonus"):
        get_decoder(name)(log_probs, lengths, token_bonus=np.ones(CLASSES))
    if name in ("greedy", "fast_ctc_decode"):
        with pytest.raises(InputError, match=f"decoder {name}: nbest is 5; expected at most 1"):
            get_decoder(name)(log_probs, lengths, beam=5, nbest=5)


def test_greedy_is_the_greedy_collapse_with_the_frames_where_tokens_begin():
    log_probs, lengths = batch()
    nbest_lists = get_decoder("greedy")(log_probs, lengths)
    assert [list(best.tokens) for (best,) in nbest_lists] == greedy(log_probs, lengths)
    for row, (best,) in enumerate(nbest_lists):
        assert log_probs[row, best.frames].argmax(axis=1).tolist() == list(best.tokens)
    assert collapse([0, 3, 3, 0, 3, 1, 0]) == ([3, 3, 1], (1, 4, 5))


@pytest.mark.parametrize("name", [name for name in PACKAGES if name in DECODERS])
def test_third_party_decoders_find_nothing_better_than_our_beam(name):
    log_probs, lengths = batch(8, seed=3)
    ours = beam_search(log_probs, lengths, beam=50)
    theirs = get_decoder(name)(log_probs, lengths, beam=50)

    def scores(nbest_lists):
        return [log_likelihood(log_probs[i, :n], [nbest_lists[i][0].tokens])[0] for i, n in enumerate(lengths)]

    assert np.mean(scores(ours)) >= np.mean(scores(theirs)) - 1e-3


@pytest.mark.parametrize("name", [name for name in ("ctcdecode", "fast_ctc_decode") if name in DECODERS])
def test_third_party_decoders_that_merge_prefixes_find_what_ours_finds(name):
    log_probs, lengths = batch(8, seed=4)
    ours = beam_search(log_probs, lengths, beam=50)
    theirs = get_decoder(name)(log_probs, lengths, beam=50)
    assert [nbest[0].tokens for nbest in ours] == [nbest[0].tokens for nbest in theirs]


@pytest.mark.skipif("ctcdecode" not in DECODERS, reason="ctcdecode is not installed")
def test_ctcdecodes_nbest_is_ours():
    log_probs, lengths = batch(4, seed=5)
    ours = beam_search(log_probs, lengths, beam=50, nbest=5)
    theirs = get_decoder("ctcdecode")(log_probs, lengths, beam=50, nbest=5)
    for row, length in enumerate(lengths):
        tokens = [hypothesis.tokens for hypothesis in ours[row]]
        by_exact_score = np.argsort(-log_likelihood(log_probs[row, :length], tokens), kind="stable")
        assert [hypothesis.tokens for hypothesis in theirs[row]] == [tokens[index] for index in by_exact_score]


def test_a_setting_that_no_decoder_has_is_a_type_error():
    log_probs, lengths = batch(1)
    for name in DECODERS.names():
        with pytest.raises(TypeError, match="width"):
            get_decoder(name)(log_probs, lengths, width=5)


def test_a_decoder_that_is_not_installed_says_how_to_get_it(monkeypatch):
    for name in PACKAGES:
        monkeypatch.delitem(DECODERS._entries, name, raising=False)
    with pytest.raises(InputError, match="'ctcdecode' is not installed: build it with `make ctcdecode`"):
        get_decoder("ctcdecode")
    with pytest.raises(InputError, match="'flashlight' is not installed: pip install flashlight-text"):
        get_decoder("flashlight")
    with pytest.raises(InputError, match="unknown decoder 'bean'; did you mean beam"):
        get_decoder("bean")


@pytest.mark.parametrize("at_once", [1, 3])
def test_batches_are_of_one_fold_and_similar_length_and_decode_each_utterance_with_its_folds_model(at_once):
    log_probs, lengths = batch(150, frames=12)
    offsets = offsets_of(lengths)
    values = np.concatenate([rows[:length] for rows, length in zip(log_probs, lengths, strict=True)])
    stored = LogProbs(values, offsets, tuple(map(str, range(150))), "", 0, 1)
    outer_folds = np.arange(150) % 2
    language_models = {0: None, 1: estimate([[1, 2, 3], [3, 3]], CLASSES, order=2)}
    settings = {"beam": 4, "nbest": 2, "lm_weight": 0.5}
    fold_settings = {fold: {"lm": language_model} for fold, language_model in language_models.items()}
    decoded = list(decoded_batches(
        stored, beam_search, outer_folds=outer_folds, fold_settings=fold_settings, at_once=at_once, **settings
    ))
    assert [len(result.rows) for result in decoded] == [64, 11, 64, 11]
    assert sorted(row for result in decoded for row in result.rows) == list(range(150))
    for result in decoded:
        assert len(set(outer_folds[result.rows])) == 1
        assert (np.diff(lengths[result.rows]) <= 0).all()
        for row, nbest in zip(result.rows, result.hypotheses, strict=True):
            alone = beam_search(log_probs[row, None], lengths[[row]], lm=language_models[outer_folds[row]], **settings)
            assert nbest == alone[0]


def test_a_search_gets_the_beam_and_the_length_of_its_lists(monkeypatch):
    calls = []

    def search(log_probs, lengths, beam, nbest):
        calls.append((lengths.tolist(), beam, nbest))
        return [[([1], ())]] * len(lengths)

    monkeypatch.setattr(DECODERS, "_entries", dict(DECODERS._entries))
    register_acoustic_decoder("own", search)
    log_probs, lengths = batch(2)
    with pytest.raises(InputError, match="^nbest is 8; expected 1 to 7, the beam$"):
        get_decoder("own")(log_probs, lengths, beam=7, nbest=8)
    get_decoder("own")(log_probs, lengths, beam=7, nbest=3)
    ((first,), _) = get_decoder("own")(log_probs, lengths)
    assert calls == [(lengths.tolist(), 7, 3), (lengths.tolist(), 50, 1)]
    assert first.score == first.ctc == pytest.approx(log_likelihood(log_probs[0, : lengths[0]], [[1]])[0])


def test_the_hypotheses_of_a_search_are_ranked_by_their_exact_scores(monkeypatch):
    """Each once, and none that is impossible, such as a repeated token in two frames."""
    found = [([2], (1,)), ([], ()), ([1], (0,)), ([1, 1], (0, 1)), ([], ()), ([1], (1,))]
    monkeypatch.setattr(DECODERS, "_entries", dict(DECODERS._entries))
    register_acoustic_decoder("own", lambda *arguments: [found, found[3:4]])
    log_probs = np.log(np.full((2, 2, 3), [[0.3, 0.6, 0.1], [0.5, 0.4, 0.1]], np.float32))
    ranked, impossible = get_decoder("own")(log_probs, np.array([2, 2]), nbest=6)
    assert [(one.tokens, one.frames) for one in ranked] == [((1,), (0,)), ((), ()), ((2,), (1,))]
    assert [one.score for one in ranked] == pytest.approx(np.log([0.6 * 0.9 + 0.3 * 0.4, 0.15, 0.01 + 0.05 + 0.03]))
    assert ranked[0].confidences == pytest.approx((0.6,)) and ranked[2].confidences == pytest.approx((0.1,))
    assert [one.tokens for one in impossible] == [(1, 1)]


@pytest.mark.parametrize("name", DECODERS.names())
def test_values_past_the_end_of_an_utterance_do_not_matter(name):
    log_probs, lengths = batch(3, frames=12)
    padded = log_probs.copy()
    for row, length in enumerate(lengths):
        padded[row, length:] = np.nan
    assert (lengths < 12).any() and get_decoder(name)(padded, lengths) == get_decoder(name)(log_probs, lengths)
