"""TODO"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ensemble.beam.search import Hypothesis
from ensemble.decoding.decoders import Decoder
from ensemble.lm.ngram import PhoneLM
from folds.competition.metric import edit_distances
from folds.store.log_probs import LogProbs

BATCH = 64


@dataclass(frozen=True)
class DecodingTask:
    """Utterances to decode: their log-probabilities, references if there are, and each one's language model."""

    log_probs: LogProbs
    references: list[list[int]] | None
    parts: np.ndarray  # (N,) which language model
    models: Mapping[int, PhoneLM | None]


@dataclass(frozen=True)
class Decoded:
    """N-best lists in the order of the task, with the seconds they took."""

    hypotheses: list[list[Hypothesis]]
    wall: float
    cpu: float

    def distances(self, references: list[list[int]]) -> np.ndarray:
        """Edit distance `(N,)` of each best hypothesis."""
        return edit_distances([found[0].tokens for found in self.hypotheses], references)

    def oracle(self, references: list[list[int]]) -> np.ndarray:
        """Edit distance `(N,)` of the hypothesis nearest to the reference."""
        return np.array(
            [
                edit_distances([h.tokens for h in found], [reference] * len(found)).min()
                for found, reference in zip(self.hypotheses, references, strict=True)
            ]
        )


def decode_in_batches(task: DecodingTask, search: Decoder, what: str = "", **settings) -> Decoded:
    """Decode in batches of like length, with a progress bar. `settings` are the decoder's."""
    found: list[list[Hypothesis]] = [[] for _ in range(len(task.log_probs))]
    wall = cpu = 0.0
    with tqdm(total=len(found), desc=what or "decode", unit="utt", leave=False) as bar:
        for part in np.unique(task.parts):
            rows = np.flatnonzero(task.parts == part)
            rows = rows[np.argsort(task.log_probs.lengths[rows], kind="stable")]
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH].tolist()
                padded, lengths = task.log_probs.padded(batch)
                model = task.models[int(part)]
                language = {} if model is None else {"lm": model, "lm_weight": settings["lm_weight"]}
                begun = time.perf_counter(), time.process_time()
                decoded = search(
                    padded,
                    lengths,
                    beam=settings["beam"],
                    nbest=settings["nbest"],
                    length_bonus=settings["length_bonus"],
                    **language,
                )
                wall, cpu = wall + time.perf_counter() - begun[0], cpu + time.process_time() - begun[1]
                for row, hypotheses in zip(batch, decoded, strict=True):
                    found[row] = hypotheses
                bar.update(len(batch))
    return Decoded(found, wall, cpu)
