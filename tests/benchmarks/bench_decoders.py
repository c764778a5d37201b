"""Compare decoders on the same log-probabilities: `python tests/benchmarks/bench_decoders.py [--runs DIR --data DIR]`.

Our beam search beside every installed third-party decoder at its default and at a tuned setting: utterances per
CPU-second, mean exact CTC log-likelihood of the best hypothesis, mean edit distance; on synthetic posteriors and, with
`--runs`, on a member's dev predictions. Also the time of a new process to its first decoded utterance once the compiled
code is cached.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "ensemble"))

from ctc_reference import plain_beam_search

from ensemble.beam.search import beam_search
from ensemble.decoding.decoders import DECODERS, TokensAndFrames
from ensemble.decoding.third_party import decode_with_ctcdecode, decode_with_fast_ctc_decode, decode_with_flashlight
from ensemble.members.member import group_by_member
from ensemble.members.predictions import mean_predictions
from folds.competition.metric import edit_distances
from folds.data.data_options import DataOptions
from folds.store.fold_model import find_fold_models
from models.ctc import greedy, log_likelihood
from registry import InputError, command
from registry.bounds import MAX_SEED, MAX_UTTERANCES, number
from registry.command_line import parse_options

CLASSES = 41
# Utterances that the unpruned search decodes too: it takes a second each.
UNPRUNED = 20
START = """
import resource, sys, time
import numpy as np
from ensemble.beam import beam_search
beam_search(np.zeros((1, 2, 3), np.float32), [2], beam=2)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime)
"""


@dataclass(frozen=True)
class BenchOptions(DataOptions):
    """Compare decoders."""

    utterances: int = number(200, at_least=1, at_most=MAX_UTTERANCES)
    """Number of synthetic utterances, and maximum number of real ones."""
    beam: int = number(50, at_least=1, at_most=10_000)
    """Number of prefixes kept after each frame, the same for every decoder."""
    repeats: int = number(3, at_least=1, at_most=1000)
    """The fastest of this many runs counts; settings slower than 50 utterances per second run once."""
    seed: int = number(0, at_least=0, at_most=MAX_SEED)
    """Seed of the synthetic set."""
    runs: Path | None = None
    """The runs folder: its first member that matches `--members` is decoded too."""
    members: str = "*"
    """Glob over members' names."""


@dataclass(frozen=True)
class Setting:
    """One row of the table: a name, and the function that is timed, which returns the best tokens per utterance."""

    name: str
    decode: Callable[[], Sequence[Sequence[int]]]


