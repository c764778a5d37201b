"""Blenders for words: averaged frames decoded to words, ROVER, rescoring, minimum Bayes risk, the best member alone.

Rescoring and minimum Bayes risk are the blenders for phonemes, applied to pools of sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensemble.blenders.average import average_frames
from ensemble.blenders.base import BlendRecipe, select_members, used_members, weights_by_name
from ensemble.blenders.mbr import MinimumBayesRisk
from ensemble.blenders.rescore import Rescore
from ensemble.blenders.rover import VOTE_GRID, best_leading_members
from ensemble.decoding.batched import sample_rows
from ensemble.fitting.settings import coordinate_search
from ensemble.hypotheses.scoring import best_per_utterance
from ensemble.rover import NULL, ConfusionNetwork, align, vote
from ensemble.words.search import WordSettings
from ensemble.words.search_trials import SAMPLE, SearchTrials
from ensemble.words.word_inputs import WordInputs, decode_by_fold
from folds.competition.metric import edit_distances
from registry import Registry

WORD_BLENDERS: Registry[type[Any]] = Registry("word_blenders", package="ensemble.words")
WORD_BLENDERS.register("rescore")(Rescore)
WORD_BLENDERS.register("mbr")(MinimumBayesRisk)


def member_sentences(inputs: WordInputs, member: int) -> list[list[int]]:
    """One member's best sentence of each utterance, words by number.

    With several networks, as on dev and test, it is the sentence of their pool with the highest sum of mean
    log-likelihood, language model term and word bonus.
    """
    indices = inputs.prediction_indices([member])
    if len(indices) == 1:
        return inputs.comparable(inputs.sentences(indices[0]).best)
    pool, settings = inputs.pool([member]), inputs.trials[member].settings()
    scores = pool.ctc.mean(axis=1) + settings.lm_weight * pool.lm + settings.word_bonus * pool.lengths
    return pool.chosen(best_per_utterance(scores, pool.offsets))


def _ranked(inputs: WordInputs) -> list[int]:
    """The members, sorted by errors, fewest first."""
    errors = [_mean_errors(member_sentences(inputs, member), inputs) for member in range(len(inputs.names))]
    return sorted(range(len(errors)), key=lambda member: (errors[member], member))


def _mean_errors(sentences: Sequence[Sequence[int]], inputs: WordInputs) -> float:
    return float(edit_distances(sentences, inputs.references).mean())


@WORD_BLENDERS.register("single")
class SingleInWords:
    """The best member alone, decoded with the lexicon and the word language model."""

    weighs_networks = True

    def fit(self, inputs: WordInputs, seed: int = 0) -> BlendRecipe:
        """The member with the fewest word errors."""
        return BlendRecipe("single", {inputs.names[_ranked(inputs)[0]]: 1.0})

    def predict(self, inputs: WordInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The member's best sentences."""
        (member,) = used_members(recipe, inputs.names)
        return member_sentences(inputs, member)


@WORD_BLENDERS.register("average")
class AverageInWords:
    """The mean of the best members' frame posteriors, decoded with the lexicon and the word language model."""

    weighs_networks = False

    def fit(self, inputs: WordInputs, seed: int = 0) -> BlendRecipe:
        """Equal weights for the best 1, 2, 3, … members, and search settings, with the fewest errors on a sample."""
        sample = inputs.take(sample_rows(np.arange(len(inputs)), SAMPLE))
        order = [inputs.names[member] for member in _ranked(inputs)]
        trials: list[tuple[float, BlendRecipe]] = []

        def loss(counts: np.ndarray) -> float:
            weights = counts / counts.sum()
            mean, folds = average_frames(sample, weights), sample.outer_folds
            own = SearchTrials.of(mean, sample.references, folds, inputs.vocabulary, "average").settings()
            settings = {"lm_weight": own.lm_weight, "word_bonus": own.word_bonus}
            recipe = BlendRecipe("average", weights_by_name(inputs.names, weights), settings)
            trials.append((_mean_errors(self.predict(sample, recipe), sample), recipe))
            return trials[-1][0]

        best_leading_members(inputs, order, loss)
        return min(trials, key=lambda trial: trial[0])[1]

    def predict(self, inputs: WordInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The best sentence under the averaged posteriors with the recipe's settings."""
        mean, folds = average_frames(inputs, recipe.array(inputs.names)), np.zeros(len(inputs), np.int64)
        settings = {0: WordSettings(recipe.settings["lm_weight"], recipe.settings["word_bonus"])}
        decoded = decode_by_fold(mean, folds, inputs.vocabulary, settings, 1, f"{inputs.split.name} average")
        return inputs.comparable(decoded.best)


@WORD_BLENDERS.register("rover")
class RoverInWords:
    """ROVER over the members' best sentences: one vote per member and word."""

    weighs_networks = True

    def fit(self, inputs: WordInputs, seed: int = 0) -> BlendRecipe:
        """Weights selected greedily on plain votes, then the voting scheme, alpha and the null confidence."""
        order = [inputs.names[member] for member in _ranked(inputs)]
        slots = _WordSlots(inputs, order, range(len(inputs.names)))

        def loss(weights: np.ndarray, settings: Mapping[str, Any]) -> float:
            return _mean_errors(slots.winners(weights, settings), inputs)

        settings: dict[str, Any] = {"method": "avgconf", "alpha": 1.0, "null_confidence": 0.0}
        start = best_leading_members(inputs, order, lambda counts: loss(counts, settings))
        weights = select_members(inputs, lambda counts: loss(counts, settings), seed, start=start).weights
        if not weights.all():  # prediction aligns only members with weight
            slots = _WordSlots(inputs, order, np.flatnonzero(weights).tolist())
        settings, _ = coordinate_search(lambda trial: loss(weights, trial), settings, VOTE_GRID, rounds=1)
        return BlendRecipe("rover", weights_by_name(inputs.names, weights), settings | {"order": order})

    def predict(self, inputs: WordInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The vote of the members with nonzero weight."""
        slots = _WordSlots(inputs, recipe.settings["order"], used_members(recipe, inputs.names))
        return slots.winners(recipe.array(inputs.names), recipe.settings)


class _WordSlots:
    """The confusion network of each utterance, aligned from the best sentences of `members` in the order of names."""

    def __init__(self, inputs: WordInputs, order: Sequence[str], members: Sequence[int]) -> None:
        known = filter(inputs.names.__contains__, order)  # members without weight may be gone
        self.members = [member for member in map(inputs.names.index, known) if member in members]
        systems = [member_sentences(inputs, member) for member in self.members]
        self.networks: list[tuple[ConfusionNetwork, list[int]]] = []
        for sentences in zip(*systems, strict=True):
            # Small numbers, because the alignment needs memory proportional to the largest.
            small: dict[int, int] = {}
            numbered = [[small.setdefault(word, len(small)) for word in sentence] for sentence in sentences]
            self.networks.append((align(numbered), list(small)))

    def winners(self, weights: np.ndarray, settings: Mapping[str, Any]) -> list[list[int]]:
        """The winning words of each utterance; `weights` (members,) are those of all members."""
        scheme = (settings["method"], settings["alpha"], settings["null_confidence"], weights[self.members])
        voted = ((vote(network, *scheme)[0], words) for network, words in self.networks)
        return [[words[winner] for winner in winners if winner != NULL] for winners, words in voted]
