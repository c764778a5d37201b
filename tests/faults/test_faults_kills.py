"""kill -9 at any moment of a training: resumed, it ends in the files of a training that was never disturbed.

The moments are before and after each step, before and after each renaming, and in the middle of each write. A few of
them are tried by default; `HW3P2_FAULTS=all`, which `make faults` sets, tries 30.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from folds import train
from folds.data.cache import load_dataset
from folds.store.log_probs import read_log_probs
from folds.store.run_folder import SPLITS, RunFolder
from folds.training import loop, metrics_logger
from registry import command

OPTIONS = [
    *("--model", "lstm_small", "--hidden", "8", "--channels", "8", "8", "--strides", "2", "1", "--layers", "1"),
    *("--folds", "2", "--threads", "1", "--batch-frames", "400", "--lr", "0.05", "--epochs", "2", "--select", "best"),
    *("--average", "0.2", "--resume"),
]
ALWAYS = (
    "after step 7",
    "half of metrics.jsonl, epoch 2",
    "half of step00000008.safetensors",
    "after renaming oof.safetensors",
    "before renaming test.safetensors",
)
"""The last of eight steps, the end of the last epoch, and the moments between the three predictions."""
RANDOM = 25 if os.environ.get("HW3P2_FAULTS") == "all" else 0


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a copy of this process; its exit status, negative if a signal ended it.

    A new interpreter would first load PyTorch, for seconds.
    """
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            work()
            status = 0
        except SystemExit as exit:
            status = int(exit.code or 0)
        except BaseException:  # noqa: BLE001 - the copy must not go on with the parent's tests
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def training(data: Path, runs: Path, moment: Callable[[str], None]) -> Callable[[], object]:
    """A training that calls `moment` with a name at each of its moments; only for child processes."""

    times = Counter[str]()

    def counted(name: str) -> None:
        times[name] += 1
        moment(name if times[name] == 1 else f"{name}, time {times[name]}")

    def work() -> None:
        sys.argv = ["train", "--data", str(data), "--runs", str(runs), *OPTIONS]
        _watch(counted)
        command(train.main)

    return work


def _watch(moment: Callable[[str], None]) -> None:
    step, replace, write_bytes, append = loop.train_step, Path.replace, Path.write_bytes, metrics_logger._append
    steps: list[int] = []

    def watched_step(*arguments):
        moment(f"before step {len(steps)}")
        result = step(*arguments)
        moment(f"after step {len(steps)}")
        steps.append(1)
        return result

    def watched_replace(self, target):
        name = "lease" if "lease-" in str(target) else Path(target).name
        moment(f"before renaming {name}")
        replace(self, target)
        moment(f"after renaming {name}")

    def watched_write(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            moment(f"half of {'.'.join(self.name.split('.')[1:3])}")
        return write_bytes(self, data)

    def watched_append(path, row):
        before = path.stat().st_size if path.exists() else 0
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row)[:15])
            file.flush()
            moment(f"half of {path.name}, epoch {row['epoch']}")
        os.truncate(path, before)
        append(path, row)

    loop.train_step, metrics_logger._append = watched_step, watched_append
    Path.replace, Path.write_bytes = watched_replace, watched_write  # type: ignore[method-assign, assignment]


def kill_at(wanted: str) -> Callable[[str], None]:
    def moment(name: str) -> None:
        if name == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return moment


def outcome(run: RunFolder) -> dict[str, object]:
    """What must not depend on interruptions: the names of all files, the metrics, and the predictions' bits."""
    paths = [path for path in sorted(run.path.rglob("*")) if "tensorboard" not in str(path)]
    found: dict[str, object] = {str(path.relative_to(run.path)): None for path in paths}
    # safetensors writes the entries of a header in any order.
    predictions = [read_log_probs(run.predictions(split)) for split in SPLITS]
    return found | {"metrics": run.metrics.read_text()} | {
        split: (log_probs.ids, log_probs.offsets.tobytes(), log_probs.values.tobytes())
        for split, log_probs in zip(SPLITS, predictions, strict=True)
    }


def test_a_training_killed_at_any_moment_ends_in_the_same_files(tiny, tmp_path):
    load_dataset(tiny)
    undisturbed = RunFolder.of(tmp_path / "undisturbed", "lstm_small", 0)
    log = tmp_path / "moments"

    def record(name: str) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(name + "\n")

    assert in_child(training(tiny, tmp_path / "undisturbed", record)) == 0
    expected, moments = outcome(undisturbed), log.read_text().splitlines()
    assert set(ALWAYS) <= set(moments) and len(moments) > 50 and len(undisturbed.metrics.read_text().splitlines()) == 2
    others = [name for name in moments if name not in ALWAYS]
    for number, name in enumerate([*ALWAYS, *random.Random(0).sample(others, RANDOM)]):
        runs = tmp_path / str(number)
        assert in_child(training(tiny, runs, kill_at(name))) == -signal.SIGKILL, name
        assert in_child(training(tiny, runs, lambda name: None)) == 0, name
        assert outcome(RunFolder.of(runs, "lstm_small", 0)) == expected, name
