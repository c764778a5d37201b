"""`python -m ensemble.blend`: blend all finished members into a submission.

Prints each member's and blender's mean edit distance on out-of-fold data (as fitted and by nested cross-validation) and
on the untouched dev set, selects the blender with the lowest nested distance (for ties see `ensemble.blenders.best`),
and writes the submission and `<out>.json`, which holds everything needed to reproduce it. The best member alone,
decoded with the language model, is one of the blenders, and all differences are relative to the strongest member alone.
In Python, `ensemble.blend.blend` does this without printing or writing files.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, predict_with
from ensemble.blenders.best import FittedBlender, best_recipe, fit_blenders, lowest_nested, methods_of, winner
from ensemble.blenders.nbest_out import check_has_posterior, write_nbest
from ensemble.hypotheses.fusion import search_settings
from ensemble.hypotheses.open_inputs import InputOptions, OpenedInputs, open_inputs
from ensemble.members.eligibility import all_tags, count_networks
from ensemble.members.finished import find_members
from ensemble.members.member import Member, Networks
from ensemble.members.sidecar import Difference, write_sidecar
from ensemble.members.stores import StoresOptions
from ensemble.statistics.blend_tables import (
    NETWORKS,
    blender_table,
    describe_difference,
    describe_level,
    member_table,
    verdict,
)
from ensemble.statistics.measured import MeasuredBlender, fingerprint, write_measured
from ensemble.statistics.member_baselines import MemberBaseline, measure_members, strongest
from ensemble.statistics.oracles import PoolOracle, pool_oracle
from ensemble.words.blend import methods_in_words, write_word_blend
from ensemble.words.files import WordOptions
from ensemble.words.scorers import TEXT_SCORERS
from ensemble.words.search import Vocabulary
from folds.competition.base import Rules
from folds.competition.bootstrap import bootstrap, describe_resampled, paired_bootstrap
from folds.competition.detect import data_root
from folds.competition.metric import edit_distances
from folds.competition.submission import write_submission
from folds.data.dataset import Dataset
from folds.store.fold_model import check_tags
from registry import InputError, check_writable, command
from registry.command_line import parse_options
from registry.console import counted, print_table
from registry.models import parse_count


@dataclass(frozen=True)
class BlendResult:
    """The selected blend and its predictions."""

    recipe: BlendRecipe
    members: list[Member]
    """The members in the recipe, each with the networks used."""
    fitted: dict[str, FittedBlender]
    """The blenders that were compared, by name."""
    networks: Networks
    """The networks that predict test."""
    dev_by_networks: dict[Networks, dict[str, np.ndarray]]
    """Edit distances (N,) of each blender on dev, for each choice of networks."""
    dev_hypotheses: list[list[int]]
    """The chosen blender's class sequences for dev, from the networks that predict test."""
    hypotheses: list[list[int]]
    """One class sequence per utterance of test."""
    oracle: PoolOracle | None = None
    """What a perfect choice from the pools would reach; None if no blender that was compared has pools."""

    @property
    def chosen(self) -> str:
        """The blender of the lowest nested distance, or a safer one; see `ensemble.blenders.best.winner`."""
        return winner(self.fitted)

    @property
    def dev(self) -> dict[str, np.ndarray]:
        """Edit distances (N,) of each blender on dev, with the networks that predict test."""
        return self.dev_by_networks[self.networks]


def blend(inputs: OpenedInputs, method: str = "best", seed: int = 0) -> BlendResult:
    """Fit a registered blender, or all of them for `best`, on out-of-fold data; evaluate it on dev and predict test.

    >>> from ensemble import members_of, open_inputs
    >>> from folds import find_fold_models, load_dataset
    >>> dataset = load_dataset(Path("competition"))
    >>> members, left_out = members_of(find_fold_models(Path("runs")))
    >>> inputs = open_inputs(members, dataset)
    >>> result = blend(inputs, method="rescore")
    >>> result.recipe.method, round(sum(result.recipe.weights.values()), 6)
    ('rescore', 1.0)
    >>> phonemes = [dataset.alphabet.to_string(hypothesis) for hypothesis in result.hypotheses]
    >>> len(phonemes) == len(dataset.test)
    True

    `seed` breaks ties. Raises InputError for an unknown method, and for missing or faulty predictions.
    """
    fitted = fit_blenders(inputs.oof, methods_of(method), seed)
    # All networks come first: the hypotheses of fewer networks are then part of pools that are already scored.
    choices = sorted(inputs.choices, key=lambda networks: networks != "both")
    predicted = {networks: _predict_dev(inputs, fitted, networks) for networks in choices}
    chosen = winner(fitted)
    recipe = best_recipe(fitted) if method == "best" else fitted[chosen].recipe
    kept = inputs.keep(recipe.weights, inputs.networks)
    hypotheses = predict_with(inputs.test, fitted[chosen].recipe, kept)
    references = inputs.dev.references
    dev = {
        networks: {name: edit_distances(of_blender, references) for name, of_blender in predicted[networks].items()}
        for networks in inputs.choices
    }
    dev_hypotheses, oracle = predicted[inputs.networks][chosen], pool_oracle(inputs, fitted)
    return BlendResult(recipe, kept, fitted, inputs.networks, dev, dev_hypotheses, hypotheses, oracle)


