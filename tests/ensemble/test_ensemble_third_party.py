"""What the adapters of third-party decoders pass to their packages and make of the results, with stand-ins for these.

Each stand-in has the signatures of its package and finds what our plain beam search finds; `test_ensemble_decoders.py`
runs the packages themselves where they are installed.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import itertools
import math
import runpy
import sys
import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ctc_reference import every_sequence, plain_beam_with_frames

from ensemble.decoding import third_party
from ensemble.decoding.decoders import DECODERS, collapse, get_decoder
from registry.errors import InputError

CLASSES = 3
LENGTHS = np.array([4, 2, 3])


@pytest.fixture
def log_probs() -> np.ndarray:
    """Of three utterances, with values past their ends that no search may read."""
    random = np.random.default_rng(1)
    values = np.log(random.dirichlet(np.ones(CLASSES), size=(3, 4))).astype(np.float32)
    for row, length in enumerate(LENGTHS):
        values[row, length:] = -50.0
    return values


def expected(log_probs: np.ndarray, beam: int, nbest: int) -> list[list[tuple[list[int], tuple[int, ...]]]]:
    """The N-best list of each utterance: tokens and frames."""
    found = [plain_beam_with_frames(log_probs[row, :length], beam) for row, length in enumerate(LENGTHS)]
    return [[(list(tokens), frames) for tokens, (_, frames) in list(one.items())[:nbest]] for one in found]


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Have `name`, and the packages that it is in, be modules; the last one has these contents."""
    parts = name.split(".")
    for package in [".".join(parts[:count]) for count in range(1, len(parts) + 1)]:
        module = types.ModuleType(package)
        module.__spec__ = importlib.machinery.ModuleSpec(package, None)
        monkeypatch.setitem(sys.modules, package, module)
    vars(module).update(contents)


