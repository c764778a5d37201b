"""How much networks err alike: the correlation of their errors, and what all of them have wrong.

`python tests/benchmarks/shared_errors.py RUN RUN… [--data DIR]` decodes dev greedily by each run and prints Markdown:
for each two networks φ, the correlation of their errors on reference phonemes, and the share of the best network's
wrong phonemes that every one of the others has wrong too. Insertions are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from ensemble.statistics.confusions import list_edits, wrong_phonemes
from ensemble.statistics.diversity import error_correlation
from folds.data.data_options import DataOptions
from folds.data.dataset import Split
from folds.store.fold_model import FoldModel, read_finished
from folds.store.run_folder import RunFolder
from models import greedy
from registry import InputError, command
from registry.command_line import parse_options


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """How much networks err alike on dev."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of two or more finished runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.runs) < 2:
            raise InputError("pass the folders of two or more finished runs, such as runs/pblstm/fold0 runs/lstm/fold0")


def wrong_of(network: FoldModel, dev: Split) -> np.ndarray:
    """Which phonemes of dev the network substitutes or deletes, (phonemes,) bool."""
    log_probs = network.load("dev")
    row_of = {utterance: row for row, utterance in enumerate(log_probs.ids)}
    edits = []
    for row, utterance in enumerate(dev.ids):
        values = np.asarray(log_probs[row_of[utterance]], np.float32)
        (hypothesis,) = greedy(values[None], [len(values)])
        edits.append(list_edits(hypothesis, dev.labels(row).tolist()))
    lengths = np.array([len(dev.labels(row)) for row in range(len(dev))], np.int64)
    return wrong_phonemes(edits, lengths)


def main() -> None:
    """Print the table."""
    options = parse_options(Options, "shared_errors.py")
    dev = options.open_dataset().dev
    networks = [read_finished(RunFolder(path), "a run") for path in options.runs]
    wrong = np.array([wrong_of(network, dev) for network in networks])
    correlation = error_correlation(wrong)
    names = [network.folder.name for network in networks]
    print("| φ | " + " | ".join(names) + " | wrong |")
    print("|---" * (len(names) + 2) + "|")
    for name, row, own in zip(names, correlation, wrong, strict=True):
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + f" | {own.mean():.1%} |")
    best = int(wrong.sum(axis=1).argmin())
    pairs = correlation[np.triu_indices(len(names), 1)]
    shared = wrong.all(axis=0).sum() / wrong[best].sum()
    print(f"\nmean φ {pairs.mean():.2f}; all have {shared:.0%} of the phonemes wrong that {names[best]} has wrong")


if __name__ == "__main__":
    command(main)