def synthetic(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Peaky posteriors of 300 to 800 frames, 15 % of them confused: `(N, T, C)`, lengths `(N,)`, references.

    Labels follow a sparse bigram, one per 5.5 frames on average. A label has all of its first frame and shares the
    second with the blank; other frames are blank. A confused frame gives 10 to 60 % of its mass to a random class;
    every class has noise around e^-10.
    """
    random = np.random.default_rng(seed)
    bigram = random.dirichlet(np.full(CLASSES - 1, 0.1), CLASSES)
    lengths = random.integers(300, 801, count)
    log_probs = np.full((count, lengths.max(), CLASSES), -30.0, np.float32)
    log_probs[:, :, 0] = 0.0
    references = []
    for row, length in enumerate(lengths):
        clean = np.zeros((length, CLASSES))
        clean[:, 0] = 1.0
        tokens, frame = [0], int(random.integers(1, 6))
        while frame + 2 < length:
            tokens.append(1 + int(random.choice(CLASSES - 1, p=bigram[tokens[-1]])))
            fraction = random.random()
            clean[frame : frame + 2, 0] = 0.0, 1 - fraction
            clean[frame : frame + 2, tokens[-1]] = 1.0, fraction
            frame += 2 + int(random.integers(1, 7))
        lost = random.uniform(0.1, 0.6, length) * (random.random(length) < 0.15)
        clean *= 1 - lost[:, None]
        clean[np.arange(length), random.integers(1, CLASSES, length)] += lost
        noisy = np.log(clean + np.exp(random.normal(-10.0, 1.0, clean.shape)))
        log_probs[row, :length] = noisy - np.logaddexp.reduce(noisy, axis=1, keepdims=True)
        references.append(tokens[1:])
    return log_probs, lengths, references


def settings_of(log_probs: np.ndarray, lengths: np.ndarray, beam: int) -> list[Setting]:
    """Our search and every installed third-party decoder, at its default and at a tuned setting, one thread each."""
    probs = [np.exp(rows[:length]) for rows, length in zip(log_probs, lengths, strict=True)]

    def ours(nbest: int = 1) -> Sequence[Sequence[int]]:
        return [nbest_list[0].tokens for nbest_list in beam_search(log_probs, lengths, beam, nbest, threads=1)]

    def best(nbest_lists: list[list[TokensAndFrames]]) -> Sequence[Sequence[int]]:
        return [nbest_list[0][0] for nbest_list in nbest_lists]

    rows = [
        Setting("greedy", lambda: greedy(log_probs, lengths)),
        Setting("beam (ours)", ours),
        Setting(f"beam (ours), {beam}-best", lambda: ours(beam)),
    ]
    if "fast_ctc_decode" in DECODERS:
        rows += [
            Setting("fast_ctc_decode, default (cut 0)", lambda: best(decode_with_fast_ctc_decode(probs, beam))),
            Setting("fast_ctc_decode, cut 1e-3", lambda: best(decode_with_fast_ctc_decode(probs, beam, 1e-3))),
        ]
    if "ctcdecode" in DECODERS:
        rows += [
            Setting("ctcdecode, default", lambda: best(decode_with_ctcdecode(log_probs, lengths, beam, 1, 40))),
            Setting("ctcdecode, top 5", lambda: best(decode_with_ctcdecode(log_probs, lengths, beam, 1, 5))),
        ]
    if "flashlight" in DECODERS:
        rows += [
            Setting("flashlight, no limits", lambda: best(decode_with_flashlight(log_probs, lengths, beam, 1))),
            Setting(
                "flashlight, 5 tokens, 10 nats",
                lambda: best(decode_with_flashlight(log_probs, lengths, beam, 1, 5, 10.0)),
            ),
        ]
    return rows


def compare(log_probs: np.ndarray, lengths: np.ndarray, references: list[list[int]], options: BenchOptions) -> None:
    """Print one row per setting."""
    print(f"{'decoder':36} utt/CPU-s  log-likelihood  distance")
    for setting in settings_of(log_probs, lengths, options.beam):
        setting.decode()  # the first call compiles and loads code, which is not part of the speed
        fastest = np.inf
        for _ in range(options.repeats):
            start = time.process_time()
            decoded = setting.decode()
            fastest = min(fastest, time.process_time() - start)
            if len(lengths) < 50 * fastest:
                break
        scores = [
            log_likelihood(rows[:length], [tokens])[0]
            for rows, length, tokens in zip(log_probs, lengths, decoded, strict=True)
        ]
        distance = edit_distances(decoded, references).mean()
        print(f"{setting.name:36} {len(lengths) / fastest:9.1f}  {np.mean(scores):14.3f}  {distance:8.3f}", flush=True)


def against_unpruned(log_probs: np.ndarray, lengths: np.ndarray, beam: int = 10) -> str:
    """The largest difference between our N-best and that of a search that prunes only by the beam."""
    largest, edges = 0.0, 0
    for rows, length in zip(log_probs, lengths, strict=True):
        (nbest,) = beam_search(rows[None, :length], [length], beam=beam, nbest=beam)
        ours = {hypothesis.tokens: hypothesis.ctc for hypothesis in nbest}
        plain = plain_beam_search(rows[:length], beam)
        edges += len(set(ours) ^ set(plain))
        largest = max(largest, *(abs(ours[tokens] - plain[tokens]) for tokens in set(ours) & set(plain)))
    return f"{len(lengths)} utterances, beam {beam}: {edges} hypotheses differ, scores by at most {largest:.1e}"


def main() -> None:
    """Print the tables."""
    options = parse_options(BenchOptions, "bench_decoders.py", description=__doc__)
    print(f"synthetic, {options.utterances} utterances, beam {options.beam}, one thread")
    compare(*synthetic(options.utterances, options.seed), options)
    if options.runs is not None:
        member = group_by_member(find_fold_models(options.runs), (options.members,))[0]
        dataset = options.open_dataset()
        dev = mean_predictions(member, 0, "dev", dataset.dev.ids, dataset.alphabet.hash).load()
        rows = list(range(min(options.utterances, len(dev))))
        if not rows:
            raise InputError(f"{options.runs}: the dev set of {member.name} is empty")
        print(f"\n{member.name}, {len(rows)} utterances of dev, stride {dev.stride}, beam {options.beam}, one thread")
        compare(*dev.padded(rows), [dataset.dev.labels(row).tolist() for row in rows], options)
        print(f"against the unpruned search: {against_unpruned(*dev.padded(rows[:UNPRUNED]))}")
    for _ in range(2):  # the first process may compile
        process = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    print(f"\na new process to its first decoded utterance: {float(process.stdout):.2f} CPU-seconds")


if __name__ == "__main__":
    command(main)
