"""Schemas of the JSON files of a run; fields with defaults are absent from runs of earlier versions."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from registry.bounds import MAX_DELAY

Count = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Measure = Annotated[float, Meta(ge=0, le=1e300)]
"""A distance or a time: neither negative nor infinite nor NaN."""


class DataFacts(Struct, frozen=True):
    """The data that a run was trained on."""

    hash: str | None = None
    alphabet: str | None = None
    format: str | None = None
    """The name of the competition."""


class SourceFacts(Struct, frozen=True):
    """A run that another run started from, or was guided by."""

    weights: str
    earlier: tuple[str, ...] = ()
    """The weights that these were trained from, and those before them: the latest first."""
    select: str = "last"
    cpu_minutes: Measure = 0.0


class DelayFacts(Struct, frozen=True):
    """By how much a run's features are delayed, and the hash of the weights of the run whose network it uses."""

    frames: Annotated[int, Meta(ge=1, le=MAX_DELAY)]
    of: str


class AdaptationFacts(Struct, frozen=True):
    """How and with which hypotheses a run was adapted to its speakers, and the hash of the weights before that."""

    of: str
    nbest: str
    passes: Positive
    lr: Measure


class TeacherFacts(Struct, frozen=True):
    """The teacher's N-best hypotheses that a run was trained with."""

    nbest: str


class RecipeFacts(Struct, frozen=True):
    """The training recipe; see `folds.training.options.RecipeOptions`."""

    normalise: str = "utterance"


class OptionFacts(Struct, frozen=True):
    """The options of folds.train."""

    recipe: RecipeFacts = RecipeFacts()
    smooth: Annotated[float, Meta(ge=0, le=1000)] = 0.0


class HardwareFacts(Struct, frozen=True):
    """How a run was fitted to its hardware."""

    halved: bool = False
    """Whether it took two batches of half the default size per step, for lack of memory."""


class ConfigFile(Struct, frozen=True):
    """The entries of config.json that are read individually."""

    model: str
    fold: Count
    folds: Positive
    seed: Count
    parameters: Count
    tags: tuple[str, ...]
    stride: Positive
    fold_assignment: Count = 1
    speller: bool = False
    select: str = "last"
    with_dev: bool = False
    model_config: dict[str, Any] = msgspec.field(default_factory=dict)
    group_layer: dict[str, Any] | None = None
    """A `models.GroupFacts`."""
    restart: SourceFacts | None = None
    guide: SourceFacts | None = None
    teacher: TeacherFacts | None = None
    delay: DelayFacts | None = None
    adaptation: AdaptationFacts | None = None
    soup: tuple[str, ...] | None = None
    """The names of the checkpoints whose weights were averaged; see `folds.soup`."""
    options: OptionFacts = OptionFacts()
    data: DataFacts = DataFacts()
    front_end: str | None = None
    """The front end that computed the features from audio, if known; see `folds.frontends`."""
    hardware: HardwareFacts = HardwareFacts()

    def __post_init__(self) -> None:
        if self.fold >= self.folds:
            raise ValueError(f"fold: expected less than folds, {self.folds}, found {self.fold}")


class TrainedData(Struct, frozen=True):
    """The data that a run was trained on, where they must be known."""

    hash: str
    features: str | None = None


class TrainedRecipe(Struct, frozen=True):
    """The training recipe, where it must be known."""

    batch_frames: Positive | None = None


class TrainedOptions(Struct, frozen=True):
    """The options of folds.train, where they must be known."""

    recipe: TrainedRecipe


class TrainedConfig(Struct, frozen=True):
    """What config.json must also hold to continue a run or to use its network."""

    model_config: dict[str, Any]
    options: TrainedOptions
    data: TrainedData


class SummaryFile(Struct, frozen=True):
    """summary.json."""

    cpu_minutes: Measure
    greedy_distance: dict[str, Measure | None] = msgspec.field(default_factory=dict)
    wall_minutes: Measure | None = None
    frames_per_s: Measure | None = None


class EpochMetrics(Struct, frozen=True):
    """A line of metrics.jsonl."""

    epoch: Positive
    held_out: Measure | None = None


class EpochTiming(Struct, frozen=True):
    """A line of timing.jsonl."""

    wall_s: Measure
    cpu_s: Measure
    frames_per_s: Measure
