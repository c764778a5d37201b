"""What a run tells: a progress bar, a line an epoch, metrics.jsonl, timing.jsonl and TensorBoard.

Clock readings differ from run to run, so they stand in timing.jsonl, and metrics.jsonl can be compared byte by byte.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from registry import atomic_write


class MetricsLogger:
    """Opened for the time of a run: `with Journal(folder, title, epochs_done, step, progress) as journal`."""

    def __init__(self, folder: Path, title: str, epochs: int, step: int, progress: float) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a run that fits needs it

        self.folder = folder
        self.title = title
        for name in ("metrics.jsonl", "timing.jsonl"):
            _keep(folder / name, epochs)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self._bar = tqdm(total=1.0, initial=min(progress, 1.0), desc=title, bar_format=shape, disable=None)
        self._distance = "?"
        self.begin_epoch()

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        self._board.close()

    def begin_epoch(self) -> None:
        """Start the epoch's clocks."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._frames = 0

    def step(self, progress: float, frames: int, loss: float) -> None:
        """One step of `frames` input frames is done, and with it `progress` of the run."""
        self._frames += frames
        self._bar.update(max(0.0, min(progress, 1.0) - self._bar.n))
        speed = self._frames / (time.perf_counter() - self._wall)
        self._bar.set_postfix_str(f"loss {loss:.3f}, distance {self._distance}, {speed:.0f} frames/s", refresh=False)

    def epoch(self, of: str, row: dict[str, Any], seen: str) -> None:
        """Write an epoch's metrics; `of` is "3/10", `seen` says what the held-out distance was measured on."""
        _append(self.folder / "metrics.jsonl", row)
        wall, spent = time.perf_counter() - self._wall, time.process_time() - self._cpu
        speed = self._frames / wall
        timing = {"wall_s": round(wall, 1), "cpu_s": round(spent, 1), "frames_per_s": round(speed)}
        _append(self.folder / "timing.jsonl", {"epoch": row["epoch"], **timing})
        for key, value in {**row, **timing}.items():
            if value is not None:
                self._board.add_scalar(key, value, row["step"])
        self._distance = "none" if row["held_out"] is None else f"{row['held_out']:.2f}"
        self._bar.write(
            f"{self.title} epoch {of}: loss {row['loss']:.4f}, held-out distance {self._distance} ({seen}), "
            f"{speed:.0f} frames/s, {spent / 60:.1f} CPU-minutes"
        )


def cpu_minutes(folder: Path) -> float:
    """CPU-minutes of the run's epochs, those of an epoch that was begun twice counted from its checkpoint on."""
    lines = (folder / "timing.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["cpu_s"] for line in lines) / 60


def _append(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _keep(path: Path, epochs: int) -> None:
    """Keep the first `epochs` lines: what follows was measured after the checkpoint, and will be again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:epochs]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
