"""The basis of blend inputs: the predictions of one split, with its references and language models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.lm.ngram import PhoneLM
from ensemble.members.predictions import Predictions


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
    """Number of classes, including the blank."""
    outer_folds: np.ndarray
    """Outer fold of each utterance in nested cross-validation, (N,) int64 from 0."""
    language_models: Sequence[PhoneLM]
    """A phone language model per outer fold, estimated without the transcripts of that fold's speakers."""
    references: tuple[Sequence[int], ...] | None = None
    """The class sequence of each utterance; None for a split without transcripts."""
    parameters: tuple[int, ...] | None = None
    """The fewest parameters with which each member can be used."""
    same_networks: tuple[int, ...] | None = None
    """Index of the first member with the same networks, whose parameters count once; None if all differ."""
    max_params: int | None = None
    """Maximum total number of parameters of the members that a blend uses; None for no limit."""
    groups: tuple[str, ...] | None = None
    """The group of each utterance that folds keep together, its speaker or day; None if unknown."""
