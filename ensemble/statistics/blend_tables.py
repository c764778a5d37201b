"""Tables of the distances of members and blenders, and of their differences to the best members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ensemble.blenders.best import FittedBlender
from ensemble.members.member import Member
from ensemble.statistics.bootstrap import Interval, bootstrap, paired_bootstrap
from ensemble.statistics.member_baselines import MemberBaseline, best_baseline, best_baseline_with_lm


def member_table(members: Sequence[Member], baselines: Sequence[MemberBaseline]) -> pd.DataFrame:
    """One row per member: its fold models, and its mean distance out of fold and on dev."""
    return pd.DataFrame(
        {
            "member": member.name,
            "folds": ",".join(map(str, member.folds)),
            "parameters": member.parameters,
            "stride": member.fold_models[0].stride,
            "oof": baseline.oof.mean(),
            "dev": baseline.dev.mean(),
            "dev, mean of folds' frames": baseline.dev_mean.mean(),
            "dev, with LM": baseline.dev_lm.mean(),
        }
        for member, baseline in zip(members, baselines, strict=True)
    )


def blender_table(
    fitted: Mapping[str, FittedBlender], dev: Mapping[str, np.ndarray], baselines: Sequence[MemberBaseline]
) -> pd.DataFrame:
    """One row per blender: mean distances, and differences to the best members, with 95 % bootstrap intervals."""
    best, best_with_lm = best_baseline(baselines).best_dev, best_baseline_with_lm(baselines).dev_lm
    return pd.DataFrame(
        {
            "blender": name,
            "oof, fitted": blender.oof.mean(),
            "oof, nested": blender.nested.mean(),
            "dev": describe_level(bootstrap(dev[name])),
            "dev - best member": _describe_difference(dev[name], best),
            "dev - best member with LM": _describe_difference(dev[name], best_with_lm),
        }
        for name, blender in fitted.items()
    )


def describe_level(interval: Interval) -> str:
    """A mean distance and its interval, for example `3.287 [2.567, 4.060]`."""
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _describe_difference(distances: np.ndarray, reference: np.ndarray) -> str:
    difference = paired_bootstrap(distances, reference)
    percentage = f" ({100 * difference.mean / reference.mean():+.1f} %)" if reference.any() else ""
    return f"{difference}{percentage}"
