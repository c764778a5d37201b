"""Blends in a report: the recipe in the file next to a submission, and its predictions, recomputed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from ensemble.blenders.base import BLENDERS, BlendRecipe, predict_with
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import OpenedInputs
from ensemble.members.member import Member
from ensemble.members.sidecar import Sidecar, read_sidecar
from ensemble.statistics.measured import Measured, fingerprint, read_measured
from folds.data.dataset import Dataset
from folds.store.run_folder import RunFolder


@dataclass(frozen=True)
class Blend:
    """A submission's recipe, and whether its predictions can be recomputed from the available members."""

    name: str
    """The path of the submission."""
    sidecar: Sidecar
    kept: list[Member]
    """The members with nonzero weight, each with the networks used; empty if not all are available."""
    dev: list[list[int]] | None = None
    """Its hypotheses for dev; None if they cannot be recomputed."""
    obstacle: str = ""
    """Why they cannot be recomputed."""
    measured: Measured | None = None
    """The results measured when it was made, if predictions and options are still the same."""

    @property
    def recipe(self) -> BlendRecipe:
        """The recipe; only for a blend without an obstacle."""
        recipe = self.sidecar.recipe
        weights = {name: float(weight) for name, weight in recipe.weights.items() if weight is not None}
        return BlendRecipe(recipe.method, weights, recipe.settings)

    @property
    def method(self) -> str:
        """The blender; for `best`, the one that was chosen."""
        recipe = self.sidecar.recipe
        return str(recipe.settings.get("chosen", recipe.method))

    @property
    def networks(self) -> int:
        """Number of networks used; a network used with several feature delays counts once."""
        paths = itertools.chain.from_iterable(self.sidecar.recipe.members.values())
        return len({RunFolder(Path(path)).undelayed for path in paths})

    def predict(self, inputs: BlendInputs) -> list[list[int]]:
        """Its hypotheses; only for a blend without an obstacle."""
        return predict_with(inputs, self.recipe, self.kept)


def open_blend(submission: Path, inputs: OpenedInputs, dataset: Dataset) -> Blend:
    """The blend behind a submission, as measured when it was made, or recomputed on dev if possible.

    Raises InputError for a file that is missing or damaged.
    """
    sidecar = read_sidecar(submission)
    measured = read_measured(submission, fingerprint(inputs, dataset.hash), sidecar.sha256)
    recipe = sidecar.recipe
    by_name = {member.name: member for member in inputs.members}
    missing = [name for name in recipe.weights if name not in by_name]
    kept = [_networks_used(by_name[name], paths) for name, paths in recipe.members.items() if name in by_name]
    if recipe.method not in BLENDERS.names():
        obstacle = f"{recipe.method} is not a blender"
    elif missing:
        obstacle = f"{missing[0]} is not among the members of this report"
    elif averaged_as(sidecar.options) != averaged_as(vars(inputs.options)):
        was = sidecar.options
        obstacle = f"it was blended with --fold-mean {was['fold_mean']} --networks {was['networks']}, unlike this page"
    elif not recipe.weights or None in recipe.weights.values():
        obstacle = "its recipe has no weights"
    elif sum(len(member.networks) for member in kept) < max(sum(map(len, recipe.members.values())), 1):
        obstacle = "not all of its networks are in the runs folders"
    else:
        blend = Blend(str(submission), sidecar, kept, measured=measured)
        return replace(blend, dev=measured.dev(dataset.alphabet) if measured else blend.predict(inputs.dev))
    return Blend(str(submission), sidecar, [], obstacle=obstacle)


def averaged_as(options: Mapping[str, Any]) -> tuple[str, str]:
    """Whether a member's networks are averaged per frame and, if so, which; without averaging, any choice is fine."""
    if options.get("fold_mean", "sequence") == "sequence":
        return "sequence", ""
    return "frames", str(options.get("networks", "both"))


def _networks_used(member: Member, paths: tuple[str, ...]) -> Member:
    """The member with the networks in these folders; the whole runs folder may have been moved."""
    used = {PurePath(path).parts[-2:] for path in paths}
    return member.keep([network for network in member.networks if network.path.parts[-2:] in used])
