"""The blend for a competition scored in words: what `ensemble.blend` does there instead of blending phonemes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from ensemble.blenders.base import BlendRecipe, restricted
from ensemble.blenders.best import FittedBlender, best_recipe, fit_blenders, winner
from ensemble.hypotheses.open_inputs import OpenedInputs
from ensemble.members.eligibility import count_networks
from ensemble.members.member import Member
from ensemble.members.sidecar import WORDS, Difference, write_sidecar
from ensemble.statistics.blend_tables import NETWORKS, verdict
from ensemble.words.blenders import WORD_BLENDERS, SingleInWords, member_sentences
from ensemble.words.search import Vocabulary
from ensemble.words.search_trials import SearchTrials
from ensemble.words.word_inputs import WordInputs, number_words
from folds.competition.bootstrap import Interval, bootstrap, describe_resampled, paired_bootstrap
from folds.competition.metric import edit_distances
from folds.competition.submission import write_submission
from folds.data.dataset import Dataset, Split
from registry import InputError
from registry.console import counted, print_table


@dataclass(frozen=True)
class WordSplits:
    """The inputs of the three splits."""

    oof: WordInputs
    dev: WordInputs
    test: WordInputs


@dataclass(frozen=True)
class WordBlend:
    """The chosen blend and its measurements."""

    recipe: BlendRecipe
    members: list[Member]
    fitted: dict[str, FittedBlender]
    dev: dict[str, np.ndarray]
    """Word errors (N,) of each blender on dev."""
    texts: list[str]
    """One sentence per utterance of test."""

    @property
    def chosen(self) -> str:
        """The blender with the fewest nested out-of-fold word errors."""
        return winner(self.fitted)


def open_word_inputs(
    inputs: OpenedInputs, dataset: Dataset, vocabulary: Vocabulary, text_scorer: str | None = None
) -> WordSplits:
    """Inputs in words, with each member's search settings fitted out of fold.

    Raises InputError for training utterances without sentences.
    """
    train = dict(zip(dataset.train.ids, _texts(dataset.train), strict=True))
    texts = [train[utterance] for utterance in inputs.oof.split.ids]
    references = number_words(texts, vocabulary.lexicon)
    split = inputs.oof.split
    trials = [
        SearchTrials.of(p.load(), references, split.outer_folds, vocabulary, p.name) for p in split.predictions
    ]
    by_split = ((inputs.oof, texts), (inputs.dev, dataset.dev.texts), (inputs.test, None))
    return WordSplits(*(WordInputs.of(own, found, vocabulary, trials, text_scorer) for own, found in by_split))


def _texts(split: Split) -> tuple[str, ...]:
    if split.texts is None:
        raise InputError(f"the {split.name} split has no sentences, on which a blend in words is fitted")
    return split.texts


def methods_in_words(method: str) -> list[str]:
    """The blenders to fit for `--method`. Raises InputError for one that does not work on words."""
    if method == "best":
        return WORD_BLENDERS.names()
    WORD_BLENDERS.entry(method)
    return [method]


def blend_in_words(inputs: OpenedInputs, words: WordSplits, method: str = "best", seed: int = 0) -> WordBlend:
    """Fit word blenders out of fold, choose one by nested word errors, evaluate on dev and predict test."""
    fitted = fit_blenders(words.oof, methods_in_words(method), seed, WORD_BLENDERS)
    chosen = winner(fitted)

    def predict(split: WordInputs, name: str) -> list[list[int]]:
        recipe = fitted[name].recipe
        kept = inputs.keep(recipe.weights, inputs.networks)
        with WORD_BLENDERS.using(recipe.method):
            return WORD_BLENDERS.get(recipe.method)().predict(*restricted(split, recipe, kept))

    dev = {name: edit_distances(predict(words.dev, name), words.dev.references) for name in fitted}
    lexicon = words.test.vocabulary.lexicon
    texts = [lexicon.text(sentence) for sentence in predict(words.test, chosen)]
    best = best_recipe(fitted)
    recipe = BlendRecipe(WORDS, best.weights, best.settings)
    return WordBlend(recipe, inputs.keep(recipe.weights, inputs.networks), fitted, dev, texts)


def print_members(inputs: OpenedInputs, words: WordSplits) -> dict[str, np.ndarray]:
    """Print each member's word error rates, and return its word errors (N,) on dev."""
    lengths = _lengths(words.oof), _lengths(words.dev)
    dev, rows = {}, []
    for index, member in enumerate(inputs.members):
        # As a blend would use it: with the networks that predict test and that the rules allow.
        alone = BlendRecipe("single", {member.name: 1.0})
        kept = inputs.keep(alone.weights, inputs.networks)
        on_dev, alone = restricted(words.dev, alone, kept)
        predicted = member_sentences(words.oof, index), SingleInWords().predict(on_dev, alone)
        references = words.oof.references, words.dev.references
        errors = [edit_distances(sentences, own) for sentences, own in zip(predicted, references, strict=True)]
        dev[member.name] = errors[1]
        rates = [_percent(own.sum() / count.sum()) for own, count in zip(errors, lengths, strict=True)]
        folds = ",".join(map(str, member.folds)) + (" + refit" if member.refit else "")
        settings = words.oof.trials[index].settings()
        rows.append((member.name, folds, member.parameters, *rates, f"{settings.lm_weight:g}, {settings.word_bonus:g}"))
    print_table(["member", "folds", "parameters", "WER oof", "WER dev", "LM weight, word bonus"], rows)
    return dev


