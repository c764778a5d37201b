"""Features of a pool's hypotheses for a log-linear ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.hypotheses.pool import Pool
from ensemble.ranking.per_utterance import relative_to_best


@dataclass(frozen=True)
class Features:
    """Named features of H hypotheses."""

    names: tuple[str, ...]
    values: np.ndarray
    """(H, F) float32; only differences within an utterance matter."""

    def weigh(self, weights: Mapping[str, float]) -> np.ndarray:
        """The weighted sum (H,) float64 of the features; features without a weight and unknown weights are ignored."""
        return self.values @ np.array([weights.get(name, 0.0) for name in self.names])


def ranking_features(
    pool: Pool, joint: np.ndarray, member_of: Sequence[int], names: Sequence[str], classes: int
) -> Features:
    """Joint and members' log-likelihoods, language model, length, label prior, attention, and counts of each label.

    `joint` (H,) is the members' joint log-likelihood, `member_of` the member of each column of `pool.ctc`, as an index
    into `names`. A member's log-likelihood is the mean over its networks, so it has one weight however many there are:
    one per utterance out of fold, several on dev and test. Log-likelihoods are relative to the best of the pool, so
    that float32 is precise enough.
    """
    columns = {
        "joint": relative_to_best(joint, pool.offsets),
        "lm": relative_to_best(pool.lm, pool.offsets),
        "length": pool.lengths,
        "prior": pool.prior,
        "attention": relative_to_best(pool.attention, pool.offsets),
    }
    for member in sorted(set(member_of)):
        mean = pool.ctc[:, np.asarray(member_of) == member].mean(axis=1)
        columns[f"member {names[member]}"] = relative_to_best(mean, pool.offsets)
    labels = _count_labels(pool, classes)
    label_names = tuple(f"label {label}" for label in range(1, classes))
    values = np.column_stack([np.asarray(column, np.float32) for column in columns.values()])
    return Features((*columns, *label_names), np.hstack([values, labels]))


def _count_labels(pool: Pool, classes: int) -> np.ndarray:
    """How often each label occurs in each hypothesis, (H, classes - 1) float32."""
    hypotheses = np.repeat(np.arange(len(pool.lm)), pool.lengths)
    counts = np.bincount(hypotheses * classes + pool.tokens.values, minlength=len(pool.lm) * classes)
    return counts.reshape(-1, classes)[:, 1:].astype(np.float32)
