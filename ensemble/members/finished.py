"""The members that blends and reports start from: all finished ones, with their refits."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence

from ensemble.members.member import Member, group_by_member, measurable_on
from ensemble.members.refits import with_refits
from ensemble.members.stores import StoresOptions
from folds.store.fold_model import FoldModel, unfinished_runs
from folds.store.run_folder import RunFolder
from registry import InputError


def find_members(options: StoresOptions, patterns: Sequence[str]) -> list[Member]:
    """The finished members that match one of the globs, with their refits; those left out are listed on stderr.

    Raises InputError if there are none, and for members that were trained on dev.
    """
    available = options.find_fold_models()
    if not any(model.folds > 1 for model in available):
        measurable_on("dev", available, patterns)  # if members were trained on dev, raises an error that says so
        unfinished = [path for runs in options.folders for path in unfinished_runs(runs)]
        count = len(unfinished)
        hint = f" ({count} unfinished, such as {unfinished[0]}: continue them with --resume)" if count else ""
        kind = "member that holds out a fold" if available else "member"
        raise InputError(f"{options.describe_runs()}: no finished {kind}{hint}; train one with python -m folds.train")
    members, notes = members_of(available, patterns)
    for note in (*options.unfinished_notes(), *notes):
        print(note, file=sys.stderr)
    return members


def members_of(fold_models: Sequence[FoldModel], patterns: Sequence[str] = ("*",)) -> tuple[list[Member], list[str]]:
    """The members of a blend, each with its refit, and a note for every fold model that is left out.

    Only members with a fold model that matches one of the globs are returned. Raises InputError if there are none, and
    for members that were trained on dev.
    """
    available, outdated_notes = without_outdated(fold_models)
    on_dev_notes = measurable_on("dev", available, patterns)[1]
    # Refits of members that were not requested need no note.
    wanted = [model for model in available if _matches(patterns, model.name, model.folder.refit_of)]
    held_out = [model for model in available if model.folds > 1]
    members, refit_notes = with_refits(group_by_member(held_out, patterns), wanted)
    return members, [*outdated_notes, *on_dev_notes, *refit_notes]


def _matches(patterns: Sequence[str], *names: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def without_outdated(fold_models: Sequence[FoldModel]) -> tuple[list[FoldModel], list[str]]:
    """The fold models except those made from an earlier version of an available run, and a note for each exception.

    Delayed and adapted runs record the weights they were made from. If the source run has since been trained or adapted
    again, they would count, and be weighted, as further networks.
    """
    by_path = {model.path: model for model in fold_models}
    kept, notes = [], []
    for model in fold_models:
        outdated = [command for command, run, weights in _sources(model) if _differs(by_path.get(run.path), weights)]
        if outdated:
            notes.append(f"left out: {model.path} was made from an earlier version of its run: repeat {outdated[0]}")
        else:
            kept.append(model)
    return kept, notes


def _sources(model: FoldModel) -> list[tuple[str, RunFolder, str]]:
    """The commands that derived this run from another, each with the source run and the weights it had then."""
    sources = []
    if (adaptation := model.config.adaptation) is not None:
        sources.append(("folds.adapt", model.folder.trained_run, adaptation.of))
    if (delay := model.config.delay) is not None:
        sources.append(("folds.delay", model.folder.undelayed, delay.of))
    return sources


def _differs(source: FoldModel | None, weights: str) -> bool:
    """Whether a source run now has other weights; one that is missing or has no weights counts as unchanged."""
    return source is not None and source.weights_hash not in (weights, None)
