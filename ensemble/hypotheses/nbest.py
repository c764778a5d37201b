"""N-best lists: the hypotheses that one model proposes for each utterance."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.beam.search import packed_beam_search
from ensemble.decoding.batched import decoded_batches
from ensemble.decoding.decoders import DecoderSettings
from ensemble.threads import worker_threads
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged, offsets_of


@dataclass(frozen=True, eq=False)
class NBest:
    """The N-best lists of one model for N utterances, H hypotheses in total, in flat arrays."""

    offsets: np.ndarray
    """Utterance u has the hypotheses `offsets[u]:offsets[u + 1]`, at least one, best first, (N + 1,)."""
    tokens: Ragged
    """The hypotheses, int16."""
    scores: np.ndarray
    """Their scores, by which they are ranked, (H,)."""
    confidences: Ragged
    """Token confidences of each utterance's best hypothesis, for ROVER, float32."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: Sequence[int] | np.ndarray) -> NBest:
        """The lists of some utterances."""
        kept, offsets = Ragged(self.scores, self.offsets).rows_of(rows)
        return NBest(offsets, self.tokens.take(kept), self.scores[kept], self.confidences.take(rows))

    def hypotheses(self, row: int) -> list[list[int]]:
        """The hypotheses of one utterance, best first."""
        return [self.tokens[index].tolist() for index in range(self.offsets[row], self.offsets[row + 1])]

    @property
    def best(self) -> list[list[int]]:
        """The best hypothesis of each utterance."""
        return [self.tokens[index].tolist() for index in self.offsets[:-1]]

    def only_best(self) -> NBest:
        """The lists truncated to their first hypotheses."""
        first = self.offsets[:-1]
        return NBest(np.arange(len(self) + 1), self.tokens.take(first), self.scores[first], self.confidences)


def nbest_of(
    log_probs: LogProbs,
    nbest_size: int,
    description: str = "",
    outer_folds: np.ndarray | None = None,
    fold_settings: Mapping[int, DecoderSettings] | None = None,
) -> NBest:
    """The best `nbest_size` hypotheses of every utterance.

    Utterance `u` is searched with `fold_settings[outer_folds[u]]`, or without a language model.
    """
    batches = decoded_batches(
        log_probs,
        # One thread per batch rather than per utterance, so that the NumPy work on a batch is parallel too.
        functools.partial(packed_beam_search, threads=1),
        outer_folds=outer_folds,
        fold_settings=fold_settings,
        description=f"beam search, {description}",
        at_once=worker_threads(),
        beam=nbest_size,
        nbest=nbest_size,
    )
    rows: list[int] = []
    lists = []
    for batch in batches:
        packed = batch.hypotheses
        tokens = Ragged(packed.tokens.values.astype(np.int16), packed.tokens.offsets)
        # Keep only the first hypotheses' confidences: all others are as large as the tokens, and unused.
        confidences = Ragged(packed.confidences, packed.tokens.offsets).take(packed.offsets[:-1])
        rows += batch.rows
        lists.append(NBest(packed.offsets, tokens, packed.scores, confidences))
    return _concatenate(lists).take(np.argsort(rows))


def nbest_of_matrices(matrices: Sequence[np.ndarray], nbest_size: int, description: str) -> NBest:
    """The N-best lists of CTC matrices (T, C), one per utterance, that are not a model's predictions."""
    offsets = offsets_of(len(matrix) for matrix in matrices)
    ids = tuple(map(str, range(len(matrices))))
    log_probs = LogProbs(np.concatenate(matrices), offsets, ids, alphabet_hash="", blank=0, stride=1)
    return nbest_of(log_probs, nbest_size, description)


def _concatenate(lists: Sequence[NBest]) -> NBest:
    """The lists of all utterances, one after the other."""
    return NBest(
        offsets_of(np.concatenate([np.diff(nbest.offsets) for nbest in lists])),
        Ragged.concatenate([nbest.tokens for nbest in lists]),
        np.concatenate([nbest.scores for nbest in lists]),
        Ragged.concatenate([nbest.confidences for nbest in lists]),
    )
