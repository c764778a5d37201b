"""Gradient-boosted regression trees, fitted by scikit-learn and stored as plain numbers.

A recipe is JSON and nothing is unpickled, so the fitted trees are copied to lists and evaluated here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numba
import numpy as np

from ensemble.threads import for_ranges


@dataclass(frozen=True)
class BoostedTrees:
    """A sum of regression trees: nodes of all trees one after the other, children by index into them."""

    baseline: float
    """Added to the sum of the trees."""
    roots: list[int]
    """The first node of each tree."""
    feature: list[int]
    """The feature that a node compares; -1 for a leaf."""
    threshold: list[float]
    """A row with at most this value goes to the left child."""
    left: list[int]
    right: list[int]
    value: list[float]
    """What a leaf adds."""

    def to_json(self) -> dict[str, Any]:
        """The trees as JSON can hold them; `BoostedTrees(**…)` reads it."""
        return asdict(self)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predictions (H,) float64 for features (H, F), the same as scikit-learn's."""
        out = np.full(len(features), self.baseline)
        nodes = (
            np.array(self.roots, np.int64),
            np.array(self.feature, np.int64),
            np.array(self.threshold, np.float64),
            np.array(self.left, np.int64),
            np.array(self.right, np.int64),
            np.array(self.value, np.float64),
        )
        for_ranges(lambda first, last: _add_trees(features, *nodes, first, last, out), len(features))
        return out


def fit_boosted_trees(
    features: np.ndarray, target: np.ndarray, weights: np.ndarray, seed: int = 0, **options: Any
) -> BoostedTrees:
    """Trees that minimise the weighted squared error to `target` (H,); `options` are scikit-learn's.

    The same arguments give the same trees.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor  # takes a second to import, and only a fit needs it

    model = HistGradientBoostingRegressor(early_stopping=False, random_state=seed, **options)
    model.fit(features, target, sample_weight=weights)
    return trees_of(model)


def trees_of(model: Any) -> BoostedTrees:
    """The trees of a fitted HistGradientBoostingRegressor without categorical features."""
    trees = [predictor.nodes for (predictor,) in model._predictors]
    roots = np.cumsum([0, *(len(nodes) for nodes in trees)])[:-1]
    nodes = np.concatenate(trees)
    first = np.repeat(roots, [len(tree) for tree in trees])
    leaf = nodes["is_leaf"].astype(bool)
    return BoostedTrees(
        baseline=float(np.ravel(model._baseline_prediction)[0]),
        roots=roots.tolist(),
        feature=np.where(leaf, -1, nodes["feature_idx"].astype(np.int64)).tolist(),
        threshold=np.where(leaf, 0.0, nodes["num_threshold"]).tolist(),
        left=np.where(leaf, 0, first + nodes["left"]).tolist(),
        right=np.where(leaf, 0, first + nodes["right"]).tolist(),
        value=np.where(leaf, nodes["value"], 0.0).tolist(),
    )


@numba.njit(cache=True, nogil=True)
def _add_trees(features, roots, feature, threshold, left, right, value, first, last, out):
    for h in range(first, last):
        for root in roots:
            node = root
            while feature[node] >= 0:
                node = left[node] if features[h, feature[node]] <= threshold[node] else right[node]
            out[h] += value[node]
