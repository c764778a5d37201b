"""Choose members and their weights by greedy selection with replacement, to minimise a measured loss.

Caruana et al., "Ensemble selection from libraries of models" (ICML 2004), in AutoGluon's form: each round adds the
member whose addition gives the lowest loss, the best point of the whole trajectory is kept, and a member's weight is
its count divided by the sum of counts. The loss is any function of the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Selection:
    """The result of a greedy selection."""

    counts: np.ndarray
    """How often each member had been picked by the best point, (members,)."""
    loss: float
    """The loss of the best point."""
    trajectory: tuple[tuple[int, float], ...]
    """The member added in each round, and the loss after adding it."""

    @property
    def weights(self) -> np.ndarray:
        """Weights (members,) that sum to 1; zero for a member that was never picked."""
        return self.counts / self.counts.sum()


def greedy_selection(
    loss: Callable[[np.ndarray], float],
    members: int,
    rounds: int = 25,
    seed: int = 0,
    parameters: Sequence[float] | None = None,
    max_params: float | None = None,
    same_networks: Sequence[int] | None = None,
    patience: int = 8,
    start: np.ndarray | None = None,
) -> Selection:
    """Pick members with replacement to minimise `loss(counts)`, starting from no member or from the counts `start`.

    The distinct members used may have at most `max_params` parameters in total, counted by `parameters_used`. Ties
    prefer members already used (a smaller blend for the same loss), then `seed` decides. The search ends after
    `patience` rounds without a new best. Raises ValueError if every single member has more than `max_params`.

    >>> greedy_selection(lambda c: abs(c[0] / c.sum() - 0.5), 2, rounds=4).weights.tolist()
    [0.5, 0.5]
    """
    if members < 1:
        raise ValueError("greedy_selection: no members to choose from")
    order = np.random.default_rng(seed).permutation(members)
    known: dict[bytes, float] = {}
    counts = np.zeros(members, np.int64) if start is None else np.asarray(start, np.int64).copy()
    best_counts, since = counts.copy(), 0
    best_loss = float("inf") if start is None else _loss_once(known, counts, loss)
    trajectory: list[tuple[int, float]] = []
    for _ in range(rounds):
        trials: Iterable[tuple[int, np.ndarray]] = _additions(counts, order)
        if max_params is not None:
            trials = [
                (member, trial)
                for member, trial in trials
                if parameters_used(trial > 0, parameters, same_networks) <= max_params
            ]
        choice, choice_loss = _lowest_loss(trials, known, loss)
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
        raise ValueError(f"greedy_selection: no member has {max_params} parameters or fewer")
    return Selection(best_counts, float(best_loss), tuple(trajectory))


def _additions(counts: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each member, and the counts with it added: members in use first, then the others, both in `order`."""
    for member in sorted(order, key=lambda m: counts[m] == 0):
        trial = counts.copy()
        trial[member] += 1
        yield member, trial


def _lowest_loss(
    trials: Iterable[tuple[int, np.ndarray]], known: dict[bytes, float], loss: Callable[[np.ndarray], float]
) -> tuple[int, float]:
    """The member of the trial with the lowest loss, and that loss; -1 without trials."""
    choice, choice_loss = -1, float("inf")
    for member, trial in trials:
        value = _loss_once(known, trial, loss)
        # Only a strictly lower loss replaces a choice: ties prefer the earlier trial.
        if value < choice_loss - 1e-12:
            choice, choice_loss = int(member), value
    return choice, choice_loss


def parameters_used(
    used: np.ndarray, parameters: Sequence[float] | None, same_networks: Sequence[int] | None
) -> float:
    """Total parameters of the members that are `used` (members,) bool; 0 if `parameters`, per member, is None.

    `same_networks` is, per member, the index of the first with the same networks, which count once; None if all differ.

    >>> parameters_used(np.array([True, False, True]), [5, 7, 5], [0, 1, 0])
    5.0
    """
    if parameters is None:
        return 0.0
    counted = np.zeros(len(used))
    first = np.arange(len(used)) if same_networks is None else np.asarray(same_networks)
    np.maximum.at(counted, first, np.where(used, parameters, 0))
    return float(counted.sum())


def _loss_once(known: dict[bytes, float], counts: np.ndarray, loss: Callable[[np.ndarray], float]) -> float:
    """The loss of the mixture given by the counts, measured only once: (1, 1) and (2, 2) are the same mixture."""
    reduced = counts // np.gcd.reduce(counts)
    key = reduced.tobytes()
    if key not in known:
        known[key] = float(loss(reduced))
    return known[key]


def refine(
    loss: Callable[[np.ndarray], float], weights: np.ndarray, factors: Sequence[float] = (0.0, 0.5, 0.8, 1.25, 2.0)
) -> tuple[np.ndarray, float]:
    """Improve positive weights: scale one at a time, renormalise all, keep what lowers the loss; at most two rounds.

    Returns the weights and their loss.
    """
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
