"""Disk, memory and time of every stage at three sizes, and what follows for the real data; a script, not a test.

    python tests/benchmarks/bench_scale.py                      100, 300 and 900 utterances of the real data's length

The features are random. Each stage is a process of its own, on one thread, and is measured with its imports. A network
that has learnt nothing predicts only blanks, which are searched in no time; so the predictions of the trained member
are replaced by peaky ones (as in bench_blend.py) before they are blended, with errors of their own for each of three
members. docs/scale.md shows the table that this prints.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_blend import peaky_values

from ensemble.hypotheses.open_inputs import InputOptions
from folds import load_dataset
from folds.competition.alphabets import F22
from folds.data.dataset import Split
from folds.store.log_probs import LogProbs, read_log_probs, write_log_probs

FEATURES, FRAMES, LABELS = 28, 1269, 130
MEMBERS = ("a", "b", "c")
ROOT = Path(__file__).parents[2]
PACK = "import pathlib, sys; from folds import load_dataset; load_dataset(pathlib.Path(sys.argv[1]), progress=False)"


@dataclass(frozen=True)
class Size:
    """How many utterances there are, and folds."""

    train: int
    others: int
    """Those of dev and test."""
    folds: int


REAL = (Size(28_539, 2_703 + 2_620, folds=5), Size(132_553, 2_703 + 2_620, folds=5))


def utterances(size: Size) -> float:
    return size.train + size.others


def trained(size: Size) -> float:
    """In an epoch of each of the folds, divided by the folds: whatever their number, one leaves out a fold."""
    return size.train * (size.folds - 1) / size.folds


def predicted(size: Size) -> float:
    """By a member's networks together."""
    return size.train + size.folds * size.others


def blended(size: Size) -> float:
    """Of a member's predictions: weights are fitted on some of the training utterances."""
    return min(size.train, InputOptions().fit_limit or size.train) + size.folds * size.others


@dataclass(frozen=True)
class Quantity:
    """What was measured at one size."""

    name: str
    value: float
    grows: Callable[[Size], float] | None = None
    """What it grows with; None if sizes so small tell nothing about large ones, as with memory."""


def estimate(quantities: list[Quantity], sizes: list[Size], size: Size) -> float | None:
    """A quantity at another size, by the line through its first and its last measurement."""
    first, last, grows = quantities[0], quantities[-1], quantities[0].grows
    if grows is None:
        return None
    slope = (last.value - first.value) / (grows(sizes[-1]) - grows(sizes[0]))
    return first.value + slope * (grows(size) - grows(sizes[0]))


@dataclass(frozen=True)
class Usage:
    """What a process took."""

    cpu_s: float
    wall_s: float
    peak_mib: float


