"""`python -m folds.delay RUN …`: the same networks again, with features delayed by a few frames.

A network with stride s reads its input in steps of s frames, and where an utterance begins within a step is chance. If
its first frame is repeated a few times, the steps begin elsewhere, and the network makes different errors. A blend of a
run and its delayed twins, <model>.delay<frames>, is therefore better than the run alone: test-time augmentation, which
costs prediction but no training. They share their weights, which count once under `--max-params`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from folds.store.fold_model import FoldModel, load_model, read_fold_model
from folds.store.run_folder import RunFolder
from folds.training.derived_run import DerivedRunOptions, finished_sources, run_at, write_derived_run
from registry import InputError, command
from registry.bounds import MAX_DELAY
from registry.command_line import parse_options


@dataclass(frozen=True)
class DelayOptions(DerivedRunOptions):
    """Predict again with delayed features, as separate members, <model>.delay<frames>."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs: runs/<model>/fold<k>, or runs/*/fold* for all. Runs that are unfinished or delayed themselves
    are left out, and so are delays that have been done before."""
    frames: tuple[int, ...] = ()
    """Delays in frames, one or several; by default all from 1 to the model's stride - 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for frames in self.frames:
            if not 1 <= frames <= MAX_DELAY:
                raise InputError(f"--frames {frames}: expected 1 to {MAX_DELAY}")


def write_delayed(options: DelayOptions) -> list[RunFolder]:
    """Write the folders of the runs' delayed twins, and return those that were written."""
    device, dataset = options.pick_device(), options.open_dataset()
    runs = map(run_at, options.run)
    sources = finished_sources([run for run in runs if run.undelayed == run], "folds.delay")
    twins = [(source, frames) for source in sources for frames in _delays(source, options.frames)]
    written = []
    for source, frames in twins:
        folder = source.folder.delayed(frames)
        if folder.finished and read_fold_model(folder).weights_hash == source.weights_hash:
            print(f"{folder.title}: already finished, left unchanged")
            continue
        delay = {"frames": frames, "of": source.weights_hash}
        write_derived_run(source, dataset, load_model(source), folder, {"delay": delay}, device)
        written.append(folder)
    return written


def _delays(source: FoldModel, frames: Sequence[int]) -> Sequence[int]:
    """The delays of a run. Raises InputError if one would change nothing."""
    if source.stride == 1:
        raise InputError(f"{source.path}: has stride 1, so a delay would change nothing: leave this run out")
    for delay in frames:
        if delay % source.stride == 0:
            raise InputError(
                f"--frames {delay}: a multiple of the stride of {source.path}, {source.stride}, changes nothing: leave "
                "it out"
            )
    return frames or range(1, source.stride)


def main() -> None:
    """Run the command."""
    write_delayed(parse_options(DelayOptions, "python -m folds.delay", description=__doc__))


if __name__ == "__main__":
    command(main)
