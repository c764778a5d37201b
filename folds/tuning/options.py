"""The options of `folds.tune`; the docstrings here are their help texts."""

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
"""Suffix of all studies' files, so that no two in one folder share the folder next to them."""


@dataclass(frozen=True)
class TuneOptions(DataOptions):
    """Search for a better recipe than the preset: many short runs, of which only the promising ones continue. The same
    command resumes a study that was stopped, and joins one that is running."""

    model: str = "pblstm_small"
    """The registered model whose options, recipe and masks are searched."""
    preset: str = "auto"
    """The recipe that the search starts from and is compared with; options that are not searched keep its values."""
    trials: int = number(40, at_least=1, at_most=100_000)
    """Number of configurations to try. The first is the preset's, if it is within the ranges of --space."""
    minutes: float = number(480.0, above=0, at_most=MAX_MINUTES)
    """Budget of the study in minutes of training: CPU time on CPUs, wall time on a GPU, summed over all jobs; each
    run's predictions come on top. It determines the length of the runs."""
    study: Path | None = None
    """The study's file, by default tune/<model>.journal; results go to the folder next to it, tune/<model>/. Processes
    on several machines can share it."""
    on: str = "local"
    """Where to train: local, slurm, ray, or a plug-in's executor, as with folds.launch; add --help to list its options.
    """
    jobs: int = number(1, at_least=1, at_most=MAX_THREADS)
    """Number of processes that work on the study, one CPU thread each: on this machine, or as jobs of a cluster."""
    space: tuple[str, ...] = ()
    """Ranges to search in addition to, or instead of, the default ranges: hidden=128:512:log dropout=0:0.4."""
    fix: tuple[str, ...] = ()
    """Options to set instead of searching them: lr=0.002 consistency=0.2."""
    find_lr: bool = False
    """Only run a learning-rate range test of the preset, which takes a minute or two, and plot its curve."""
    folds: int = number(5, at_least=max(COMPARED_FOLDS) + 1, at_most=1000)
    """Number of speaker-disjoint folds. Trials are judged on fold 0, finalists also on fold 1; the winner and the
    preset are compared on folds 2 and 3."""
    seed: int = number(0, at_least=0, at_most=MAX_SEED)
    """Seed of the sampler and of all runs."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1. All processes of a study need equally fast devices: a minute must buy the same."""
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
        """The settings that must not change within a study, as JSON."""
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
