"""`python -m folds.adapt RUN … --hypotheses submission.csv.json`: the same networks, adapted to the speakers.

A blend's hypotheses for out-of-fold, dev and test utterances (`ensemble.blend --nbest-out`) take the place of
transcripts: with them, an affine layer in front of the network is trained for each speaker, while the network itself
stays unchanged; see `folds.training.speaker_adaptation`. The adapted networks, <model>.adapted, are members of a second
blend. Its out-of-fold distances are unbiased, except for the few settings of the first blend, which were fitted on
them. Adapted networks have learnt from features of the test set, so they have the tag "transductive".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import tyro

from folds.data.dataset import Dataset
from folds.data.renormalized import dataset_as_read
from folds.store.fold_model import FoldModel, load_model, read_fold_model
from folds.store.nbest_file import NBestFile
from folds.store.run_folder import RunFolder
from folds.training.blend_hypotheses import open_nbest_file
from folds.training.derived_run import (
    DerivedRunOptions,
    check_data,
    finished_sources,
    held_out_by,
    run_at,
    write_derived_run,
)
from folds.training.speaker_adaptation import Unlabelled, adapt
from registry import InputError, command
from registry.bounds import number
from registry.command_line import parse_options


@dataclass(frozen=True)
class AdaptOptions(DerivedRunOptions):
    """Adapt networks to the speakers they predict, as separate members, <model>.adapted."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs: runs/<model>/fold<k>, or runs/*/fold* for all. Runs that are unfinished, delayed or adapted
    themselves, or held out utterances without hypotheses, are left out, and so are those that were adapted with these
    hypotheses before."""
    hypotheses: Path | None = None
    """The .json file next to a submission that was blended with --nbest-out; required."""
    passes: int = number(8, at_least=1, at_most=1000)
    """Number of passes over each speaker's utterances."""
    lr: float = number(0.02, above=0.0, at_most=1.0)
    """Learning rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hypotheses is None:
            raise InputError(
                "--hypotheses is missing: run python -m ensemble.blend --method mbr --nbest-out first.safetensors "
                "--out first.csv, and pass first.csv.json"
            )


def write_adapted(options: AdaptOptions) -> list[RunFolder]:
    """Write the folders of the adapted runs; return those written."""
    device, dataset = options.pick_device(), options.open_dataset()
    unnamed = [split.name for split in (dataset.dev, dataset.test) if not split.names_groups]
    if unnamed:
        raise InputError(
            f"{dataset.root}: the file names of {' and '.join(unnamed)} do not contain the speakers, as those of "
            "LibriSpeech do, so networks cannot be adapted to speakers: blend them as they are"
        )
    runs = map(run_at, options.run)
    sources = finished_sources([run for run in runs if run.trained_run == run], "folds.adapt")
    written = []
    for source, file, adaptation in _with_hypotheses(options, dataset, sources):
        folder = source.folder.adapted
        if folder.finished and _same(read_fold_model(folder).recorded.get("adaptation"), adaptation):
            print(f"{folder.title}: already finished, left unchanged")
            continue
        _write(source, dataset, folder, file, adaptation, device)
        written.append(folder)
    return written


def _with_hypotheses(
    options: AdaptOptions, dataset: Dataset, sources: Sequence[FoldModel]
) -> list[tuple[FoldModel, NBestFile, dict[str, Any]]]:
    """The runs that can be adapted with the hypotheses, each with these and what its adapted run records about them.

    All are checked before the first is adapted, since that takes long. Raises InputError for one that cannot be
    adapted, and if all lack hypotheses.
    """
    assert options.hypotheses is not None  # see AdaptOptions
    found: list[tuple[FoldModel, NBestFile, dict[str, Any]]] = []
    for source in sources:
        if source.config.group_layer is not None:
            raise InputError(f"{source.path}: was trained with --group-layer: leave this run out")
        check_data(source, dataset)
        file, facts = open_nbest_file(options.hypotheses, "--hypotheses", source.config, transductive=True)
        if lacking := set(source.load("oof").ids).difference(file.oof.ids):
            print(f"left out: {source.path} held out {len(lacking)} utterances for which the blend has no hypotheses")
            continue
        file = found[0][1] if found else file  # the same file, kept in memory only once
        found.append((source, file, facts | {"of": source.weights_hash, "passes": options.passes, "lr": options.lr}))
    if sources and not found:
        raise InputError(
            f"--hypotheses {options.hypotheses}: lacks utterances that these runs held out, since a blend has "
            "hypotheses only for utterances that all its members held out: blend members with the folds of these runs"
        )
    return found


def _same(before: dict[str, Any] | None, adaptation: dict[str, Any]) -> bool:
    """Whether a run was adapted like this before, regardless of where the hypotheses' file was then."""
    return before is not None and before | {"from": ""} == adaptation | {"from": ""}


def _write(
    source: FoldModel,
    dataset: Dataset,
    folder: RunFolder,
    file: NBestFile,
    adaptation: dict[str, Any],
    device: torch.device,
) -> None:
    network, as_read = load_model(source), dataset_as_read(dataset, source.transform)
    held_out = held_out_by(source, dataset)
    parts = [
        Unlabelled.of(as_read.train, held_out, file.oof),
        Unlabelled.of(as_read.dev, np.arange(len(dataset.dev)), file.dev),
        Unlabelled.of(as_read.test, np.arange(len(dataset.test)), file.test),
    ]
    for part in parts:
        part.check(f"--hypotheses {adaptation['from']}", source.folder.title)
    facts = adapt(
        network,
        parts,
        passes=adaptation["passes"],
        lr=adaptation["lr"],
        device=device,
        description=f"{folder.title}, adapting",
    )
    assert network.group_layer is not None
    changes = {
        "adaptation": adaptation,
        "group_layer": msgspec.to_builtins(facts),
        "parameters": source.parameters + sum(weight.numel() for weight in network.group_layer.parameters()),
        "tags": sorted({*source.tags, *adaptation["tags"]}),
    }
    write_derived_run(source, dataset, network, folder, changes, device)


def main() -> None:
    """Run the command."""
    write_adapted(parse_options(AdaptOptions, "python -m folds.adapt", description=__doc__))


if __name__ == "__main__":
    command(main)
