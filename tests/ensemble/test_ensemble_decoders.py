"""One contract over every registered decoder; the peers against our beam where they are installed."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.beam.search import beam_search
from ensemble.decoding.decoders import DECODERS, HOW_TO_INSTALL, collapse, decoder
from ensemble.decoding.third_party import installed
from ensemble.lm.ngram import estimate
from models.ctc import greedy, log_likelihood
from registry.errors import InputError

CLASSES = 12
PACKAGES = {"ctcdecode": "ctcdecode", "flashlight": "flashlight.lib.text", "fast_ctc_decode": "fast_ctc_decode"}


def batch(count: int = 4, frames: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Peaky posteriors with a tenth of the frames torn between two classes."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, frames, CLASSES))
    best = np.where(random.random((count, frames)) < 0.3, random.integers(1, CLASSES, (count, frames)), 0)
    np.put_along_axis(logits, best[..., None], 7.0, axis=2)
    logits[random.random((count, frames)) < 0.1] *= 0.4
    log_probs = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    return log_probs.astype(np.float32), random.integers(frames // 2, frames + 1, count)


def test_ours_are_always_there_and_peers_where_their_packages_are():
    assert {"greedy", "beam"} <= set(DECODERS.names())
    for name, package in PACKAGES.items():
        assert (name in DECODERS) == installed(package)
    assert set(HOW_TO_INSTALL) == set(PACKAGES)


@pytest.mark.parametrize("name", DECODERS.names())
def test_every_decoder_keeps_the_contract(name):
    log_probs, lengths = batch()
    found = decoder(name)(log_probs, lengths, beam=20)
    assert [len(hypotheses) for hypotheses in found] == [1] * len(lengths)
    for row, (best,) in enumerate(found):
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
        decoder(name)(log_probs, lengths)
    with pytest.raises(InputError, match="length 61; expected 1 to 60"):
        decoder(name)(log_probs, np.array([60, 61]))


@pytest.mark.parametrize("name", [name for name in DECODERS.names() if name != "beam"])
def test_what_a_decoder_cannot_do_it_refuses(name):
    log_probs, lengths = batch(1)
    with pytest.raises(InputError, match=f"decoder {name}: takes no language model"):
        decoder(name)(log_probs, lengths, lm=estimate([[1, 2]], CLASSES), lm_weight=0.5)
    with pytest.raises(InputError, match=f"decoder {name}: takes no language model and no length bonus"):
        decoder(name)(log_probs, lengths, length_bonus=1.0)
    if name in ("greedy", "fast_ctc_decode"):
        with pytest.raises(InputError, match=f"decoder {name}: nbest is 5; expected at most 1"):
            decoder(name)(log_probs, lengths, beam=5, nbest=5)


def test_greedy_is_the_greedy_collapse_with_the_frames_it_begins_at():
    log_probs, lengths = batch()
    found = decoder("greedy")(log_probs, lengths)
    assert [list(best.tokens) for (best,) in found] == greedy(log_probs, lengths)
    for row, (best,) in enumerate(found):
        assert log_probs[row, best.frames].argmax(axis=1).tolist() == list(best.tokens)
    assert collapse([0, 3, 3, 0, 3, 1, 0]) == ([3, 3, 1], (1, 4, 5))


@pytest.mark.parametrize("name", [name for name in PACKAGES if name in DECODERS])
def test_peers_find_nothing_better_than_our_beam(name):
    log_probs, lengths = batch(8, seed=3)
    ours = beam_search(log_probs, lengths, beam=50)
    theirs = decoder(name)(log_probs, lengths, beam=50)

    def scores(found):
        return [log_likelihood(log_probs[i, :n], [found[i][0].tokens])[0] for i, n in enumerate(lengths)]

    assert np.mean(scores(ours)) >= np.mean(scores(theirs)) - 1e-3


@pytest.mark.parametrize("name", [name for name in ("ctcdecode", "fast_ctc_decode") if name in DECODERS])
def test_peers_that_merge_prefixes_find_what_ours_finds(name):
    log_probs, lengths = batch(8, seed=4)
    ours = beam_search(log_probs, lengths, beam=50)
    theirs = decoder(name)(log_probs, lengths, beam=50)
    assert [h[0].tokens for h in ours] == [h[0].tokens for h in theirs]


@pytest.mark.skipif("ctcdecode" not in DECODERS, reason="ctcdecode is not installed")
def test_ctcdecodes_nbest_is_ours():
    log_probs, lengths = batch(4, seed=5)
    ours = beam_search(log_probs, lengths, beam=50, nbest=5)
    theirs = decoder("ctcdecode")(log_probs, lengths, beam=50, nbest=5)
    assert [[h.tokens for h in found] for found in ours] == [[h.tokens for h in found] for found in theirs]


def test_a_decoder_that_is_not_installed_says_how_to_get_it(monkeypatch):
    for name in PACKAGES:
        monkeypatch.delitem(DECODERS._entries, name, raising=False)
    with pytest.raises(InputError, match="'ctcdecode' is not installed: build it with `make ctcdecode`"):
        decoder("ctcdecode")
    with pytest.raises(InputError, match="'flashlight' is not installed: pip install flashlight-text"):
        decoder("flashlight")
    with pytest.raises(InputError, match="there is no 'bean'; did you mean beam"):
        decoder("bean")
