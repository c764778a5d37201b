"""The stages of a trial: how much each may cost, on which speakers, and who goes on to the next.

Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): when all trials have ended a stage, those with the
lowest held-out distances go on, a quarter of them. So a study costs what was planned. Without waiting for the others
(ASHA, Li et al. 2020, arXiv 1810.05934) half of the trials went on, since later ones are drawn better than those
before, and some of the best went on only because others had not come yet (RESULTS.md). The resource is minutes of
training, CPU time on CPUs and wall time on a GPU: a configuration that is slow gets fewer epochs, so the search is for
what is best in a given time. A stage with a fraction f of the minutes has the square root of f of the speakers, and so
about the square root of f of the epochs.

Each stage is a run with the usual schedule of its own, warm-up and cosine to the end of the stage, which starts from
the weights of the stage before (a warm restart, SGDR, Loshchilov & Hutter 2017, arXiv 1608.03983). One schedule over
all stages would be judged in mid-course, where a lower learning rate looks better than it is; one that stays constant
and decays for each stage apart would give other recipes than those that `folds.train` trains. All trials pay alike for
the restart, and the winner and the preset are compared in runs of one schedule each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

REDUCTION = 4
"""One trial in this many goes on to the next stage, rounded up, which is this many times as long."""
STAGES = 3
JUDGED_FOLDS, COMPARED_FOLDS = (0, 1), (2, 3)
"""The last stage is judged on two folds, the others on the first of them. Winner and preset are compared on two folds
on which no trial was judged."""


@dataclass(frozen=True)
class Stage:
    """One stage of a trial."""

    step: int
    """Its length in units of the first stage's; Optuna's step."""
    minutes: float
    """Minutes of training of one fold."""
    speakers: float
    """The fraction of the speakers it trains on."""
    folds: tuple[int, ...]
    """The folds it is judged on. The first one goes on from the weights of the stage before; another starts anew,
    because those weights have seen what it holds out."""


def trials_per_stage(trials: int) -> list[int]:
    """How many of `trials` train in each stage.

    >>> trials_per_stage(40)
    [40, 10, 3]
    """
    counts = [trials]
    while len(counts) < STAGES:
        counts.append(math.ceil(counts[-1] / REDUCTION))
    return counts


def plan_stages(trials: int, minutes: float) -> list[Stage]:
    """Stages with which a study of `trials` takes `minutes`, with the comparison at the end."""
    full = REDUCTION ** (STAGES - 1)
    fractions = [REDUCTION**index / full for index in range(STAGES)]
    runs = trials_per_stage(trials)
    runs[-1] *= len(JUDGED_FOLDS)
    full_runs = sum(count * fraction for count, fraction in zip(runs, fractions, strict=True))
    run_minutes = minutes / (full_runs + 2 * len(COMPARED_FOLDS))
    return [
        Stage(
            step=REDUCTION**index,
            minutes=run_minutes * fraction,
            speakers=fraction**0.5,
            folds=JUDGED_FOLDS if index == STAGES - 1 else JUDGED_FOLDS[:1],
        )
        for index, fraction in enumerate(fractions)
    ]


def best_first(distances: Mapping[str, float]) -> list[str]:
    """The trials by their held-out distances, which are given in the order in which the trials began.

    Of equal distances the first counts as the best: before models have learnt anything, all of them answer nothing.

    >>> best_first({"a": 5.0, "b": 4.0, "c": 5.0, "d": 3.0})
    ['d', 'b', 'a', 'c']
    """
    return sorted(distances, key=distances.__getitem__)
