"""The interface of metrics loggers, their registry, and the isolation of training from a failing logger."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from folds.store.run_folder import RunFolder
from registry import InputError, Registry
from registry.errors import one_line
from registry.json_files import flattened, read_json, write_json
from registry.redaction import redact


class Logger(Protocol):
    """Logs one run's metrics to a tracker; constructed with the run's folder and the number of completed steps."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record an epoch's metrics, after `step` steps."""
        ...

    def close(self) -> None:
        """Called when the run has ended or was stopped."""
        ...


LOGGERS: Registry[Callable[[RunFolder, int], Logger]] = Registry("loggers", package="folds.training.loggers")
NO_LOGGER = "none"


def logger_names(option: str) -> tuple[str, ...]:
    """The loggers of `--log`: comma-separated names, or none.

    Raises InputError for an unknown logger, and for one whose package is not installed. A logger declares its package
    when it is registered: `@LOGGERS.register("wandb", needs="wandb")`.
    """
    names = () if option == NO_LOGGER else tuple(dict.fromkeys(option.split(",")))
    for name in names:
        needs = LOGGERS.entry(name).info.get("needs")
        if needs is not None and importlib.util.find_spec(needs) is None:
            # This package has extras only for its own loggers.
            wanted = f"-e '.[{name}]'" if LOGGERS.is_built_in(name) else needs
            raise InputError(f"--log {name}: {needs} is not installed: pip install {wanted}, or leave it out")
    return names


class Loggers:
    """The open loggers of a run; one that fails is dropped with a warning, and training continues."""

    def __init__(self, names: Sequence[str], folder: RunFolder, step: int) -> None:
        self._open: dict[str, Logger] = {}
        for name in names:
            with self._failure_tolerated(name):
                self._open[name] = LOGGERS.get(name)(folder, step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record an epoch's metrics with each logger."""
        for name, logger in list(self._open.items()):
            with self._failure_tolerated(name):
                logger.log(values, step)

    def close(self) -> None:
        """Close all loggers."""
        for name, logger in list(self._open.items()):
            with self._failure_tolerated(name):
                logger.close()

    @contextlib.contextmanager
    def _failure_tolerated(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001 - no logger's error may cost hours of training
            self._open.pop(name, None)
            reason = redact(one_line(error))
            print(f"warning: --log {name}: {reason}; it gets no more metrics, and training continues", file=sys.stderr)


def run_settings(folder: RunFolder) -> dict[str, Any]:
    """The run's config.json, flattened: `options.recipe.lr` and so on."""
    return flattened(read_json(folder.config, dict[str, Any])) if folder.config.exists() else {}


def remembered_id(folder: RunFolder, tracker: str, new_id: Callable[[], str]) -> str:
    """This run's id in a tracker, so that a resumed run continues there; `new_id` creates it the first time."""
    ids = read_json(folder.tracker_ids, dict[str, str]) if folder.tracker_ids.exists() else {}
    if tracker not in ids:
        ids[tracker] = new_id()
        write_json(folder.tracker_ids, ids)
    return ids[tracker]
