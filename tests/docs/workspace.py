"""A folder in which the documents' shell blocks are run, by bash with stand-ins for the programs that they call.

A stand-in records how it was called; the calls are then run in this process on a tiny competition, or, where they need
Kaggle, a GPU, a cluster or more time than a test has, their options are read by the program's own parser.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from command_options import find_commands, parse_only
from documents import ROOT

from registry import model_config

PROGRAMS = ("python", "torchrun", "kaggle", "make", "pip", "tensorboard", "mlflow", "wandb", "jupytext")
# Run on the tiny competition; of other commands only the options are read.
RUN = ("registry", "folds.train", "folds.adapt", "ensemble.blend", "ensemble.decode", "ensemble.report")
# Appended to what a document says, where a later option replaces an earlier one.
QUICK = {
    "folds.train": ["--epochs", "1", "--batch-frames", "400", "--time-mask", "4", "--threads", "1"],
    "folds.adapt": ["--passes", "1"],
    "ensemble.blend": ["--nbest", "5", "--pool", "5", "--fit-limit", "24", "--lm-order", "2"],
    "ensemble.decode": ["--lm-order", "2"],
    "ensemble.report": ["--nbest", "5", "--pool", "5", "--fit-limit", "24", "--lm-order", "2"],
}
# Sizes that all recurrent families have: a run must not have others when it is named again.
SIZES = {"hidden": "8", "layers": "1"}
TUNED = "pblstm_small"
STAND_IN = """#!/bin/bash
{ printf '%s\\x1f' "${HW3P2_DATA-}" "${0##*/}" "$@"; printf '\\n'; } >> "$CALLS"
"""
# Runs the command of --wrap, its last argument, at once.
SBATCH = """#!/bin/bash
exec bash -c "${!#}"
"""


@dataclass
class Workspace:
    """A folder with the competition in `data`."""

    folder: Path
    done: set[tuple[str, ...]] = field(default_factory=set)
    """What was run before: the same command has nothing to do twice."""

    def __post_init__(self) -> None:
        self._programs = self.folder / "programs"
        for place in (self._programs, self.folder / ".venv" / "bin"):
            place.mkdir(parents=True)
            for program in PROGRAMS:
                (place / program).write_text(STAND_IN)
                (place / program).chmod(0o755)
        sbatch = self._programs / "sbatch"
        sbatch.write_text(SBATCH)
        sbatch.chmod(0o755)
        (self.folder / ".venv" / "bin" / "activate").touch()
        (self.folder / ".venv" / "completion.bash").touch()
        (self.folder / "docs").symlink_to(ROOT / "docs")
        best = self.folder / "tune" / TUNED / "best.json"  # as folds.tune leaves it
        best.parent.mkdir(parents=True)
        best.write_text(json.dumps({"model": TUNED, "lr": 0.003}))

    def calls(self, block: str) -> list[list[str]]:
        """The programs that a shell block calls, each with its arguments, in order; `--data` is what it exports."""
        record = self.folder / "calls"
        record.write_text("")
        environment = {
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CALLS": str(record),
            "SLURM_ARRAY_TASK_ID": "5",
        }
        script = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(script, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        # Nothing that bash has not called would be checked.
        named = [program for program in PROGRAMS if re.search(rf"^\s*(\S*/)?{program} ", block, re.MULTILINE)]
        assert record.read_text() or not named, f"{', '.join(named)} not called in:\n{block}"
        return [line.split("\x1f")[1:-1] for line in record.read_text().splitlines()]

    def check(self, call: Sequence[str]) -> None:
        """Run a call, or have its options read by the program's own parser."""
        program, *arguments = call
        if program == "python" and arguments[0] == "-m" and arguments[1] in find_commands():
            self._command(arguments[1], arguments[2:])
        else:
            CHECKS[program](arguments)

    def _command(self, module: str, arguments: list[str]) -> None:
        if (module, *arguments) in self.done:
            return
        self.done.add((module, *arguments))
        with contextlib.chdir(self.folder), mock.patch.dict(os.environ, HW3P2_DATA="data"):
            parse_only(module, arguments)
            if module in RUN:
                name = f"{module}.__main__" if module == "registry" else module
                for more in self._smaller(arguments) if module == "folds.train" else [[]]:
                    without_minutes = _without(arguments, "--minutes")  # instead of which there is one epoch
                    with mock.patch.object(sys, "argv", [module, *without_minutes, *QUICK.get(module, []), *more]):
                        assert not importlib.import_module(name).main()

    def _smaller(self, arguments: list[str]) -> list[list[str]]:
        """For each model of `folds.train`, options that train it alone, tiny, and in two folds."""
        given = dict(itertools.pairwise(arguments))
        calls = []
        for model in given["--model"].split(",") if "--model" in given else [None]:
            config = model_config(model or TUNED, features=1, classes=2)
            sizes = [part for name, value in SIZES.items() if hasattr(config, name) for part in (f"--{name}", value)]
            folds = [] if "--folds" in given else ["--folds", "2"]
            calls.append([*(["--model", model] if model else []), *sizes, *folds])
        return calls


def _without(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments but for an option and its value."""
    pairs = itertools.pairwise(["", *arguments])
    return [argument for before, argument in pairs if option not in (argument, before)]


def _python(arguments: Sequence[str]) -> None:
    """A script of this repository, or pytest: the files and the options that are named exist."""
    if arguments[:2] == ["-m", "pytest"]:
        places = [argument for argument in arguments[2:] if argument.startswith("tests")]
        for path, _, test in (place.partition("::") for place in places):
            assert (ROOT / path).exists(), path
            assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test
        return
    source = (ROOT / arguments[0]).read_text(encoding="utf-8")
    for option in (argument for argument in arguments if argument.startswith("--")):
        field = f"\n    {option[2:].replace('-', '_')}: "
        assert f'"{option}"' in source or field in source, arguments


def _torchrun(arguments: Sequence[str]) -> None:
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(list(arguments))
    assert options.module
    parse_only(options.training_script, options.training_script_args)


def _kaggle(arguments: Sequence[str]) -> None:
    with mock.patch.dict(os.environ, {"KAGGLE_CONFIG_DIR": os.devnull, "KAGGLE_API_TOKEN": ""}):
        from kaggle.cli import parse_competitions  # it looks for credentials

    parser = argparse.ArgumentParser()
    parse_competitions(parser.add_subparsers())
    parser.parse_args(list(arguments))


def _make(arguments: Sequence[str]) -> None:
    for target in arguments:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"make {target}"


def _pip(arguments: Sequence[str]) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for extras in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)):
        assert set(extras.split(",")) <= set(config["options.extras_require"]), extras


def _jupytext(arguments: Sequence[str]) -> None:
    from jupytext.cli import parse_jupytext_args

    parse_jupytext_args(list(arguments))


def _other(arguments: Sequence[str]) -> None:
    """A program of others with options of its own."""


CHECKS = {
    "python": _python,
    "torchrun": _torchrun,
    "kaggle": _kaggle,
    "make": _make,
    "pip": _pip,
    "jupytext": _jupytext,
    **dict.fromkeys(("tensorboard", "mlflow", "wandb"), _other),
}
