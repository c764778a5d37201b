"""The best member by itself, decoded with the language model.

For a member with one network this is what `ensemble.decode --tune` does, except that the weight of the label prior is
fitted too, and that at most 400 utterances are used. For a member with several, `ensemble.decode` averages posteriors
instead.

It takes part in the choice of `best`, so that no blend is chosen that is worse out of fold than its best member.
Members are ranked by the best hypotheses that they propose, which are also searched with the language model, and the
settings of the first few are fitted: the language model's weight, the length bonus and the weight of the label prior.
If the member has several networks, as on dev and test, their hypotheses are rescored by the mean of their
log-likelihoods: each network chooses the frames of its spikes, and on the demo's dev set the mean of their posteriors
has 3.21 errors where rescoring has 1.75.
"""

from __future__ import annotations

from ensemble.blenders.base import BLENDERS, BlendRecipe, used_members
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.first_pass import decode_first_pass
from ensemble.hypotheses.fusion import LENGTH_BONUS, LM_WEIGHT
from ensemble.hypotheses.member_decisions import ranked_members
from ensemble.hypotheses.scoring import best_hypotheses

# Number of members whose settings are fitted, which takes up to a minute each.
CANDIDATES = 3


@BLENDERS.register("single")
class Single:
    """The best member alone, decoded with the language model."""

    weighs_networks = True

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """The member and the settings with the lowest first-pass distance."""
        fitted = {member: fit_first_pass(inputs, member) for member in leading_members(inputs)}
        best = min(fitted, key=lambda member: fitted[member][1])
        return BlendRecipe("single", {inputs.names[best]: 1.0}, fitted[best][0])

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The first pass of the member's network, or the rescored hypotheses of several."""
        (member,) = used_members(recipe, inputs.names)
        indices = inputs.prediction_indices([member])
        if len(indices) > 1:
            pool = inputs.pool([member])
            return pool.chosen(best_hypotheses(pool.ctc.mean(axis=1), pool, recipe.settings))
        return decode_first_pass(
            inputs.load(indices[0]),
            inputs.split.language_models,
            inputs.outer_folds,
            recipe.settings,
            f"{inputs.split.name} {inputs.names[member]}",
            inputs.label_bonus([member]),
        )


def leading_members(inputs: BlendInputs) -> list[int]:
    """The members that propose the best hypotheses, at most CANDIDATES, the best first."""
    return ranked_members(inputs)[:CANDIDATES]


def fit_first_pass(inputs: BlendInputs, member: int) -> tuple[dict[str, float], float]:
    """The first-pass settings that minimise a member's mean distance on these utterances, and that distance."""
    (index,) = inputs.prediction_indices([member])
    trials, rows = inputs.first_pass(index)
    return trials.fit(rows, (LM_WEIGHT, LENGTH_BONUS))
