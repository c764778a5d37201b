"""Disk, memory and time of packing, training and predicting against the number of utterances; a script, not a test.

    python tests/benchmarks/bench_scale.py                      50, 100 and 200 utterances of the real data's length

Each stage runs in a process of its own, so that its peak of memory is its own. docs/scale.md shows what this prints.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FEATURES, FRAMES, LABELS = 28, 1269, 130
ROOT = Path(__file__).parents[2]


def make_competition(root: Path, utterances: int) -> None:
    """Random features with the real data's mean length; a tenth as many utterances of dev and of test."""
    random = np.random.default_rng(0)
    phonemes = np.array(["AE", "K", "T", "S", "IY", "N"])
    counts = {"train-clean-100": utterances, "dev-clean": utterances // 10, "test-clean": utterances // 10}
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
    rows = "".join(f"{number},-\n" for number in range(utterances // 10))
    (root / "test-clean" / "random_submission.csv").write_text("index,label\n" + rows)


STAGES = {
    "pack": "from folds import load_dataset; load_dataset(pathlib.Path(sys.argv[1]), progress=False)",
    "train": (
        "from folds import train; train.main(['--data', sys.argv[1], '--runs', sys.argv[2], '--model', 'lstm_small', "
        "'--folds', '1', '--epochs', '1', '--threads', '1', '--precision', 'fp32'])"
    ),
}
REPORT = "used = resource.getrusage(resource.RUSAGE_SELF); print('CPU', used.ru_utime + used.ru_stime, used.ru_maxrss)"


def run_stage(name: str, data: Path, runs: Path, cache: Path) -> tuple[float, float]:
    """(CPU seconds, peak MiB) of a stage."""
    code = f"import pathlib, resource, sys; {STAGES[name]}; {REPORT}"
    environment = {"HW3P2_CACHE": str(cache), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code, str(data), str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, kibibytes = done.stdout.splitlines()[-1].split()[1:]
    return float(seconds), int(kibibytes) / 1024


def size_of(folder: Path, pattern: str) -> float:
    """MB of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, nargs="+", default=[50, 100, 200])
    for utterances in parser.parse_args().utterances:
        with tempfile.TemporaryDirectory() as scratch:
            data, runs, cache = (Path(scratch) / name for name in ("data", "runs", "cache"))
            make_competition(data, utterances)
            pack, train = (run_stage(stage, data, runs, cache) for stage in ("pack", "train"))
            predictions = size_of(runs, "dev.safetensors") + size_of(runs, "test.safetensors")
            checkpoint = size_of(runs, "step*") / max(1, len(list(runs.rglob("step*"))))
            features, packed = size_of(data, "mfcc/*"), size_of(cache, "*")
            print(f"{utterances:6} utterances: features {features:.1f} MB, cache {packed:.1f} MB")
            print(f"       pack {pack[0]:.1f} CPU-s, {pack[1]:.0f} MiB")
            print(f"       train an epoch and predict {train[0]:.1f} CPU-s, {train[1]:.0f} MiB")
            print(f"       predictions of a fifth {predictions:.2f} MB; a checkpoint {checkpoint:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
