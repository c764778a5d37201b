"""Which members, and how much of each: greedy selection with replacement on a measured loss.

Caruana et al., "Ensemble selection from libraries of models" (ICML 2004), in AutoGluon's form: each round adds the
member whose addition gives the lowest loss, the best point of the whole trajectory is kept, and a weight is a count
over the size. Knows nothing of what a member is: the loss is a function of the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Selection:
    """`counts` (members,) of the best point, its `loss`, and the `trajectory` of (member added, loss after it)."""

    counts: np.ndarray
    loss: float
    trajectory: tuple[tuple[int, float], ...]

    @property
    def weights(self) -> np.ndarray:
        """Weights (members,) that sum to 1; zero for a member that was never picked."""
        return self.counts / self.counts.sum()


def greedy_selection(
    loss: Callable[[np.ndarray], float],
    members: int,
    rounds: int = 25,
    seed: int = 0,
    costs: Sequence[float] | None = None,
    budget: float | None = None,
    patience: int = 8,
    start: np.ndarray | None = None,
) -> Selection:
    """Pick members with replacement so that `loss(counts)` falls, from nothing or from the counts `start`.

    `costs` and `budget` bound the sum of the costs of the distinct members used. Ties prefer members already used
    (a smaller blend for the same loss), then the seed decides. `patience` rounds without a new best end the search.
    Raises ValueError when no single member is within the budget.

    >>> greedy_selection(lambda c: abs(c[0] / c.sum() - 0.5), 2, rounds=4).weights.tolist()
    [0.5, 0.5]
    """
    if members < 1:
        raise ValueError("greedy_selection: no members to choose from")
    order = np.random.default_rng(seed).permutation(members)
    counts = np.zeros(members, np.int64)
    best_counts, best_loss, since = counts.copy(), np.inf, 0
    trajectory: list[tuple[int, float]] = []
    known: dict[bytes, float] = {}
    if start is not None:
        counts = np.asarray(start, np.int64).copy()
        best_counts, best_loss = counts.copy(), _recall(known, counts, loss)
    for _ in range(rounds):
        choice, choice_loss = -1, np.inf
        # Members in use come first, and only a strictly lower loss displaces a choice: that is the preference on ties.
        for member in sorted(order, key=lambda m: counts[m] == 0):
            trial = counts.copy()
            trial[member] += 1
            if costs is not None and budget is not None and float(np.dot(trial > 0, costs)) > budget:
                continue
            value = _recall(known, trial, loss)
            if value < choice_loss - 1e-12:
                choice, choice_loss = int(member), value
        if choice < 0:
            break
        counts[choice] += 1
        trajectory.append((choice, choice_loss))
        if choice_loss < best_loss - 1e-12:
            best_counts, best_loss, since = counts.copy(), choice_loss, 0
        else:
            since += 1
            if since >= patience:
                break
    if not best_counts.any():
        raise ValueError(f"greedy_selection: no member costs {budget} or less")
    return Selection(best_counts, float(best_loss), tuple(trajectory))


def _recall(known: dict[bytes, float], counts: np.ndarray, loss: Callable[[np.ndarray], float]) -> float:
    """The loss of a mixture; (1, 1) and (2, 2) are one mixture, so it is measured once."""
    reduced = counts // np.gcd.reduce(counts)
    key = reduced.tobytes()
    if key not in known:
        known[key] = float(loss(reduced))
    return known[key]






def refine(
    loss: Callable[[np.ndarray], float], weights: np.ndarray, factors: Sequence[float] = (0.0, 0.5, 0.8, 1.25, 2.0)
) -> tuple[np.ndarray, float]:
    """Continuous refinement of positive weights: each in turn is scaled and all renormalised, while the loss falls."""
    best, best_loss = np.asarray(weights, np.float64), float(loss(weights))
    for _ in range(2):
        before = best_loss
        for member in np.flatnonzero(best):
            for factor in factors:
                trial = best.copy()
                trial[member] *= factor
                if trial.sum() <= 0:
                    continue
                trial /= trial.sum()
                trial_loss = float(loss(trial))
                if trial_loss < best_loss - 1e-12:
                    best, best_loss = trial, trial_loss
        if best_loss == before:
            break
    return best, best_loss
