"""Time and memory of a blend against utterances, members and pool, with simulated members; a script, not a test.

    python tests/benchmarks/bench_blend.py                      a small grid, a minute or two
    python tests/benchmarks/bench_blend.py --full               2,620 utterances, 20 members, pool of 100

Members are true strings as peaky posteriors with noise, of stride 4 and the real competition's lengths.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe
from ensemble.hypotheses.blend_inputs import BlendInputs, SplitPredictions
from ensemble.lm.ngram import estimate
from ensemble.members.predictions import Predictions
from folds.competition.metric import mean_distance
from folds.store.log_probs import LogProbs

CLASSES = 41


def truth(utterances: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.normal(130, 40, utterances), 15, 250).astype(int)
    return [rng.integers(1, CLASSES, length) for length in lengths]


def member(strings: list[np.ndarray], seed: int) -> LogProbs:
    """All spikes written at once: a loop over 340,000 tokens and 20 members would outlast the blend."""
    rng = np.random.default_rng(seed)
    lengths = np.array([len(string) for string in strings])
    frames = (lengths * 2.44).astype(int) + 2  # LibriSpeech: 12.7 s and 130 phonemes an utterance, stride 4
    offsets = np.concatenate([[0], np.cumsum(frames)]).astype(np.int64)
    values = rng.normal(-8, 0.7, (offsets[-1], CLASSES)).astype(np.float32)
    values[:, 0] = 0.0
    tokens = np.concatenate(strings)
    within = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = np.repeat(offsets[:-1], lengths) + 1 + (within * 2.44 + rng.integers(0, 2, len(tokens))).astype(int)
    hard = np.random.default_rng(1).random(len(tokens)) ** 4
    leak = np.clip(0.9 * hard + 0.1 * rng.exponential(0.6, len(tokens)), 0.001, 0.95)
    values[at, rng.integers(1, CLASSES, len(tokens))] = np.log(leak)
    values[at, tokens] = np.log(1 - leak)
    values[at, 0] = np.log(0.1)
    values -= np.logaddexp.reduce(values, axis=1, keepdims=True)
    ids = tuple(map(str, range(len(strings))))
    return LogProbs(values.astype(np.float16), offsets, ids, "simulated", 0, 4)


def measure(utterances: int, members: int, pool: int, fit: bool) -> None:
    strings = truth(utterances)
    predictions = tuple(Predictions(f"m{i:02}", i, lambda i=i: member(strings, 10 + i)) for i in range(members))
    names = tuple(stream.name for stream in predictions)
    parts = np.arange(utterances) % 2
    language = estimate([string.tolist() for string in truth(300, 5)], CLASSES, 3)
    references = tuple(string.tolist() for string in strings)
    split = SplitPredictions("oof", names, predictions, predictions[0].load().ids, CLASSES, parts, (language, language), references)
    inputs = BlendInputs(split, depth=pool, size=pool)
    started, cpu = time.perf_counter(), time.process_time()
    spent = {}

    def lap(what: str) -> None:
        nonlocal started, cpu
        spent[what] = (time.perf_counter() - started, time.process_time() - cpu)
        started, cpu = time.perf_counter(), time.process_time()

    for stream in range(members):
        inputs.nbest(stream)
    lap("n-best")
    inputs.pool()
    lap("pool")
    recipe = BlendRecipe(
        "mbr",
        {name: 1 / members for name in names},
        {"mean": "geometric", "lm_weight": 0.0, "length_bonus": 0.0, "speller_weight": 0.0, "sharpness": 0.5},
    )
    if fit:
        recipe = BLENDERS.get("mbr")().fit(inputs)
        lap("fit mbr")
    blind = replace(inputs, split=replace(split, references=None))
    found = mean_distance(BLENDERS.get("mbr")().predict(blind, recipe), references)
    lap("predict")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told = "  ".join(f"{what} {wall:6.1f} s ({used:6.1f} cpu)" for what, (wall, used) in spent.items())
    print(f"{utterances:5} utterances {members:3} members pool {pool:4}: {told}  peak {peak:.2f} GiB  mbr {found:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--fit", action="store_true", help="also fit the weights")
    options = parser.parse_args()
    measure(4, 2, 10, False)  # compiles
    if options.full:
        measure(2620, 20, 100, options.fit)
        return
    for utterances, members, pool in ((50, 2, 50), (100, 2, 50), (50, 4, 50), (50, 2, 100)):
        measure(utterances, members, pool, options.fit)


if __name__ == "__main__":
    main()
