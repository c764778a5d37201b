"""The options of `folds.tune`; each line of documentation here is its help text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from folds.data.data_options import DataOptions
from folds.data.dataset import Dataset
from folds.training.options import MAX_MINUTES
from folds.tuning.space import Space
from folds.tuning.stages import COMPARED_FOLDS, plan_stages
from registry import InputError
from registry.bounds import MAX_SEED, MAX_THREADS, number

SUFFIX = ".journal"
"""Ends the names of all studies' files, so that no two in one folder share the folder beside them."""


@dataclass(frozen=True)
class TuneOptions(DataOptions):
    """Search for a better recipe than the preset: many short runs, of which the promising go on. The same command
    continues a study that was stopped, and takes part in one that runs."""

    model: str = "pblstm_small"
    """The registered model whose options, recipe and masks are searched."""
    preset: str = "auto"
    """The recipe that the search begins with and is compared to; options that are not searched keep its values."""
    trials: int = number(40, at_least=1, at_most=100_000)
    """How many configurations to try. The first is the preset's, if it is within the ranges of --space."""
    minutes: float = number(480.0, above=0, at_most=MAX_MINUTES)
    """What the study may cost in minutes of training: CPU time on CPUs, wall time on a GPU, of all jobs together;
    each run's predictions come on top. It determines the length of the runs."""
    study: Path | None = None
    """The study's file, by default tune/<model>.journal; results go to the folder beside it, tune/<model>/. Processes
    on several machines share it."""
    on: str = "local"
    """Where to train: local, slurm, ray, or the executor of a plug-in, as with folds.launch; --help beside it lists
    its options."""
    jobs: int = number(1, at_least=1, at_most=MAX_THREADS)
    """How many processes work on the study, with one CPU thread each: of this machine, or jobs of a cluster."""
    space: tuple[str, ...] = ()
    """What to search beside or instead of the ranges that the fields themselves give: hidden=128:512:log dropout=0:0.4.
    """
    fix: tuple[str, ...] = ()
    """Options that are not searched but set: lr=0.002 consistency=0.2."""
    find_lr: bool = False
    """Only do a learning-rate range test of the preset, which takes a minute or two, and draw its curve."""
    folds: int = number(5, at_least=max(COMPARED_FOLDS) + 1, at_most=1000)
    """Number of speaker-disjoint folds. Trials are judged on fold 0, finalists on 1 too; winner and preset are compared
    on 2 and 3."""
    seed: int = number(0, at_least=0, at_most=MAX_SEED)
    """Seed of the draws and of all runs."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1. All processes of a study must have equally fast ones: a minute must buy the same."""
    skip_bad: bool = False
    """Leave out training utterances too short for their labels instead of stopping with an error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "," in self.model:
            raise InputError(f"--model {self.model}: a study is of one model: use one command for each")
        if self.study is not None and self.study.suffix != SUFFIX:
            raise InputError(f"--study {self.study}: expected a file name that ends in {SUFFIX}: tune/gru{SUFFIX}")

    @property
    def journal(self) -> Path:
        """The study's file."""
        return self.study if self.study is not None else Path("tune") / f"{self.model}{SUFFIX}"

    def settings(self, dataset: Dataset, space: Space) -> dict[str, Any]:
        """What must not change in a study, as JSON."""
        searched = {f"space of {parameter.name}": _text(asdict(parameter)) for parameter in space.parameters}
        return {
            "model": self.model,
            "preset": space.preset,
            "data": dataset.hash,
            "trials": self.trials,
            "minutes": self.minutes,
            "stages": ", ".join(f"{stage.minutes:.4g}" for stage in plan_stages(self.trials, self.minutes)),
            "folds": self.folds,
            "seed": self.seed,
            "device": space.device,
            "fix": space.fixed,
            **searched,
        }


def _text(parameter: dict[str, Any]) -> str:
    return f"{parameter['low']:g} to {parameter['high']:g}" + (", log" if parameter["log"] else "")
