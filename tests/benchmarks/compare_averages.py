"""What a guide is worth: frame averages of two fold models of one stride, with and without guided CTC.

`python tests/benchmarks/compare_averages.py GUIDE MODEL GUIDED [--data DIR]` takes three run folders of one fold: the
guide's, and the same model trained alone and with `folds.train --guide`. It prints a Markdown table of greedy
distances: of the three, and of the unweighted mean of the guide's posteriors with those of each other model. "Same
spikes" is the share of the guide's spikes that the model has in the same frame. The last row is the difference between
the averages, with a paired 95 % bootstrap interval over speakers; it does not include the variation from seed to seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from folds.competition.bootstrap import paired_bootstrap
from folds.data.data_options import DataOptions
from folds.data.dataset import Dataset
from folds.store.fold_model import read_finished
from folds.store.log_probs import LogProbs
from folds.store.run_folder import RunFolder
from folds.training.predict import greedy_distances
from models import BLANK
from registry import InputError, command
from registry.command_line import parse_options

SPLITS = ("oof", "dev")


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Compare frame averages of two networks, with and without guided CTC."""

    runs: tyro.conf.Positional[tuple[Path, Path, Path]]
    """The folders of three finished runs of one fold: the guide's, the model's alone, and the guided model's."""


def averaged(one: LogProbs, other: LogProbs) -> LogProbs:
    """The mean of both models' posteriors. Raises InputError if utterances or numbers of frames differ."""
    if one.ids != other.ids or not np.array_equal(one.offsets, other.offsets):
        raise InputError("the utterances or strides of the runs differ: pass runs of the same fold and stride")
    both = np.logaddexp(one.values.astype(np.float32), other.values.astype(np.float32))
    return replace(one, values=both - np.float32(np.log(2)))


def same_spikes(log_probs: LogProbs, guide: LogProbs) -> float:
    """The share of the guide's spikes, 0 to 1, that the model has in the same frame."""
    spikes = guide.values.argmax(axis=1)
    return float((log_probs.values.argmax(axis=1) == spikes)[spikes != BLANK].mean())


def distances(log_probs: LogProbs, split: str, dataset: Dataset) -> np.ndarray:
    """Greedy edit distances `(N,)`, in the order of `log_probs`."""
    source = dataset.train if split == "oof" else dataset.dev
    return greedy_distances(log_probs, source)


def compared(folders: list[RunFolder], split: str, dataset: Dataset) -> list[str]:
    """The column of one split: the three models, both averages and their difference."""
    guide, *others = (read_finished(folder, str(folder.path)).load(split) for folder in folders)
    models = [f"{distances(it, split, dataset).mean():.3f} ({same_spikes(it, guide):.0%})" for it in others]
    alone, guided = (distances(averaged(guide, other), split, dataset) for other in others)
    speakers = [utterance.split("-", 1)[0] for utterance in guide.ids]
    difference = str(paired_bootstrap(guided, alone, speakers))
    own = f"{distances(guide, split, dataset).mean():.3f}"
    return [own, *models, f"{alone.mean():.3f}", f"{guided.mean():.3f}", difference]


def main() -> None:
    """Print the table."""
    options = parse_options(Options, "compare_averages.py")
    dataset = options.open_dataset()
    columns = [compared([RunFolder(path) for path in options.runs], split, dataset) for split in SPLITS]
    rows = ("guide", "model (same spikes)", "guided model (same spikes)", "guide and model", "guide and guided model")
    print("| greedy distance | OOF | dev |\n|---|---|---|")
    for row, *cells in zip((*rows, "difference of the averages"), *columns, strict=True):
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    command(main)
