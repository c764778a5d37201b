"""Joint CTC/attention decoding (Watanabe et al. 2017): a beam search over both scores of LAS, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.beam.search import Hypothesis
from models.ctc import BLANK
from models.las import LAS
from models.layers.attention_decoder import END, Cell
from registry.errors import InputError

# Class 0 marks the start of a hypothesis as well as its end.
START = END


@torch.no_grad()
def joint_search(
    model: LAS,
    features: Tensor,
    beam: int = 10,
    ctc_weight: float = 0.5,
    max_tokens: int | None = None,
    groups: Sequence[str] = (),
) -> list[Hypothesis]:
    """Decode one utterance, features `(T, F)`, into up to `beam` hypotheses, best first.

    A hypothesis scores ctc_weight log P_ctc + (1 - ctc_weight) log P_speller, exactly for every hypothesis returned;
    its `ctc` is log P_ctc, and it has no frames and no confidences. During the search, the CTC score of a prefix is
    the log-probability of all sequences that begin with it. `max_tokens` defaults to the number of output frames.
    `groups` holds the name of the utterance's group, for a model with a group layer. Raises InputError for a beam below
    1 or a weight outside 0 to 1.
    """
    if beam < 1:
        raise InputError(f"joint search: beam is {beam}; expected 1 or more")
    if not 0 <= ctc_weight <= 1:
        raise InputError(f"joint search: CTC weight is {ctc_weight}; expected 0 to 1")
    outputs = model.grouped_outputs(features[None], torch.tensor([len(features)]), groups)
    memory = model.memory(outputs)
    frames = int(outputs.lengths)
    ctc_scorer = PrefixScorer(outputs.log_probs[0, :frames].double().cpu().numpy())
    prefixes: list[tuple[int, ...]] = [()]
    speller_scores, forward = np.zeros(1), ctc_scorer.start()
    lstm_states: tuple[Cell, Cell] | None = None
    finished: list[Hypothesis] = []
    for _ in range((max_tokens if max_tokens is not None else frames) + 1):
        last = np.array([prefix[-1] if prefix else START for prefix in prefixes])
        tokens = torch.from_numpy(last).to(features.device)[:, None]
        log_probs, lstm_states = model.speller(memory.expand(len(prefixes)), tokens, lstm_states)
        extended = speller_scores[:, None] + log_probs[:, 0].double().cpu().numpy()
        ctc_finished = ctc_scorer.finish(forward)
        ended = _combine(ctc_weight, ctc_finished, extended[:, END])
        finished += map(Hypothesis, prefixes, ended.tolist(), ctc_finished.tolist())
        finished = sorted(finished, key=lambda hypothesis: -hypothesis.score)[:beam]
        prefix_scores, extended_forward = ctc_scorer.extend(last, forward)
        scores = _combine(ctc_weight, prefix_scores, extended)
        scores[:, END] = -np.inf
        best = np.argsort(-scores, axis=None, kind="stable")[:beam]
        # No sequence scores higher than its prefixes, so prefixes below the worst kept hypothesis are dropped.
        best = best[scores.flat[best] > (finished[-1].score if len(finished) == beam else -np.inf)]
        if not len(best):
            break
        parents, added = np.unravel_index(best, scores.shape)
        prefixes = [(*prefixes[parent], token) for parent, token in zip(parents, added.tolist(), strict=True)]
        speller_scores, forward = extended[parents, added], extended_forward[parents, :, :, added]
        lstm_states = _select_states(lstm_states, torch.from_numpy(parents).to(features.device))
    return finished


def _select_states(lstm_states: tuple[Cell, Cell], rows: Tensor) -> tuple[Cell, Cell]:
    """The states of the speller's two LSTM layers for the prefixes at `rows`."""
    lower, upper = [(hidden.index_select(1, rows), cell.index_select(1, rows)) for hidden, cell in lstm_states]
    return lower, upper


def _combine(ctc_weight: float, ctc_scores: np.ndarray, speller_scores: np.ndarray) -> np.ndarray:
    # A weight of 0 ignores a score: 0 times minus infinity would be NaN.
    if ctc_weight in (0, 1):
        return ctc_scores.copy() if ctc_weight else speller_scores.copy()
    return ctc_weight * ctc_scores + (1 - ctc_weight) * speller_scores


class PrefixScorer:
    """CTC's log-probability of all sequences that begin with a prefix (Graves 2008, chapter 7), for one utterance.

    `log_probs` is `(T, C)`. The forward variables of P prefixes, `(P, T, 2)`, are the log-probabilities of the paths up
    to each frame that collapse to exactly the prefix: `[..., 0]` ends in its last token, `[..., 1]` in blank.
    """

    def __init__(self, log_probs: np.ndarray) -> None:
        self.log_probs = log_probs

    def start(self) -> np.ndarray:
        """The forward variables of the empty prefix: `(1, T, 2)`."""
        forward = np.full((1, len(self.log_probs), 2), -np.inf)
        forward[0, :, 1] = np.cumsum(self.log_probs[:, BLANK])
        return forward

    def finish(self, forward: np.ndarray) -> np.ndarray:
        """log P(the prefix and nothing after it) `(P,)`."""
        return np.logaddexp(forward[:, -1, 0], forward[:, -1, 1])

    def extend(self, last: np.ndarray, forward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Extend each prefix by every class.

        Returns log P of all sequences that begin with the extended prefix, `(P, C)`, and its forward variables,
        `(P, T, 2, C)`. `last` `(P,)` is each prefix's last token, `START` for the empty prefix.
        """
        (count, frames, _), classes = forward.shape, self.log_probs.shape[1]
        # Paths that reach a new token at frame t: the prefix is complete by t - 1, and a repeat needs a blank between.
        before = np.full((frames, count, classes), -np.inf)
        before[1:] = np.logaddexp(forward[:, :-1, 0], forward[:, :-1, 1]).T[:, :, None]
        before[0, last == START] = 0.0  # only the empty prefix may emit at frame 0
        repeats = np.flatnonzero(last != START)
        before[1:, repeats, last[repeats]] = forward[repeats, :-1, 1].T
        extended = np.full((frames, 2, count, classes), -np.inf)
        token, blank = np.full((count, classes), -np.inf), np.full((count, classes), -np.inf)
        for t, row in enumerate(self.log_probs):
            token, blank = np.logaddexp(token, before[t]) + row, np.logaddexp(token, blank) + row[BLANK]
            extended[t, 0], extended[t, 1] = token, blank
        scores = np.logaddexp.reduce(before + self.log_probs[:, None], axis=0)
        return scores, extended.transpose(2, 0, 1, 3)
