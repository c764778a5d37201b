"""Training speed with the default number of CPU threads, beside 1 and 2, on an idle and on a busy machine.

    python tests/benchmarks/bench_threads.py             about 11 minutes; on a machine that does nothing else
    python tests/benchmarks/bench_threads.py --quick     tries the script

Each model trains with each number of threads in a process of its own, on the demo competition, as `folds.train` does:
for each state of the machine anew, for some seconds after some for warm-up. "busy" is beside one process that computes
all the time, "busy later" beside one that begins in the middle of the measurement. Prints a Markdown table of frames/s,
the medians of the repeats, with the default's numbers of threads at the end, and the default's time as a multiple of
the best one's.
"""

from __future__ import annotations

# It sets how OpenMP's threads wait, which must be done before PyTorch is imported.
import folds.train  # noqa: F401  # isort: skip

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from folds.data.cache import load_dataset
from folds.data.dataset import Dataset
from folds.demo import DemoOptions, make
from folds.store.run_folder import RunFolder
from folds.training.cost import Cost
from folds.training.device import device_name, resolve_precision
from folds.training.distributed import ProcessGroup
from folds.training.loop import fit
from folds.training.options import TrainingRecipe, TrainOptions
from folds.training.run_config import count_parameters
from folds.training.task import TrainingTask
from folds.training.threads import CPUThreads
from models import create_model

THREADS = {"default": 0, "1 thread": 1, "2 threads": 2}
# After which share of the warm-up and of the measured time the other process begins to compute; None for no process.
MACHINES = {"alone": (None, None), "busy": (0.0, 0.0), "busy later": (None, 0.5)}
WARM_UP_SECONDS = 1.5
# No measurement begins later than this, so that all end within 12 minutes.
LIMIT_SECONDS = 690.0
CPU = torch.device("cpu")


def measure_all(data: Path, name: str, threads: int, warm_up: float, seconds: float) -> dict[str, dict[str, float]]:
    """What `measure` gives for each state of the machine, in this process."""
    dataset = load_dataset(data, progress=False)
    return {machine: measure(dataset, name, machine, threads, warm_up, seconds) for machine in MACHINES}


def measure(
    dataset: Dataset, name: str, machine: str, threads: int, warm_up: float, seconds: float
) -> dict[str, float]:
    """Train a new model for some seconds: frames/s, and the number of threads at the end."""
    model = create_model(name, features=dataset.features, classes=dataset.alphabet.classes)
    cpu_threads = CPUThreads.of_run(TrainOptions(threads=threads), count_parameters(model), CPU, ProcessGroup())
    precision = resolve_precision("auto", CPU, model)
    rows = np.arange(len(dataset.train))
    speed: float | None = None
    for duration, start in zip((warm_up, seconds), MACHINES[machine], strict=True):
        recipe = TrainingRecipe(minutes=duration / 60, batch_frames=3000, precision=precision)
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(sys.stderr):
            folder = RunFolder(Path(temporary))
            # One utterance is held out, because scoring the held-out ones is not what is measured.
            task = TrainingTask(dataset, rows[1:], rows[:1], recipe, 0, CPU, folder, threads=cpu_threads)
            with load(None if start is None else start * duration):
                fit(model, task)
            speed = Cost.of_run(task.folder).frames_per_s
    assert speed is not None
    return {"frames_per_s": speed, "threads": torch.get_num_threads()}


@contextlib.contextmanager
def load(delay: float | None) -> Iterator[None]:
    """Within the block, from `delay` seconds after its beginning, another process computes all the time; none if None.

    It ends with this process, too.
    """
    if delay is None:
        yield
        return
    code = f"import os, time\ntime.sleep({delay})\nwhile os.getppid() == {os.getpid()}: sum(range(100_000))"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure_in_a_process(
    data: Path, name: str, threads: int, warm_up: float, seconds: float
) -> dict[str, dict[str, float]]:
    """As `measure_all`, in a new process."""
    arguments = ["--data", data, "--measure", name, "--threads", threads]
    arguments += ["--warm-up", warm_up if threads == 0 else WARM_UP_SECONDS, "--seconds", seconds]
    # The processes of the command line decide; a limit that this one inherited does not.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout)


def print_table(speeds: dict[tuple[str, str, str], list[dict[str, float]]], models: list[str]) -> None:
    """The medians as a Markdown table."""
    print(f"| model | machine | {' | '.join(THREADS)} | default's time / best |")
    print("|---|---|" + "---|" * (len(THREADS) + 1))
    for name in models:
        for machine in MACHINES:
            rows = [speeds.get((name, machine, label), []) for label in THREADS]
            if not all(rows):
                continue
            medians = [statistics.median(row["frames_per_s"] for row in measured) for measured in rows]
            cells = [f"{median:,.0f}" for median in medians]
            cells[0] += f" ({', '.join(str(row['threads']) for row in rows[0])})"
            print(f"| `{name}` | {machine} | {' | '.join(cells)} | {max(medians) / medians[0]:.2f} |")


def run(options: argparse.Namespace, data: Path) -> None:
    """All measurements, the repeats outermost: a machine that slows down meanwhile slows all of them alike."""
    make(DemoOptions(out=data, speakers=6, utterances=30))
    load_dataset(data, progress=False)
    start, models = time.monotonic(), options.models.split(",")
    speeds: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    cases = [(name, label) for name in models for label in THREADS]
    for name, label in cases * options.repeats:
        if time.monotonic() - start > LIMIT_SECONDS:
            print("stopped after 12 minutes; the medians are of fewer repeats", file=sys.stderr)
            break
        for machine, measured in measure_in_a_process(
            data, name, THREADS[label], options.warm_up, options.seconds
        ).items():
            speeds.setdefault((name, machine, label), []).append(measured)
    repeats = min(len(measured) for measured in speeds.values())
    print(f"{device_name(CPU)}, {os.cpu_count()} CPUs; frames/s, medians of {repeats} × {options.seconds:g} s\n")
    print_table(speeds, models)


def main() -> None:
    """Print the table, or with --measure one measurement as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="pblstm_small,gru_small,pblstm", help="separated by commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of training per measurement")
    parser.add_argument(
        "--warm-up",
        type=float,
        default=7.0,
        help="seconds in which the default finds its number of threads: more than six steps if one takes over a second",
    )
    parser.add_argument("--quick", action="store_true", help="one repeat of 1 second of the first model")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_all(options.data, options.measure, options.threads, options.warm_up, options.seconds)))
        return
    if options.quick:
        options.models, options.repeats, options.seconds = options.models.split(",")[0], 1, 1.0
    with tempfile.TemporaryDirectory() as temporary:
        run(options, options.data or Path(temporary, "competition"))


if __name__ == "__main__":
    main()
