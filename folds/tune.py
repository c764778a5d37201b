"""`python -m folds.tune`: search for a better recipe than the preset, in stages, on held-out folds.

A study is one file that several processes and machines share; the same command continues it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import TYPE_CHECKING

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"  # see folds.train

from folds.training.presets import device_type
from folds.training.signals import Stopped
from folds.tuning.comparison import Winner, find_winner, measure_gain, recipe_of, train_comparison
from folds.tuning.find_lr import find_lr
from folds.tuning.options import TuneOptions
from folds.tuning.report import write_report
from folds.tuning.space import make_space
from folds.tuning.stage_runs import Tuning, run_trial
from folds.tuning.stages import plan_stages
from folds.tuning.study import StudyPaths, check_optuna, open_study
from folds.tuning.trials import counted, next_trial, others_work
from registry import InputError, command
from registry.command_line import parse_options
from registry.json_files import write_json

if TYPE_CHECKING:
    import optuna

MAX_KILLED = 20
"""So many processes may be killed before the command gives up."""
POLL_S = 2.0
"""How often a process that has nothing to do looks whether another one died."""


def main() -> int:
    """Run the study of the command line; the exit status."""
    options = parse_options(TuneOptions, "python -m folds.tune")
    check_optuna()
    tuning = _tuning(options)
    if options.find_lr:
        find_lr(tuning)
        return 0
    study = open_study(tuning.paths, options.settings(tuning.dataset, tuning.space))
    _announce(tuning)
    try:
        status = _run_workers(options) if options.jobs > 1 else _work(tuning)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the study is saved: continue with the same command", file=sys.stderr)
        return stopped.status
    if status == 0:
        _report(tuning, study)
    return status


def _tuning(options: TuneOptions) -> Tuning:
    space = make_space(options.model, options.preset, device_type(options.device), options.space, options.fix)
    stages = plan_stages(options.trials, options.minutes)
    return Tuning(options, space, options.open_dataset(), stages, StudyPaths(options.journal))


def _announce(tuning: Tuning) -> None:
    lengths = ", ".join(f"{stage.minutes:.2g} on {stage.speakers:.0%} of the speakers" for stage in tuning.stages)
    names = ", ".join(parameter.name for parameter in tuning.space.parameters)
    print(f"{tuning.paths.journal}: {tuning.options.trials} trials; searched: {names}", flush=True)
    print(f"stages of {tuning.unit}: {lengths}; training is logged in {tuning.paths.log}", flush=True)


def _work(tuning: Tuning) -> int:
    """Work on trials until all are finished, then on the comparison; the exit status. Raises Stopped after a signal."""
    options = tuning.options
    study = open_study(tuning.paths, options.settings(tuning.dataset, tuning.space))
    while True:
        may_begin = tuning.booked(study) < options.minutes
        with next_trial(study, tuning.paths, tuning.space, options.trials, options.seed, may_begin) as trial:
            if trial is not None:
                run_trial(tuning, study, trial)
                continue
        if not others_work(study):
            break
        time.sleep(POLL_S)
    winner = find_winner(tuning, study)
    if winner is not None and not winner.is_preset:
        train_comparison(tuning, winner)
    return 0


def _worker(options: TuneOptions) -> None:
    """The main function of one of several processes."""
    # Ctrl-C in a terminal reaches the first process alone, which passes it on once.
    os.setpgrp()

    def work() -> int:
        check_optuna()
        try:
            return _work(_tuning(options))
        except Stopped as stopped:
            return stopped.status

    command(work)


def _run_workers(options: TuneOptions) -> int:
    """Run `--jobs` processes; one that is killed is replaced by another, which continues its trial; the exit status.

    Raises Stopped after a signal, once they have saved their state, and InputError if they are killed again and again.
    """
    context = get_context("spawn")  # a forked process would inherit PyTorch's state, but not its threads

    def begin() -> SpawnProcess:
        process = context.Process(target=_worker, args=(options,))
        process.start()
        return process

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    workers: list[SpawnProcess] = []
    killed = 0
    try:
        workers.extend(begin() for _ in range(options.jobs))
        while workers:
            connection.wait([worker.sentinel for worker in workers])
            for worker in [worker for worker in workers if worker.exitcode is not None]:
                workers.remove(worker)
                status = worker.exitcode or 0
                if status > 0:
                    return status  # it has printed why
                if status < 0:
                    killed += 1
                    if killed > MAX_KILLED:
                        raise InputError(f"{killed} processes were killed: free memory, or pass fewer --jobs")
                    name = signal.Signals(-status).name
                    print(f"process {worker.pid} was ended by {name}: another one takes its place", file=sys.stderr)
                    workers.append(begin())
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _report(tuning: Tuning, study: optuna.Study) -> None:
    """Write best.json and the report; print what was found."""
    winner = find_winner(tuning, study)
    if winner is None:
        refused = [trial.user_attrs["refused"] for trial in counted(study) if "refused" in trial.user_attrs]
        reason = f"; the first: {refused[0]}" if refused else "; pass more --minutes"
        raise InputError(f"{tuning.paths.journal}: no trial finished the last stage{reason}")
    write_json(tuning.paths.best, recipe_of(tuning, winner))
    lines = _result(tuning, winner, len(counted(study)))
    write_report(tuning.paths, study, tuning.stages, f"folds.tune: {tuning.options.model}", lines)
    print(lines)
    print(f"wrote {tuning.paths.best} (python -m folds.train --config {tuning.paths.best}) and {tuning.paths.report}")


def _result(tuning: Tuning, winner: Winner, trials: int) -> str:
    """What the winner gains, and what the stages saved, in one line."""
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
