"""Blend inputs: everything that a blender may use of one split.

They give log-probabilities, N-best lists, pools of hypotheses and, where known, the references. Derived values are
computed when first used and cached for the whole split. `take` returns a view of some utterances that shares the cache;
without it, nested cross-validation would decode every utterance once per fit. Nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ensemble.hypotheses.attention_scores import pool_attention_scores
from ensemble.hypotheses.expected_distance import compute_pairwise_distances
from ensemble.hypotheses.likelihoods import compute_likelihoods, look_up
from ensemble.hypotheses.nbest import NBest, nbest_of, nbest_of_matrices, union
from ensemble.hypotheses.pool import Pool, build_pool
from ensemble.lm.ngram import PhoneLM
from ensemble.members.predictions import PackedHypothesis, Predictions
from ensemble.rover import ConfusionNetwork, align, as_log_probs, vote
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of one split, with its references and language models."""

    name: str
    """The split: "oof", "dev" or "test"."""
    names: tuple[str, ...]
    """Names of the members, sorted."""
    predictions: tuple[Predictions, ...]
    """Out of fold, one entry per member; otherwise one per fold model, or one per member if frames are averaged."""
    ids: tuple[str, ...]
    """The N utterances."""
    classes: int
    """Number of classes, the blank included."""
    outer_folds: np.ndarray
    """Outer fold of each utterance in nested cross-validation, (N,) int64 from 0."""
    language_models: tuple[PhoneLM, ...]
    """A phone language model per outer fold, estimated without the transcripts of that fold's speakers."""
    references: tuple[Sequence[int], ...] | None = None
    """The class sequence of each utterance; None for a split without transcripts."""
    parameters: tuple[int, ...] | None = None
    """The fewest parameters with which each member can be used."""
    max_params: int | None = None
    """Maximum total number of parameters of the members that a blend uses; None for no limit."""


class _ScoredPool(NamedTuple):
    """Hypotheses of a pool and their log-likelihoods (H, predictions), one column per index into the predictions."""

    indices: list[int]
    hypotheses: list[list[PackedHypothesis]]
    ctc: np.ndarray


