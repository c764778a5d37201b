"""Pools: the union of all members' N-best lists for each utterance, with every model's exact log-likelihoods.

A pool holds what a search over weights needs in every trial (scores, lengths, distances to the reference) in flat
arrays, so that a trial is one product and one maximum. Hypotheses of an utterance are in the order of their tokens, so
a pool does not depend on the order of the members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.hypotheses.edit_distance import to_references
from ensemble.hypotheses.likelihoods import floor_likelihoods
from ensemble.lm.ngram import PhoneLM, sum_tokens
from ensemble.members.predictions import PackedHypothesis
from folds.store.ragged import Ragged, offsets_of


@dataclass(frozen=True)
class Pool:
    """Hypotheses of N utterances in flat arrays of H entries."""

    offsets: np.ndarray
    """Utterance u has the hypotheses `offsets[u]:offsets[u + 1]`, (N + 1,)."""
    tokens: Ragged
    """The hypotheses, int16."""
    ctc: np.ndarray
    """Their log-likelihoods under each model, (H, predictions) float64."""
    lm: np.ndarray
    """Their log-probabilities under the phone language model, (H,)."""
    attention: np.ndarray
    """Their attention scores, (H,); zeros without an attention decoder."""
    distance: np.ndarray | None
    """Their edit distances to the reference, (H,); None without references."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each hypothesis, (H,)."""
        return self.tokens.lengths

    def hypotheses(self, utterance: int) -> list[list[int]]:
        """The hypotheses of one utterance."""
        return self.chosen(range(self.offsets[utterance], self.offsets[utterance + 1]))

    def chosen(self, indices: Sequence[int] | np.ndarray) -> list[list[int]]:
        """The hypotheses at flat indices."""
        return [self.tokens[index].tolist() for index in indices]

    def mean_distance(self, indices: np.ndarray) -> float:
        """Mean edit distance of the hypotheses at flat indices (N,). Raises ValueError without references."""
        if self.distance is None:
            raise ValueError("the distance of a pool without references is unknown")
        return float(self.distance[indices].mean())

    def take(self, rows: Sequence[int] | np.ndarray) -> Pool:
        """The pool of some utterances."""
        kept, offsets = Ragged(self.lm, self.offsets).rows_of(rows)
        distance = None if self.distance is None else self.distance[kept]
        return Pool(
            offsets, self.tokens.take(kept), self.ctc[kept], self.lm[kept], self.attention[kept], distance
        )


def build_pool(
    pools: Sequence[Sequence[PackedHypothesis]],
    ctc: np.ndarray,
    language_models: Sequence[PhoneLM],
    outer_folds: np.ndarray,
    references: Sequence[Sequence[int]] | None,
    attention: np.ndarray | None = None,
) -> Pool:
    """Pack hypotheses and their log-likelihoods (H, predictions).

    `language_models[outer_folds[u]]` scores the hypotheses of utterance u. `attention` (H,) are attention scores,
    where there are any.
    """
    offsets = offsets_of(len(pool) for pool in pools)
    hypotheses = [hypothesis for pool in pools for hypothesis in pool]
    flat = np.frombuffer(b"".join(hypotheses), np.uint8).astype(np.int16)
    tokens = Ragged(flat, offsets_of(len(hypothesis) for hypothesis in hypotheses))
    rows = np.repeat(np.arange(len(pools)), np.diff(offsets))
    lm = np.zeros(len(hypotheses))
    for fold, model in enumerate(language_models):
        in_fold = np.flatnonzero(np.asarray(outer_folds)[rows] == fold)
        own = tokens.take(in_fold)
        lm[in_fold] = sum_tokens(model.log_probs, model.next_state, own.values.astype(np.int64), own.lengths)
    distance = None if references is None else to_references(tokens, rows, Ragged.of(references, np.int16))
    attention = np.zeros(len(hypotheses)) if attention is None else attention
    return Pool(offsets, tokens, floor_likelihoods(ctc, offsets), lm, attention, distance)