def _predict_dev(
    inputs: OpenedInputs, fitted: dict[str, FittedBlender], networks: Networks
) -> dict[str, list[list[int]]]:
    """Each blender's class sequences for dev, predicted from these networks."""
    return {
        name: predict_with(inputs.dev, blender.recipe, inputs.keep(blender.recipe.weights, networks))
        for name, blender in fitted.items()
    }


@dataclass(frozen=True)
class BlendOptions(InputOptions, WordOptions, StoresOptions):
    """Blend all finished members into a submission."""

    method: str = "best"
    """A registered blender: average, rover, rover_mbr, rescore, mbr, rank, single (the best member alone), a plug-in's,
    or best (the blender with the lowest nested out-of-fold distance). For words, there is no rover_mbr and no rank."""
    out: Path = Path("submission.csv")
    """The submission to write; `<out>.json` describes how it was made."""
    members: tuple[str, ...] = ("*",)
    """Members to blend: globs over their names."""
    max_params: str | None = None
    """Maximum total number of parameters over all networks used, e.g. 20M."""
    forbid: tuple[str, ...] = ()
    """Tags that no model used may have, e.g. attention, pretrained, external-data, transductive."""

    text_scorer: str | None = None
    """For a competition scored in words: an installed plug-in that scores sentences, such as a neural language model.
    """
    nbest_out: Path | None = None
    """Also write hypotheses with their posteriors for the training utterances (out of fold), dev and test:
    folds.adapt --hypotheses <out>.json uses them to adapt networks to speakers, and folds.train --teacher <out>.json
    trains one model on them (distillation)."""

    @property
    def rules(self) -> Rules:
        """The rules that restrict which models may be used."""
        return Rules(None if self.max_params is None else parse_count(self.max_params), tuple(self.forbid))


def print_blenders(
    result: BlendResult, baselines: Sequence[MemberBaseline], groups: Sequence[Hashable] | None, resampled: str
) -> None:
    """Print the distances of the blenders and of the strongest member, and the chosen blender."""
    alternative = strongest(baselines)
    print(f"\nmean edit distances, with 95 % intervals over {resampled}")
    level = describe_level(bootstrap(alternative.dev, groups))
    print(f"the strongest on dev without a blend is {alternative.name}: {level}")
    table = blender_table(result.fitted, result.dev_by_networks, result.networks, alternative, groups)
    print_table(list(table.columns), table.itertuples(index=False))
    if result.oracle is not None:
        print(f"oracle: {result.oracle}")
    ours = result.dev[result.chosen]
    difference = describe_difference(ours, alternative.dev, groups)
    how = "chosen by the nested out-of-fold distance" if len(result.fitted) > 1 else "fitted"
    print(f"\n{how}: {result.chosen}, predicted by {NETWORKS[result.networks]}")
    lowest = lowest_nested(result.fitted)
    if lowest != result.chosen:
        print(f"({lowest} is lower, but not significantly, and more sensitive to a poor network of a member: on dev")
        print("and test, a member can have several networks per utterance, and out of fold only one)")
    print(
        f"on dev: {ours.mean():.3f}, {verdict(paired_bootstrap(ours, alternative.dev, groups))} {alternative.name} "
        f"at 95 %: {difference}"
    )
    if len(result.fitted) == 1 and ours.mean() > alternative.dev.mean():
        print("so the blend gains nothing: leave out --method to compare all blenders and the best member alone")


def dev_results(
    result: BlendResult, baselines: Sequence[MemberBaseline], groups: Sequence[Hashable] | None
) -> dict[str, Any]:
    """The distances that `<out>.json` records."""
    blender, alternative = result.fitted[result.chosen], strongest(baselines)
    difference = paired_bootstrap(result.dev[result.chosen], alternative.dev, groups)
    by_networks = {networks: float(dev[result.chosen].mean()) for networks, dev in result.dev_by_networks.items()}
    return {
        "oof": float(blender.oof.mean()),
        "nested": float(blender.nested.mean()),
        "dev": float(result.dev[result.chosen].mean()),
        "dev_by_networks": by_networks,
        "oracle": None if result.oracle is None else result.oracle._asdict(),
        "dev_minus_best_member": msgspec.to_builtins(Difference.of(alternative.name, difference)),
    }


