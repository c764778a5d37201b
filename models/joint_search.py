"""Joint CTC/attention decoding (Watanabe et al. 2017): label-synchronous beam search with both scores of LAS."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.ctc import BLANK
from models.las import LAS
from models.layers.attention_decoder import END, Cell
from registry import InputError


@torch.no_grad()
def joint_search(
    model: LAS, features: Tensor, beam: int = 10, ctc_weight: float = 0.5, length: int | None = None
) -> list[tuple[list[int], float]]:
    """Decode one utterance, features `(T, F)`: (tokens, score) of up to `beam` hypotheses, best first.

    A hypothesis scores ctc_weight log P_ctc + (1 - ctc_weight) log P_speller, exactly for every hypothesis returned.
    During the search, the CTC score of a prefix is that of all sequences that begin with it. `length` is the maximal
    number of tokens, by default the number of output frames. Raises InputError for a beam below 1 or a weight outside
    0 to 1.
    """
    if beam < 1 or not 0 <= ctc_weight <= 1:
        raise InputError(f"joint search: beam {beam}, CTC weight {ctc_weight}; expected at least 1, and 0 to 1")
    outputs = model.training_outputs(features[None], torch.tensor([len(features)], device=features.device))
    memory = model.memory(outputs)
    frames = int(outputs.lengths)
    ctc = PrefixScores(outputs.log_probs[0, :frames].double().cpu().numpy())
    prefixes: list[list[int]] = [[]]
    attention, states = np.zeros(1), ctc.start()
    cells: tuple[Cell, Cell] | None = None
    finished: list[tuple[list[int], float]] = []
    for _ in range((length if length is not None else frames) + 1):
        last = np.array([prefix[-1] if prefix else END for prefix in prefixes])
        tokens = torch.from_numpy(last).to(features.device)[:, None]
        log_probs, cells = model.speller(memory.expand(len(prefixes)), tokens, cells)
        extended = attention[:, None] + log_probs[:, 0].double().cpu().numpy()
        ended = _weighted(ctc_weight, ctc.finished(states), extended[:, END])
        finished += zip(prefixes, ended.tolist(), strict=True)
        finished = sorted(finished, key=lambda hypothesis: -hypothesis[1])[:beam]
        prefix_scores, extended_states = ctc.extend(last, states)
        scores = _weighted(ctc_weight, prefix_scores, extended)
        scores[:, END] = -np.inf
        best = np.argsort(-scores, axis=None, kind="stable")[:beam]
        # No sequence scores higher than its prefixes, so prefixes below the worst hypothesis kept are dropped.
        best = best[scores.flat[best] > (finished[-1][1] if len(finished) == beam else -np.inf)]
        if not len(best):
            break
        parents, added = np.unravel_index(best, scores.shape)
        prefixes = [[*prefixes[parent], token] for parent, token in zip(parents, added.tolist(), strict=True)]
        attention, states = extended[parents, added], extended_states[parents, :, :, added]
        cells = _selected(cells, torch.from_numpy(parents).to(features.device))
    return finished


def _selected(cells: tuple[Cell, Cell], rows: Tensor) -> tuple[Cell, Cell]:
    """The speller's cells of the prefixes at `rows`."""
    lower, upper = [(hidden.index_select(1, rows), cell.index_select(1, rows)) for hidden, cell in cells]
    return lower, upper


def _weighted(ctc_weight: float, ctc: np.ndarray, attention: np.ndarray) -> np.ndarray:
    # A weight of 0 leaves a score out: 0 times minus infinity would be NaN.
    if ctc_weight in (0, 1):
        return ctc.copy() if ctc_weight else attention.copy()
    return ctc_weight * ctc + (1 - ctc_weight) * attention


class PrefixScores:
    """CTC's log-probability of all sequences that begin with a prefix (Graves 2008, chapter 7), for one utterance.

    `log_probs` is `(T, C)`. The states of P prefixes, `(P, T, 2)`, are the log-probabilities of the paths up to each
    frame that make exactly the prefix and end in its last token, or in a blank.
    """

    def __init__(self, log_probs: np.ndarray) -> None:
        self.log_probs = log_probs

    def start(self) -> np.ndarray:
        """The states of the empty prefix alone: `(1, T, 2)`."""
        state = np.full((1, len(self.log_probs), 2), -np.inf)
        state[0, :, 1] = np.cumsum(self.log_probs[:, BLANK])
        return state

    def finished(self, states: np.ndarray) -> np.ndarray:
        """log P(the prefix and nothing after it) `(P,)`."""
        return np.logaddexp(states[:, -1, 0], states[:, -1, 1])

    def extend(self, last: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For every next class: log P of all sequences that begin with it `(P, C)`, and the states `(P, T, 2, C)`.

        `last` `(P,)` is each prefix's last token, 0 for the empty prefix.
        """
        (count, frames, _), classes = states.shape, self.log_probs.shape[1]
        # Paths that reach a new token at frame t: the prefix is complete by t - 1, and a repeat needs a blank between.
        before = np.full((frames, count, classes), -np.inf)
        before[1:] = np.logaddexp(states[:, :-1, 0], states[:, :-1, 1]).T[:, :, None]
        before[0, last == END] = 0.0
        repeats = np.flatnonzero(last != END)
        before[1:, repeats, last[repeats]] = states[repeats, :-1, 1].T
        new_states = np.full((frames, 2, count, classes), -np.inf)
        token, blank = np.full((count, classes), -np.inf), np.full((count, classes), -np.inf)
        for t, row in enumerate(self.log_probs):
            token, blank = np.logaddexp(token, before[t]) + row, np.logaddexp(token, blank) + row[BLANK]
            new_states[t, 0], new_states[t, 1] = token, blank
        scores = np.logaddexp.reduce(before + self.log_probs[:, None], axis=0)
        return scores, new_states.transpose(2, 0, 1, 3)
