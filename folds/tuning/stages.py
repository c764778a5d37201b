"""The stages of a trial: how much each may cost, on which speakers, and which trials advance to the next.

Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): once all trials have finished a stage, the quarter
with the lowest held-out distances advances. A study thus costs what was planned. Without waiting for all trials (ASHA,
Li et al. 2020, arXiv 1810.05934), half of the trials advanced, since later ones are sampled better than earlier ones,
and some of the best advanced only because others had not been tried yet (RESULTS.md). The resource is minutes of
training, CPU time on CPUs and wall time on a GPU: a slow configuration gets fewer epochs, so the search is for what is
best in a given time. A stage with a fraction f of the minutes trains on sqrt(f) of the speakers, and so for about
sqrt(f) of the epochs.

Each stage is a run with the usual schedule, warm-up and cosine decay to the end of the stage, which starts from the
weights of the stage before (a warm restart, SGDR, Loshchilov & Hutter 2017, arXiv 1608.03983). With one schedule over
all stages, trials would be judged midway, where a lower learning rate looks better than it is; a constant learning rate
with a separate decay for each stage would give other recipes than those that `folds.train` trains. All trials pay
equally for the restart, and the winner and the preset are compared in runs with a single schedule each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

REDUCTION = 4
"""One trial in this many, rounded up, advances to the next stage, which is this many times as long."""
STAGES = 3
JUDGED_FOLDS, COMPARED_FOLDS = (0, 1), (2, 3)
"""The last stage is judged on two folds, the others on the first of them. The winner and the preset are compared on two
folds that no trial was judged on."""


@dataclass(frozen=True)
class Stage:
    """One stage of a trial."""

    step: int
    """Its length in units of the first stage's; the step that Optuna knows it by."""
    minutes: float
    """Minutes of training of one fold."""
    speakers: float
    """The fraction of the speakers it trains on."""
    folds: tuple[int, ...]
    """The folds it is judged on. The first one continues from the weights of the stage before; another starts from
    scratch, because those weights were trained on what it holds out."""


def trials_per_stage(trials: int) -> list[int]:
    """The number of `trials` that train in each stage.

    >>> trials_per_stage(40)
    [40, 10, 3]
    """
    counts = [trials]
    while len(counts) < STAGES:
        counts.append(math.ceil(counts[-1] / REDUCTION))
    return counts


def plan_stages(trials: int, minutes: float) -> list[Stage]:
    """Stages with which a study of `trials` takes `minutes`, including the comparison at the end."""
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
    """The trials sorted by held-out distance; `distances` has them in the order in which they began.

    Ties go to the earlier trial: before models have learnt anything, all of them predict nothing.

    >>> best_first({"a": 5.0, "b": 4.0, "c": 5.0, "d": 3.0})
    ['d', 'b', 'a', 'c']
    """
    return sorted(distances, key=distances.__getitem__)
