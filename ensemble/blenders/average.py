"""Frame averaging: the weighted mean of members' posteriors at a common frame rate, then beam search.

The mean is of probabilities or of log-probabilities; a member's fold models are first averaged as probabilities.
Members of different strides have different numbers of frames: each is brought to the longest of them by repeating its
frames, which changes no string by itself. CTC spikes fall on frames of each model's own choosing, so this loses what
the sequence-level blenders keep; it is here because it is simple and, among alike members, often good.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numba
import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, named
from ensemble.blenders.temperature import temperatures, tempered
from ensemble.fitting.member_weights import greedy_selection, refine
from ensemble.fitting.settings import grid_search
from ensemble.hypotheses.blend_inputs import BlendInputs, pool_of_nbest
from ensemble.hypotheses.edit_distance import distance, flatten
from ensemble.hypotheses.nbest import nbest_of
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import LM_GRID, best_of_column
from folds.store.log_probs import LogProbs

DOMAINS = ("probability", "log")
FLOOR = 1e-8
DEPTH = 50


@BLENDERS.register("average")
class Average:
    """Weighted mean of frame posteriors, or of their logarithms, then beam search with an LM and a bonus."""

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Greedy weights on the greedily decoded mean, both domains, calibrated or not; then LM weight and bonus."""
        tokens, token_offsets = flatten(inputs.references)
        names = inputs.names
        temperatures_by_name = dict(zip(names, temperatures(inputs), strict=True))
        plain = dict.fromkeys(names, 1.0)
        found = []
        for domain, temperature in itertools.product(DOMAINS, [plain] if temperatures_by_name == plain else [plain, temperatures_by_name]):
            frames, offsets = quantised(inputs, domain, temperature)

            def loss(weights: np.ndarray, frames=frames, offsets=offsets) -> float:
                shares = np.asarray(weights / weights.sum(), np.float32)
                return float(_greedy_distances(frames, offsets, shares, tokens, token_offsets).mean())

            selection = greedy_selection(
                loss,
                len(inputs.names),
                rounds=12,
                seed=seed,
                costs=inputs.split.costs,
                budget=inputs.split.budget,
                patience=3,
            )
            weights, value = refine(loss, selection.weights, factors=(0.0, 0.7, 1.4))
            found.append((value, domain, temperature, weights))
        _, domain, temperature, weights = min(found, key=lambda each: each[0])
        recipe = BlendRecipe("average", named(names, weights), {"domain": domain, "temperatures": temperature})
        pool = averaged_pool(inputs, recipe)
        settings, _ = grid_search(
            lambda s: float(pool.distance[best_of_column(pool, s)].mean()), {"lm_weight": 0.0, "length_bonus": 0.0}, LM_GRID
        )
        return BlendRecipe("average", recipe.weights, recipe.settings | settings)

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """Best string of the averaged posteriors with the recipe's LM weight and bonus."""
        pool = averaged_pool(inputs, recipe)
        return pool.strings(best_of_column(pool, recipe.settings))


def averaged_pool(inputs: BlendInputs, recipe: BlendRecipe) -> Pool:
    """N-best of the averaged posteriors as a pool of one column, in the order of tokens."""
    settings = recipe.settings
    mean = average(inputs, recipe.array(inputs.names), settings["domain"], settings["temperatures"])
    found = nbest_of(mean, DEPTH, "average", inputs.split.languages, inputs.parts)
    return pool_of_nbest(found, inputs)


def average(
    inputs: BlendInputs, weights: np.ndarray, domain: str = "probability", temperatures_by_name: Mapping[str, float] | None = None
) -> LogProbs:
    """The weighted mean (sum of T', C) float32 of the members with weight, normalised per frame, at a common rate.

    `heat` gives members' temperatures by name.
    """
    members = [member for member, weight in enumerate(weights) if weight > 0]
    offsets = common_offsets(inputs, members)
    mean = np.float32(0)
    for member in members:
        temperature = 1.0 if temperatures_by_name is None else temperatures_by_name[inputs.names[member]]
        mean = mean + np.float32(weights[member]) * member_frames(inputs, member, offsets, domain, temperature)
    logs = np.log(np.maximum(mean, FLOOR)) if domain == "probability" else mean
    logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return LogProbs(logs, offsets, tuple(map(str, range(len(inputs)))), "", 0, 1)