def print_blenders(
    blend: WordBlend, words: WordSplits, members: Mapping[str, np.ndarray], groups: Sequence[str] | None, resampled: str
) -> None:
    """Print word error rates of the blenders, and compare the chosen one with the best member alone on dev."""
    oof_words, dev_words = _lengths(words.oof), _lengths(words.dev)
    strongest = min(members, key=lambda name: float(members[name].sum()))
    print(f"\nword error rates in %, with 95 % intervals over {resampled}")
    rows = [
        (
            name,
            _percent(fitted.oof.sum() / oof_words.sum()),
            _percent(fitted.nested.sum() / oof_words.sum()),
            _level(bootstrap(blend.dev[name], groups, sizes=dev_words)),
            str(_in_percent(paired_bootstrap(blend.dev[name], members[strongest], groups, sizes=dev_words))),
        )
        for name, fitted in blend.fitted.items()
    ]
    print_table(["blender", "WER oof, fitted", "WER oof, nested", "WER dev", f"dev - {strongest}"], rows)
    chosen = blend.chosen
    difference = paired_bootstrap(blend.dev[chosen], members[strongest], groups, sizes=dev_words)
    rate = _percent(blend.dev[chosen].sum() / dev_words.sum())
    print(f"\nchosen by the nested out-of-fold word errors: {chosen}")
    print(f"on dev: {rate} % word error rate, {verdict(difference)} {strongest} at 95 %: {_in_percent(difference)}")


def results_of(
    blend: WordBlend, words: WordSplits, members: Mapping[str, np.ndarray], groups: Sequence[str] | None
) -> dict[str, Any]:
    """The results for the sidecar: word error rates, as fractions."""
    chosen, strongest = blend.chosen, min(members, key=lambda name: float(members[name].sum()))
    oof_words, dev_words = _lengths(words.oof), _lengths(words.dev)
    difference = paired_bootstrap(blend.dev[chosen], members[strongest], groups, sizes=dev_words)
    return {
        "metric": "word error rate",
        "oof": float(blend.fitted[chosen].oof.sum() / oof_words.sum()),
        "nested": float(blend.fitted[chosen].nested.sum() / oof_words.sum()),
        "dev": float(blend.dev[chosen].sum() / dev_words.sum()),
        "dev_minus_best_member": msgspec.to_builtins(Difference.of(strongest, difference)),
    }


class WordBlendOptions(Protocol):
    """The options of `ensemble.blend` that a blend in words uses."""

    @property
    def method(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def text_scorer(self) -> str | None: ...
    @property
    def out(self) -> Path: ...


def write_word_blend(
    inputs: OpenedInputs, dataset: Dataset, vocabulary: Vocabulary, options: WordBlendOptions
) -> None:
    """Blend, print the tables, and write the submission and its sidecar."""
    out = options.out
    words = open_word_inputs(inputs, dataset, vocabulary, options.text_scorer)
    members = print_members(inputs, words)
    blend = blend_in_words(inputs, words, options.method, options.seed)
    print_blenders(blend, words, members, inputs.dev_groups, describe_resampled(inputs.dev_groups, inputs.grouped_by))
    write_submission(out, dataset.header, dataset.sample_ids, blend.texts)
    results = results_of(blend, words, members, inputs.dev_groups) | {"rules": msgspec.to_builtins(inputs.rules)}
    write_sidecar(out, dataset, blend.members, blend.recipe.to_json(), options, results)
    print("weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in blend.recipe.weights.items()))
    networks = counted(count_networks(blend.members), "network")
    print(f"uses {networks}: {NETWORKS[inputs.networks]}")
    print(f"wrote {out} ({len(blend.texts)} rows) and {out}.json")


def _lengths(inputs: WordInputs) -> np.ndarray:
    """Number of words of each reference, (N,)."""
    return np.array([len(reference) for reference in inputs.references], np.int64)


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f}"


def _in_percent(interval: Interval) -> Interval:
    return Interval(100 * interval.mean, 100 * interval.low, 100 * interval.high, interval.level)


def _level(interval: Interval) -> str:
    scaled = _in_percent(interval)
    return f"{scaled.mean:.2f} [{scaled.low:.2f}, {scaled.high:.2f}]"