class Scratch:
    """A folder with a competition, runs and a cache, in which the stages are run."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size = folder, size
        self.data, self.runs, self.cache = (folder / name for name in ("data", "runs", "cache"))
        make_competition(self.data, size)

    def run(self, *arguments: str) -> Usage:
        """Run Python with these arguments."""
        environment = {"HW3P2_CACHE": str(self.cache), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        started = time.perf_counter()
        with open(self.folder / "log.txt", "w+") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **environment},
            )
            _, status, used = os.wait4(process.pid, 0)
            if status:
                log.seek(0)
                raise SystemExit(f"{' '.join(arguments)}\n{log.read()}")
        return Usage(used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024)

    def command(self, module: str, *arguments: str) -> Usage:
        """Run a command on the competition and the runs."""
        places = ["--data", str(self.data), "--runs", str(self.runs), "--threads", "1"]
        return self.run("-m", module, *places, *arguments)

    def train(self, *more: str) -> Usage:
        """Train all folds of a member for an epoch."""
        recipe = ["--model", "pblstm_small", "--epochs", "1", "--precision", "fp32"]
        folds = ["--name", MEMBERS[0], "--fold", "all", "--folds", str(self.size.folds)]
        return self.command("folds.train", *recipe, *folds, *more)

    def megabytes(self, pattern: str) -> float:
        """Of all files of a name."""
        return sum(path.stat().st_size for path in self.folder.glob(pattern)) / 1e6


def make_competition(root: Path, size: Size) -> None:
    """Random features with the real data's mean length."""
    random = np.random.default_rng(0)
    phonemes = np.array(F22.phonemes[1:])
    counts = {"train-clean-100": size.train, "dev-clean": size.others // 2, "test-clean": size.others // 2}
    for split, count in counts.items():
        for folder in ("mfcc", "transcript"):
            (root / split / folder).mkdir(parents=True)
        for number in range(count):
            length = int(np.clip(random.normal(FRAMES, 400), 400, 2450))
            name = f"{number % 10}-1-{number:06d}.npy"
            np.save(root / split / "mfcc" / name, random.standard_normal((length, FEATURES), dtype=np.float32))
            labels = random.choice(phonemes, length * LABELS // FRAMES)
            if split != "test-clean":
                np.save(root / split / "transcript" / name, np.array(["[SOS]", *labels, "[EOS]"]))
    rows = "".join(f"{number},-\n" for number in range(counts["test-clean"]))
    (root / "test-clean" / "random_submission.csv").write_text("index,label\n" + rows)


def simulate_members(scratch: Scratch) -> None:
    """Make three members of the trained one, with peaky predictions."""
    dataset = load_dataset(scratch.data, scratch.cache, progress=False)
    splits = {"oof": dataset.train, "dev": dataset.dev, "test": None}
    for member in MEMBERS[1:]:
        shutil.copytree(scratch.runs / MEMBERS[0], scratch.runs / member)
    for seed, member in enumerate(MEMBERS):
        for path in sorted((scratch.runs / member).glob("fold*/*.safetensors")):
            if path.stem in splits:
                log_probs = read_log_probs(path)
                references = labels_of(log_probs, splits[path.stem])
                values = peaky_values(references, log_probs.lengths, seed)
                write_log_probs(path, replace(log_probs, values=values))


def labels_of(log_probs: LogProbs, split: Split | None) -> list[np.ndarray]:
    """The labels of each utterance; random ones without a split, for test."""
    if split is None:
        random = np.random.default_rng(0)
        counts = log_probs.lengths * log_probs.stride * LABELS // FRAMES
        return [random.integers(1, F22.classes, count) for count in counts]
    row_of = {utterance: row for row, utterance in enumerate(split.ids)}
    return [split.labels(row_of[utterance]) for utterance in log_probs.ids]


def measure(scratch: Scratch) -> list[Quantity]:
    """Every quantity at one size, in the order of the table."""
    rows: list[Quantity] = []

    def add(stage: str, usage: Usage, grows: Callable[[Size], float]) -> None:
        print(f"  {stage}: {usage.cpu_s:.1f} CPU-s, {usage.wall_s:.1f} s, {usage.peak_mib:.0f} MiB", flush=True)
        rows.append(Quantity(f"{stage}, CPU seconds", usage.cpu_s, grows))
        rows.append(Quantity(f"{stage}, peak in MiB", usage.peak_mib))

    def add_file(name: str, pattern: str, grows: Callable[[Size], float] | None) -> None:
        rows.append(Quantity(f"{name}, MB", scratch.megabytes(pattern), grows))

    add("packing", scratch.run("-c", PACK, str(scratch.data)), utterances)
    add_file("cache", "cache/*", utterances)
    whole = scratch.train()
    timings = scratch.runs.glob("*/fold*/timing.jsonl")
    epoch = sum(json.loads(path.read_text())["cpu_s"] for path in timings) / scratch.size.folds
    add("an epoch of one fold", replace(whole, cpu_s=epoch), trained)
    add_file("weights", "runs/a/fold0/checkpoint/weights*", None)
    for path in scratch.runs.glob("*/fold*/*.safetensors"):
        path.unlink()
    add("predictions of a member", scratch.train("--resume"), predicted)
    add_file("predictions of a member", "runs/a/fold*/*.safetensors", predicted)
    simulate_members(scratch)
    add("blend of three members", scratch.command("ensemble.blend", "--out", "submission.csv"), blended)
    language_model = ["--lm", "train", "--lm-weight", "0.5", "--length-bonus", "1"]
    decode = ["--members", MEMBERS[0], "--split", "oof", *language_model]
    add("decoding with a language model", scratch.command("ensemble.decode", *decode), lambda size: size.train)
    add("report of the blend", scratch.command("ensemble.report"), lambda size: size.others)
    add_file("report of the blend", "report.html", None)
    return rows


def table(sizes: list[Size], columns: list[list[Quantity]]) -> str:
    """The table of docs/scale.md: the measurements, how far the middle one is from the line, and the estimates."""
    header = [f"{size.train:,}" for size in sizes] + ["middle one"] + [f"{size.train:,}" for size in REAL]
    lines = [f"| | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
    middle = len(sizes) // 2
    for cells in zip(*columns, strict=True):
        quantities = list(cells)
        expected = estimate(quantities, sizes, sizes[middle])
        error = "–" if expected is None else f"{100 * (quantities[middle].value / expected - 1):+.0f} %"
        shown = [*(_number(cell.value) for cell in cells), error]
        shown += [_number(estimate(quantities, sizes, real)) for real in REAL]
        lines.append(f"| {cells[0].name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, nargs=3, default=[100, 300, 900])
    sizes = [Size(count, 2 * (count // 10), folds=2) for count in parser.parse_args().utterances]
    columns = []
    for size in sizes:
        print(f"{size.train} utterances", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            columns.append(measure(Scratch(Path(folder), size)))
    print(table(sizes, columns))


if __name__ == "__main__":
    main()
