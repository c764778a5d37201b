"""`python -m ensemble.blend`: blend all finished members into a submission.

Prints each member's and blender's mean edit distance on out-of-fold data (as fitted and by nested cross-validation) and
on the untouched dev set, selects the blender with the lowest nested distance, and writes the submission and
`<out>.json`, which holds everything needed to reproduce it. In Python, `ensemble.blend.blend` does this without
printing or writing files.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ensemble.blenders.base import BLENDERS, BlendRecipe, predict_with
from ensemble.blenders.best import FittedBlender, best_recipe, fit_blenders, methods_of, winner
from ensemble.hypotheses.open_inputs import InputOptions, OpenedInputs, open_inputs
from ensemble.members.eligibility import Rules, all_tags, keep_within_max_params, total_parameters
from ensemble.members.member import Member, group_by_member, measurable_on_dev, with_held_out
from ensemble.statistics.blend_tables import blender_table, describe_level, member_table
from ensemble.statistics.bootstrap import bootstrap, paired_bootstrap
from ensemble.statistics.member_baselines import (
    MemberBaseline,
    best_baseline,
    best_baseline_with_lm,
    measure_members,
)
from folds.competition.metric import edit_distances
from folds.competition.submission import write_submission
from folds.data.data_options import StoreOptions
from folds.data.dataset import Dataset
from folds.store.fold_model import FoldModel, find_fold_models, unfinished_runs
from folds.store.json_files import write_json
from registry import InputError, check_writable, command
from registry.console import print_table
from registry.models import parse_count


@dataclass(frozen=True)
class BlendResult:
    """The selected blend and its predictions."""

    recipe: BlendRecipe
    members: list[Member]
    """The members that the recipe uses, each with the fold models used."""
    fitted: dict[str, FittedBlender]
    """The blenders that were compared, by name."""
    dev: dict[str, np.ndarray]
    """Edit distances (N,) of each blender on dev."""
    hypotheses: list[list[int]]
    """One class sequence per utterance of test."""

    @property
    def chosen(self) -> str:
        """The blender with the lowest nested out-of-fold distance."""
        return winner(self.fitted)


def blend(inputs: OpenedInputs, method: str = "best", seed: int = 0) -> BlendResult:
    """Fit a registered blender, or all of them for `best`, on out-of-fold data; measure it on dev and predict test.

    >>> from ensemble import group_by_member, open_inputs
    >>> from folds import find_fold_models, load_dataset
    >>> dataset = load_dataset(Path("competition"))
    >>> inputs = open_inputs(group_by_member(find_fold_models(Path("runs"))), dataset)
    >>> result = blend(inputs, method="rescore")
    >>> result.recipe.method, round(sum(result.recipe.weights.values()), 6)
    ('rescore', 1.0)
    >>> phonemes = [dataset.alphabet.to_string(hypothesis) for hypothesis in result.hypotheses]
    >>> len(phonemes) == len(dataset.test)
    True

    `seed` decides ties. Raises InputError for an unknown method, and for missing or faulty predictions.
    """
    fitted = fit_blenders(inputs.oof, methods_of(method), seed)
    # Fold models whose frames are averaged are used together, so their member's parameters counted all of them.
    max_params = None if inputs.options.frames else inputs.rules.max_params
    kept = {
        name: keep_within_max_params(inputs.members, blender.recipe.weights, max_params)
        for name, blender in fitted.items()
    }
    references = inputs.dev.references
    dev = {
        name: edit_distances(predict_with(inputs.dev, blender.recipe, kept[name]), references)
        for name, blender in fitted.items()
    }
    chosen = winner(fitted)
    recipe = best_recipe(fitted) if method == "best" else fitted[chosen].recipe
    hypotheses = predict_with(inputs.test, fitted[chosen].recipe, kept[chosen])
    return BlendResult(recipe, kept[chosen], fitted, dev, hypotheses)


@dataclass(frozen=True)
class BlendOptions(InputOptions, StoreOptions):
    """Blend all finished members into a submission."""

    method: str = "best"
    """A registered blender: average, rover, rescore, mbr, or best (the blender with the lowest nested out-of-fold
    distance)."""
    out: Path = Path("submission.csv")
    """The submission to write; `<out>.json` describes how it was made."""
    members: tuple[str, ...] = ("*",)
    """Members to blend: globs over their names."""
    max_params: str | None = None
    """Maximum total number of parameters over all fold models used, e.g. 20M."""
    forbid: tuple[str, ...] = ()
    """Tags that no model used may have, e.g. attention, pretrained, external-data."""

    @property
    def rules(self) -> Rules:
        """The rules on models."""
        return Rules(None if self.max_params is None else parse_count(self.max_params), tuple(self.forbid))


def finished_fold_models(runs: Path) -> list[FoldModel]:
    """The finished fold models that hold out a fold; others are named on stderr. Raises InputError without any."""
    fold_models, notes = with_held_out(find_fold_models(runs))
    unfinished = unfinished_runs(runs)
    if not fold_models:
        count = len(unfinished)
        hint = f" ({count} unfinished, such as {unfinished[0]}: continue them with --resume)" if count else ""
        raise InputError(f"{runs}: no finished member{hint}; train one with python -m folds.train")
    for note in (*(f"left out: {path} is not finished" for path in unfinished), *notes):
        print(note, file=sys.stderr)
    return fold_models


def print_blenders(result: BlendResult, baselines: Sequence[MemberBaseline]) -> None:
    """Print the distances of the blenders and of the best members, and which blender was chosen."""
    best, with_lm = best_baseline(baselines), best_baseline_with_lm(baselines)
    print("\nmean edit distances, with 95 % intervals over utterances")
    print(f"the best member on dev is {best.name}: {best.best_dev.mean():.3f}")
    print(f"the best with a language model is {with_lm.name}: {describe_level(bootstrap(with_lm.dev_lm))}")
    table = blender_table(result.fitted, result.dev, baselines)
    print_table(list(table.columns), table.itertuples(index=False))
    distances = result.dev[result.chosen]
    difference = paired_bootstrap(distances, best.best_dev)
    verdict = "is significant" if difference.certain else "is not significant"
    print(f"\nchosen by the nested out-of-fold distance: {result.chosen}")
    print(f"on dev: {distances.mean():.3f}; the difference to {best.name}, {difference}, {verdict} at 95 %")


def sidecar(
    options: BlendOptions, dataset: Dataset, result: BlendResult, baselines: Sequence[MemberBaseline]
) -> dict[str, Any]:
    """The content of `<out>.json`: what the submission is, and what is needed to reproduce it."""
    blender, best = result.fitted[result.chosen], best_baseline(baselines)
    difference = paired_bootstrap(result.dev[result.chosen], best.best_dev)
    folders = {member.name: [str(model.path) for model in member.fold_models] for member in result.members}
    return {
        "recipe": result.recipe.to_json() | {"members": folders},
        "oof": float(blender.oof.mean()),
        "nested": float(blender.nested.mean()),
        "dev": float(result.dev[result.chosen].mean()),
        "dev_minus_best_member": {
            "member": best.name,
            "mean": difference.mean,
            "low": difference.low,
            "high": difference.high,
        },
        "parameters": total_parameters(result.members),
        "tags": all_tags(result.members),
        "sha256": hashlib.sha256(options.out.read_bytes()).hexdigest(),
        "data": dataset.hash,
        "options": {name: str(value) for name, value in vars(options).items()},
    }


def main() -> None:
    """Run the command."""
    options = tyro.cli(BlendOptions, prog="python -m ensemble.blend", description=__doc__)
    BLENDERS.entry(options.method)
    for name, reason in BLENDERS.broken().items():
        print(f"left out: blender {name} does not load: {reason}", file=sys.stderr)
    check_writable(options.out)
    rules = options.rules
    measurable_on_dev(find_fold_models(options.runs), options.members)
    fold_models = finished_fold_models(options.runs)
    dataset = options.open_dataset()
    inputs = open_inputs(group_by_member(fold_models, options.members), dataset, options, rules)
    print("\n".join(inputs.notes), end="\n\n")
    inputs.check()
    baselines = measure_members(inputs.oof, inputs.dev)
    table = member_table(inputs.members, baselines)
    print_table(list(table.columns), table.itertuples(index=False))
    result = blend(inputs, options.method, options.seed)
    print_blenders(result, baselines)
    strings = [dataset.alphabet.to_string(hypothesis) for hypothesis in result.hypotheses]
    write_submission(options.out, dataset.header, dataset.sample_ids, strings)
    description = sidecar(options, dataset, result, baselines)
    write_json(options.out.with_name(options.out.name + ".json"), description)
    print("weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in result.recipe.weights.items()))
    count, tags = sum(len(member.fold_models) for member in result.members), ", ".join(description["tags"]) or "none"
    print(f"uses {count} fold models, {description['parameters']:,} parameters in all; tags: {tags}")
    print(f"wrote {options.out} ({len(strings)} rows) and {options.out}.json")


if __name__ == "__main__":
    command(main)
