"""The members that blends and reports begin with: those that are finished, with their refits."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ensemble.members.member import Member, group_by_member, measurable_on
from ensemble.members.refits import with_refits
from ensemble.members.stores import StoresOptions
from folds.store.fold_model import unfinished_runs
from registry import InputError


def find_members(options: StoresOptions, patterns: Sequence[str]) -> list[Member]:
    """The finished members that match one of the globs, with their refits; what is left out is named on stderr.

    Raises InputError without any, and for members that were trained on dev.
    """
    available = options.find_fold_models()
    on_dev_notes = measurable_on("dev", available, patterns)[1]
    held_out = [model for model in available if model.folds > 1]
    if not held_out:
        unfinished = [path for runs in options.folders for path in unfinished_runs(runs)]
        count = len(unfinished)
        hint = f" ({count} unfinished, such as {unfinished[0]}: continue them with --resume)" if count else ""
        kind = "member that holds out a fold" if available else "member"
        raise InputError(f"{options.describe_runs()}: no finished {kind}{hint}; train one with python -m folds.train")
    members, refit_notes = with_refits(group_by_member(held_out, patterns), available)
    for note in (*options.unfinished_notes(), *on_dev_notes, *refit_notes):
        print(note, file=sys.stderr)
    return members
