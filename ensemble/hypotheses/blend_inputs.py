"""Blend inputs: all that a blender may use of one split.

Log-probabilities, N-best lists, pools of hypotheses and, where known, the references. What is derived is computed when
first used and cached for the whole split; `take` gives a view of some utterances that shares the cache, which is what
makes nested fits affordable. Nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ensemble.hypotheses.attention_scores import pool_attention_scores
from ensemble.hypotheses.expected_distance import pairwise_distances
from ensemble.hypotheses.likelihoods import likelihoods, look_up
from ensemble.hypotheses.nbest import NBest, nbest_of, nbest_of_matrices, union
from ensemble.hypotheses.pool import Pool, build_pool
from ensemble.lm.ngram import PhoneLM
from ensemble.members.predictions import Predictions
from ensemble.rover import ConfusionNetwork, align, as_log_probs, vote
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of one split, "oof", "dev" or "test", and what else is known of it.

    `names` are the members', sorted; `predictions` holds one entry per member out of fold, else one per fold model (or
    per member, with frames averaged over folds); `ids` are the N utterances. `references` are class sequences, None
    without transcripts. `parts` (N,) are the parts of a nested fit, and `languages[part]` is a phone language model
    estimated without the transcripts of that part's speakers. `costs` are the members' parameters and `budget` the
    most that a blend may use.
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


class _ScoredPool(NamedTuple):
    """Hypotheses of a pool and their log-likelihoods (H, predictions), one column per index into the predictions."""

    indices: list[int]
    hypotheses: list[list[bytes]]
    ctc: np.ndarray


@dataclass(frozen=True)
class _Cache:
    """What was computed of a whole split; keys are indices into its predictions."""

    nbest: dict[tuple[int, bool], NBest] = field(default_factory=dict)
    pools: dict[tuple[int, ...], Pool] = field(default_factory=dict)
    pairs: dict[tuple[int, ...], Ragged] = field(default_factory=dict)
    scored: list[_ScoredPool] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class BlendInputs:
    """The predictions of one split with what is derived from them, for N-best lists of `depth` and pools of `size`.

    `rows` and `allowed` make it a view of some utterances and of some predictions. An `index` counts the entries of
    `split.predictions`, a member number those of `names`.
    """

    split: SplitPredictions
    depth: int = 100
    size: int = 200
    rows: np.ndarray | None = None
    allowed: frozenset[int] | None = None
    _cache: _Cache = field(default_factory=_Cache, repr=False)

    def __len__(self) -> int:
        return len(self.split.ids) if self.rows is None else len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, sorted."""
        return self.split.names

    @property
    def references(self) -> list[Sequence[int]]:
        """The reference of each utterance. Raises ValueError for a split without transcripts."""
        if self.split.references is None:
            raise ValueError(f"the {self.split.name} split has no references")
        return [self.split.references[row] for row in self._split_rows]

    @property
    def parts(self) -> np.ndarray:
        """The part of each utterance in a nested fit, (N,)."""
        return self.split.parts[self._split_rows]

    def with_split(self, split: SplitPredictions) -> BlendInputs:
        """Another split with the same settings; nothing cached is taken over."""
        return BlendInputs(split, self.depth, self.size)

    def take(self, rows: Sequence[int] | np.ndarray) -> BlendInputs:
        """A view of some of these utterances that shares the cache of the whole split."""
        return replace(self, rows=self._split_rows[np.asarray(rows, np.int64)])

    def only(self, indices: Sequence[int]) -> BlendInputs:
        """A view of some predictions, for a blend that may not use all fold models."""
        return replace(self, allowed=frozenset(indices))

    def predictions_of(self, members: Sequence[int] | np.ndarray | None = None) -> list[int]:
        """Indices of the predictions that belong to some members, or to all."""
        wanted = range(len(self.names)) if members is None else members
        indices = [index for index, predictions in enumerate(self.split.predictions) if predictions.member in wanted]
        return indices if self.allowed is None else [index for index in indices if index in self.allowed]

    def members_of(self, members: Sequence[int] | np.ndarray | None = None) -> list[int]:
        """The member of each of `predictions_of(members)`, which are the columns of `pool(members).ctc`."""
        return [self.split.predictions[index].member for index in self.predictions_of(members)]

    def load(self, index: int) -> LogProbs:
        """Log-probabilities of this view's utterances; they are read each time, not cached."""
        log_probs = self.split.predictions[index].load()
        return log_probs if self.rows is None else log_probs.take(self.rows)

    def nbest(self, index: int) -> NBest:
        """N-best lists of this view's utterances, without a language model."""
        nbest = self._search(index, fused=False)
        return nbest if self.rows is None else nbest.take(self.rows)

    def best_with_lm(self, index: int, row: int) -> tuple[bytes, np.ndarray]:
        """The best hypothesis of one utterance by a search with a language model, and its tokens' confidences."""
        nbest, split_row = self._search(index, fused=True), self._split_rows[row]
        return nbest.hypotheses[split_row][0], nbest.confidences[split_row]

    def network(self, row: int, indices: Sequence[int], skeleton: Sequence[int] | None = None) -> ConfusionNetwork:
        """The confusion network of the predictions' best hypotheses of one utterance, the first as its skeleton.

        Another sequence given as `skeleton` comes before them all, as one more system.
        """
        best = [self.best_with_lm(index, row) for index in indices]
        hypotheses = [list(hypothesis) for hypothesis, _ in best]
        confidences = [confidence.tolist() for _, confidence in best]
        if skeleton is not None:
            hypotheses, confidences = [list(skeleton), *hypotheses], [[1.0] * len(skeleton), *confidences]
        return align(hypotheses, confidences)

    def pool(self, members: Sequence[int] | np.ndarray | None = None) -> Pool:
        """The pool of some members' hypotheses, scored by these members alone; of all members without an argument.

        A blend must not use the hypotheses of a member that has no weight, or it would use that member's parameters
        without counting them.
        """
        key = tuple(self.predictions_of(members))
        if key not in self._cache.pools:
            self._cache.pools[key] = replace(self, rows=None)._build_pool(list(key))
        pool = self._cache.pools[key]
        return pool if self.rows is None else pool.take(self.rows)

    def pairs(self, members: Sequence[int] | np.ndarray | None = None) -> Ragged:
        """Edit distances within `pool(members)`, as `pairwise_distances` gives them."""
        key = tuple(self.predictions_of(members))
        if key not in self._cache.pairs:
            self._cache.pairs[key] = pairwise_distances(replace(self, rows=None).pool(members))
        pairs = self._cache.pairs[key]
        # Not `take`, whose index arrays would need many times the memory of these bytes.
        return pairs if self.rows is None else Ragged.of([pairs[row] for row in self.rows], np.uint8)

    def pool_of(self, nbest: NBest) -> Pool:
        """N-best lists of this view's utterances made by no member, as a pool with one column of likelihoods."""
        orders = [sorted(range(len(hypotheses)), key=hypotheses.__getitem__) for hypotheses in nbest.hypotheses]
        pools = [[hypotheses[i] for i in order] for hypotheses, order in zip(nbest.hypotheses, orders, strict=True)]
        ctc = np.concatenate([scores[order] for scores, order in zip(nbest.ctc, orders, strict=True)])
        references = None if self.split.references is None else self.references
        return build_pool(pools, ctc[:, None], self.split.languages, self.parts, references)

    @property
    def _split_rows(self) -> np.ndarray:
        return np.arange(len(self.split.ids)) if self.rows is None else self.rows

    def _search(self, index: int, fused: bool) -> NBest:
        """N-best lists of the whole split."""
        key = (index, fused)
        if key not in self._cache.nbest:
            split, predictions = self.split, self.split.predictions[index]
            description = f"{split.name} {predictions.name}" + (" with LM" if fused else "")
            languages = split.languages if fused else None
            self._cache.nbest[key] = nbest_of(predictions.load(), self.depth, description, languages, split.parts)
        return self._cache.nbest[key]

    def _build_pool(self, indices: list[int]) -> Pool:
        lists = [self._search(index, fused) for index in indices for fused in (False, True)]
        if len(indices) > 1:
            lists.append(self._recombined(indices))
        split, hypotheses = self.split, union(lists, self.size)
        ctc = np.stack([self._likelihoods(index, hypotheses) for index in indices], axis=1)
        self._cache.scored.append(_ScoredPool(indices, hypotheses, ctc))
        scorers = [split.predictions[index].attention_scorer for index in indices]
        attention = pool_attention_scores([s for s in scorers if s is not None], split.ids, hypotheses, ctc)
        return build_pool(hypotheses, ctc, split.languages, split.parts, split.references, attention)

    def _likelihoods(self, index: int, hypotheses: list[list[bytes]]) -> np.ndarray:
        """Log-likelihoods under one model. Pools of fewer members share most hypotheses with the pool of all."""
        known = np.full(sum(map(len, hypotheses)), np.nan)
        for scored in self._cache.scored:
            if index in scored.indices:
                known = look_up(hypotheses, scored.hypotheses, scored.ctc[:, scored.indices.index(index)])
                break
        if not np.isnan(known).any():
            return known
        return likelihoods(self.load(index), hypotheses, known, self.split.predictions[index].name)

    def _recombined(self, indices: list[int]) -> NBest:
        """N-best lists of the vote among the predictions: the beginning of one hypothesis with the end of another."""
        order = sorted(indices, key=lambda index: self.split.predictions[index].name)
        matrices = []
        for row in range(len(self)):
            network = self.network(row, order)
            matrices.append(as_log_probs(network.arcs, vote(network)[1], self.split.classes))
        return nbest_of_matrices(matrices, self.depth, "recombined")
