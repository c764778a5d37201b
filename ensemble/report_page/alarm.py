"""The alarm that needs no transcripts: whether members disagree more on test than on dev."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import OpenedInputs
from ensemble.statistics.diversity import mean_over_pairs, pairwise_distances
from models.ctc import greedy

ALARM = 1.25
"""Disagreement on test of more than this many times that on dev means that test speech differs from dev speech."""
BATCH = 64


@dataclass(frozen=True)
class Alarm:
    """Mean edit distance between two networks' greedy hypotheses, per 100 phonemes of a hypothesis."""

    dev: float
    test: float

    @property
    def raised(self) -> bool:
        """Whether test is suspicious."""
        return self.test > ALARM * self.dev


def measure_alarm(inputs: OpenedInputs) -> Alarm | None:
    """Disagreement on dev and on test of one network per member, or of a single member's networks; None for one."""
    levels = [_disagreement(split) for split in (inputs.dev, inputs.test)]
    return None if None in levels else Alarm(*(level for level in levels if level is not None))


def _disagreement(inputs: BlendInputs) -> float | None:
    members = range(len(inputs.names))
    indices = inputs.prediction_indices()
    if len(members) > 1:
        indices = [inputs.prediction_indices([member])[0] for member in members]
    if len(indices) < 2:
        return None
    hypotheses = [_greedy(inputs, index) for index in indices]
    phonemes = np.mean([sum(map(len, system)) for system in hypotheses])
    return float(100 * mean_over_pairs(pairwise_distances(hypotheses)).sum() / max(phonemes, 1))


def _greedy(inputs: BlendInputs, index: int) -> list[list[int]]:
    log_probs = inputs.load(index)
    rows = list(range(len(log_probs)))
    batches = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    return [tokens for batch in batches for tokens in greedy(*log_probs.padded(batch))]
