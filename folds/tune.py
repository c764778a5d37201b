"""`python -m folds.tune`: search for a better recipe than the preset, in stages, on held-out folds.

A study is one file that several processes and machines can share; the same command continues it.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"  # see folds.train

import tyro

from folds.launching.executor import is_on_this_machine, with_executor_options
from folds.launching.launcher import Interrupted
from folds.launching.search import run_search
from folds.training.signals import Stopped
from folds.tuning.comparison import Winner, find_winner, measure_gain, recipe_of
from folds.tuning.find_lr import find_lr
from folds.tuning.options import TuneOptions
from folds.tuning.report import write_report
from folds.tuning.stage_runs import Tuning
from folds.tuning.study import check_optuna, open_study
from folds.tuning.trials import latest_stages
from folds.tuning.work import make_tuning, work_on
from registry import InputError, command
from registry.command_line import parse_options
from registry.json_files import write_json

if TYPE_CHECKING:
    import optuna

PROG = "python -m folds.tune"


def parse(arguments: list[str]) -> tuple[TuneOptions, Any]:
    """(options, the executor's options)."""
    for option in ("--fix", "--space"):
        if sum(argument.partition("=")[0] == option for argument in arguments) > 1:
            raise InputError(f"{option}: given twice: expected all of its values after one {option}")
    schema: Any = with_executor_options(TuneOptions, TuneOptions.on, arguments)
    parsed = parse_options(schema, PROG, arguments, config=(tyro.conf.OmitArgPrefixes,))
    options, executor_options = parsed.command, parsed.executor
    if options.device == "auto":
        options = dataclasses.replace(options, device=executor_options.device)
    return options, executor_options


def main() -> int:
    """Run the study that the command line describes; returns the exit status."""
    options, executor_options = parse(sys.argv[1:])
    check_optuna()
    tuning = make_tuning(options)
    if options.find_lr:
        find_lr(tuning)
        return 0
    study = open_study(tuning.paths, options.settings(tuning.dataset, tuning.space))
    _announce(tuning)
    try:
        if is_on_this_machine(options.on) and options.jobs == 1:
            work_on(tuning)
        else:
            run_search(options, executor_options)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return 128 + interrupted.number
    except Stopped as stopped:
        print(f"stopped by {stopped}; the study is saved: continue with the same command", file=sys.stderr)
        return stopped.status
    _report(tuning, study)
    return 0


def _announce(tuning: Tuning) -> None:
    lengths = ", ".join(f"{stage.minutes:.2g} on {stage.speakers:.0%} of the speakers" for stage in tuning.stages)
    names = ", ".join(parameter.name for parameter in tuning.space.parameters)
    print(f"{tuning.paths.journal}: {tuning.options.trials} trials; searched: {names}", flush=True)
    if outside := tuning.space.outside():
        print(f"the preset's {' and '.join(outside)}, so the preset is not among the trials", flush=True)
    print(f"stages of {tuning.unit}: {lengths}; training is logged in {tuning.paths.log}", flush=True)


def _report(tuning: Tuning, study: optuna.Study) -> None:
    """Write best.json and the report; print what was found."""
    winner = find_winner(tuning, study)
    if winner is None:
        refused = [trial.user_attrs["refused"] for trial in latest_stages(study) if "refused" in trial.user_attrs]
        reason = f"; the first failed: {refused[0]}" if refused else "; pass more --minutes"
        raise InputError(f"{tuning.paths.journal}: no trial finished the last stage{reason}")
    write_json(tuning.paths.best, recipe_of(tuning, winner))
    lines = _result(tuning, winner, len(latest_stages(study)))
    write_report(tuning.paths, study, tuning.stages, f"folds.tune: {tuning.options.model}", lines)
    print(lines)
    print(f"wrote {tuning.paths.best} (python -m folds.train --config {tuning.paths.best}) and {tuning.paths.report}")


def _result(tuning: Tuning, winner: Winner, trials: int) -> str:
    """One line that says what the winner gains and what the stages saved."""
    full, spent = tuning.stages[-1], tuning.spent()
    alternative = trials * full.minutes * len(full.folds)
    cost = (
        f"{trials} trials took {spent:.1f} {tuning.unit} with the comparison; training all of them fully on two folds "
        f"would take {alternative:.1f}"
    )
    if winner.is_preset:
        return f"no trial was better than the preset; {cost}"
    gain = measure_gain(tuning, winner)
    dev = f", on dev {gain.dev}" if gain.dev is not None else ""
    return (
        f"{winner.name} against the preset, full runs of {full.minutes:.2g} {tuning.unit}, two folds on which no trial "
        f"was judged: held out {gain.held_out}{dev} (edit distance, negative is better, 95 % over speakers); {cost}"
    )


if __name__ == "__main__":
    command(main)
