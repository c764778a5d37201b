"""Frame averaging: the weighted mean of members' posteriors at a common frame rate, then beam search.

The mean is of probabilities or of log-probabilities; a member's fold models are first averaged as probabilities.
Members of different strides have different numbers of frames: each is brought to the finest rate by repeating its
frames, which by itself changes no hypothesis; frames of delayed twins are shifted to align with the others. Each model
chooses the frames of its CTC spikes, so averaging loses information that the sequence-level blenders keep. It is
simple, and often good for similar members.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numba
import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, select_members, used_members, weights_by_name
from ensemble.decoding.batched import sample_rows
from ensemble.fitting.member_weights import refine
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.edit_distance import distance
from ensemble.hypotheses.first_pass import TUNING_UTTERANCES, FirstPassTrials, decode_first_pass
from ensemble.hypotheses.fusion import LENGTH_BONUS, LM_WEIGHT
from ensemble.hypotheses.temperature import apply_temperature, fit_temperatures
from ensemble.members.frame_mean import FrameRate, mean_probabilities
from ensemble.threads import for_ranges
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged

DOMAINS = ("probability", "log")
FLOOR = 1e-8


@BLENDERS.register("average")
class Average:
    """Weighted mean of frame posteriors, or of their logarithms, then beam search with an LM and a bonus."""

    weighs_networks = False

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Greedy weights for the greedily decoded mean, in both domains, with and without temperatures; then the LM."""
        fitted = dict(zip(inputs.names, fit_temperatures(inputs), strict=True))
        plain = dict.fromkeys(inputs.names, 1.0)
        trials = []
        for domain, temperatures in itertools.product(DOMAINS, [plain] if fitted == plain else [plain, fitted]):
            weights, value = _fit_weights(inputs, domain, temperatures, seed)
            trials.append((value, weights, {"domain": domain, "temperatures": temperatures}))
        _, weights, settings = min(trials, key=lambda trial: trial[0])
        recipe = BlendRecipe("average", weights_by_name(inputs.names, weights), settings)
        return replace(recipe, settings=settings | _fit_first_pass(inputs, recipe))

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The best hypothesis in a search of the averaged posteriors with the recipe's LM weight and bonuses."""
        return decode_first_pass(
            _average(inputs, recipe),
            inputs.split.language_models,
            inputs.outer_folds,
            recipe.settings,
            f"{inputs.split.name} average",
            inputs.label_bonus(used_members(recipe, inputs.names)),
        )


def _average(inputs: BlendInputs, recipe: BlendRecipe) -> LogProbs:
    settings = recipe.settings
    return average_frames(inputs, recipe.array(inputs.names), settings["domain"], settings["temperatures"])


def _fit_first_pass(inputs: BlendInputs, recipe: BlendRecipe) -> dict[str, float]:
    """The best LM weight, length bonus and prior weight for decoding the averaged posteriors."""
    sample = inputs.take(sample_rows(np.arange(len(inputs)), TUNING_UTTERANCES))
    trials = FirstPassTrials.of(
        _average(sample, recipe),
        sample.references,
        inputs.split.language_models,
        sample.outer_folds,
        "average",
        inputs.label_bonus(used_members(recipe, inputs.names)),
    )
    return trials.fit(np.arange(len(sample)), (LM_WEIGHT, LENGTH_BONUS))[0]


def average_frames(
    inputs: BlendInputs,
    weights: np.ndarray,
    domain: str = "probability",
    temperatures: Mapping[str, float] | None = None,
) -> LogProbs:
    """The weighted mean (sum of T', C) float32 of the members with weight, normalised per frame, at a common rate.

    `temperatures` maps members' names to their temperatures; by default 1.
    """
    members = [member for member, weight in enumerate(weights) if weight > 0]
    rate = common_rate(inputs, members)
    mean: np.ndarray = np.zeros(1, np.float32)
    for member in members:
        temperature = 1.0 if temperatures is None else temperatures[inputs.names[member]]
        mean = mean + np.float32(weights[member]) * member_frames(inputs, member, rate, domain, temperature)
    logs = np.log(np.maximum(mean, FLOOR)) if domain == "probability" else mean
    logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
    ids = tuple(map(str, range(len(inputs))))
    return LogProbs(logs, rate.offsets, ids, alphabet_hash="", blank=0, stride=rate.stride)


