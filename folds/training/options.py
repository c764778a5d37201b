"""The training command's options; the attribute docstrings are their help texts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro

from folds.data.augmentation import SpecAugment
from folds.data.data_options import StoreOptions
from folds.data.speaker_folds import FoldBy
from folds.store.run_folder import RunFolder, check_name
from models.features import Normalization
from registry import InputError
from registry.bounds import MAX_SEED, MAX_THREADS, MAX_UTTERANCES, Bounded, number

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionOption = Literal["auto", "fp32", "bf16", "fp16"]
CPU_FRAMES, CUDA_FRAMES = 16_000, 64_000
"""Default frames per batch. On GPUs, where a step of 16,000 frames is latency-bound, they are per process."""
LEARNING_RATE = 2e-3
"""Default peak learning rate at 16,000 frames per batch."""
MAX_LEARNING_RATE, MAX_FRAMES, MAX_MINUTES = 10.0, 100_000_000, 525_600


@dataclasses.dataclass(frozen=True)
class RecipeOptions(Bounded):
    """How a model is trained. A resumed run must have the recipe it was started with."""

    epochs: int = number(40, at_least=1, at_most=100_000, scale="log")
    """Passes over the training folds; warm-up and cosine end with the last one."""
    minutes: float | None = number(None, above=0, at_most=MAX_MINUTES, scale="log")
    """Instead of --epochs: train for this many minutes; warm-up and cosine end with the step that exceeds them.
    Prediction takes additional time."""
    clock: Literal["wall", "cpu"] = "wall"
    """What --minutes counts: wall time, or CPU time of this process, which does not depend on other load on the
    machine."""
    lr: float | None = number(None, above=0, at_most=MAX_LEARNING_RATE, scale="log", search=(3e-4, 1e-2))
    """Peak learning rate, by default 0.002. On CUDA with the default --batch-frames it is 0.002 times the square root
    of 4 times the number of processes: each has 64,000 frames per batch (both views of --consistency counted), four
    times the 16,000 that 0.002 is for."""
    warmup: float = number(0.05, at_least=0, below=1, search=(0.0, 0.3))
    """Fraction of steps used for linear warm-up."""
    weight_decay: float = number(0.01, at_least=0, at_most=100, scale="log", search=(1e-3, 0.3))
    """AdamW's weight decay, on matrices only."""
    clip: float = number(5.0, above=0, at_most=1e6, scale="log", search=(0.5, 20.0))
    """Maximum gradient norm (clipping)."""
    batch_frames: int | None = number(None, at_least=1, at_most=MAX_FRAMES, scale="log")
    """Input frames per batch, padding included, before speed perturbation; at least the longest utterance. The default
    is the preset's on CPUs, and on CUDA 64,000, or 32,000 in two views with --consistency. With several processes
    (torchrun) it is per process on CUDA, and in total on CPUs."""
    average: float = number(0.0, at_least=0, below=1)
    """Predict with an exponential moving average (EMA) of the weights, whose time constant is this fraction of the run
    (0.05 is typical); 0 disables it."""
    accumulate: int = number(1, at_least=1, at_most=10_000, scale="log")
    """Batches per step; their gradients are accumulated."""
    prior: bool = True
    """Initialise the output's biases from the frequency of each label and of the blank."""
    intermediate: float = number(0.0, at_least=0, below=1)
    """Weight w of intermediate CTC on the middle layer; the weight of the final CTC loss is 1 - w."""
    consistency: float = number(0.0, at_least=0, at_most=100)
    """CR-CTC: train on two views of each batch, with this weight on their consistency (0.2 is usual). Doubles the work
    per step, so lower --batch-frames on a CPU; on CUDA the default is already halved. Works best with more time masks:
    --time-every 75, as in the presets small, base and large."""
    guide_weight: float = number(1.0, at_least=0, at_most=100)
    """With --guide: weight of the posteriors at the guide's spikes, relative to the CTC loss."""
    teacher_weight: float = number(0.5, at_least=0, at_most=1)
    """With --teacher: weight w of the loss on the teacher's hypotheses (themselves weighted by their posteriors); the
    weight of the loss on the transcript is 1 - w."""
    normalise: Normalization = "utterance"
    """Normalise each feature by the mean and variance of the utterance, or of all frames of its group (its speaker or
    day) in the same split. This needs no labels, so it works for new groups too. none leaves the features unchanged."""
    group_layer: str | None = None
    """day or speaker, depending on the data: a linear layer for each group in front of the model, initialised to the
    identity. Utterances of groups not seen in training go through the mean of the layers."""
    group_softsign: bool = False
    """With --group-layer: x / (1 + |x|) after the layer."""
    augment: Annotated[SpecAugment, tyro.conf.arg(name="SpecAugment", prefix_name=False)] = dataclasses.field(
        default_factory=SpecAugment
    )
    """Masks and speed perturbation, sampled for each batch."""
    precision: PrecisionOption = "auto"
    """Autocast precision; the loss is always computed in float32. auto on CUDA is fp16 with loss scaling for models
    with LSTM or GRU layers, and for others bf16 from Ampere on, else fp16; on CPUs it is bf16 with AMX or, on AMD CPUs,
    AVX-512 BF16 (Zen 4 and later), else fp32. On CUDA, fp32 matrix products use TF32."""
    select: Literal["last", "best"] = "last"
    """Weights used for prediction: those at the end of the schedule, or of the epoch with the lowest held-out distance.
    The latter makes out-of-fold distances too optimistic; config.json records it, and ensemble.blend warns about such
    members."""
    keep: int = number(2, at_least=2, at_most=10_000)
    """Number of checkpoints to keep; `python -m folds.soup` averages them."""
    limit: int | None = number(None, at_least=1, at_most=MAX_UTTERANCES, scale="log")
    """Train on this many utterances only, for quick experiments; all utterances are still predicted."""
    speakers: float = number(1.0, above=0, at_most=1)
    """Train on this fraction of the speakers only. The speakers of a smaller fraction are a subset of those of a larger
    one; all utterances are still predicted."""

    def sized_for(self, device: str, processes: int) -> RecipeOptions:
        """With `batch_frames` and `lr` filled in for this type of device ("cpu" or "cuda") and number of processes."""
        frames, lr = self.batch_frames, self.lr
        if lr is None:
            scaled = device == "cuda" and frames is None
            lr = LEARNING_RATE * (math.sqrt(CUDA_FRAMES * processes / CPU_FRAMES) if scaled else 1.0)
        if frames is None:
            # The two views of CR-CTC share a GPU's frames per batch.
            frames = CUDA_FRAMES // (2 if self.consistency else 1) if device == "cuda" else CPU_FRAMES
        return dataclasses.replace(self, batch_frames=frames, lr=lr)

    def halved(self) -> Self:
        """With batches of half the frames, two of them per step; for recipes that are `sized_for` a device."""
        assert self.batch_frames is not None
        return dataclasses.replace(self, batch_frames=self.batch_frames // 2, accumulate=2 * self.accumulate)


@dataclasses.dataclass(frozen=True)
class TrainingRecipe(RecipeOptions):
    """A recipe in which all values that depend on the device are resolved."""

    lr: float = number(LEARNING_RATE, above=0, at_most=MAX_LEARNING_RATE, scale="log")
    """Peak learning rate."""
    batch_frames: int = number(CPU_FRAMES, at_least=1, at_most=MAX_FRAMES, scale="log")
    """Input frames per batch, padding included: per process on CUDA, in total on CPUs."""
    precision: Precision = "fp32"
    """Autocast precision."""

    @staticmethod
    def of(options: RecipeOptions, precision: Precision) -> TrainingRecipe:
        """The recipe of `options`, which are `sized_for` the device."""
        values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
        return TrainingRecipe(**values | {"precision": precision})

    def frames_of_all(self, device: str, processes: int) -> int:
        """Total input frames per batch over all processes, on this type of device."""
        return self.batch_frames * (processes if device == "cuda" else 1)


@dataclasses.dataclass(frozen=True)
class TrainOptions(StoreOptions):
    """Train models over folds; write out-of-fold, dev and test log-probabilities to the runs folder."""

    model: str = "pblstm"
    """One or more registered models, comma-separated (see `python -m registry`). With several, only model options
    common to all of them can be set."""
    config: Path | None = None
    """A JSON file of options, such as the best.json of folds.tune; command-line options override it."""
    name: str = ""
    """Name of the member and of its folder in the runs folder; by default the model's. Use it to keep two recipes of
    one model apart."""
    preset: str = "auto"
    """A named recipe: short (12 epochs, pblstm_small only), quick (18 epochs of plain CTC), small, base or large (30,
    150 or 200 epochs of CR-CTC, for models of that size). Other options override its values; add --help to a command
    to see them. auto is quick on CPUs, and on a GPU the preset for the model's size."""
    fold: str = "0"
    """A fold, several (0,2), or all."""
    folds: int = number(5, at_least=1, at_most=1000)
    """Number of speaker-disjoint folds. With 1, the model is trained on everything and nothing is held out: the refit,
    <name>.all. python -m ensemble.blend uses it together with the fold models of the same model and recipe, from whose
    out-of-fold predictions its weight comes; without them, python -m ensemble.decode writes its submission."""
    fold_by: FoldBy = "group"
    """What folds keep together. group: whole speakers or days, so that held-out distances are for unknown ones.
    utterance: single utterances, so that every fold has some of each group, as if the organisers test on known days."""
    with_dev: bool = False
    """With --folds 1: train on the dev utterances too, once all decisions are made. The member is <model>.all-dev, and
    is never evaluated on dev; needs a fixed number of epochs."""
    seed: int = number(0, at_least=0, at_most=MAX_SEED)
    """Seed of initial weights, batches and masks; each seed has its own folder."""
    resume: bool = False
    """Continue a run that was stopped from its last checkpoint; finished runs are skipped."""
    restart_from: Path | None = None
    """Warm restart: start from the final weights of a finished run (its best ones if it was trained with --select best)
    instead of random ones. Pass a runs folder to use its run of the same name, fold and seed; with --folds 1 this is a
    refit or, if there is none, the member's first fold model, so the folder of --runs itself works. Or pass the folder
    of one run, such as runs/pblstm/fold0, to start from a run of another name or seed. URLs work too."""
    guide: Path | None = None
    """Guided CTC: spike on the same frames as a trained model of the same stride, so that their frames can be averaged.
    Pass the folder of one run, or a member's folder, such as runs/pblstm, to use its run of the same fold, which has
    not seen the utterances held out here. URLs work too."""
    teacher: Path | None = None
    """Distillation, with --folds 1: also learn an ensemble's posterior over its hypotheses. Pass the .csv.json next to
    a submission blended with --nbest-out; the hypotheses for training utterances are out of fold."""
    teacher_test: bool = False
    """With --teacher: also train on the features of test, with the teacher's hypotheses as transcripts. The model gets
    the tag transductive, which ensemble.blend and submit reject with --forbid transductive."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1. auto is CUDA if there is a GPU, else the CPU; PyTorch has no CTC loss for MPS."""
    threads: int = number(0, at_least=0, at_most=MAX_THREADS)
    """CPU threads. 0 starts with one, tries more while cores are idle, and keeps them if they make training faster;
    small models use at most 4; with --clock cpu it is one. Sums round differently with another number of threads, so a
    stopped and resumed run ends with bit-identical metrics only if the number is given."""
    save_every: float = number(0.0, at_least=0, at_most=MAX_MINUTES)
    """Minutes between checkpoints, for slow or mounted drives; a killed run loses up to this much. 0 writes one after
    each epoch and every 10 minutes within one. The last step and a stop by SIGTERM or Ctrl-C always write one."""
    log: str = "tensorboard"
    """Where metrics go besides metrics.jsonl: tensorboard, wandb, mlflow or a plug-in's logger, comma-separated, or
    none. wandb and mlflow must be installed, and read their own environment variables."""
    skip_bad: bool = False
    """Leave out training utterances too short for their labels instead of stopping with an error."""
    recipe: RecipeOptions = dataclasses.field(default_factory=RecipeOptions)
    """How each model is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name:
            check_name(self.name)
        if self.name and "," in self.model:
            raise InputError(
                f"--name {self.name} with --model {self.model}: a name belongs to one model; train them with separate "
                "commands"
            )
        if self.recipe.group_softsign and self.recipe.group_layer is None:
            raise InputError("--group-softsign: there is no group layer: pass --group-layer")
        if self.folds == 1 and self.recipe.select == "best":
            raise InputError("--select best with --folds 1: no utterances are held out to select by; use --select last")
        if self.guide is None and self.recipe.guide_weight != RecipeOptions.guide_weight:
            raise InputError(f"--guide-weight {self.recipe.guide_weight}: there is no guide: pass --guide")
        self._check_teacher()
        if self.with_dev and self.folds != 1:
            raise InputError(f"--with-dev with --folds {self.folds}: a final model has no folds; use --folds 1")
        if self.with_dev and self.recipe.minutes is not None:
            raise InputError("--with-dev with --minutes: the length of training must be fixed beforehand; use --epochs")

    def _check_teacher(self) -> None:
        """Raise InputError for teacher options that conflict with the others."""
        if self.teacher is not None and self.folds != 1:
            raise InputError(
                f"--teacher with --folds {self.folds}: its hypotheses come from models that were trained on what a "
                "fold holds out, so out-of-fold distances would be too low; use --folds 1"
            )
        if self.teacher is None and self.teacher_test:
            raise InputError("--teacher-test: there is no teacher: pass --teacher")
        if self.teacher is None and self.recipe.teacher_weight != RecipeOptions.teacher_weight:
            raise InputError(f"--teacher-weight {self.recipe.teacher_weight}: there is no teacher: pass --teacher")

    def run_folder(self, model: str, fold: int) -> RunFolder:
        """The folder of the run of this model and fold."""
        return RunFolder.of(self.runs, self.name or model, fold, self.seed, self.folds, self.with_dev)

    def fold_list(self) -> list[int]:
        """The folds of `--fold`. Raises InputError for anything but a list of folds in range, or "all"."""
        if self.fold == "all":
            return list(range(self.folds))
        try:
            chosen = [int(part) for part in self.fold.split(",")]
        except ValueError:
            raise InputError(f"--fold {self.fold}: expected a number, numbers separated by commas, or all") from None
        outside = [fold for fold in chosen if not 0 <= fold < self.folds]
        if outside:
            last = self.folds - 1
            raise InputError(f"--fold {outside[0]}: out of range, with --folds {self.folds} it is 0 to {last}")
        return chosen