@dataclass(frozen=True)
class _Cache:
    """What was computed for a whole split.

    Keys are indices of predictions; for N-best lists also whether they were searched with the language model.
    """

    nbest: dict[tuple[int, bool], NBest] = field(default_factory=dict)
    pools: dict[tuple[int, ...], Pool] = field(default_factory=dict)
    pairwise_distances: dict[tuple[int, ...], Ragged] = field(default_factory=dict)
    scored: list[_ScoredPool] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class BlendInputs:
    """The predictions of one split, and what is derived from them.

    N-best lists have up to `nbest_size` hypotheses per utterance, pools up to `pool_size`. `rows` restricts it to some
    utterances, `allowed` to some predictions. `index` always indexes `split.predictions`; `member` indexes `names`.
    """

    split: SplitPredictions
    nbest_size: int = 100
    pool_size: int = 200
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
    def outer_folds(self) -> np.ndarray:
        """Outer fold of each utterance in nested cross-validation, (N,) int64 from 0."""
        return self.split.outer_folds[self._split_rows]

    def with_split(self, split: SplitPredictions) -> BlendInputs:
        """Inputs of another split with the same sizes and an empty cache."""
        return BlendInputs(split, self.nbest_size, self.pool_size)

    def take(self, rows: Sequence[int] | np.ndarray) -> BlendInputs:
        """A view of some of these utterances that shares the cache of the whole split."""
        return replace(self, rows=self._split_rows[np.asarray(rows, np.int64)])

    def restricted_to(self, indices: Sequence[int]) -> BlendInputs:
        """A view of the predictions at `indices`, for a blend that may not use all fold models."""
        return replace(self, allowed=frozenset(indices))

    def prediction_indices(self, members: Sequence[int] | np.ndarray | None = None) -> list[int]:
        """Indices of the predictions of `members`, by default of all members."""
        wanted = range(len(self.names)) if members is None else members
        indices = [index for index, predictions in enumerate(self.split.predictions) if predictions.member in wanted]
        return indices if self.allowed is None else [index for index in indices if index in self.allowed]

    def member_of_column(self, members: Sequence[int] | np.ndarray | None = None) -> list[int]:
        """Member index of each column of `pool(members).ctc`."""
        return [self.split.predictions[index].member for index in self.prediction_indices(members)]

    def load(self, index: int) -> LogProbs:
        """Log-probabilities of this view's utterances; they are read each time, not cached."""
        log_probs = self.split.predictions[index].load()
        return log_probs if self.rows is None else log_probs.take(self.rows)

    def nbest(self, index: int) -> NBest:
        """N-best lists of this view's utterances, without a language model."""
        nbest = self._search(index, with_lm=False)
        return nbest if self.rows is None else nbest.take(self.rows)

    def best_with_lm(self, index: int, row: int) -> tuple[PackedHypothesis, np.ndarray]:
        """The best hypothesis of one utterance in a search with the language model, and its tokens' confidences."""
        nbest, split_row = self._search(index, with_lm=True), self._split_rows[row]
        return nbest.hypotheses[split_row][0], nbest.confidences[split_row]

    def confusion_network(
        self, row: int, indices: Sequence[int], skeleton: Sequence[int] | None = None
    ) -> ConfusionNetwork:
        """The confusion network of one utterance, aligned from the best hypotheses of the predictions at `indices`.

        The first hypothesis is the skeleton. A sequence given as `skeleton` is put before them, as one more system.
        """
        best = [self.best_with_lm(index, row) for index in indices]
        hypotheses = [list(hypothesis) for hypothesis, _ in best]
        confidences = [confidence.tolist() for _, confidence in best]
        if skeleton is not None:
            hypotheses, confidences = [list(skeleton), *hypotheses], [[1.0] * len(skeleton), *confidences]
        return align(hypotheses, confidences)

    def pool(self, members: Sequence[int] | np.ndarray | None = None) -> Pool:
        """The pool of hypotheses of `members`, by default of all members, scored by these members alone.

        A blend must not use the hypotheses of a member without weight, because it would use that member's parameters
        without counting them.
        """
        key = tuple(self.prediction_indices(members))
        if key not in self._cache.pools:
            self._cache.pools[key] = replace(self, rows=None)._build_pool(list(key))
        pool = self._cache.pools[key]
        return pool if self.rows is None else pool.take(self.rows)

    def pairwise_distances(self, members: Sequence[int] | np.ndarray | None = None) -> Ragged:
        """Edit distances between the hypotheses of `pool(members)`, uint8 and at most 255.

        An utterance with H hypotheses has an (H, H) matrix, flattened to (H * H,).
        """
        key, cache = tuple(self.prediction_indices(members)), self._cache.pairwise_distances
        if key not in cache:
            cache[key] = compute_pairwise_distances(replace(self, rows=None).pool(members))
        distances = cache[key]
        # Not `take`, whose index arrays would need many times the memory of these bytes.
        return distances if self.rows is None else Ragged.of([distances[row] for row in self.rows], np.uint8)

    def pool_of(self, nbest: NBest) -> Pool:
        """A pool built from N-best lists that come from no single member, such as ROVER's."""
        orders = [sorted(range(len(hypotheses)), key=hypotheses.__getitem__) for hypotheses in nbest.hypotheses]
        pools = [[hypotheses[i] for i in order] for hypotheses, order in zip(nbest.hypotheses, orders, strict=True)]
        ctc = np.concatenate([scores[order] for scores, order in zip(nbest.ctc, orders, strict=True)])
        references = None if self.split.references is None else self.references
        return build_pool(pools, ctc[:, None], self.split.language_models, self.outer_folds, references)

    @property
    def _split_rows(self) -> np.ndarray:
        return np.arange(len(self.split.ids)) if self.rows is None else self.rows

    def _search(self, index: int, with_lm: bool) -> NBest:
        """N-best lists of the whole split."""
        key = (index, with_lm)
        if key not in self._cache.nbest:
            split, predictions = self.split, self.split.predictions[index]
            description = f"{split.name} {predictions.name}" + (" with LM" if with_lm else "")
            language_models = split.language_models if with_lm else None
            self._cache.nbest[key] = nbest_of(
                predictions.load(), self.nbest_size, description, language_models, split.outer_folds
            )
        return self._cache.nbest[key]

    def _build_pool(self, indices: list[int]) -> Pool:
        lists = [self._search(index, with_lm) for index in indices for with_lm in (False, True)]
        if len(indices) > 1:
            lists.append(self._recombine(indices))
        split, hypotheses = self.split, union(lists, self.pool_size)
        ctc = np.stack([self._likelihoods(index, hypotheses) for index in indices], axis=1)
        self._cache.scored.append(_ScoredPool(indices, hypotheses, ctc))
        scorers = [split.predictions[index].attention_scorer for index in indices]
        attention = pool_attention_scores([s for s in scorers if s is not None], split.ids, hypotheses, ctc)
        return build_pool(hypotheses, ctc, split.language_models, split.outer_folds, split.references, attention)

    def _likelihoods(self, index: int, hypotheses: list[list[PackedHypothesis]]) -> np.ndarray:
        """Log-likelihoods (H,) of the hypotheses under one model."""
        # Most hypotheses of a pool of fewer members are also in the pool of all members, where they were scored before.
        known = np.full(sum(map(len, hypotheses)), np.nan)
        for scored in self._cache.scored:
            if index in scored.indices:
                known = look_up(hypotheses, scored.hypotheses, scored.ctc[:, scored.indices.index(index)])
                break
        if not np.isnan(known).any():
            return known
        return compute_likelihoods(self.load(index), hypotheses, known, self.split.predictions[index].name)

    def _recombine(self, indices: list[int]) -> NBest:
        """N-best lists searched in the predictions' confusion networks.

        They hold new hypotheses, for example one that begins as one prediction's does and ends as another's does.
        """
        order = sorted(indices, key=lambda index: self.split.predictions[index].name)
        matrices = []
        for row in range(len(self)):
            network = self.confusion_network(row, order)
            matrices.append(as_log_probs(network.arcs, vote(network)[1], self.split.classes))
        return nbest_of_matrices(matrices, self.nbest_size, "recombined")
