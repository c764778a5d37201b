"""`python -m folds.delay RUN …`: the same networks once more, with features that come a few frames later.

A network with stride s reads its input in steps of s frames, and where an utterance begins within a step is chance. If
its first frame is repeated half a stride, the steps begin elsewhere, and the network makes other errors. So a run and
its delayed twin are two members of a blend, and together they are better than either: test-time augmentation, which
costs a prediction and no training. They have the same weights, which count once under `--max-params`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from folds.data.data_options import DataOptions
from folds.store.fold_model import FoldModel, load_model, read_finished
from folds.store.run_folder import RunFolder
from folds.training.derived_run import write_derived_run
from folds.training.device import pick_device
from folds.training.distributed import ProcessGroup
from models.features import MAX_DELAY
from registry import InputError, command
from registry.bounds import number
from registry.command_line import parse_options


@dataclass(frozen=True)
class DelayOptions(DataOptions):
    """Predict once more with delayed features: members of their own, <model>.delay<frames>."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of finished runs: runs/<model>/fold<k>, or runs/*/fold* for all. Those that are delayed already, or have
    been done, are left out."""
    frames: int | None = number(None, at_least=1, at_most=MAX_DELAY)
    """By how many frames; by default half of each model's stride."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.run:
            raise InputError("no run is given: pass the folders of finished ones, runs/<model>/fold<k>")


def write_delayed(options: DelayOptions) -> list[RunFolder]:
    """Write the folder of each run's delayed twin, and return those that were written."""
    device, dataset = pick_device(options.device, ProcessGroup()), options.open_dataset()
    runs = [RunFolder(Path(os.path.realpath(path))) for path in options.run]
    sources = [read_finished(run, "folds.delay") for run in runs if run.undelayed == run]
    twins = [(source, source.folder.delayed(_frames(source, options.frames))) for source in sources]
    written = []
    for source, folder in twins:
        if folder.finished:
            print(f"{folder.title}: done before")
            continue
        delay = {"frames": _frames(source, options.frames), "of": source.weights_hash}
        write_derived_run(source, dataset, load_model(source), folder, {"delay": delay}, device)
        written.append(folder)
    return written


def _frames(source: FoldModel, frames: int | None) -> int:
    """By how many frames the run is delayed. Raises InputError where that would change nothing."""
    if source.stride == 1:
        raise InputError(f"{source.path}: has stride 1, so a delay would change nothing: leave this run out")
    delay = source.stride // 2 if frames is None else frames
    if delay % source.stride == 0:
        raise InputError(
            f"--frames {delay}: a multiple of the stride of {source.path}, {source.stride}, changes nothing: use "
            f"{source.stride // 2}"
        )
    return delay


def main() -> None:
    """The command."""
    write_delayed(parse_options(DelayOptions, "python -m folds.delay", description=__doc__))


if __name__ == "__main__":
    command(main)
