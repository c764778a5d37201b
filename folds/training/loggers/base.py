"""The interface of loggers, their registry, and what keeps one that fails from stopping a training run."""

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
    """One run's metrics in a tracker. It is created with the run's folder and the steps that are already done."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record an epoch's metrics, after `step` steps."""
        ...

    def close(self) -> None:
        """The run is over, or was stopped."""
        ...


LOGGERS: Registry[Callable[[RunFolder, int], Logger]] = Registry("loggers", package="folds.training.loggers")
NO_LOGGER = "none"


def logger_names(option: str) -> tuple[str, ...]:
    """The loggers of `--log`: names separated by commas, or none.

    Raises InputError for an unknown one, and for one whose package is not installed. A logger states its package when
    it is registered: `@LOGGERS.register("wandb", needs="wandb")`.
    """
    names = () if option == NO_LOGGER else tuple(dict.fromkeys(option.split(",")))
    for name in names:
        needs = LOGGERS.entry(name).info.get("needs")
        if needs is not None and importlib.util.find_spec(needs) is None:
            # The extras of this package are those of its own loggers.
            wanted = f"-e '.[{name}]'" if LOGGERS.is_built_in(name) else needs
            raise InputError(f"--log {name}: {needs} is not installed: pip install {wanted}, or leave it out")
    return names


class Loggers:
    """The open loggers of a run; one that fails gets no more metrics, with one warning, and training goes on."""

    def __init__(self, names: Sequence[str], folder: RunFolder, step: int) -> None:
        self._open: dict[str, Logger] = {}
        for name in names:
            with self._failure_tolerated(name):
                self._open[name] = LOGGERS.get(name)(folder, step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record an epoch's metrics in each."""
        for name, logger in list(self._open.items()):
            with self._failure_tolerated(name):
                logger.log(values, step)

    def close(self) -> None:
        """Close each."""
        for name, logger in list(self._open.items()):
            with self._failure_tolerated(name):
                logger.close()

    @contextlib.contextmanager
    def _failure_tolerated(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, hours of training are worth more
            self._open.pop(name, None)
            reason = redact(one_line(error))
            print(f"warning: --log {name}: {reason}; it gets no more metrics, training goes on", file=sys.stderr)


def run_settings(folder: RunFolder) -> dict[str, Any]:
    """The run's config.json with one level: `options.recipe.lr` and so on."""
    return flattened(read_json(folder.config, dict[str, Any])) if folder.config.exists() else {}


def remembered_id(folder: RunFolder, tracker: str, new_id: Callable[[], str]) -> str:
    """The id of this run in a tracker, by which a resumed run is continued there; `new_id` makes one at first."""
    ids = read_json(folder.tracker_ids, dict[str, str]) if folder.tracker_ids.exists() else {}
    if tracker not in ids:
        ids[tracker] = new_id()
        write_json(folder.tracker_ids, ids)
    return ids[tracker]