@pytest.fixture
def ctcdecode(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for ctcdecode: the settings of each search."""
    calls: list[dict[str, Any]] = []

    class CTCBeamDecoder:
        def __init__(
            self, labels, model_path=None, alpha=0, beta=0, cutoff_top_n=40, cutoff_prob=1.0, beam_width=100,
            num_processes=4, blank_id=0, log_probs_input=False,
        ):
            assert model_path is None and cutoff_prob == 1.0 and blank_id == 0
            self.labels, self.beam, self.in_logs = labels, beam_width, log_probs_input
            calls.append({"top_n": cutoff_top_n, "beam": beam_width, "processes": num_processes})

        def decode(self, probs, seq_lens=None):
            """(N, beam, T) labels, scores (low is good), frames, and (N, beam) lengths; 0 where nothing was found."""
            assert probs.shape[2] == len(self.labels) == len(set(self.labels)) and " " not in self.labels
            rows = probs.float().numpy() if self.in_logs else probs.float().log().numpy()
            tokens = torch.zeros(len(rows), self.beam, rows.shape[1], dtype=torch.int32)
            frames, lengths = torch.zeros_like(tokens), torch.zeros(len(rows), self.beam, dtype=torch.int32)
            for row, length in enumerate(seq_lens.int().tolist()):
                found = plain_beam_with_frames(rows[row, :length], self.beam)
                for rank, (prefix, (_, begins)) in enumerate(found.items()):
                    lengths[row, rank] = len(prefix)
                    tokens[row, rank, : len(prefix)] = torch.tensor(prefix)
                    frames[row, rank, : len(prefix)] = torch.tensor(begins)
            return tokens, torch.full(lengths.shape, torch.nan), frames, lengths

    stand_in(monkeypatch, "ctcdecode", CTCBeamDecoder=CTCBeamDecoder)
    return calls


@pytest.fixture
def flashlight(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for flashlight-text: the options of each search, and the log-probabilities that it reads."""
    calls: list[dict[str, Any]] = []

    class LexiconFreeDecoder:
        def __init__(self, options, lm, sil_token_idx, blank_token_idx, transitions):
            assert (lm, blank_token_idx, transitions) == ("no LM", 0, [])
            assert sil_token_idx not in range(CLASSES)
            self.silence, self.beam = sil_token_idx, options["beam_size"]
            calls.append(options | {"read": []})

        def decode(self, emissions, T, N):
            """All hypotheses, best first; `tokens` is the best path, with a silence before it and one after it."""
            read = np.ctypeslib.as_array(ctypes.cast(emissions, ctypes.POINTER(ctypes.c_float)), (T, N)).copy()
            calls[-1]["read"].append(read)
            scores = every_sequence(read)
            best_path: dict[tuple[int, ...], tuple[int, ...]] = {}
            paths = itertools.product(range(N), repeat=T)
            for path in sorted(paths, key=lambda path: read[range(T), path].sum(dtype=float)):
                best_path[tuple(collapse(path)[0])] = path
            return [
                SimpleNamespace(tokens=[self.silence, *best_path[tokens], self.silence], score=scores[tokens])
                for tokens in sorted(scores, key=scores.__getitem__, reverse=True)[: self.beam]
            ]

    def options(*, beam_size, beam_size_token, beam_threshold, lm_weight, sil_score, log_add, criterion_type):
        return locals()

    stand_in(
        monkeypatch,
        "flashlight.lib.text.decoder",
        CriterionType=SimpleNamespace(ASG="ASG", CTC="CTC"),
        LexiconFreeDecoder=LexiconFreeDecoder,
        LexiconFreeDecoderOptions=options,
        ZeroLM=lambda: "no LM",
    )
    return calls


@pytest.fixture
def fast_ctc_decode(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Stands in for fast-ctc-decode: the beam and the threshold of each search."""
    calls: list[tuple[int, float]] = []

    def beam_search(network_output, alphabet, beam_size=5, beam_cut_threshold=0.0, collapse_repeats=True):
        """The text, in which the first label is blank, and the frames where the search first reached each label."""
        assert network_output.dtype == np.float32 and network_output.shape[1] == len(alphabet) and collapse_repeats
        np.testing.assert_allclose(network_output.sum(axis=1), 1.0, atol=1e-5)
        calls.append((beam_size, beam_cut_threshold))
        tokens = next(iter(plain_beam_with_frames(np.log(network_output), beam_size)))
        return "".join(alphabet[token] for token in tokens), [0] * len(tokens)

    stand_in(monkeypatch, "fast_ctc_decode", beam_search=beam_search)
    return calls


def test_ctcdecode_considers_all_tokens_of_natural_log_probabilities(ctcdecode, log_probs):
    found = third_party.decode_with_ctcdecode(log_probs, LENGTHS, beam=6, nbest=4)
    assert found == expected(log_probs, 6, 4) and any(len(tokens) > 1 for ((tokens, _), *_) in found)
    third_party.decode_with_ctcdecode(log_probs, LENGTHS, beam=2, nbest=4, top_n=2, threads=5)
    assert ctcdecode == [{"top_n": 3, "beam": 6, "processes": 1}, {"top_n": 2, "beam": 2, "processes": 5}]
    assert [len(nbest) for nbest in third_party.decode_with_ctcdecode(log_probs, LENGTHS, beam=2, nbest=4)] == [2] * 3


def test_flashlight_adds_up_paths_without_a_language_model_and_without_pruning(flashlight, log_probs):
    strided = np.repeat(log_probs, 2, axis=1)[:, ::2].astype(np.float64)  # of another type, and not contiguous
    found = third_party.decode_with_flashlight(strided, LENGTHS, beam=6, nbest=4)
    assert [[tokens for tokens, _ in nbest] for nbest in found] == [
        [list(tokens) for tokens in sorted(scores, key=scores.__getitem__, reverse=True)[:4]]
        for scores in (every_sequence(log_probs[row, :length]) for row, length in enumerate(LENGTHS))
    ]
    for row, nbest in enumerate(found):
        for tokens, frames in nbest:
            assert len(frames) == len(tokens) and list(frames) == sorted(set(frames)) and max(frames, default=0) < 4
            paths = (path for path in itertools.product(range(3), repeat=LENGTHS[row]) if collapse(path)[0] == tokens)
            best = max(paths, key=lambda path: log_probs[row, range(LENGTHS[row]), path].sum(dtype=float))
            assert frames == collapse(best)[1]
    third_party.decode_with_flashlight(log_probs, LENGTHS, beam=5, nbest=1, beam_token=2, threshold=20.0)
    first, second = calls = [{key: call[key] for key in call if key != "read"} for call in flashlight]
    fixed = {"lm_weight": 0.0, "sil_score": 0.0, "log_add": True, "criterion_type": "CTC"}
    assert first == {"beam_size": 6, "beam_size_token": 3, "beam_threshold": 1e9, **fixed}
    assert second == {"beam_size": 5, "beam_size_token": 2, "beam_threshold": 20.0, **fixed} and len(calls) == 2
    for call in flashlight:
        for row, read in enumerate(call["read"]):
            np.testing.assert_array_equal(read, log_probs[row, : LENGTHS[row]])


def test_fast_ctc_decode_gets_probabilities_and_returns_no_frames(fast_ctc_decode, log_probs):
    probs = [np.exp(log_probs[row, :length]) for row, length in enumerate(LENGTHS)]
    found = third_party.decode_with_fast_ctc_decode(probs, beam=6)
    assert found == [[(tokens, ())] for ((tokens, _),) in expected(log_probs, 6, 1)]
    third_party.decode_with_fast_ctc_decode(probs[:1], beam=4, cut=0.01)
    assert fast_ctc_decode == [(6, 0.0)] * 3 + [(4, 0.01)]
    assert third_party.decode_with_fast_ctc_decode([], beam=4) == []


@pytest.fixture
def register(ctcdecode, flashlight, fast_ctc_decode, monkeypatch) -> None:
    """Register the adapters as they are where their packages are installed."""
    names = ("ctcdecode", "flashlight", "fast_ctc_decode")
    monkeypatch.setattr(DECODERS, "_entries", {n: e for n, e in DECODERS._entries.items() if n not in names})
    runpy.run_path(third_party.__file__, run_name=third_party.__name__)


@pytest.mark.parametrize("name", ["ctcdecode", "flashlight"])
def test_a_registered_adapter_has_no_more_hypotheses_than_there_are(register, name, log_probs):
    """ctcdecode fills its lists up with empty ones."""
    for row, nbest in enumerate(get_decoder(name)(log_probs, LENGTHS, beam=40, nbest=40)):
        exact = every_sequence(log_probs[row, : LENGTHS[row]])
        assert [one.tokens for one in nbest] == sorted(exact, key=exact.__getitem__, reverse=True)[:40]
        assert [one.score for one in nbest] == pytest.approx([exact[one.tokens] for one in nbest], abs=1e-5)
        for one in nbest:
            posteriors = [math.exp(log_probs[row, t, c]) for t, c in zip(one.frames, one.tokens, strict=True)]
            assert one.confidences == pytest.approx(posteriors)


def test_registered_fast_ctc_decode_gets_the_probabilities_of_each_utterances_frames(
    register, fast_ctc_decode, log_probs
):
    found = get_decoder("fast_ctc_decode")(log_probs, LENGTHS, beam=6)
    assert [one.tokens for (one,) in found] == [tuple(tokens) for ((tokens, _),) in expected(log_probs, 6, 1)]
    assert fast_ctc_decode == [(6, 0.0)] * 3 and all(one.frames == one.confidences == () for (one,) in found)
    with pytest.raises(InputError, match="^decoder fast_ctc_decode: nbest is 2; expected at most 1"):
        get_decoder("fast_ctc_decode")(log_probs, LENGTHS, beam=6, nbest=2)


def test_a_package_is_installed_if_it_can_be_found():
    assert third_party.installed("numpy.linalg")
    assert not third_party.installed("no_such_package") and not third_party.installed("no_such_package.lib.text")