def common_rate(inputs: BlendInputs, members: Sequence[int]) -> FrameRate:
    """The finest frame rate of these members' predictions; among several, the one with the smallest delay."""
    indices = inputs.prediction_indices(members)
    rates = (FrameRate.of(inputs.load(index), inputs.split.predictions[index].delay) for index in indices)
    return min(rates, key=lambda rate: (rate.stride, rate.delay))


def member_frames(
    inputs: BlendInputs, member: int, rate: FrameRate, domain: str, temperature: float = 1.0
) -> np.ndarray:
    """A member's posteriors (sum of T', C) float32 at the common rate, its fold models averaged as probabilities.

    The temperature is applied to each fold model first: it was fitted on single fold models, and their mean is flatter.
    In the "log" domain the result is log-probabilities, with the same floor as the probabilities.
    """

    def at_temperature(index: int) -> LogProbs:
        log_probs = inputs.load(index)
        if temperature == 1.0:
            return log_probs
        return replace(log_probs, values=apply_temperature(log_probs.values, temperature))

    indices = inputs.prediction_indices([member])
    predictions = ((at_temperature(index), inputs.split.predictions[index].delay) for index in indices)
    mean = mean_probabilities(predictions, len(indices), rate)
    return mean if domain == "probability" else np.log(np.maximum(mean, FLOOR))


def _fit_weights(
    inputs: BlendInputs, domain: str, temperatures: Mapping[str, float], seed: int
) -> tuple[np.ndarray, float]:
    """Weights (members,) that minimise the mean distance of the greedily decoded mean, and that distance."""
    references = Ragged.of(inputs.references, np.int16)
    frames, offsets = _quantise_frames(inputs, domain, temperatures)

    def loss(weights: np.ndarray) -> float:
        normalized, distances = np.asarray(weights / weights.sum(), np.float32), np.zeros(len(inputs), np.int64)
        for_ranges(
            lambda first, last: _greedy_distances(
                frames, offsets, normalized, references.values, references.offsets, first, last, distances
            ),
            len(inputs),
        )
        return float(distances.mean())

    return refine(loss, select_members(inputs, loss, seed).weights, factors=(0.0, 0.7, 1.4))


def _quantise_frames(
    inputs: BlendInputs, domain: str, temperatures: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """All members' frames (members, sum of T', C), quantised to 16 bits on one scale, and the offsets (N + 1,).

    Only the search for weights uses them: this way twenty members of a whole split fit into memory, and the class with
    the largest weighted sum does not depend on the scale's zero point.
    """
    members = range(len(inputs.names))
    rate = common_rate(inputs, members)
    low = 0.0 if domain == "probability" else float(np.log(FLOOR))
    high = 1.0 if domain == "probability" else 0.0
    quantised = np.empty((len(members), rate.offsets[-1], inputs.split.classes), np.uint16)
    for member in members:
        frames = member_frames(inputs, member, rate, domain, temperatures[inputs.names[member]])
        quantised[member] = np.clip((frames - low) / (high - low) * 65535 + 0.5, 0, 65535)
    return quantised, rate.offsets


@numba.njit(cache=True, nogil=True)
def _greedy_distances(frames, offsets, weights, tokens, token_offsets, first, last, out):
    """Fill `out` with the edit distances of the greedily decoded weighted sum to the references."""
    used = np.flatnonzero(weights > 0)
    classes = frames.shape[2]
    for u in range(first, last):
        decoded = np.zeros(offsets[u + 1] - offsets[u], np.int16)
        count, token = 0, 0
        for t in range(offsets[u], offsets[u + 1]):
            best, peak = 0, np.float32(-np.inf)
            for c in range(classes):
                total = np.float32(0)
                for m in used:
                    total += weights[m] * frames[m, t, c]
                if total > peak:
                    best, peak = c, total
            if best != 0 and best != token:
                decoded[count] = best
                count += 1
            token = best
        out[u] = distance(decoded[:count], tokens[token_offsets[u] : token_offsets[u + 1]])
