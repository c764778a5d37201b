"""The top of the page: the submission, its estimated distance, and the table of all members and blends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from ensemble.hypotheses.open_inputs import OpenedInputs
from ensemble.report_page.alarm import ALARM, Alarm
from ensemble.report_page.blends import Blend
from ensemble.statistics.blend_tables import describe_level, member_table, verdict
from ensemble.statistics.member_baselines import MemberBaseline, strongest
from folds.competition.bootstrap import Interval, bootstrap, describe_resampled, paired_bootstrap
from folds.competition.metric import edit_distances
from registry.console import counted

DIFFERS = 0.0005
"""Distances that differ by less are equal to three decimals."""

MEAN_OF_FRAMES = "dev, mean of folds' frames"
FIRST_COLUMNS = ("member", "dev, with LM", "95 % interval", "kind", "oof", "oof, nested")


@dataclass(frozen=True)
class MeasuredBlend:
    """A blend with its distance on dev."""

    blend: Blend
    level: Interval | None
    """Its distance; None if it could not be recomputed."""
    difference: Interval | None
    """Its distance minus that of the strongest member alone."""

    @property
    def notes(self) -> list[str]:
        """Why its figures differ from those recorded when it was made."""
        blend, recorded = self.blend, self.blend.sidecar.dev
        if self.level is None:
            return [f"{blend.name}: {blend.obstacle}, so only the figures beside the submission are shown"]
        if abs(self.level.mean - recorded) > DIFFERS:
            return [
                f"{blend.name}: {recorded:.3f} on dev when it was made, and {self.level.mean:.3f} now: the runs or "
                "options (--nbest, --pool, --networks, --fold-mean, --lm-order, --fit-limit, --seed) differ; blend "
                "again"
            ]
        return []


def measure_blend(blend: Blend, inputs: OpenedInputs, baselines: Sequence[MemberBaseline]) -> MeasuredBlend:
    """The distance of a blend on dev, compared with that of the strongest member."""
    if blend.dev is not None:
        distances = edit_distances(blend.dev, inputs.dev.references)
        paired = paired_bootstrap(distances, strongest(baselines).dev, inputs.dev_groups)
        return MeasuredBlend(blend, bootstrap(distances, inputs.dev_groups), paired)
    recorded = blend.sidecar.dev_minus_best_member
    difference = None if recorded is None else Interval(recorded.mean, recorded.low, recorded.high)
    return MeasuredBlend(blend, None, difference)


def leaderboard(
    inputs: OpenedInputs, baselines: Sequence[MemberBaseline], blends: Sequence[MeasuredBlend]
) -> pd.DataFrame:
    """One row per blend and member: the figures that `ensemble.blend` prints, and intervals.

    Submissions come first, then all others by increasing distance on dev.
    """
    members = member_table(inputs.members, baselines)
    if all(len(member.networks) == 1 for member in inputs.members):  # the mean of one network is that network
        members = members.drop(columns=MEAN_OF_FRAMES)
    members.insert(1, "kind", "member")
    members["95 % interval"] = [_range(bootstrap(baseline.dev_lm, inputs.dev_groups)) for baseline in baselines]
    rows = pd.DataFrame(
        {
            "member": measured.blend.name,
            "kind": f"submission: {measured.blend.method}, {counted(measured.blend.networks, 'network')}",
            "folds": "",
            "stride": "",
            "parameters": measured.blend.sidecar.parameters,
            **_distances(measured),
            "95 % interval": _range(measured.level) if measured.level else "",
        }
        for measured in blends
    )
    others = pd.concat([*(_not_chosen(measured.blend, inputs, len(blends) > 1) for measured in blends), members])
    others = others.sort_values("dev, with LM", kind="stable")
    # As objects, because integers in a column that blends lack would become floats.
    table = pd.concat([rows.astype(object), others.astype(object)], ignore_index=True)
    # The most important figures come first, since a phone shows three or four columns.
    first = [name for name in FIRST_COLUMNS if name in table]
    order = first + [name for name in members.columns if name not in first]
    return table[order].rename(columns={"member": "system"})


def _distances(measured: MeasuredBlend) -> dict[str, float]:
    """A blend's mean distances; NaN if its figures are in another metric."""
    sidecar = measured.blend.sidecar
    if sidecar.metric:
        return {"oof": np.nan, "oof, nested": np.nan, "dev, with LM": np.nan}
    dev = measured.level.mean if measured.level else sidecar.dev
    return {"oof": sidecar.oof, "oof, nested": sidecar.nested, "dev, with LM": dev}


