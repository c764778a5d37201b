"""Blend inputs: everything that a blender may use of one split.

They provide log-probabilities, N-best lists, pools of hypotheses and, if known, the references. Derived values are
computed on first use and cached for the whole split. `take` returns a view of some utterances that shares the cache;
without it, nested cross-validation would decode every utterance once per fit. Nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from ensemble.hypotheses.attention_scores import pool_attention_scores
from ensemble.hypotheses.expected_distance import compute_pairwise_distances
from ensemble.hypotheses.first_pass import FirstPassTrials
from ensemble.hypotheses.fusion import Fusion, FusionSettings, RecordedFusion, language_terms
from ensemble.hypotheses.nbest import NBest, nbest_of, nbest_of_matrices
from ensemble.hypotheses.pool import Pool, build_pool, language_model_scores
from ensemble.hypotheses.proposals import Proposals, join_proposals, sort_lists
from ensemble.hypotheses.scored_hypotheses import ScoreCache, sum_posteriors
from ensemble.hypotheses.scoring import keep_best
from ensemble.hypotheses.split_predictions import SplitPredictions
from ensemble.members.predictions import AttentionScorer
from ensemble.rover import align, as_log_probs, vote
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged
from registry.console import track

# Number of hypotheses scored by all members for each one that stays in the pool. Truncating the pool before all members
# have scored its hypotheses would lose valuable ones.
JOINED_PER_POOLED = 2


@dataclass(frozen=True)
class _Cache:
    """Values computed for a whole split.

    Keys are indices of predictions; for the best hypotheses also whether they were searched with the language model.
    """

    best: dict[tuple[int, bool], NBest] = field(default_factory=dict)
    proposals: dict[int, Proposals] = field(default_factory=dict)
    pools: dict[tuple[int, ...], Pool] = field(default_factory=dict)
    pairwise_distances: dict[tuple[int, ...], Ragged] = field(default_factory=dict)
    scores: ScoreCache = field(default_factory=ScoreCache)
    first_pass: dict[int, FirstPassTrials] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class BlendInputs:
    """The predictions of one split, and everything derived from them.

    N-best lists have up to `nbest_size` hypotheses per utterance, pools up to `pool_size`: the best of
    `JOINED_PER_POOLED` times as many that all members have scored. `fusion` holds the settings of searches with the
    language model, by default fixed ones. `rows` restricts a view to some utterances, `allowed` to some predictions.
    `index` always indexes `split.predictions`; `member` indexes `names`.
    """

    split: SplitPredictions
    nbest_size: int = 100
    pool_size: int = 200
    fusion: Fusion | RecordedFusion | None = None
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
    def classes(self) -> int:
        """Number of classes; the tokens of hypotheses are from 1 to `classes` - 1."""
        return self.split.classes

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
        return BlendInputs(split, self.nbest_size, self.pool_size, self.fusion)

    def take(self, rows: Sequence[int] | np.ndarray) -> Self:
        """A view of some of these utterances that shares the cache of the whole split."""
        return replace(self, rows=self._split_rows[np.asarray(rows, np.int64)])

    def restricted_to(self, indices: Sequence[int]) -> Self:
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
        """Log-probabilities of this view's utterances, read on each call, not cached."""
        log_probs = self.split.predictions[index].load()
        return log_probs if self.rows is None else log_probs.take(self.rows)

    def nbest(self, index: int) -> NBest:
        """The best hypothesis of each of this view's utterances, found without a language model."""
        self._proposals(index)
        nbest = self._cache.best[index, False]
        return nbest if self.rows is None else nbest.take(self.rows)

    def best_with_lm(self, index: int, row: int) -> tuple[list[int], np.ndarray]:
        """The best hypothesis of one utterance in a search with the language model, and its tokens' confidences."""
        self._proposals(index)
        nbest, split_row = self._cache.best[index, True], self._split_rows[row]
        return nbest.tokens[split_row].tolist(), nbest.confidences[split_row]

    def fusion_settings(self, index: int) -> list[FusionSettings]:
        """The settings of one prediction's search, one for each language model."""
        folds, member = range(len(self.split.language_models)), self.split.predictions[index].member
        if self.fusion is None:
            return [FusionSettings() for _ in folds]
        return [self.fusion.settings(member, fold if self.split.name == "oof" else None) for fold in folds]

    def label_bonus(self, members: Collection[int]) -> np.ndarray | None:
        """The negative log prior of the labels (C,), averaged over these members; None if unknown."""
        return None if self.fusion is None else np.mean([self.fusion.label_bonus(m) for m in sorted(members)], axis=0)

    def first_pass(self, index: int) -> tuple[FirstPassTrials, np.ndarray]:
        """First-pass trials of one prediction, shared by all views, and this view's rows in the whole split."""
        trials, split, predictions = self._cache.first_pass, self.split, self.split.predictions[index]
        if index not in trials:
            references, bonus = replace(self, rows=None).references, self.label_bonus([predictions.member])
            trials[index] = FirstPassTrials.of(
                predictions.load(), references, split.language_models, split.outer_folds, predictions.name, bonus
            )
        return trials[index], self._split_rows

    def pool(self, members: Sequence[int] | np.ndarray | None = None) -> Pool:
        """The pool of hypotheses of `members`, by default of all members, scored only by these members.

        A blend must not use the hypotheses of a member without weight: it would use that member's parameters without
        counting them.
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
        # Not `take`: its index arrays would need many times the memory of these bytes.
        return distances if self.rows is None else Ragged.of([distances[row] for row in self.rows], np.uint8)

    def pool_of(self, nbest: NBest) -> Pool:
        """A pool built from N-best lists that do not come from a single member, such as ROVER's, with their scores."""
        order = sort_lists(nbest)
        tokens = nbest.tokens.take(order)
        lm = language_model_scores(nbest.offsets, tokens, self.split.language_models, self.outer_folds)
        references = None if self.split.references is None else self.references
        return build_pool(nbest.offsets, tokens, nbest.scores[order][:, None], lm, references)

    def shares(self, indices: Sequence[int]) -> np.ndarray:
        """The weight of each prediction for filling a pool: the predictions of a member share a total weight of 1.

        So a member with many fold models does not crowd out the hypotheses of others.
        """
        members = [self.split.predictions[index].member for index in indices]
        return np.array([1 / members.count(member) for member in members])

    @property
    def _split_rows(self) -> np.ndarray:
        return np.arange(len(self.split.ids)) if self.rows is None else self.rows

    def _proposals(self, index: int) -> Proposals:
        """One prediction's proposals for the whole split, without and with the language model."""
        if index not in self._cache.proposals:
            split, predictions = self.split, self.split.predictions[index]
            log_probs, name = predictions.load(), f"{split.name} {predictions.name}"
            models_and_settings = enumerate(zip(split.language_models, self.fusion_settings(index), strict=True))
            settings = {fold: fusion.decoder_settings(lm) for fold, (lm, fusion) in models_and_settings}
            plain = nbest_of(log_probs, self.nbest_size, name)
            with_lm = nbest_of(log_probs, self.nbest_size, f"{name} with LM", split.outer_folds, settings)
            self._cache.best[index, False], self._cache.best[index, True] = plain.only_best(), with_lm.only_best()
            self._cache.proposals[index] = Proposals.of([plain, with_lm])
        return self._cache.proposals[index]

    def _build_pool(self, indices: list[int]) -> Pool:
        split, shares = self.split, self.shares(indices)
        proposals, weights = [self._proposals(index) for index in indices], list(shares)
        if len(indices) > 1:
            proposals.append(Proposals.of([self._recombine(indices)]))
            weights.append(1.0)
        offsets, tokens = join_proposals(proposals, JOINED_PER_POOLED * self.pool_size, weights)
        scores = self._cache.scores.score({index: split.predictions[index] for index in indices}, offsets, tokens)
        lm = language_model_scores(offsets, tokens, split.language_models, split.outer_folds)
        fold_of = np.repeat(split.outer_folds, np.diff(offsets))
        terms = [language_terms(self.fusion_settings(index), fold_of, tokens, lm) for index in indices]
        kept, offsets = keep_best(sum_posteriors(scores, terms, offsets, shares), offsets, self.pool_size)
        tokens, ctc = tokens.take(kept), np.stack([of_index[kept] for of_index in scores], axis=1)
        attention = pool_attention_scores(self._attention_scorers(indices), split.ids, offsets, tokens, ctc)
        label_bonus = self.label_bonus({split.predictions[index].member for index in indices})
        return build_pool(offsets, tokens, ctc, lm[kept], split.references, attention, label_bonus)

    def _attention_scorers(self, indices: list[int]) -> list[list[AttentionScorer]]:
        """The attention scorers of these predictions, a list for each member that has any."""
        of_members: dict[int, list[AttentionScorer]] = {}
        for index in indices:
            predictions = self.split.predictions[index]
            if predictions.attention_scorer is not None:
                of_members.setdefault(predictions.member, []).append(predictions.attention_scorer)
        return list(of_members.values())

    def _recombine(self, indices: list[int]) -> NBest:
        """N-best lists searched in the predictions' confusion networks.

        They contain new hypotheses, for example the start of one prediction's hypothesis with the end of another's.
        """
        order = sorted(indices, key=lambda index: self.split.predictions[index].name)
        shares, matrices = self.shares(order), []
        for row in track(range(len(self)), "aligning the best hypotheses"):
            best = [self.best_with_lm(index, row) for index in order]
            network = align([tokens for tokens, _ in best], [confidences.tolist() for _, confidences in best])
            matrices.append(as_log_probs(network.arcs, vote(network, weights=shares)[1], self.split.classes))
        return nbest_of_matrices(matrices, self.nbest_size, "recombined")
