"""Time and memory of a blend against utterances, members and pool, with simulated members; a script, not a test.

    python tests/benchmarks/bench_blend.py                      a small grid, a minute or two
    python tests/benchmarks/bench_blend.py --full               2,620 utterances, 20 members, pool of 100
    python tests/benchmarks/bench_blend.py --members 20         one size (--utterances, --pool), whose peak is its own

N-best lists are searched without and with the language model, at the settings that were fitted for it ("fusion"). The
pool's time is that of joining them, scoring twice as many hypotheses as it keeps, and their edit distances to the
references.
Members are references turned into peaky posteriors with noise, of stride 4 and the real competition's lengths. They are
written to files before the clock starts, and read and checked as those of trained members are.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.fusion import Fusion
from ensemble.hypotheses.scoring import NO_LM_OR_ATTENTION
from ensemble.hypotheses.split_predictions import SplitPredictions
from ensemble.lm.ngram import estimate
from ensemble.members.predictions import Predictions
from folds.competition.metric import mean_distance
from folds.store.log_probs import LogProbs, read_log_probs, write_log_probs
from folds.store.ragged import offsets_of

CLASSES = 41


def random_references(utterances: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.normal(130, 40, utterances), 15, 250).astype(int)
    return [rng.integers(1, CLASSES, length) for length in lengths]


def simulated_predictions(references: list[np.ndarray], seed: int) -> LogProbs:
    """Predictions of as many frames as the real ones have."""
    lengths = np.array([len(reference) for reference in references])
    frames = (lengths * 2.44).astype(int) + 2  # LibriSpeech: 12.7 s and 130 phonemes per utterance, stride 4
    ids = tuple(map(str, range(len(references))))
    return LogProbs(peaky_values(references, frames, seed), offsets_of(frames), ids, "simulated", 0, 4)


def peaky_values(references: list[np.ndarray], frames: np.ndarray, seed: int) -> np.ndarray:
    """Log-probabilities `(sum of frames, CLASSES)`, float16, with a spike for each label, some of them wrong.

    Each utterance has at least two frames per label, and two more. All spikes are written at once: a loop over 340,000
    tokens and 20 members would take longer than the blend.
    """
    rng = np.random.default_rng(seed)
    lengths = np.array([len(reference) for reference in references])
    offsets = offsets_of(frames)
    values = rng.normal(-8, 0.7, (offsets[-1], CLASSES)).astype(np.float32)
    values[:, 0] = 0.0
    tokens = np.concatenate(references)
    within = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    spacing = np.repeat((frames - 2) / lengths, lengths)
    at = np.repeat(offsets[:-1], lengths) + 1 + (within * spacing + rng.integers(0, 2, len(tokens))).astype(int)
    hard = np.random.default_rng(1).random(len(tokens)) ** 4
    leak = np.clip(0.9 * hard + 0.1 * rng.exponential(0.6, len(tokens)), 0.001, 0.95)
    values[at, rng.integers(1, CLASSES, len(tokens))] = np.log(leak)
    values[at, tokens] = np.log(1 - leak)
    values[at, 0] = np.log(0.1)
    values -= np.logaddexp.reduce(values, axis=1, keepdims=True)
    return values.astype(np.float16)


def simulated_inputs(references: list[np.ndarray], members: int, pool: int, folder: Path) -> BlendInputs:
    """Inputs whose predictions are files in `folder`."""
    predictions = []
    for member in range(members):
        path = folder / f"{member}.safetensors"
        write_log_probs(path, simulated_predictions(references, 10 + member))
        predictions.append(Predictions(f"m{member:02}", member, functools.partial(read_log_probs, path)))
    language_model = estimate([reference.tolist() for reference in random_references(300, 5)], CLASSES, 3)
    lists = tuple(reference.tolist() for reference in references)
    split = SplitPredictions(
        name="oof",
        names=tuple(of_member.name for of_member in predictions),
        predictions=tuple(predictions),
        ids=tuple(map(str, range(len(references)))),
        classes=CLASSES,
        outer_folds=np.arange(len(references)) % 2,
        language_models=(language_model, language_model),
        references=lists,
    )
    fusion = Fusion(predictions, lists, split.language_models, split.outer_folds)
    return BlendInputs(split, nbest_size=pool, pool_size=pool, fusion=fusion)


class Stopwatch:
    """Wall clock and CPU seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, tuple[float, float]] = {}
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.laps[name] = (wall - self._wall, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu

    def __str__(self) -> str:
        total = tuple(map(sum, zip(*self.laps.values(), strict=True)))
        laps = self.laps | {"in all": total}
        return "  ".join(f"{name} {wall:6.1f} s ({cpu:6.1f} cpu)" for name, (wall, cpu) in laps.items())


def measure(utterances: int, members: int, pool: int, fit: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure_inputs(simulated_inputs(random_references(utterances), members, pool, Path(folder)), fit)


def measure_inputs(inputs: BlendInputs, fit: bool) -> None:
    stopwatch = Stopwatch()
    assert inputs.fusion is not None  # given above
    for member, fold in itertools.product(range(len(inputs.names)), np.unique(inputs.outer_folds)):
        inputs.fusion.settings(member, fold)
    stopwatch.lap("fusion")
    for index in range(len(inputs.names)):
        inputs.nbest(index)
    stopwatch.lap("n-best")
    inputs.pool()
    stopwatch.lap("pool")
    weights = dict.fromkeys(inputs.names, 1 / len(inputs.names))
    recipe = BlendRecipe("mbr", weights, NO_LM_OR_ATTENTION | {"mean": "geometric", "sharpness": 0.5})
    if fit:
        recipe = BLENDERS.get("mbr")().fit(inputs)
        stopwatch.lap("fit mbr")
    blind = replace(inputs, split=replace(inputs.split, references=None))
    distance = mean_distance(BLENDERS.get("mbr")().predict(blind, recipe), inputs.references)
    stopwatch.lap("predict")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = f"{len(inputs):5} utterances {len(inputs.names):3} members pool {inputs.pool_size:4}"
    print(f"{size}: {stopwatch}  peak {peak:.2f} GiB  mbr {distance:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--fit", action="store_true", help="also fit the weights")
    parser.add_argument("--members", type=int, help="one size only")
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--pool", type=int, default=50)
    options = parser.parse_args()
    measure(4, 2, 10, False)  # compiles
    if options.members is not None:
        measure(options.utterances, options.members, options.pool, options.fit)
        return
    if options.full:
        measure(2620, 20, 100, options.fit)
        return
    for utterances, members, pool in ((50, 2, 50), (100, 2, 50), (50, 4, 50), (50, 2, 100)):
        measure(utterances, members, pool, options.fit)


if __name__ == "__main__":
    main()