def keep_measurements(
    out: Path, inputs: OpenedInputs, dataset: Dataset, baselines: Sequence[MemberBaseline], result: BlendResult
) -> None:
    """Write the measurements next to the submission, for `ensemble.report`."""
    blenders = {
        name: MeasuredBlender(float(b.oof.mean()), float(b.nested.mean()), tuple(map(float, result.dev[name])))
        for name, b in result.fitted.items()
    }
    key = fingerprint(inputs, dataset.hash)
    write_measured(out, key, dataset.alphabet, baselines, blenders, result.chosen, result.dev_hypotheses)


def recorded(inputs: OpenedInputs, result: BlendResult) -> dict[str, Any]:
    """What commands that read the submission need: the rules, and the search settings of the members used."""
    fusion, names = inputs.fusion, inputs.test.names
    used = [member.name for member in result.members]
    settings = {name: msgspec.to_builtins(search_settings(fusion, names.index(name))) for name in used}
    return {"rules": msgspec.to_builtins(inputs.rules), "fusion": settings}


def open_vocabulary(options: BlendOptions, dataset: Dataset) -> Vocabulary:
    """The vocabulary for a blend in words. Raises InputError if it is missing, and for options meant for phonemes."""
    methods_in_words(options.method)
    if options.text_scorer is not None:
        TEXT_SCORERS.entry(options.text_scorer)
    if options.nbest_out is not None:
        raise InputError(
            "--nbest-out is for students and adaptation, which need phonemes, and this competition is blended in "
            "words: leave it out"
        )
    return options.open_vocabulary(dataset, data_root(options.data))


def write_blend(inputs: OpenedInputs, dataset: Dataset, options: BlendOptions) -> None:
    """Blend, print the tables, and write the submission and its description."""
    baselines = measure_members(inputs)
    table = member_table(inputs.members, baselines)
    print_table(list(table.columns), table.itertuples(index=False))
    print("(oof and dev by beam search without a language model; training prints distances by greedy decoding)")
    result = blend(inputs, options.method, options.seed)
    print_blenders(result, baselines, inputs.dev_groups, describe_resampled(inputs.dev_groups, inputs.grouped_by))
    for line in dataset.dev_metrics(result.dev_hypotheses):
        print(line)
    strings = [dataset.competition.submission_text(hypothesis) for hypothesis in result.hypotheses]
    write_submission(options.out, dataset.header, dataset.sample_ids, strings)
    results = dev_results(result, baselines, inputs.dev_groups) | recorded(inputs, result)
    if options.nbest_out is not None:
        results["nbest"] = write_nbest(options.nbest_out, options.out, inputs, result.fitted, dataset)
    keep_measurements(options.out, inputs, dataset, baselines, result)
    description = write_sidecar(options.out, dataset, result.members, result.recipe.to_json(), options, results)
    print("weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in result.recipe.weights.items()))
    networks, tags = counted(count_networks(result.members), "network"), ", ".join(description["tags"]) or "none"
    print(f"uses {networks}, {description['parameters']:,} parameters in all; tags: {tags}")
    print(f"wrote {options.out} ({len(strings)} rows) and {options.out}.json")


def main() -> None:
    """Run the command."""
    options = parse_options(BlendOptions, "python -m ensemble.blend", description=__doc__)
    BLENDERS.entry(options.method)
    for name, reason in BLENDERS.broken().items():
        print(f"left out: blender {name} failed to import: {reason}", file=sys.stderr)
    check_writable(options.out)
    if options.nbest_out is not None:
        check_has_posterior(options.method)
        check_writable(options.nbest_out)
    options.use_threads()
    rules = options.rules
    members = find_members(options, options.members)
    check_tags("--forbid", options.forbid, all_tags(members))
    dataset = options.open_dataset()
    vocabulary = open_vocabulary(options, dataset) if dataset.in_words else None
    if vocabulary is None:
        options.check_unused()
        if options.text_scorer is not None:
            raise InputError("--text-scorer is for competitions in words, and this one is in phonemes: leave it out")
    inputs = open_inputs(members, dataset, options, rules)
    print("\n".join(inputs.notes), end="\n\n")
    inputs.check()
    if vocabulary is not None:
        write_word_blend(inputs, dataset, vocabulary, options)
    else:
        write_blend(inputs, dataset, options)


if __name__ == "__main__":
    command(main)
