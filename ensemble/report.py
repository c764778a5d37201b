"""`python -m ensemble.report`: one HTML page about the members in the runs folder, and about blends of them.

The page shows what would be submitted and its expected score, all members and blends, learning curves, redundant
members, phoneme confusions, where errors are, cross-validation against the leaderboard, and a table of utterances that
expand to features, posteriors and hypotheses. The measurements of `ensemble.blend` are read from the file next to its
submission; if there are none for these members and options, the members' baselines are fitted, which takes minutes. No
submission is written. The page is one file that makes no requests, so it can be sent by mail.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ensemble.blenders.base import BLENDERS
from ensemble.hypotheses.open_inputs import InputOptions, OpenedInputs, open_inputs
from ensemble.hypotheses.recorded_options import INPUT_OPTIONS, as_recorded
from ensemble.members.finished import find_members
from ensemble.members.sidecar import WORDS, read_sidecar, sidecar_path
from ensemble.members.stores import StoresOptions
from ensemble.report_page.alarm import measure_alarm
from ensemble.report_page.blends import open_blend
from ensemble.report_page.curves import learning_curves
from ensemble.report_page.details import pack_details
from ensemble.report_page.headline import alarm_text, headline, leaderboard, measure_blend
from ensemble.report_page.ledger import read_scores
from ensemble.report_page.page import html_page, note, table
from ensemble.report_page.payload import comparison_payload
from ensemble.report_page.systems import Comparison, compare_systems
from ensemble.report_page.terms import glossary
from ensemble.statistics.member_baselines import measure_members
from folds.competition.base import Rules
from folds.competition.bootstrap import describe_resampled
from folds.data.dataset import Dataset
from registry import InputError, atomic_write, check_writable, command
from registry.bounds import number
from registry.command_line import leading_options, parse_options
from registry.console import counted

DETAIL_BYTES = 1_500_000
"""Maximum size of all features and posteriors in a page."""


@dataclass(frozen=True)
class ReportOptions(InputOptions, StoresOptions):
    """Write a page about the finished members, and about the submissions blended from them.

    Unless they are given, --nbest, --pool, --networks, --fold-mean, --lm-order, --fit-limit and --seed are those that
    the first submission was blended with, so that the page shows the same distances; so are the rules on parameters and
    tags.
    """

    out: Path = Path("report.html")
    """The page to write."""
    submission: tuple[Path, ...] = (Path("submission.csv"),)
    """Submissions of blends, each described by the `.json` next to it; the first one is the headline."""
    members: tuple[str, ...] = ("*",)
    """Members to report on: globs over their names."""
    compare: tuple[str, str] | None = None
    """Two systems to show side by side: names of members, or submissions. The page can also compare any other two."""
    split: Literal["dev", "test"] = "dev"
    """The utterances to show. For test, which has no transcripts, hypotheses are compared with each other."""
    hardest: int = number(40, at_least=0, at_most=10_000)
    """Number of utterances, the hardest first, that include features and posteriors, as far as 1.5 MB suffice."""
    ledger_file: Path = Path("submissions.jsonl")
    """The ledger of python -m submit, for comparing cross-validation with the leaderboard."""


def page(options: ReportOptions, given: Collection[str] = ()) -> str:
    """The whole page. `given` names options that keep their value even if it is the default."""
    dataset, inputs = _open(options, given)
    submissions, missing = _submissions(options, inputs)
    blends = [open_blend(path, inputs, dataset) for path in submissions]
    for blend in blends:
        if blend.obstacle and blend.name in map(str, map(Path, options.compare or ())):
            raise InputError(f"--compare {blend.name}: cannot be recomputed: {blend.obstacle}")
    known = [blend.measured for blend in blends if blend.measured is not None]
    baselines = known[0].baselines(dataset.alphabet) if known else measure_members(inputs)
    measured = [measure_blend(blend, inputs, baselines) for blend in blends]
    split = dataset.dev if options.split == "dev" else dataset.test
    comparison = compare_systems(inputs, split, baselines, blends)
    data = _data(options, inputs, comparison, dataset)
    top = headline(measured, baselines, inputs, missing)
    board = table(leaderboard(inputs, baselines, measured)) + note(
        "Mean edit distances per utterance, lower is better; oof is out of fold, LM is the language model. Members' "
        "distances in oof and dev are without it. The blend is chosen by nested oof, since dev decides nothing. "
        "Intervals are those of the distance on dev with LM, over "
        f"{describe_resampled(inputs.dev_groups, inputs.grouped_by)}."
    )
    methods = [blend.method for blend in blends] + [name for measured in known for name in measured.blenders]
    notes = [note_of for blend in measured for note_of in blend.notes] + inputs.notes
    bodies = {
        "headline": top + note(alarm_text(measure_alarm(inputs))) + glossary(methods),
        "leaderboard": board,
        "notes": "".join(map(note, notes)),
    }
    members, utterances = counted(len(comparison.members), "member"), counted(len(split), "utterance")
    shown = f"{members} and {counted(len(comparison.systems) - len(comparison.members), 'blend')}"
    failing = ", and where they fail" if comparison.labelled else ""
    subtitle = f"What {shown} recognise in {utterances} of {split.name}{failing}."
    return html_page(dataset.root.resolve().name, subtitle, bodies, data)


def _open(options: ReportOptions, given: Collection[str]) -> tuple[Dataset, OpenedInputs]:
    """The data, and the members under the rules of the first submission."""
    members = find_members(options, options.members)
    dataset = options.open_dataset()
    made = [path for path in options.submission if sidecar_path(path).exists()]
    if not made:
        return dataset, open_inputs(members, dataset, options, Rules())
    first = read_sidecar(made[0])
    if first.recipe.method not in (*BLENDERS.names(), WORDS):  # its options mean something else than a blend's
        return dataset, open_inputs(members, dataset, options, first.rules)
    taken = as_recorded(options, first, str(sidecar_path(made[0])), given)
    if taken != options:
        print(f"options recorded with {made[0]}: {_describe_changes(options, taken)}")
    return dataset, open_inputs(members, dataset, taken, first.rules)


def _describe_changes(options: InputOptions, taken: InputOptions) -> str:
    """The options that differ, as on the command line."""
    values = ((name, getattr(taken, name)) for name in INPUT_OPTIONS if getattr(taken, name) != getattr(options, name))
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values)


def _submissions(options: ReportOptions, inputs: OpenedInputs) -> tuple[list[Path], str]:
    """The submissions that exist, including those of `--compare`, and the first that does not.

    Raises InputError for a name in `--compare` that is neither a member nor a submission.
    """
    paths = list(options.submission)
    names = [member.name for member in inputs.members]
    for name in options.compare or ():
        if name not in names and not sidecar_path(Path(name)).exists():
            raise InputError(
                f"--compare {name}: expected a member ({', '.join(names)}) or a submission with a .json beside it"
            )
        if name not in names:
            paths.append(Path(name))
    unique = list(dict.fromkeys(paths))
    missing = [path for path in unique if not sidecar_path(path).exists()]
    return [path for path in unique if path not in missing], str(sidecar_path(missing[0])) if missing else ""


def _data(
    options: ReportOptions, inputs: OpenedInputs, comparison: Comparison, dataset: Dataset
) -> dict[str, Any]:
    """The data for the page's script."""
    names = [system.name for system in comparison.systems]
    rows = comparison.hardest_first[: options.hardest].tolist()
    predictions = inputs.dev if options.split == "dev" else inputs.test
    return comparison_payload(comparison, dataset.alphabet) | {
        "members": list(inputs.oof.names),
        "curves": learning_curves(inputs.members),
        "scores": read_scores(options.ledger_file),
        "compare": [names.index(str(Path(name))) for name in options.compare or ()],
        "intervals": describe_resampled(comparison.groups, inputs.grouped_by),
        "details": pack_details(predictions, comparison.split, rows, DETAIL_BYTES),
    }


def main() -> None:
    """Run the command."""
    options = parse_options(ReportOptions, "python -m ensemble.report", description=__doc__)
    check_writable(options.out)
    options.use_threads()
    written = leading_options(sys.argv[1:], *(name.replace("_", "-") for name in INPUT_OPTIONS))
    html = page(options, [name for name, value in written.items() if value is not None])
    with atomic_write(options.out) as temporary:
        # Names of folders and utterances need not be UTF-8.
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    command(main)
