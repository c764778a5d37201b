"""Searches over the settings of a blender or decoder that minimise a measured loss.

Each search is deterministic: ties keep what was tried first, so the same losses give the same settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def pattern_search(loss: Callable[[float, float], float], weight: float, bonus: float) -> tuple[float, float]:
    """Find the weight and bonus with the lowest loss by pattern search: try eight neighbours, then halve the step.

    Hooke & Jeeves, "Direct search solution of numerical and statistical problems" (J. ACM 8(2), 1961). `weight` and
    `bonus` are the initial values; the weight stays at or above 0. Each point is tried once.
    """
    known: dict[tuple[float, float], float] = {}

    def loss_at(point: tuple[float, float]) -> float:
        if point not in known:
            known[point] = loss(*point)
        return known[point]

    best, step = (weight, bonus), (0.2, 0.8)
    while step[0] > 0.04:
        neighbours = [
            (round(max(0.0, best[0] + i * step[0]), 6), round(best[1] + j * step[1], 6))
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
        ]
        lowest = min([best, *neighbours], key=loss_at)
        if lowest == best:
            step = (step[0] / 2, step[1] / 2)
        best = lowest
    return best


def coordinate_search(
    loss: Callable[[dict[str, Any]], float], start: dict[str, Any], grid: Mapping[str, Sequence[Any]], rounds: int = 3
) -> tuple[dict[str, Any], float]:
    """Improve one setting at a time over its `grid` until a round changes nothing. Returns settings and loss.

    >>> coordinate_search(lambda s: abs(s["x"] - 2) + abs(s["y"]), {"x": 0, "y": 1}, {"x": [1, 2], "y": [0, 1]})
    ({'x': 2, 'y': 0}, 0.0)
    """
    best, best_loss = dict(start), float(loss(start))
    for _ in range(rounds):
        before = best_loss
        for name, values in grid.items():
            for value in values:
                trial = best | {name: value}
                trial_loss = float(loss(trial))
                if trial_loss < best_loss - 1e-12:
                    best, best_loss = trial, trial_loss
        if best_loss == before:
            break
    return best, best_loss


def grid_search(
    loss: Callable[[dict[str, Any]], float], start: dict[str, Any], grid: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, Any], float]:
    """Try every combination, for settings that interact. Returns the best settings and their loss.

    >>> grid_search(lambda s: abs(s["x"] - s["y"]) + s["x"], {"x": 5, "y": 5}, {"x": [1, 2], "y": [1, 2]})
    ({'x': 1, 'y': 1}, 1.0)
    """
    best, best_loss = dict(start), float(loss(start))
    for values in itertools.product(*grid.values()):
        trial = start | dict(zip(grid, values, strict=True))
        trial_loss = float(loss(trial))
        if trial_loss < best_loss - 1e-12:
            best, best_loss = trial, trial_loss
    return best, best_loss
