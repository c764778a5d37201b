"""`python -m ensemble.joint`: decode fold models with an attention decoder by CTC and attention jointly.

The search is `ensemble.decoding.joint_search`. CTC weight 1 means CTC alone, 0 attention alone. Several weights are
compared on the same utterances; choose by the out-of-fold distance (`--split oof`). With `--out`, one fold model's
hypotheses are written as a submission, with `<out>.json` next to it. A blend does not need this command: rescoring and
minimum Bayes risk use attention scores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from ensemble.blenders.base import BlendRecipe
from ensemble.decoding.batched import sample_rows
from ensemble.decoding.joint_search import joint_search
from ensemble.members.member import Member, group_by_member, measurable_on
from ensemble.members.sidecar import write_with_sidecar
from ensemble.members.stores import StoresOptions
from folds.competition.metric import edit_distances
from folds.data.dataset import Dataset, Split
from folds.data.renormalized import as_read
from folds.store.fold_model import FoldModel, load_model
from folds.training.derived_run import check_data
from models.las import LAS
from registry.bounds import MAX_UTTERANCES, number
from registry.command_line import parse_options
from registry.console import track
from registry.errors import InputError, command
from registry.files import check_writable


@dataclass(frozen=True)
class JointOptions(StoresOptions):
    """Decode fold models with an attention decoder by CTC and attention jointly."""

    members: tuple[str, ...] = ("las*",)
    """Members to decode, each fold model separately: globs over their names."""
    fold: int | None = number(None, at_least=0, at_most=999)
    """Decode only the fold models of this fold; None for all."""
    split: Literal["oof", "dev", "test"] = "dev"
    """Split to decode."""
    ctc_weight: tuple[float, ...] = number((0.5,), at_least=0, at_most=1)
    """Weight of CTC in a hypothesis's score, from 0 to 1; that of attention is 1 minus this. Several are compared."""
    beam: int = number(5, at_least=1, at_most=1000, scale="log")
    """Number of hypotheses kept after each label."""
    limit: int | None = number(None, at_least=1, at_most=MAX_UTTERANCES, scale="log")
    """Decode only this many utterances, sampled with a fixed seed."""
    out: Path | None = None
    """Write the best hypotheses to this file as a submission; for one fold model, one weight and `--split test`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ctc_weight:
            raise InputError("--ctc-weight: no weight is given: expected one or several from 0 to 1")
        if self.out is not None and (self.split != "test" or self.limit is not None or len(self.ctc_weight) > 1):
            raise InputError("--out: a submission needs --split test, a single --ctc-weight and no --limit")


class JointTask(NamedTuple):
    """A fold model's network, and the utterances to decode."""

    fold_model: FoldModel
    network: LAS
    source: Split
    rows: list[int]
    """Indices of the utterances in `source`."""


def select_fold_models(options: JointOptions) -> list[FoldModel]:
    """The fold models of `--members` and `--fold`. Raises InputError for none, or if one has no attention decoder."""
    available = options.find_fold_models()
    available, notes = measurable_on(options.split, available, options.members)
    for note in notes:
        print(note, file=sys.stderr)
    members = group_by_member(available, options.members)
    fold_models = [
        fold_model for member in members for fold_model in member.fold_models if options.fold in (None, fold_model.fold)
    ]
    if not fold_models:
        existing = "; ".join(member.describe() for member in members)
        raise InputError(f"--fold {options.fold}: the members have no fold model of this fold: {existing}")
    for fold_model in fold_models:
        if not fold_model.has_attention_scores:
            raise InputError(
                f"{fold_model.path}: has no attention decoder, or its weights are missing: choose others with "
                f"--members, or copy {fold_model.folder.weights.relative_to(fold_model.path)} as well"
            )
    if options.out is not None and len(fold_models) > 1:
        raise InputError(
            f"--out with {len(fold_models)} fold models: a joint search decodes only one; choose it with --members and "
            "--fold, or blend them"
        )
    return fold_models


def open_task(fold_model: FoldModel, split: str, dataset: Dataset, limit: int | None) -> JointTask:
    """The network and the utterances that the fold model predicted. Raises InputError for other data."""
    check_data(fold_model, dataset)
    source = as_read(dataset.split(split), fold_model.transform)
    network = load_model(fold_model)
    if not isinstance(network, LAS):
        raise InputError(f"{fold_model.path}: joint decoding needs a LAS model: choose others with --members")
    rows = sample_rows(np.array([source.row_of[utterance] for utterance in fold_model.load(split).ids]), limit)
    return JointTask(fold_model, network, source, rows.tolist())


def decode_jointly(task: JointTask, ctc_weights: Sequence[float], beam: int) -> list[list[list[int]]]:
    """For each CTC weight, the best hypothesis of each utterance."""
    hypotheses: list[list[list[int]]] = [[] for _ in ctc_weights]
    for row in track(task.rows, f"{task.fold_model.name} fold {task.fold_model.fold}"):
        features = torch.from_numpy(np.array(task.source.features(row)))
        groups = task.source.groups[row : row + 1]
        for decoded, weight in zip(hypotheses, ctc_weights, strict=True):
            best, *_ = joint_search(task.network, features, beam=beam, ctc_weight=weight, groups=groups)
            decoded.append(list(best.tokens))
    return hypotheses


def decode_and_report(task: JointTask, options: JointOptions) -> list[list[list[int]]]:
    """Decode with each CTC weight, and print one line per weight: distance and speed."""
    start = time.perf_counter()
    hypotheses = decode_jointly(task, options.ctc_weight, options.beam)
    speed = len(task.rows) * len(hypotheses) / (time.perf_counter() - start)
    for weight, decoded in zip(options.ctc_weight, hypotheses, strict=True):
        line = f"{task.fold_model.name} fold {task.fold_model.fold}, CTC weight {weight:g}: "
        line += f"{len(task.rows)} utterances of {options.split}"
        if task.source.tokens is not None:
            distances = edit_distances(decoded, [task.source.labels(row) for row in task.rows])
            line += f", distance {distances.mean():.3f}"
        print(f"{line}, {speed:.1f} utterances/s")
    return hypotheses


def main() -> None:
    """Run the command."""
    options = parse_options(JointOptions, "python -m ensemble.joint", description=__doc__)
    options.use_threads()
    fold_models = select_fold_models(options)
    if options.out is not None:
        check_writable(options.out)
    dataset = options.open_dataset()
    # All fold models are opened before the first is decoded, so that a faulty file is reported at once.
    tasks = [open_task(fold_model, options.split, dataset, options.limit) for fold_model in fold_models]
    for task in tasks:
        hypotheses = decode_and_report(task, options)
        if options.out is not None:
            strings = [dataset.competition.submission_text(tokens) for tokens in hypotheses[0]]
            member = Member(task.fold_model.name, (task.fold_model,))
            settings = {"ctc_weight": options.ctc_weight[0], "beam": options.beam}
            recipe = BlendRecipe("joint", {member.name: 1.0}, settings)
            write_with_sidecar(options.out, strings, dataset, member, recipe.to_json(), options)


if __name__ == "__main__":
    command(main)
