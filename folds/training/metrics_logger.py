"""What a run reports: a progress bar, a line per epoch, metrics.jsonl, timing.jsonl, and the loggers of `--log`.

Timings differ from run to run, so they go to a separate file; this way metrics.jsonl can be compared byte by byte.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from folds.store.run_folder import RunFolder
from folds.training.cost import cpu_time
from folds.training.loggers.base import Loggers
from registry import atomic_write
from registry.console import ProgressBar
from registry.files import exists
from registry.json_files import read_json_lines


class MetricsLogger:
    """Open for the duration of a run: `with MetricsLogger(folder, epochs_done, step, progress, loggers) as logger`."""

    def __init__(
        self, folder: RunFolder, epochs_done: int, step: int, progress: float, loggers: Sequence[str]
    ) -> None:
        self.folder = folder
        for path in (folder.metrics, folder.timing):
            _truncate(path, epochs_done)  # json.dumps of what it wrote before gives the same bytes
        self._loggers = Loggers(loggers, folder, step)
        self._bar = ProgressBar(folder.title, total=1.0, completed=min(progress, 1.0))
        self._distance = "?"
        self.begin_epoch()

    def __enter__(self) -> MetricsLogger:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.__exit__(kind, error, trace)
        self._loggers.close()

    def begin_epoch(self, wall: float = 0.0, cpu: float = 0.0, frames: int = 0) -> None:
        """Start the epoch's clocks, offset by the cost of the part of the epoch before a checkpoint."""
        self._wall, self._cpu = time.perf_counter() - wall, time.process_time() - cpu
        self._frames = frames

    @property
    def epoch_cost(self) -> tuple[float, float, int]:
        """Wall seconds, CPU seconds of this process, and input frames of the epoch so far."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu, self._frames

    def step(self, progress: float, frames: int, loss: float) -> None:
        """Report a step of `frames` input frames; `progress` (0 to 1) is the completed fraction of the run."""
        self._frames += frames
        speed = self._frames / (time.perf_counter() - self._wall)
        status = f"loss {loss:.3f}, distance {self._distance}, {speed:.0f} frames/s"
        self._bar.move_to(min(progress, 1.0), status=status)

    def epoch(self, label: str, row: dict[str, Any], what: str, source: str) -> None:
        """Write an epoch's metrics; `label` is "3/10".

        `what` names the distance, of held-out utterances or of dev, and `source` describes the utterances scored; it is
        empty if there are none.
        """
        _append(self.folder.metrics, row)
        wall, cpu, frames = self.epoch_cost
        speed = frames / wall
        timing = {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "frames_per_s": round(speed)}
        timing["threads"] = torch.get_num_threads()
        _append(self.folder.timing, {"epoch": row["epoch"], **timing})
        values = {name: value for name, value in {**row, **timing}.items() if value is not None}
        self._loggers.log(values, row["step"])
        self._distance = "none" if row["held_out"] is None else f"{row['held_out']:.2f}"
        measured = f"{what} {self._distance} ({source}), " if source else ""
        loss = "no finite loss" if row["loss"] is None else f"loss {row['loss']:.4f}"
        print(
            f"{self.folder.title} epoch {label}: {loss}, {measured}{speed:.0f} frames/s, {cpu_time(cpu)}", flush=True
        )


def _append(path: Path, row: dict[str, Any]) -> None:
    """Append a line and flush it to disk, before the checkpoint that counts it is written."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _truncate(path: Path, epochs: int) -> None:
    """Keep the lines of the first `epochs` epochs: later lines are newer than the checkpoint and will be rewritten.

    A line truncated by a crash is dropped. Raises InputError for unexpected content.
    """
    if not exists(path):
        return
    rows = read_json_lines(path, dict[str, Any], any_torn=True)
    of_epoch = {row["epoch"]: json.dumps(row) + "\n" for row in rows if row.get("epoch") in range(1, epochs + 1)}
    with atomic_write(path) as temporary:
        temporary.write_text("".join(of_epoch.values()), encoding="utf-8")
