"""`python -m ensemble.blend`: from finished members to a submission, with what it is worth.

Prints each member's and each blender's distance (fitted on out-of-fold predictions, nested, and on dev, which nothing
was fitted on), picks the method by the nested one, writes the submission and beside it `<out>.json` with the recipe
and everything needed to make it again. The arithmetic is in the other modules of this room.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

from ensemble.blenders.base import BLENDERS, BlendRecipe
from ensemble.blenders.best import FittedBlender, as_best, fit_all, winner
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import open_inputs
from ensemble.members.eligibility import Rules, admitted, all_tags, costs, total_parameters, within_budget
from ensemble.members.member import Member, group_by_member, with_held_out
from ensemble.statistics.bootstrap import Interval, bootstrap, paired_bootstrap
from ensemble.statistics.member_baselines import MemberBaseline, alone, best_baseline, best_baseline_with_lm
from folds.competition.detect import data_root
from folds.competition.metric import edit_distances
from folds.competition.submission import write_submission
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset
from folds.store.fold_model import find_fold_models, unfinished_runs
from folds.store.json_files import write_json
from registry import InputError, check_place, command
from registry.models import parse_count


@dataclass(frozen=True)
class BlendOptions:
    """Blend the finished members under a folder of runs into a submission."""

    data: Path | None = None
    """The competition's folder; else $HW3P2_DATA, else the demo's."""
    runs: Path = Path("runs")
    """Folder of trained members."""
    method: str = "best"
    """A registered blender: average, rover, rescore, mbr, or best (whichever the out-of-fold predictions favour)."""
    out: Path = Path("submission.csv")
    """The submission to write; `<out>.json` beside it tells how it was made."""
    members: tuple[str, ...] = ("*",)
    """Globs over members' names: only those are blended."""
    max_params: str | None = None
    """Most parameters of all fold models used together, such as 20M."""
    forbid: tuple[str, ...] = ()
    """Tags no model used may have, such as attention, pretrained, external-data."""
    nbest: int = 100
    """Strings each model proposes for an utterance."""
    pool: int = 200
    """Most strings an utterance's pool holds."""
    fold_mean: Literal["sequence", "frames"] = "sequence"
    """What becomes of one member's fold models on dev and test: combined as strings, or averaged frame by frame."""
    lm_order: int = 5
    """Order of the phone language model."""
    fit_limit: int = 4000
    """Most out-of-fold utterances the weights are fitted on."""
    seed: int = 0
    """Decides ties in the choice of members, and the bootstrap."""
    allow_pickle: bool = False
    """Read object arrays of the competition's files (the formats of F20 and F21 need it)."""

    def __post_init__(self) -> None:
        for name, least in (("nbest", 1), ("pool", 1), ("lm_order", 1), ("fit_limit", 2)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least {least}")


@dataclass(frozen=True)
class BlendResult:
    """What a blend came to: the recipe, the members and folds used, and edit distances by split."""

    recipe: BlendRecipe
    groups: list[Member]
    fitted: dict[str, FittedBlender]
    dev: dict[str, np.ndarray]
    alone: list[MemberBaseline]
    strings: list[str]


def blend(options: BlendOptions, dataset: Dataset, groups: Sequence[Member], rules: Rules) -> BlendResult:
    """Measure the members, fit, choose, predict; printing on the way. Writes nothing."""
    frames = options.fold_mean == "frames"
    opened = open_inputs(
        groups,
        dataset,
        options.lm_order,
        options.fit_limit,
        options.seed,
        costs(groups, whole=frames),
        rules.max_params,
        options.fold_mean,
    )
    print("\n".join(opened.notes))
    predictions = [stream for split in opened.splits.values() for stream in split.predictions]
    for stream in tqdm(predictions, desc="checking members", leave=False):
        stream.load()  # whatever is wrong with the last file is better told now than after the fit
    splits, depth = opened.splits, min(options.nbest, options.pool)
    oof, dev, test = (BlendInputs(splits[split], depth, options.pool) for split in ("oof", "dev", "test"))
    singles = alone(oof, dev)
    print_members(groups, singles)
    methods = [name for name in BLENDERS.names() if name != "best"] if options.method == "best" else [options.method]
    fitted = fit_all(oof, methods, options.seed)
    limit = None if frames else rules.max_params
    kept = {name: within_budget(groups, each.recipe.weights, limit) for name, each in fitted.items()}
    references = dev.references
    on_dev = {
        name: edit_distances(predict(dev, fitted[name].recipe, kept[name], groups), references) for name in fitted
    }
    print_blenders(fitted, on_dev, singles)
    chosen = winner(fitted)
    recipe = as_best(fitted) if options.method == "best" else fitted[chosen].recipe
    tokens = predict(test, fitted[chosen].recipe, kept[chosen], groups)
    strings = [dataset.alphabet.to_string(row) for row in tokens]
    return BlendResult(recipe, kept[chosen], fitted, on_dev, singles, strings)


def predict(inputs: BlendInputs, recipe: BlendRecipe, kept: Sequence[Member], groups: Sequence[Member]) -> list[list[int]]:
    """Strings of a split from the fold models that a blend keeps."""
    left_out = {f"{g.name} fold {fold}" for g in groups for fold in g.folds}
    left_out -= {f"{g.name} fold {fold}" for g in kept for fold in g.folds}
    predictions = [s for s, stream in enumerate(inputs.split.predictions) if stream.name not in left_out]
    weights = {group.name: recipe.weights[group.name] for group in kept}
    total = sum(weights.values())
    # A budget may have no room for a member at all; the others keep their proportions.
    recipe = replace(recipe, weights={name: weight / total for name, weight in weights.items()})
    return BLENDERS.get(recipe.method)().predict(inputs.only(predictions), recipe)


def print_members(groups: Sequence[Member], singles: Sequence[MemberBaseline]) -> None:
    """One line a member."""
    width = max(len(group.name) for group in groups)
    print(f"\n{'member':{width}}  folds      parameters  stride     oof     dev  dev, folds' mean frame  dev, with LM")
    for group, each in zip(groups, singles, strict=True):
        folds = ",".join(map(str, group.folds))
        print(
            f"{group.name:{width}}  {folds:9}  {group.parameters:10,}  {group.members[0].stride:6}"
            f"  {each.oof.mean():6.3f}  {each.dev.mean():6.3f}  {each.dev_mean.mean():22.3f}"
            f"  {each.dev_lm.mean():12.3f}"
        )


def print_blenders(fitted: dict[str, FittedBlender], on_dev: dict[str, np.ndarray], singles: Sequence[MemberBaseline]) -> None:
    """One line a blender, with 95 % bootstrap intervals over utterances."""
    reference, informed = best_baseline(singles), best_baseline_with_lm(singles)
    base = reference.best_dev
    print("\nedit distances, with 95 % intervals over utterances")
    print(f"the best member on dev is {reference.name}: {base.mean():.3f}")
    print(f"the best with a language model is {informed.name}: {_told(bootstrap(informed.dev_lm))}")
    print("blender       oof (fitted)  oof (nested)  dev                      dev - best member")
    for name, each in fitted.items():
        print(
            f"{name:12}  {each.oof.mean():12.3f}  {each.nested.mean():12.3f}  {_told(bootstrap(on_dev[name])):23}"
            f"  {_against(on_dev[name], base)}; with LM {_against(on_dev[name], informed.dev_lm)}"
        )
    chosen = winner(fitted)
    print(f"\nchosen by the nested out-of-fold distance: {chosen}")
    verdict = paired_bootstrap(on_dev[chosen], base)
    told = "the difference is certain at 95 %" if verdict.certain else "the difference may be chance"
    print(f"dev says: {on_dev[chosen].mean():.3f}, {verdict} against {reference.name}: {told}")


def _against(found: np.ndarray, base: np.ndarray) -> str:
    difference = paired_bootstrap(found, base)
    share = f" ({100 * difference.mean / base.mean():+.1f} %)" if base.any() else ""
    return f"{difference}{share}"


def _told(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def sidecar(options: BlendOptions, dataset: Dataset, outcome: BlendResult) -> dict:
    """What `<out>.json` holds: enough to say what the submission is and to make it again."""
    chosen = winner(outcome.fitted)
    each = outcome.fitted[chosen]
    reference = best_baseline(outcome.alone)
    difference = paired_bootstrap(outcome.dev[chosen], reference.best_dev)
    return {
        "recipe": outcome.recipe.to_json()
        | {"members": {g.name: [str(member.path) for member in g.members] for g in outcome.groups}},
        "oof": float(each.oof.mean()),
        "nested": float(each.nested.mean()),
        "dev": float(outcome.dev[chosen].mean()),
        "dev_minus_best_member": {
            "member": reference.name,
            "mean": difference.mean,
            "low": difference.low,
            "high": difference.high,
        },
        "parameters": total_parameters(outcome.groups),
        "tags": all_tags(outcome.groups),
        "sha256": hashlib.sha256(options.out.read_bytes()).hexdigest(),
        "data": dataset.hash,
        "options": {name: str(value) for name, value in vars(options).items()},
    }


def main() -> None:
    """The command."""
    options = tyro.cli(BlendOptions, prog="python -m ensemble.blend", description=__doc__)
    BLENDERS.entry(options.method)
    check_place(options.out)
    rules = Rules(None if options.max_params is None else parse_count(options.max_params), tuple(options.forbid))
    found, whole = with_held_out(find_fold_models(options.runs))
    begun = unfinished_runs(options.runs)
    if not found:
        told = f"; {len(begun)} were begun, such as {begun[0]}: finish them with --resume" if begun else ""
        raise InputError(f"{options.runs}: no finished member{told}; train one with python -m folds.train")
    for note in (*(f"not finished, left out: {path}" for path in begun), *whole):
        print(note, file=sys.stderr)
    dataset = load_dataset(data_root(options.data), allow_pickle=options.allow_pickle)
    groups, notes = admitted(group_by_member(found, options.members), rules, options.fold_mean == "frames")
    print("\n".join(notes), end="\n" if notes else "")
    outcome = blend(options, dataset, groups, rules)
    write_submission(options.out, dataset, outcome.strings)
    told = sidecar(options, dataset, outcome)
    write_json(options.out.with_name(options.out.name + ".json"), told)
    weights = ", ".join(f"{name} {weight:.3f}" for name, weight in outcome.recipe.weights.items())
    print(f"weights: {weights}")
    count = sum(len(group.members) for group in outcome.groups)
    tags = ", ".join(told["tags"]) or "none"
    print(f"uses {count} models, {told['parameters']:,} parameters in all; tags: {tags}")
    print(f"wrote {options.out} ({len(outcome.strings)} rows) and {options.out}.json")


if __name__ == "__main__":
    command(main)
