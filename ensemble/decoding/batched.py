"""Decode many utterances in batches of similar length, with a progress bar, and time the decoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, Unpack

import numpy as np

from ensemble.beam.search import Hypothesis
from ensemble.decoding.decoders import Decoder, DecoderSettings
from ensemble.lm.ngram import PhoneLM
from ensemble.threads import map_threads
from folds.competition.metric import edit_distances
from folds.store.log_probs import LogProbs
from registry.console import ProgressBar

BATCH = 64

T = TypeVar("T")


@dataclass(frozen=True)
class DecodedBatch(Generic[T]):
    """The decoder's results for the utterances at `rows`."""

    rows: list[int]
    hypotheses: T


@dataclass(frozen=True)
class DecodingTask:
    """N utterances to decode."""

    log_probs: LogProbs
    references: list[list[int]] | None
    """The class sequence of each utterance; None for a split without transcripts."""
    outer_folds: np.ndarray
    """The fold that holds out each utterance, (N,); zeros on dev and test."""
    language_models: Mapping[int, PhoneLM | None]
    """The language model of each outer fold."""


@dataclass(frozen=True)
class DecodingResult:
    """N-best lists in the order of the task, and the seconds that the decoder took (wall clock and CPU)."""

    hypotheses: list[list[Hypothesis]]
    wall: float
    cpu: float

    def distances(self, references: list[list[int]]) -> np.ndarray:
        """Edit distance `(N,)` of each best hypothesis."""
        return edit_distances([nbest[0].tokens for nbest in self.hypotheses], references)

    def oracle_distances(self, references: list[list[int]]) -> np.ndarray:
        """Edit distance `(N,)` of the hypothesis closest to the reference."""
        return np.array(
            [
                edit_distances([hypothesis.tokens for hypothesis in nbest], [reference] * len(nbest)).min()
                for nbest, reference in zip(self.hypotheses, references, strict=True)
            ]
        )


def sample_rows(rows: np.ndarray, limit: int | None) -> np.ndarray:
    """`rows` `(N,)`, or `limit` of them if there are more, drawn with a fixed seed and kept in order."""
    if limit is None or limit >= len(rows):
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), limit, replace=False))]


def decoded_batches(
    log_probs: LogProbs,
    decode: Callable[..., T],
    *,
    outer_folds: np.ndarray | None = None,
    fold_settings: Mapping[int, DecoderSettings] | None = None,
    description: str = "",
    at_once: int = 1,
    **settings: Unpack[DecoderSettings],
) -> Iterator[DecodedBatch[T]]:
    """Decode all utterances in batches of similar length, longest first, with a progress bar.

    `outer_folds` `(N,)` is the outer fold of each utterance, 0 by default. A batch holds utterances of one outer fold.
    The decoder is called with `settings` and `fold_settings[outer_fold]`, such as the fold's language model, in
    `at_once` threads, one batch each.
    """
    outer_folds = np.zeros(len(log_probs), np.int64) if outer_folds is None else np.asarray(outer_folds)
    longest_first = np.argsort(-log_probs.lengths, kind="stable")
    batches = []
    for outer_fold in np.unique(outer_folds).tolist():
        rows = longest_first[outer_folds[longest_first] == outer_fold]
        batches += [(outer_fold, rows[start : start + BATCH].tolist()) for start in range(0, len(rows), BATCH)]

    def decode_batch(batch: tuple[int, list[int]]) -> DecodedBatch[T]:
        outer_fold, rows = batch
        batch_settings = settings if fold_settings is None else settings | fold_settings[outer_fold]
        return DecodedBatch(rows, decode(*log_probs.padded(rows), **batch_settings))

    with ProgressBar(description or "decode", total=len(log_probs)) as bar:
        for decoded in map_threads(decode_batch, batches, at_once):
            yield decoded
            bar.advance(len(decoded.rows))


def decode_in_batches(
    task: DecodingTask, decode: Decoder, description: str = "", **settings: Unpack[DecoderSettings]
) -> DecodingResult:
    """Decode a task with `decoded_batches` and return the results in its order."""
    hypotheses: list[list[Hypothesis]] = [[] for _ in range(len(task.log_probs))]
    wall = cpu = 0.0

    def timed(
        log_probs: np.ndarray, lengths: np.ndarray, **settings: Unpack[DecoderSettings]
    ) -> list[list[Hypothesis]]:
        nonlocal wall, cpu
        start = time.perf_counter(), time.process_time()
        decoded = decode(log_probs, lengths, **settings)
        if len(decoded) != len(lengths):
            raise ValueError(f"returned {len(decoded)} N-best lists for {len(lengths)} utterances; expected one each")
        wall, cpu = wall + time.perf_counter() - start[0], cpu + time.process_time() - start[1]
        return decoded

    for batch in decoded_batches(
        task.log_probs,
        timed,
        outer_folds=task.outer_folds,
        fold_settings={fold: {"lm": lm} for fold, lm in task.language_models.items()},
        description=description,
        **settings,
    ):
        for row, nbest in zip(batch.rows, batch.hypotheses, strict=True):
            hypotheses[row] = nbest
    return DecodingResult(hypotheses, wall, cpu)