def common_offsets(inputs: BlendInputs, members: Sequence[int]) -> np.ndarray:
    """Offsets (N + 1,) at the common rate: each utterance has as many frames as its longest stream."""
    lengths = np.max([inputs.load(s).lengths for s in inputs.predictions_of(members)], axis=0)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def member_frames(
    inputs: BlendInputs, member: int, offsets: np.ndarray, domain: str, temperature: float = 1.0
) -> np.ndarray:
    """A member's posteriors (sum of T', C) float32 at the common rate, its fold models averaged as probabilities.

    In the "log" domain they are log-probabilities, floored as the probabilities are.
    """
    predictions = inputs.predictions_of([member])
    mean = np.zeros((offsets[-1], inputs.split.classes), np.float32)
    for stream in predictions:
        found = inputs.load(stream)
        mean += np.exp(found.values[resampled_rows(found.offsets, offsets)].astype(np.float32)) / len(predictions)
    if temperature == 1.0 and domain == "probability":
        return mean
    logs = np.log(np.maximum(mean, FLOOR))
    if temperature != 1.0:
        logs = np.maximum(tempered(logs, temperature), np.float32(np.log(FLOOR)))
    return np.exp(logs) if domain == "probability" else logs


def quantised(inputs: BlendInputs, domain: str, temperatures_by_name: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """All members' frames (members, sum of T', C) as 16-bit steps of one scale, and the offsets (N + 1,).

    Only for the search: twenty members of a whole split fit into memory so, and a maximum over a weighted sum does not
    ask where zero is.
    """
    members = range(len(inputs.names))
    offsets = common_offsets(inputs, members)
    low = 0.0 if domain == "probability" else float(np.log(FLOOR))
    high = 1.0 if domain == "probability" else 0.0
    out = np.empty((len(members), offsets[-1], inputs.split.classes), np.uint16)
    for member in members:
        frames = member_frames(inputs, member, offsets, domain, temperatures_by_name[inputs.names[member]])
        out[member] = np.clip((frames - low) / (high - low) * 65535 + 0.5, 0, 65535)
    return out, offsets


def resampled_rows(offsets: np.ndarray, target: np.ndarray) -> np.ndarray:
    """For each target frame the source frame whose time it falls in; both given by their offsets (N + 1,).

    >>> resampled_rows(np.array([0, 2]), np.array([0, 4])).tolist()
    [0, 0, 1, 1]
    """
    lengths, wanted = np.diff(offsets), np.diff(target)
    within = np.arange(target[-1]) - np.repeat(target[:-1], wanted)
    ratio = np.repeat(lengths / np.maximum(wanted, 1), wanted)
    source = np.minimum(((within + 0.5) * ratio).astype(np.int64), np.repeat(lengths, wanted) - 1)
    return source + np.repeat(offsets[:-1], wanted)


@numba.njit(cache=True, nogil=True, parallel=True)
def _greedy_distances(frames, offsets, weights, tokens, token_offsets):
    """Edit distance (N,) of the greedily decoded weighted sum to the references."""
    out = np.zeros(len(offsets) - 1, np.int64)
    used = np.flatnonzero(weights > 0)
    classes = frames.shape[2]
    for u in numba.prange(len(out)):
        found = np.zeros(offsets[u + 1] - offsets[u], np.int16)
        count, last = 0, 0
        for t in range(offsets[u], offsets[u + 1]):
            best, peak = 0, np.float32(-np.inf)
            for c in range(classes):
                total = np.float32(0)
                for m in used:
                    total += weights[m] * frames[m, t, c]
                if total > peak:
                    best, peak = c, total
            if best != 0 and best != last:
                found[count] = best
                count += 1
            last = best
        out[u] = distance(found[:count], tokens[token_offsets[u] : token_offsets[u + 1]])
    return out
