"""A blend's hypotheses as training targets: of distillation (`teacher`) and of adaptation to speakers.

`ensemble.blend --nbest-out` writes them; the submission's `.json` names their file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from folds.data.batches import SoftTargets
from folds.data.dataset import Split
from folds.store.fold_model import TRANSDUCTIVE, training_tags
from folds.store.nbest_file import NBestFile, NBestHypotheses, file_hash, read_nbest_file
from folds.store.ragged import Ragged
from folds.store.schemas import ConfigFile
from registry import InputError
from registry.json_files import read_json


class _NBest(msgspec.Struct):
    """The file of hypotheses that a sidecar names, relative to it."""

    file: str
    sha256: str
    tags: list[str] | None = None
    """Tags of the members that produced the hypotheses."""


class _Sidecar(msgspec.Struct):
    """What is read from the `.json` file next to a submission."""

    tags: list[str] = []
    nbest: _NBest | None = None


def find_nbest_file(sidecar: Path, option: str) -> tuple[Path, str, list[str]]:
    """(the file of hypotheses that a submission's `.json` names, its SHA-256, the tags of the members behind it).

    Raises InputError, naming `option`, if there are none, or if they changed since the sidecar was written.
    """
    option = f"{option} {sidecar}"
    description = read_json(sidecar, _Sidecar, "pass the .json beside a submission that was blended with --nbest-out")
    if description.nbest is None:
        raise InputError(f"{option}: names no N-best hypotheses: blend with --nbest-out FILE and pass its .csv.json")
    path, expected = sidecar.parent / description.nbest.file, description.nbest.sha256
    digest = file_hash(path)
    if digest != expected:
        raise InputError(f"{option}: {path} was written by another blend: blend again with --nbest-out")
    return path, digest, description.tags if description.nbest.tags is None else description.nbest.tags


def open_nbest_file(
    sidecar: Path, option: str, config: ConfigFile, transductive: bool
) -> tuple[NBestFile, dict[str, Any]]:
    """The hypotheses that `sidecar`, the `.json` of a submission, names, and what a run records about them.

    `config` is the config.json of the run that will use them; `transductive` says whether it learns from those of dev
    or test. Raises InputError, naming `option`, like `find_nbest_file`, or if they are for other data.
    """
    path, digest, inherited = find_nbest_file(sidecar, option)
    option = f"{option} {sidecar}"
    file = read_nbest_file(path)
    for what, given, here in (
        ("a different alphabet", file.alphabet, config.data.alphabet),
        ("different data", file.data, config.data.hash),
    ):
        if given != here:
            raise InputError(f"{option}: blended for {what} ({given}, here {here}): blend again on this data")
    largest = max(int(part.tokens.values.max(initial=0)) for part in (file.oof, file.dev, file.test))
    if largest >= (classes := config.model_config["classes"]):
        raise InputError(f"{option}: {path} has class {largest}; expected 1 to {classes - 1}: blend again on this data")
    tags = training_tags([*inherited, *([TRANSDUCTIVE] if transductive else [])])
    return file, {"from": str(sidecar), "nbest": digest[:16], "tags": tags}


def labelled(split: Split, hypotheses: NBestHypotheses) -> Split:
    """`split` with the most probable hypotheses as transcripts; an utterance without one has an empty transcript."""
    bounds = zip(hypotheses.offsets[:-1], hypotheses.offsets[1:], strict=True)
    best = [first + int(hypotheses.posteriors[first:last].argmax()) for first, last in bounds]
    row_of = rows_of(hypotheses)
    # The empty transcript comes after the hypotheses.
    tokens = Ragged.concatenate([hypotheses.tokens, Ragged.of([[]], np.int16)])
    chosen = [best[row_of[utterance]] if utterance in row_of else len(hypotheses.tokens) for utterance in split.ids]
    return replace(split, tokens=tokens.take(chosen))


def soft_targets(tokens: Ragged, posteriors: np.ndarray, offsets: np.ndarray, rows: Sequence[int]) -> SoftTargets:
    """The hypotheses of a batch of the utterances at `rows`; those of row u start at `offsets[u]`.

    Uses NumPy for the reason given in `collate`.
    """
    chosen, chosen_offsets = Ragged(posteriors, offsets).rows_of(rows)
    tokens = tokens.take(chosen)
    return SoftTargets(
        rows=torch.from_numpy(np.repeat(np.arange(len(rows)), np.diff(chosen_offsets))),
        targets=torch.from_numpy(tokens.values.astype(np.int64)),
        target_lengths=torch.from_numpy(tokens.lengths),
        weights=torch.from_numpy(posteriors[chosen]),
    )


def rows_of(hypotheses: NBestHypotheses, first: int = 0) -> dict[str, int]:
    """Each utterance's position, starting from `first`."""
    return {utterance: row for row, utterance in enumerate(hypotheses.ids, start=first)}
