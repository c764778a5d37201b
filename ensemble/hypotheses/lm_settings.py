"""Settings of the language model, and the weight of the label prior, fitted on a pool of hypotheses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensemble.fitting.settings import coordinate_search, grid_search
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import best_hypotheses, lm_grid, prior_grid


def fit_lm_settings(
    acoustic: np.ndarray, pool: Pool, settings: dict[str, Any], grid: Mapping[str, Sequence[float]] | None = None
) -> tuple[dict[str, Any], float]:
    """Search a grid of LM weight, length bonus and attention weight, by default `lm_grid`, for the least mean distance.

    `acoustic` (H,) are the acoustic scores of the pool's hypotheses; `settings` are only replaced by better ones.
    Returns the settings and their mean distance.
    """
    grid = lm_grid(pool) if grid is None else grid
    return grid_search(lambda trial: pool_distance(acoustic, pool, trial), settings, grid)


def fit_prior_weight(acoustic: np.ndarray, pool: Pool, settings: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The same settings with the label-prior weight that gives the lowest mean distance, and that distance."""
    return coordinate_search(lambda trial: pool_distance(acoustic, pool, trial), settings, prior_grid(pool), rounds=1)


def pool_distance(acoustic: np.ndarray, pool: Pool, settings: Mapping[str, Any]) -> float:
    """Mean distance of the hypotheses with the highest scores."""
    return pool.mean_distance(best_hypotheses(acoustic, pool, settings))
