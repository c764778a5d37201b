"""What a blender sees of one split: members' log-probabilities, N-best, pools and, where known, the references.

Everything here is made when first asked for and kept, once for the whole split; `take` gives a view of some
utterances that shares it, which is what makes a nested fit affordable. It fits nothing and chooses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ensemble.hypotheses.attention_scores import pool_attention_scores
from ensemble.hypotheses.expected_distance import pairwise_distances
from ensemble.hypotheses.likelihoods import likelihoods, look_up
from ensemble.hypotheses.nbest import NBest, nbest_of, union
from ensemble.hypotheses.pool import Pool, build_pool
from ensemble.lm.ngram import PhoneLM
from ensemble.members.predictions import Predictions
from ensemble.rover import ConfusionNetwork, align, as_log_probs, vote
from folds.store.log_probs import LogProbs


@dataclass(frozen=True)
class SplitPredictions:
    """One split: members' `names`, sorted; `streams` of log-probabilities; `ids` (N,); and what else is known of it.

    `references` are class sequences, None where there are none. `parts` (N,) tells which part an utterance belongs to
    when a fit is nested; `languages[part]` is a phone language model that has not seen that part's transcripts.
    `costs` are the members' parameters and `budget` the most that a blend may use (`rules`).
    """

    name: str
    names: tuple[str, ...]
    predictions: tuple[Predictions, ...]
    ids: tuple[str, ...]
    classes: int
    parts: np.ndarray
    languages: tuple[PhoneLM, ...]
    references: tuple[Sequence[int], ...] | None = None
    costs: tuple[int, ...] | None = None
    budget: int | None = None


@dataclass(frozen=True, eq=False)
class BlendInputs:
    """A panel with what has been worked out of it. `depth` is the N of N-best, `size` the most strings of a pool.

    `rows` and `allowed` make it a view of some utterances and of some streams.
    """

    split: SplitPredictions
    depth: int = 100
    size: int = 200
    rows: np.ndarray | None = None
    allowed: frozenset[int] | None = None
    _kept: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.split.ids) if self.rows is None else len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        return self.split.names

    @property
    def references(self) -> list[Sequence[int]] | None:
        told = self.split.references
        return told if told is None else [told[row] for row in self._numbers]

    @property
    def parts(self) -> np.ndarray:
        return self.split.parts[self._numbers]

    def take(self, rows: Sequence[int] | np.ndarray) -> BlendInputs:
        """A view of some of these utterances; what the whole split has worked out is shared."""
        return replace(self, rows=self._numbers[np.asarray(rows, np.int64)])

    def only(self, predictions: Sequence[int]) -> BlendInputs:
        """A view of some streams, for a blend that may not use all fold models."""
        return replace(self, allowed=frozenset(predictions))

    def predictions_of(self, members: Sequence[int] | None = None) -> list[int]:
        """Numbers of the streams that belong to some members, or to all."""
        wanted = range(len(self.names)) if members is None else members
        found = [s for s, stream in enumerate(self.split.predictions) if stream.member in wanted]
        return found if self.allowed is None else [s for s in found if s in self.allowed]

    def members_of(self, members: Sequence[int] | None = None) -> list[int]:
        """The member of each stream of `streams_of(members)`: of each column of `pool(members).ctc`."""
        return [self.split.predictions[s].member for s in self.predictions_of(members)]

    def load(self, stream: int) -> LogProbs:
        """A stream's log-probabilities of this view's utterances, read anew: they are not kept."""
        found = self.split.predictions[stream].load()
        if self.rows is None:
            return found
        parts = [found.values[found.offsets[row] : found.offsets[row + 1]] for row in self.rows]
        return LogProbs.of(parts, [found.ids[row] for row in self.rows], found)

    def nbest(self, stream: int) -> NBest:
        """A stream's N-best of this view's utterances, without a language model."""
        found = self._searched(stream, fused=False)
        return found if self.rows is None else found.take(self.rows)

    def pool(self, members: Sequence[int] | None = None) -> Pool:
        """The pool made of some members' hypotheses alone, scored by them alone; of all members without an argument.

        A blend that gives a member no weight must not live on its hypotheses either, or its parameters would be used
        without being counted.
        """
        key = ("pool", tuple(self.predictions_of(members)))
        if key not in self._kept:
            self._kept[key] = self._whole()._build(list(key[1]))
        return self._kept[key] if self.rows is None else self._kept[key].take(self._numbers)

    def pairs(self, members: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Edit distances within `pool(members)`, as `pool.pair_distances` gives them."""
        key = ("pairs", tuple(self.predictions_of(members)))
        if key not in self._kept:
            self._kept[key] = pairwise_distances(self._whole().pool(members))
        if self.rows is None:
            return self._kept[key]
        flat, offsets = self._kept[key]
        cut = np.concatenate([[0], np.cumsum(np.diff(offsets)[self.rows])]).astype(np.int64)
        return np.concatenate([flat[offsets[row] : offsets[row + 1]] for row in self.rows]), cut

    def network(self, row: int, predictions: Sequence[int], skeleton: Sequence[int] | None = None) -> ConfusionNetwork:
        """The confusion network of the streams' best strings of one utterance, the first stream its skeleton.

        A string given as `skeleton` comes before them all, as a system of its own.
        """
        best = [self.nbest_row(stream, row) for stream in predictions]
        strings, sure = [list(string) for string, _ in best], [list(each) for _, each in best]
        if skeleton is not None:
            strings, sure = [list(skeleton), *strings], [[1.0] * len(skeleton), *sure]
        return align(strings, sure)

    def nbest_row(self, stream: int, row: int) -> tuple[bytes, np.ndarray]:
        """A stream's best string of one utterance of this view, by fused search, with its tokens' confidences."""
        number, found = self._numbers[row], self._searched(stream, fused=True)
        return found.strings[number][0], found.confidences[number]

    @property
    def _numbers(self) -> np.ndarray:
        return np.arange(len(self.split.ids)) if self.rows is None else self.rows

    def _whole(self) -> BlendInputs:
        return replace(self, rows=None)

    def _searched(self, stream: int, fused: bool) -> NBest:
        """A stream's N-best of the whole split."""
        key = ("nbest", stream, fused)
        if key not in self._kept:
            split, each = self.split, self.split.predictions[stream]
            told = f"{split.name} {each.name}" + (" with LM" if fused else "")
            fusion = (split.languages, split.parts) if fused else ()
            self._kept[key] = nbest_of(each.load(), self.depth, told, *fusion)
        return self._kept[key]

    def _build(self, predictions: list[int]) -> Pool:
        lists = [self._searched(stream, fused) for stream in predictions for fused in (False, True)]
        if len(predictions) > 1:
            lists.append(self._recombined(predictions))
        strings = union(lists, self.size)
        columns = np.stack([self._column(stream, strings) for stream in predictions], axis=1)
        self._kept.setdefault("scored", []).append((predictions, strings, columns))
        split = self.split
        spells = [split.predictions[s].spell for s in predictions if split.predictions[s].spell is not None]
        spelled = pool_attention_scores(spells, split.ids, strings, columns)
        return build_pool(strings, columns, split.languages, split.parts, split.references, spelled)

    def _column(self, stream: int, strings: list[list[bytes]]) -> np.ndarray:
        """Log-likelihoods under one stream; pools of fewer members share most strings with the pool of all."""
        known = np.full(sum(map(len, strings)), np.nan)
        for predictions, others, columns in self._kept.get("scored", ()):
            if stream in predictions:
                known = look_up(strings, others, columns[:, predictions.index(stream)])
                break
        if not np.isnan(known).any():
            return known
        return likelihoods(self.load(stream), strings, known, self.split.predictions[stream].name)

    def _recombined(self, predictions: list[int]) -> NBest:
        """N-best of the vote among the streams: strings that no single model had, one's start with another's end."""
        order = sorted(predictions, key=lambda s: self.split.predictions[s].name)
        matrices = []
        for row in range(len(self)):
            network = self.network(row, order)
            matrices.append(as_log_probs(network.arcs, vote(network)[1], self.split.classes))
        return nbest_of(stack(matrices), self.depth, "recombined")


def stack(matrices: Sequence[np.ndarray]) -> LogProbs:
    """CTC matrices (T, C), one an utterance, as log-probabilities that belong to no member and no file."""
    offsets = np.concatenate([[0], np.cumsum([len(matrix) for matrix in matrices])]).astype(np.int64)
    return LogProbs(np.concatenate(matrices), offsets, tuple(map(str, range(len(matrices)))), "", 0, 1)


def pool_of_nbest(found: NBest, inputs: BlendInputs) -> Pool:
    """An N-best made by one matrix an utterance, as a pool of one column."""
    orders = [sorted(range(len(strings)), key=strings.__getitem__) for strings in found.strings]
    strings = [[s[i] for i in order] for s, order in zip(found.strings, orders, strict=True)]
    scores = np.concatenate([s[order] for s, order in zip(found.ctc, orders, strict=True)])
    return build_pool(strings, scores[:, None], inputs.split.languages, inputs.parts, inputs.references)
