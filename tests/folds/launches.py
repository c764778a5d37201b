"""What the tests of `folds.launch` share: options of a quick launch, and how to start one or make its tasks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from training_runs import QUICK

from folds import launch
from folds.launching.attempt import Outcome
from folds.launching.destination import Destination
from folds.launching.options import LaunchOptions
from folds.launching.tasks import make_tasks

# As in training_runs, without the options that are the launcher's own.
OPTIONS = QUICK[2 : QUICK.index("--folds")] + QUICK[QUICK.index("--folds") + 2 :]
LAUNCH = ["--models", "lstm_small", "--fold-count", "2", *OPTIONS]


def start(monkeypatch: pytest.MonkeyPatch, data: Path, runs: Path, *options: str) -> int:
    """Run the launch command; the exit status."""
    # Its processes must find this package, wherever the tests are run.
    monkeypatch.setenv("PYTHONPATH", str(Path(launch.__file__).parents[1]))
    monkeypatch.setattr(sys, "argv", ["launch", "--data", str(data), "--runs", str(runs), *options])
    return launch.main()


def tasks_of(data: Path, runs: Path, *more: str, **options):
    """The tasks of a launch of two folds."""
    chosen = LaunchOptions(data=data, models="lstm_small", fold_count=2, **options)
    return make_tasks(chosen.read_plan(), chosen, Destination(runs), [*OPTIONS, *more])


class FakeExecutor:
    """Ends each attempt at once, as `outcomes` says, in order."""

    poll_s = 0.0

    def __init__(self, outcomes: dict[str, list[Outcome]]) -> None:
        self.outcomes, self.submitted, self._running = outcomes, [], []

    def submit(self, tasks) -> None:
        self.submitted += [task.title for task in tasks]
        self._running += tasks

    def ended(self):
        running, self._running = self._running, []
        return [(task, self.outcomes[task.title].pop(0)) for task in running]

    def close(self) -> None:
        pass

    def interrupt(self) -> str:
        return "detached"
