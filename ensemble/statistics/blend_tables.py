"""Tables of the distances of members and blenders, and of their differences from the strongest member alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from ensemble.blenders.best import FittedBlender
from ensemble.members.member import Member, Networks
from ensemble.statistics.member_baselines import Alternative, MemberBaseline
from folds.competition.bootstrap import Interval, bootstrap, paired_bootstrap

NETWORKS: Mapping[Networks, str] = {"folds": "fold models", "refits": "refits", "both": "fold models and refits"}


def member_table(members: Sequence[Member], baselines: Sequence[MemberBaseline]) -> pd.DataFrame:
    """One row per member: its networks, and its mean distance out of fold and on dev."""
    table = pd.DataFrame(
        {
            "member": member.name,
            "folds": ",".join(map(str, member.folds)) + (" + refit" if member.refit else ""),
            "parameters": member.parameters,
            "stride": member.stride,
            "oof": baseline.oof.mean(),
            "dev": baseline.dev.mean(),
            "dev, mean of folds' frames": baseline.dev_mean.mean(),
            "dev, with LM": baseline.dev_lm.mean(),
            "dev, refit": _mean(baseline.refit),
            "dev, refit with LM": _mean(baseline.refit_lm),
        }
        for member, baseline in zip(members, baselines, strict=True)
    )
    if any(member.refit for member in members):
        return table
    return table.drop(columns=["dev, refit", "dev, refit with LM"])


def blender_table(
    fitted: Mapping[str, FittedBlender],
    dev: Mapping[Networks, Mapping[str, np.ndarray]],
    networks: Networks,
    alternative: Alternative,
    groups: Sequence[Hashable] | None,
) -> pd.DataFrame:
    """One row per blender: mean distances, and the difference from `alternative`, with 95 % bootstrap intervals.

    `dev` has the distances for each choice of networks; the difference is computed for `networks`.
    """
    return pd.DataFrame(
        {
            "blender": name,
            "oof, fitted": blender.oof.mean(),
            "oof, nested": blender.nested.mean(),
            **{
                f"dev, {NETWORKS[choice]}": describe_level(bootstrap(distances[name], groups))
                for choice, distances in dev.items()
            },
            f"{NETWORKS[networks]} - strongest member": describe_difference(
                dev[networks][name], alternative.dev, groups
            ),
        }
        for name, blender in fitted.items()
    )


def describe_level(interval: Interval) -> str:
    """A mean distance and its interval, for example `3.287 [2.567, 4.060]`."""
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def describe_difference(ours: np.ndarray, theirs: np.ndarray, groups: Sequence[Hashable] | None) -> str:
    """A paired difference, its interval and its size relative to `theirs`: `-0.391 [-0.563, -0.215] (-4.3 %)`."""
    difference = paired_bootstrap(ours, theirs, groups)
    percentage = f" ({100 * difference.mean / theirs.mean():+.1f} %)" if theirs.any() else ""
    return f"{difference}{percentage}"


def verdict(difference: Interval) -> str:
    """What the interval of a difference of distances means in words; lower is better."""
    if not difference.certain:
        return "not significantly different from"
    return "significantly better than" if difference.mean < 0 else "significantly worse than"


def _mean(distances: np.ndarray | None) -> float | str:
    return "" if distances is None else float(distances.mean())