def _not_chosen(blend: Blend, inputs: OpenedInputs, several: bool) -> pd.DataFrame:
    """The blenders compared with the chosen one, if known; with `several`, their names include the blend's."""
    if blend.measured is None:
        return pd.DataFrame()
    others = {name: b for name, b in blend.measured.blenders.items() if name != blend.measured.chosen}
    return pd.DataFrame(
        {
            "member": f"{name}, beside {blend.name}" if several else name,
            "kind": "blend, not chosen",
            "folds": "",
            "stride": "",
            "parameters": "",
            "oof": blender.oof,
            "oof, nested": blender.nested,
            "dev, with LM": float(np.mean(blender.dev)),
            "95 % interval": _range(bootstrap(np.array(blender.dev), inputs.dev_groups)),
        }
        for name, blender in others.items()
    )


def headline(
    blends: Sequence[MeasuredBlend], baselines: Sequence[MemberBaseline], inputs: OpenedInputs, missing: str
) -> str:
    """The submission and its estimated distance, as HTML. `missing` is the submission file that does not exist."""
    alternative = strongest(baselines)
    alone = describe_level(bootstrap(alternative.dev, inputs.dev_groups))
    resampled = describe_resampled(inputs.dev_groups, inputs.grouped_by)
    if not blends:
        return _cards(
            [
                ("Submission", f"none: {missing} does not exist", "write one with python -m ensemble.blend"),
                (
                    "The strongest member alone",
                    alone,
                    f"{alternative.name}; edits per utterance on dev, over {resampled}",
                ),
            ]
        )
    measured = blends[0]
    sidecar, limit = measured.blend.sidecar, measured.blend.sidecar.rules.max_params
    used = f"{counted(len(sidecar.recipe.weights), 'member')}, {counted(measured.blend.networks, 'network')}"
    tags = f"tags: {', '.join(sidecar.tags) or 'none'}"
    share = "no limit was set (--max-params)" if limit is None else f"of {limit:,} allowed"
    cards = [
        ("Submission", measured.blend.name, f"{used}, by {measured.blend.method}"),
        ("Distance on dev", *_level(measured, inputs, resampled)),
        ("Against the strongest member", *_difference(measured, alternative.name, alone)),
        ("Parameters", f"{sidecar.parameters:,}", f"{share}; {tags}"),
    ]
    return _cards(cards, None if limit is None else sidecar.parameters / limit)


def alarm_text(alarm: Alarm | None) -> str:
    """What the members' disagreement implies about test."""
    if alarm is None:
        return "With a single network there is no disagreement to measure, so nothing is known about test."
    verdict_text = f"no alarm (the threshold is {ALARM})"
    if alarm.raised:
        verdict_text = "the speech in test probably differs from dev, and the score may be worse"
    ratio = f", {alarm.test / alarm.dev:.2f} times as much" if alarm.dev else ""
    return (
        "Is test like dev? Without transcripts: greedy hypotheses of two members differ in "
        f"{alarm.test:.2f} of 100 phonemes on test and in {alarm.dev:.2f} on dev{ratio}: {verdict_text}."
    )


def _level(measured: MeasuredBlend, inputs: OpenedInputs, resampled: str) -> tuple[str, str]:
    """A blend's distance on dev, and an explanation of it."""
    mean = measured.blend.sidecar.dev if measured.level is None else measured.level.mean
    if np.isnan(mean):
        return "unknown", "it was not measured when it was written, and cannot be recomputed here"
    if measured.level is None and (metric := measured.blend.sidecar.metric):
        return f"{100 * mean:.2f} %", f"{metric} on dev"
    length = float(np.mean([len(reference) for reference in inputs.dev.references]))
    worth = f"edits per utterance with a mean length of {length:.1f} phonemes: {100 * mean / length:.1f} per 100"
    if measured.level is None:
        return f"{mean:.3f}", worth
    return describe_level(measured.level), f"{worth}. In brackets: 95\N{NO-BREAK SPACE}% interval over {resampled}"


def _difference(measured: MeasuredBlend, name: str, alone: str) -> tuple[str, str]:
    if measured.difference is None:
        return "unknown", f"{name}: {alone}"
    difference, recorded = measured.difference, measured.blend.sidecar
    value, compared = str(difference), f"{name} ({alone})"
    if measured.level is None and recorded.dev_minus_best_member is not None:
        compared = recorded.dev_minus_best_member.member  # need not be a member of this report
        if recorded.metric:
            ends = f"[{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
            value = f"{100 * difference.mean:+.2f} % {ends}"
    return value.replace("-", "−"), f"{verdict(difference)} {compared}"


def _range(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"


def _cards(cards: Sequence[tuple[str, str, str]], used: float | None = None) -> str:
    items = "".join(
        f"<div class=card><dt>{escape(title)}</dt><dd><strong>{escape(value)}</strong>"
        f"<span>{escape(text)}</span></dd></div>"
        for title, value, text in cards
    )
    meter = ""
    if used is not None:
        meter = f"<p><meter max=1 value={min(used, 1):.4f}></meter> {100 * used:.1f} % of the parameters allowed</p>"
    return f"<dl class=cards>{items}</dl>{meter}"
