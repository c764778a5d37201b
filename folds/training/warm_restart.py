"""Warm restarts: training starts from the final weights of the same model, fold and seed in another runs folder.

A refit, which holds nothing out, can also start from one of its member's fold models, and then takes only a few epochs.
A run of another name or seed, such as a student, starts from a run given by its folder.

The source is needed only until the run has its own checkpoint; what must be known about it later is recorded in the
run's config.json under "restart".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folds.data.cache import cache_folder
from folds.store.fold_model import FoldModel, read_finished, training_tags
from folds.store.remote import RemoteStore, download_run, store_url
from folds.store.run_folder import RunFolder, member_name, run_folders
from folds.store.schemas import SummaryFile
from registry import InputError
from registry.files import exists
from registry.json_files import read_json


@dataclass(frozen=True)
class WarmStart:
    """Weights to start from, and what the restarted run records about them."""

    weights: Path
    facts: dict[str, Any]


def find_source(runs: Path, name: str, fold: int, seed: int, folds: int) -> FoldModel:
    """The finished (model, fold, seed) under `runs`; for a missing refit, its member's first fold model.

    If `runs` is itself the folder of a run, that run. Either may be a URL, from which the run is downloaded. Raises
    InputError unless it has predictions and weights and, if `folds` is more than 1, holds out the same fold.
    """
    if (url := store_url(runs)) is not None:
        is_run = re.fullmatch(r"fold\d+", runs.name)
        runs = download_run(runs if is_run else _uploaded(url, name, fold, seed, folds), cache_folder() / "stores")
    if not (exists(runs) and runs.is_dir()):
        raise InputError(f"--restart-from {runs}: no such folder: pass a runs folder, or the folder of one run")
    if RunFolder(runs).begun:
        # Resolved, because a relative path may lack the member's name.
        given = read_finished(RunFolder(runs.resolve()), "--restart-from")
        if folds > 1 and (given.fold, given.folds) != (fold, folds):
            was, now = f"fold {given.fold} of {given.folds}", f"fold {fold} of {folds}"
            raise InputError(
                f"--restart-from {runs}: is {was}, but {now} is to be trained: pass the runs folder instead"
            )
        return given
    source = RunFolder.of(runs, name, fold, seed, folds)
    if folds == 1 and not source.finished:
        member = runs / member_name(name, seed)
        finished = (run for run in run_folders(runs) if run.path.parent == member and run.finished)
        fold_model = next(finished, None)
        if fold_model is None:
            raise InputError(_nothing_to_start_from(runs, source, member.name, name))
        source = fold_model
    return read_finished(source, f"--restart-from {runs}")


def _uploaded(url: str, name: str, fold: int, seed: int, folds: int) -> Path:
    """The URL of the run that `find_source` looks for, as a path."""
    finished = RemoteStore(url).finished()
    run = RunFolder.of(Path(url), name, fold, seed, folds)
    if folds > 1 or run.name in finished:
        return run.path
    member = member_name(name, seed)
    fold_models = sorted(other for other in finished if RunFolder(Path(other)).member == member)
    if not fold_models:
        raise InputError(_nothing_to_start_from(url, run, member, name))
    return Path(url, fold_models[0])


def _nothing_to_start_from(runs: Path | str, refit: RunFolder, member: str, name: str) -> str:
    return (
        f"--restart-from {runs}: no finished run to start from, neither {refit.member} nor a fold model of {member}: "
        f"train {name} with --fold 0 first"
    )


def _same(before: Any, now: Any) -> bool:
    """Whether two entries of config.json are equal; entries that the source's version did not record count as equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(before[name] == now[name] for name in before.keys() & now.keys())
    return before == now


def _is_layer_of_other_groups(before: Any, now: Any) -> bool:
    """Whether two "group_layer" entries of config.json differ only in their groups."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return False
    return before.get("groups") != now["groups"] and _same(before | {"groups": None}, now | {"groups": None})


def open_source(runs: Path, run: FoldModel, held_out: Sequence[str]) -> WarmStart:
    """The source for `run`, which is about to be trained.

    Raises InputError if there is none, if it has other data or model options, or if it did not hold out exactly
    `held_out`: the utterances held out here must not have been trained on there.
    """
    source = find_source(runs, run.recorded["name"], run.fold, run.seed, run.folds)
    trained = source.folder.trained_run
    if trained != source.folder:
        raise InputError(
            f"--restart-from {runs}: {source.path} is adapted or delayed: use the run itself, {trained.path}"
        )
    if _is_layer_of_other_groups(source.recorded.get("group_layer"), run.recorded["group_layer"]):
        raise InputError(
            f"--restart-from {runs}: the --group-layer of {source.path} has different groups from this run's (a fold "
            "model has fewer than its refit): leave out --restart-from"
        )
    for key, what in (
        ("data", "different data"),
        ("model", "a different model"),
        ("model_config", "different model options"),
        ("group_layer", "a different --group-layer"),
    ):
        before, now = source.recorded.get(key), run.recorded[key]
        if not _same(before, now):
            if key == "model_config" and isinstance(before, dict):
                changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
                what += f" ({', '.join(f'{name} {before[name]}, not {now[name]}' for name in changed)})"
            raise InputError(f"--restart-from {runs}: {source.path} was trained with {what}: use the same here")
    if source.transform != run.transform:
        what = "a different --normalise"
        raise InputError(f"--restart-from {runs}: {source.path} was trained with {what}: use the same here")
    if source.with_dev and not run.with_dev:
        raise InputError(f"--restart-from {runs}: {source.path} was trained on dev too: use it with --with-dev")
    if held_out and source.load("oof").ids != tuple(held_out):
        raise InputError(f"--restart-from {runs}: {source.path} held out different utterances: train it again")
    earlier = source.config.restart
    summary = read_json(source.folder.summary, SummaryFile, "train this run again")
    facts = {
        "from": str(source.path),
        "weights": source.folder.weights_hash,
        "earlier": [] if earlier is None else [earlier.weights, *earlier.earlier],
        "cpu_minutes": summary.cpu_minutes,
        "select": source.config.select,
        "tags": training_tags(source.tags),
    }
    return WarmStart(source.folder.weights, facts)
