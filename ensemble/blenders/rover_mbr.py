"""ROVER of minimum-Bayes-risk decisions: each member decides within its own pool, then the decisions vote.

The second place of DrivenData's "On Top of Pasketti" (2026) combined 13 CTC models in this way. A member's decision is
the consensus of its own scored hypotheses, and the vote is the consensus of the members' decisions, weighted by member.
Both are found by iterating over confusion networks, see `ensemble.ranking.consensus`. A member with several fold models
makes one decision with their mean log-likelihood, so it has one vote regardless of their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, select_members, used_members, weights_by_name
from ensemble.blenders.rover import best_leading_members
from ensemble.decoding.batched import sample_rows
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.edit_distance import to_references
from ensemble.hypotheses.lm_settings import fit_lm_settings
from ensemble.hypotheses.scoring import NO_LM_OR_ATTENTION, best_per_utterance, combined_scores, normalized_posteriors
from ensemble.ranking.consensus import consensus
from folds.store.ragged import Ragged

# Factors that flatten a member's posterior before it decides.
SHARPNESS = (0.1, 0.3, 0.6, 1.0)
# Utterances on which the sharpness and the weights are fitted: a decision within a pool of 80 takes 0.3 to 0.5 ms, and
# fitting weights takes more than a hundred votes of all members.
FIT_UTTERANCES = 800


@BLENDERS.register("rover_mbr")
class RoverOfDecisions:
    """ROVER over the members' minimum-Bayes-risk decisions, each within the member's own pool."""

    weighs_networks = True

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Fit each member's LM settings on its own pool, the sharpness for the best member, then greedy weights."""
        fitted = [_fit_member(inputs, member) for member in range(len(inputs.names))]
        settings = [of_member for of_member, _ in fitted]
        best = int(np.argmin([distance for _, distance in fitted]))
        sample = inputs.take(sample_rows(np.arange(len(inputs)), FIT_UTTERANCES))
        sharpness = min(
            SHARPNESS, key=lambda value: _mean_distance(_decide(sample, best, settings[best], value), sample)
        )
        weights = weights_by_name(inputs.names, _fit_votes(sample, settings, sharpness, seed))
        of_members = dict(zip(inputs.names, settings, strict=True))
        used = {name: of_members[name] for name in weights}
        return BlendRecipe("rover_mbr", weights, {"sharpness": sharpness, "members": used})

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The vote of the members with weight."""
        members, settings = used_members(recipe, inputs.names), recipe.settings
        decisions = [
            _decide(inputs, member, settings["members"][inputs.names[member]], settings["sharpness"])
            for member in members
        ]
        winners = _vote(decisions, recipe.array(inputs.names)[members], inputs.split.classes)
        return [winners[row].tolist() for row in range(len(winners))]


def _fit_member(inputs: BlendInputs, member: int) -> tuple[dict[str, Any], float]:
    pool = inputs.pool([member])
    return fit_lm_settings(pool.ctc.mean(axis=1), pool, dict(NO_LM_OR_ATTENTION))


def _fit_votes(
    inputs: BlendInputs, settings: Sequence[Mapping[str, Any]], sharpness: float, seed: int
) -> np.ndarray:
    """Weights (members,) that minimise the mean distance."""
    decisions = [_decide(inputs, member, of_member, sharpness) for member, of_member in enumerate(settings)]

    def loss(counts: np.ndarray) -> float:
        return _mean_distance(_vote(decisions, counts / counts.sum(), inputs.split.classes), inputs)

    means = [_mean_distance(decision, inputs) for decision in decisions]
    order = [inputs.names[member] for member in np.argsort(means, kind="stable")]
    return select_members(inputs, loss, seed, start=best_leading_members(inputs, order, loss)).weights


def _mean_distance(hypotheses: Ragged, inputs: BlendInputs) -> float:
    references = Ragged.of(inputs.references, np.int16)
    return float(to_references(hypotheses, np.arange(len(inputs)), references).mean())


def _decide(inputs: BlendInputs, member: int, settings: Mapping[str, Any], sharpness: float) -> Ragged:
    """The consensus of a member's own pool for each utterance."""
    pool = inputs.pool([member])
    log_posterior = sharpness * combined_scores(pool.ctc.mean(axis=1), pool, settings)
    posterior = normalized_posteriors(log_posterior, pool.offsets)
    start = best_per_utterance(log_posterior, pool.offsets)
    return consensus(pool.tokens, pool.offsets, posterior, start, inputs.split.classes)


def _vote(decisions: Sequence[Ragged], weights: np.ndarray, classes: int) -> Ragged:
    """The consensus of one decision per member and utterance, starting from the member with the largest weight."""
    count, systems = len(decisions[0]), len(decisions)
    by_utterance = np.arange(count * systems).reshape(systems, count).T.ravel()
    tokens = Ragged.concatenate(decisions).take(by_utterance)
    offsets = np.arange(count + 1) * systems
    start = offsets[:-1] + int(np.argmax(weights))
    return consensus(tokens, offsets, np.tile(weights, count), start, classes)
