"""Learning curves: the held-out distance of every fold model by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensemble.members.member import Member
from folds.store.schemas import EpochMetrics
from registry.json_files import read_json_lines


def learning_curves(members: Sequence[Member]) -> list[dict[str, Any]]:
    """One curve per fold model that has metrics: its name, its member's index, and (epoch, distance) points."""
    curves = []
    for index, member in enumerate(members):
        for fold_model in member.fold_models:
            path = fold_model.folder.metrics
            epochs = read_json_lines(path, EpochMetrics) if path.exists() else []
            points = [[epoch.epoch, round(epoch.held_out, 4)] for epoch in epochs if epoch.held_out is not None]
            if points:
                curves.append({"name": f"{member.name} fold {fold_model.fold}", "member": index, "points": points})
    return curves
