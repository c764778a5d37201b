"""Two runs by folds.launch with two jobs of one thread, against the same two one after the other; a script, not a test.

    python tests/benchmarks/bench_launch.py                     on the demo competition (folds.demo makes it first)
    python tests/benchmarks/bench_launch.py --data demo/competition --epochs 4 --pairs 3

Both train the same: the metrics are compared byte for byte. On a machine with two free cores the launch takes about
half the time; the CPU seconds show what sharing it costs, and the load average whether others were at work.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = "lstm_small"


def measure(data: Path, runs: Path, jobs: int, epochs: int) -> tuple[float, float]:
    """(wall, CPU) seconds of training two folds of which `jobs` run at the same time, each with one thread."""
    command = [sys.executable, "-m", "folds.launch", "--data", str(data), "--runs", str(runs), "--models", MODEL]
    options = ["--fold-count", "2", "--jobs", str(jobs), "--epochs", str(epochs), "--threads", "1", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="a competition; by default a demo of 6 speakers")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3, help="how often both are measured, in turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch) / "competition"
        if options.data is None:
            demo = ["-m", "folds.demo", "--out", str(data), "--speakers", "6", "--utterances", "12"]
            subprocess.run([sys.executable, *demo], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        for pair in range(options.pairs):
            runs = {jobs: Path(scratch) / f"{pair}-{jobs}" for jobs in (1, 2)}
            load = os.getloadavg()[0]
            # In turn first and second: the load of a shared machine drifts.
            order = (1, 2) if pair % 2 == 0 else (2, 1)
            measured = {jobs: measure(data, runs[jobs], jobs, options.epochs) for jobs in order}
            (alone, cpu_alone), (both, cpu_both) = measured[1], measured[2]
            for fold in ("fold0", "fold1"):
                first, second = (folder / MODEL / fold / "metrics.jsonl" for folder in runs.values())
                assert first.read_bytes() == second.read_bytes(), f"{first} and {second} differ"
            print(
                f"one by one {alone:.1f} s ({cpu_alone:.1f} CPU-s), two jobs {both:.1f} s ({cpu_both:.1f} CPU-s): "
                f"{alone / both:.2f} times as fast, equal metrics; load average {load:.1f} on {os.cpu_count()} cores",
                flush=True,
            )


if __name__ == "__main__":
    main()
