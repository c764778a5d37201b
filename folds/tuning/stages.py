"""The stages of a trial: how much each may cost, on which speakers, and who goes on to the next.

Successive halving without waiting for others (ASHA, Li et al. 2020, arXiv 1810.05934): a trial goes on if its held-out
distance is among the best quarter of those that the stage has seen so far. The resource is minutes of training, CPU
time on CPUs and wall time on a GPU: a configuration that is slow gets fewer epochs, so the search is for what is best
in a given time. A stage with a fraction f of the minutes has the square root of f of the speakers, and so about the
square root of f of the epochs.

Each stage is a run with the usual schedule of its own, warm-up and cosine to the end of the stage, which starts from
the weights of the stage before (a warm restart, SGDR, Loshchilov & Hutter 2017, arXiv 1608.03983). One schedule over
all stages would be judged in mid-course, where a lower learning rate looks better than it is; one that stays constant
and decays for each stage apart would give other recipes than those that `folds.train` trains. All trials pay alike for
the restart, and the winner and the preset are compared in runs of one schedule each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REDUCTION = 4
"""One in so many goes on to the next stage, which is so many times as long."""
STAGES = 3
JUDGED_FOLDS, COMPARED_FOLDS = (0, 1), (2, 3)
"""The last stage is judged on two folds, the others on the first of them. Winner and preset are compared on two folds
on which no trial was judged."""
PROMOTED = 1 / 3
"""The planned share of trials that go on: more than 1 / REDUCTION, since the first ones have few rivals and later ones
are drawn better."""


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


def plan_stages(trials: int, minutes: float) -> list[Stage]:
    """Stages so that a study of so many trials takes about so many minutes, with the comparison at the end."""
    full = REDUCTION ** (STAGES - 1)
    fractions = [REDUCTION**index / full for index in range(STAGES)]
    runs = [trials * PROMOTED**index for index in range(STAGES)]
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


def goes_on(distance: float, others: Sequence[float]) -> bool:
    """Whether a trial is promoted, given the held-out distances of all others that have finished the same stage.

    The best of fewer than `REDUCTION` trials is. Of equal distances the first counts as the best: before models have
    learnt anything, all of them answer nothing.

    >>> goes_on(3.0, [5.0, 4.0, 6.0, 2.0, 7.0, 8.0, 9.0])
    True
    >>> goes_on(3.0, [5.0, 4.0, 6.0, 2.0, 7.0, 8.0])
    False
    """
    rank = sum(other <= distance for other in others)
    return rank < max(1, (len(others) + 1) // REDUCTION)
