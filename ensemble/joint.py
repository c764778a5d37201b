"""`python -m ensemble.joint`: decode a member with an attention speller by its CTC and its speller together.

The search is `models.las.joint_search`. CTC weight 1 is CTC alone, 0 the speller alone; several weights are compared
over the same utterances, and out-of-fold distance should choose. With --out it writes one member's submission. A blend
needs none of this: rescoring and minimum Bayes risk ask spellers by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from ensemble.members.member import group_by_member
from folds.competition.detect import data_root
from folds.competition.metric import edit_distances
from folds.competition.submission import write_submission
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset, Split
from folds.store.fold_model import FoldModel, find_fold_models, load_model
from models.las import LAS, joint_search
from registry.errors import InputError, check_place, command


@dataclass(frozen=True)
class JointOptions:
    """Decode members with an attention speller by CTC and speller together."""

    data: Path | None = None
    """The competition's folder; else $HW3P2_DATA, else the demo's."""
    runs: Path = Path("runs")
    """Folder of trained members."""
    members: tuple[str, ...] = ("las*",)
    """Globs over members' names; each fold model is decoded on its own."""
    fold: int | None = None
    """The fold model to decode; all there are, where none is given."""
    split: Literal["oof", "dev", "test"] = "dev"
    """Which utterances."""
    ctc_weight: tuple[float, ...] = (0.5,)
    """Share of CTC in a string's score, from 0 to 1; the speller has the rest. Several are compared."""
    beam: int = 5
    """Strings kept after each label."""
    limit: int | None = None
    """Decode only so many utterances, drawn by a fixed seed."""
    out: Path | None = None
    """Write the best strings here as a submission; for one fold model, one weight and --split test."""
    allow_pickle: bool = False
    """Read object arrays of the competition's files (the formats of F20 and F21 need it)."""

    def __post_init__(self) -> None:
        if not self.ctc_weight or not all(0 <= weight <= 1 for weight in self.ctc_weight):
            raise InputError(f"--ctc-weight {' '.join(map(str, self.ctc_weight))}: expected shares from 0 to 1")
        for name in ("beam", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} {value}: expected 1 or more")
        if self.out is not None and (self.split != "test" or self.limit is not None or len(self.ctc_weight) > 1):
            raise InputError("--out: a submission is of all of --split test, with one --ctc-weight and no --limit")


def chosen_rows(member: FoldModel, split: str, dataset: Dataset, limit: int | None) -> tuple[Split, np.ndarray]:
    """The data and, of them, the rows of one fold model's utterances. Raises InputError where it has none."""
    source = {"oof": dataset.train, "dev": dataset.dev, "test": dataset.test}[split]
    row_of = {name: row for row, name in enumerate(source.ids)}
    ids = member.load(split).ids
    if member.config["data"]["hash"] != dataset.hash or any(name not in row_of for name in ids):
        raise InputError(f"{member.path}: was trained on other data than {dataset.root}: give its --data")
    if not ids:
        raise InputError(f"{member.path}: was fitted on everything and has nothing out of fold: say --split dev")
    rows = np.array([row_of[name] for name in ids])
    if limit is not None and limit < len(rows):
        rows = rows[np.sort(np.random.default_rng(0).choice(len(rows), limit, replace=False))]
    return source, rows


def decode_rows(
    member: FoldModel, model: LAS, source: Split, rows: Sequence[int], weights: Sequence[float], beam: int
) -> list[list[list[int]]]:
    """The best string of each utterance, for each weight."""
    found: list[list[list[int]]] = [[] for _ in weights]
    for row in tqdm(rows, f"{member.name} fold {member.fold}", leave=False, unit="utt"):
        features = torch.from_numpy(np.array(source.features(row)))
        for strings, weight in zip(found, weights, strict=True):
            strings.append(joint_search(model, features, beam=beam, ctc_weight=weight)[0][0])
    return found


def main() -> None:
    """The command."""
    options = tyro.cli(JointOptions, prog="python -m ensemble.joint", description=__doc__)
    groups = group_by_member(find_fold_models(options.runs), options.members)
    members = [m for group in groups for m in group.members if options.fold in (None, m.fold)]
    if not members:
        told = "; ".join(group.describe() for group in groups)
        raise InputError(f"--fold {options.fold}: no fold model of these members is of that fold: {told}")
    for member in members:
        if not member.has_attention_scores:
            raise InputError(
                f"{member.path}: has no attention speller, or its checkpoint/weights.safetensors was not copied along: "
                "choose others with --members"
            )
    if options.out is not None:
        if len(members) > 1:
            count = f"--out with {len(members)} fold models"
            raise InputError(f"{count}: a joint search is of one: choose it with --members and --fold, or blend them")
        check_place(options.out)
    dataset = load_dataset(data_root(options.data), allow_pickle=options.allow_pickle)
    # All are read before the first is decoded.
    opened = [(m, load_model(m), *chosen_rows(m, options.split, dataset, options.limit)) for m in members]
    for member, model, source, rows in opened:
        begun = time.perf_counter()
        found = decode_rows(member, model, source, rows.tolist(), options.ctc_weight, options.beam)
        speed = len(rows) * len(found) / (time.perf_counter() - begun)
        for weight, strings in zip(options.ctc_weight, found, strict=True):
            line = f"{member.name} fold {member.fold}, CTC weight {weight:g}: {len(rows)} utterances of {options.split}"
            if source.tokens is not None:
                line += f", distance {edit_distances(strings, [source.labels(row) for row in rows]).mean():.3f}"
            print(f"{line}, {speed:.1f} utterances/s")
    if options.out is not None:
        write_submission(options.out, dataset, [dataset.alphabet.to_string(string) for string in found[0]])
        print(f"wrote {options.out} ({len(rows)} rows)")


if __name__ == "__main__":
    command(main)
