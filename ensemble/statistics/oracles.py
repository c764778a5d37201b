"""The oracle of a blend: the distance of the hypotheses that a perfect choice from its pools would make.

What lies between it and the blend's own distance can be gained by better scores; everything below it needs better
hypotheses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ensemble.blenders.base import restricted, used_members
from ensemble.blenders.best import FittedBlender
from ensemble.blenders.nbest_out import nbest_method, posterior_blenders
from ensemble.hypotheses.open_inputs import OpenedInputs


class PoolOracle(NamedTuple):
    """Mean edit distances of the best hypothesis in each utterance's pool."""

    method: str
    """The blender whose members filled the pools."""
    oof: float
    """On the out-of-fold utterances that it was fitted on."""
    dev: float
    """On dev, with the networks that predict test."""

    def __str__(self) -> str:
        return (
            f"the best hypotheses in the pools of {self.method} have {self.oof:.3f} out of fold and {self.dev:.3f} on "
            "dev, the lowest distances that any choice from them could have"
        )


def pool_oracle(inputs: OpenedInputs, fitted: Mapping[str, FittedBlender]) -> PoolOracle | None:
    """The oracle of the blender with the lowest nested distance of those with pools; None without such a blender."""
    if set(fitted).isdisjoint(posterior_blenders()):
        return None
    method = nbest_method(fitted)
    recipe = fitted[method].recipe
    dev, kept = restricted(inputs.dev, recipe, inputs.keep(recipe.weights, inputs.networks))
    pools = (inputs.oof.pool(used_members(recipe, inputs.oof.names)), dev.pool(used_members(kept, dev.names)))
    return PoolOracle(method, *(float(pool.oracle_distances.mean()) for pool in pools))
