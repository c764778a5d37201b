"""Each member's best hypothesis for every utterance, with confidences for votes, and the members ranked by it."""

from __future__ import annotations

import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.fusion import language_terms
from ensemble.hypotheses.scoring import best_per_utterance
from ensemble.rover import NULL, align
from folds.competition.metric import edit_distances
from folds.store.ragged import Ragged


def best_of_member(inputs: BlendInputs, member: int) -> tuple[Ragged, Ragged]:
    """The best hypotheses of one member with the language model, int16, and their tokens' confidences, float64.

    Several networks, as on dev and test, decide jointly: the hypothesis of their pool with the highest mean
    log-likelihood plus language-model score, where the confidence of a token is the mean of the networks' confidences
    in it, 0 for networks whose own best hypothesis lacks it.
    """
    indices = inputs.prediction_indices([member])
    rows = range(len(inputs))
    own = [[inputs.best_with_lm(index, row) for row in rows] for index in indices]
    if len(indices) == 1:
        tokens, confidences = zip(*own[0], strict=True)
        return Ragged.of(tokens, np.int16), Ragged.of(confidences, np.float64)
    pool = inputs.pool([member])
    fold_of = np.repeat(inputs.outer_folds, np.diff(pool.offsets))
    terms = language_terms(inputs.fusion_settings(indices[0]), fold_of, pool.tokens, pool.lm)
    best = pool.tokens.take(best_per_utterance(pool.ctc.mean(axis=1) + terms, pool.offsets))
    joint = [_mean_confidences(best[row].tolist(), [network[row] for network in own]) for row in rows]
    return best, Ragged.of(joint, np.float64)


def ranked_members(inputs: BlendInputs) -> list[int]:
    """All members, sorted by the mean distance of their best hypotheses with the language model, lowest first.

    Out of fold, where a member has one prediction for each utterance; ties keep the order of names.
    """
    return sorted(range(len(inputs.names)), key=lambda member: _mean_distance(inputs, member))


def _mean_distance(inputs: BlendInputs, member: int) -> float:
    (index,) = inputs.prediction_indices([member])
    best = [inputs.best_with_lm(index, row)[0] for row in range(len(inputs))]
    return float(edit_distances(best, inputs.references).mean())


def _mean_confidences(hypothesis: list[int], own: list[tuple[list[int], np.ndarray]]) -> np.ndarray:
    """The confidences of the tokens of `hypothesis`, the mean over the networks' own hypotheses and confidences."""
    network = align(
        [hypothesis, *(tokens for tokens, _ in own)],
        [[1.0] * len(hypothesis), *(confidences.tolist() for _, confidences in own)],
    )
    slots = network.arcs[:, 0] != NULL
    agrees = network.arcs[slots, 1:] == network.arcs[slots, :1]
    return np.where(agrees, network.confidences[slots, 1:], 0.0).mean(axis=1)
