"""Plans, their tasks, what a launch is estimated to take, and how a machine is divided among its runs."""

from __future__ import annotations

from typing import Any

import pytest
from launches import LAUNCH, start, tasks_of

from folds.data.cache import load_dataset
from folds.data.speaker_folds import speaker_folds
from folds.launching.destination import Destination
from folds.launching.estimate import frames_per_epoch, makespan
from folds.launching.executor import LaunchSettings
from folds.launching.executors import local
from folds.launching.executors.local import divide_machine
from folds.launching.launcher import Launcher
from folds.launching.options import LaunchOptions
from folds.launching.plan import MemberPlan, Plan, plan_names, read_plan
from folds.launching.status_table import duration
from folds.launching.tasks import Task, make_tasks
from registry import InputError, create_model

MEMBERS = "members: [{model: lstm_small}]"


def test_tasks_of_a_plan(tiny, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "options: {epochs: 3, prior: false}\n"
        "members:\n"
        "  - {model: lstm_small, name: wide, folds: [1], refit: true, seeds: [0, 2], options: {channels: [8, 8]}}\n"
        "  - {model: gru_small, folds: none, refit: true, options: {epochs: 4}}\n"
    )
    options = LaunchOptions(data=tiny, plan=str(plan))
    tasks = make_tasks(options.read_plan(), options, Destination(tmp_path / "runs"), ["--lr", "0.01"])
    names = [str(task.folder.path.relative_to(tmp_path / "runs")) for task in tasks]
    wide = ["wide/fold1", "wide.seed2/fold1", "wide.all/fold0", "wide.seed2.all/fold0"]
    assert names == [*wide, "gru_small.all/fold0"]
    recipes = [task.parsed.options.recipe for task in tasks]
    assert [recipe.epochs for recipe in recipes] == [3, 3, 3, 3, 4] and not any(recipe.prior for recipe in recipes)
    assert {recipe.lr for recipe in recipes} == {0.01} and tasks[0].parsed.config.channels == (8, 8)
    assert [task.parsed.options.seed for task in tasks] == [0, 2, 0, 2, 0]


def test_the_command_line_takes_precedence_over_the_plan(tiny, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "fold_count: 3\noptions: {epochs: 3, lr: 0.5}\nmembers: [{model: lstm_small, folds: [1], seeds: [4]}]\n"
    )
    for given, more, expected in (
        ({}, [], [(1, 4, 3, 3)]),
        ({"folds": "0,2", "seeds": "1", "fold_count": 4}, ["--epochs", "5"], [(0, 1, 4, 5), (2, 1, 4, 5)]),
        ({"refits": True}, [], [(1, 4, 3, 3), (0, 4, 1, 3)]),
    ):
        options = LaunchOptions(data=tiny, plan=str(plan), **given)
        tasks = make_tasks(options.read_plan(), options, Destination(tmp_path / "runs"), more)
        found = [(task.fold, task.parsed.options.seed, task.parsed.options) for task in tasks]
        assert [(fold, seed, own.folds, own.recipe.epochs) for fold, seed, own in found] == expected
        assert all(own.recipe.lr == 0.5 for _, _, own in found)


@pytest.mark.parametrize(
    ("options", "fixed"),
    [
        (["--epochs", "5"], ["--threads", "3"]),
        (["--minutes", "5", "--clock", "wall"], ["--threads", "3"]),
        (["--minutes", "5", "--clock", "cpu"], []),
    ],
)
def test_a_run_has_its_share_of_threads_unless_its_cpu_time_is_limited(options, fixed, tiny, tmp_path):
    task, _ = tasks_of(tiny, tmp_path, *options)
    start_worker = ["-m", "folds.launching.worker", "1.5", ""]
    assert task.command(1.5, 3)[1:] == [*start_worker, *fixed, *task.arguments]
    assert task.command(1.5, None)[1:] == [*start_worker, *task.arguments]


@pytest.mark.parametrize("name", ["course-20M", "cpu", "open"])
def test_plans_of_the_package_are_accepted_by_training(name, tiny, tmp_path):
    assert name in plan_names()
    options = LaunchOptions(data=tiny, plan=name)
    assert len(make_tasks(options.read_plan(), options, Destination(tmp_path), [])) >= 8


def test_the_course_plan_is_within_its_limit(tiny, tmp_path):
    options = LaunchOptions(data=tiny, plan="course-20M")
    tasks = make_tasks(options.read_plan(), options, Destination(tmp_path), [])
    refits = [task.parsed for task in tasks if task.parsed.options.folds == 1]
    configs = [dict(vars(refit.config)) | {"features": 28, "classes": 41} for refit in refits]
    models = [create_model(refit.name, **config) for refit, config in zip(refits, configs, strict=True)]
    assert len(refits) == 3 and 19e6 < sum(p.numel() for model in models for p in model.parameters()) <= 20e6
    assert read_plan("course-20M").blend_options == " --max-params 20M --forbid attention"


def test_tags_that_a_plan_forbids_reach_the_blend_together():
    """A second --forbid would replace the first."""
    plan = Plan(members=(MemberPlan(model="lstm_small"),), forbid=("attention", "transductive"))
    assert plan.blend_options == " --forbid attention transductive"


@pytest.mark.parametrize("name", ["seed", "fold", "model", "name", "resume"])
def test_an_option_of_a_plan_that_decides_which_run_it_is_is_refused(name, tiny, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"options: {{{name}: 1}}\nmembers:\n  - {{model: lstm_small}}\n")
    options = LaunchOptions(data=tiny, plan=str(plan))
    with pytest.raises(InputError, match=f"the plan's options of lstm_small: {name} is not allowed there: a"):
        make_tasks(options.read_plan(), options, Destination(tmp_path / "runs"), [])


@pytest.mark.parametrize("limit", ["20000000", "20M", '"20000000"'])
def test_a_limit_is_a_number_with_or_without_a_unit(limit, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"max_params: {limit}\n{MEMBERS}")
    found = read_plan(str(plan))
    assert found.parameter_limit == 20_000_000
    assert found.blend_options == f" --max-params {limit.strip(chr(34))}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "forbid: [attention]\nmembers: [{model: conformer_small, name: c, folds: [0]}]",
            "the plan's c: conformer_small has the tag attention, which the plan forbids: leave out one of the two",
        ),
        (
            "max_params: 10k\nmembers: [{model: lstm_small, seeds: [3]}]",
            "the plan's lstm_small.seed3: {parameters:,} parameters, and the plan allows 10,000 in all: make it "
            "smaller, or raise max_params",
        ),
    ],
)
def test_a_member_that_the_plans_limits_keep_out_is_refused(text, message, tiny, tmp_path, monkeypatch):
    plan, dataset = tmp_path / "plan.yaml", load_dataset(tiny)
    plan.write_text(text)
    model = create_model("lstm_small", features=dataset.features, classes=dataset.alphabet.classes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for more in ([], ["--dry-run"]):
        with pytest.raises(InputError) as error:
            start(monkeypatch, tiny, tmp_path / "runs", "--plan", str(plan), *more)
        assert str(error.value) == message.format(parameters=parameters)
    assert not (tmp_path / "runs").exists()


def test_the_machine_is_divided():
    assert [share.threads for share in divide_machine(0, 1, cores=8, gpus=[])] == [8]
    assert [share.threads for share in divide_machine(0, 20, cores=8, gpus=[])] == [1] * 8
    assert [share.threads for share in divide_machine(16, 20, cores=8, gpus=[])] == [1] * 16
    shares = divide_machine(0, 20, cores=16, gpus=["2", "5"])
    assert [(share.gpu, share.threads) for share in shares] == [("2", 8), ("5", 8)]
    assert shares[1].environment == {"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "5"}


def test_hours():
    assert makespan([3, 1, 1, 1], jobs=2) == 3 and makespan([1, 1, 4], jobs=2) == 5 and makespan([2, 2], jobs=1) == 4


def test_a_dry_run_estimates_and_starts_nothing(tiny, tmp_path, monkeypatch, capsys):
    """By the speed of a few steps; runs with a number of minutes take those."""
    dry = [*LAUNCH, "--dry-run", "--jobs", "1"]
    assert start(monkeypatch, tiny, tmp_path / "runs", *dry, "--minutes", "90") == 0
    assert "2 runs: 3:00 h of training in all, about 3:00 h one after the other" in capsys.readouterr().out
    monkeypatch.setattr("folds.launching.estimate.measure_speed", lambda task, dataset: 1.0)
    assert start(monkeypatch, tiny, tmp_path / "runs", *dry, "--epochs", "10") == 0
    dataset = load_dataset(tiny)
    frames = dataset.train.lengths.sum() * 10  # each fold trains on the other
    assert f"2 runs: {duration(frames / 3600)} of training in all" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_launch_on_gpus_tries_no_step_itself(tiny, tmp_path, monkeypatch, capsys):
    """Its process would keep memory that the runs need."""
    monkeypatch.setattr(Task, "device", "cuda")
    monkeypatch.setattr(Launcher, "run", lambda self, tasks: {})
    monkeypatch.setattr("folds.launching.estimate.measure_speed", lambda task, dataset: 1.0)
    assert start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH) == 1
    assert "2 runs: hours unknown, since no run with the same recipe has trained yet\n" in capsys.readouterr().out


def test_the_machine_is_divided_among_all_unfinished_runs(tiny, tmp_path, monkeypatch):
    """Though other processes may still hold all but one of them when the launch begins."""
    started: list[Any] = []
    monkeypatch.setattr(local, "RunningAttempt", lambda task, *_, **options: started.append(options) or task)
    options = LaunchOptions(data=tiny, runs=tmp_path, models="lstm_small", folds="all", seeds="0,1", fold_count=2)
    tasks = make_tasks(options.read_plan(), options, Destination(tmp_path), [])
    executor = local.LocalExecutor(LaunchSettings(tmp_path, 4, 3, len(tasks)))
    executor.submit([])
    for task in tasks:
        executor.submit([task])
    assert len(tasks) == 4 == len(started)


def test_runs_are_trained_on_the_data_of_the_launch(tiny, tmp_path):
    options = LaunchOptions(data=tiny, runs=tmp_path, models="lstm_small", folds="0", smooth=1.5)
    (task,) = make_tasks(options.read_plan(), options, Destination(tmp_path), [])
    assert task.parsed.options.smooth == 1.5 and "--smooth" in task.arguments


def test_the_estimate_counts_the_frames_of_the_chosen_speakers(tiny, tmp_path):
    options = LaunchOptions(data=tiny, runs=tmp_path, models="lstm_small", folds="0", fold_count=2)
    dataset = load_dataset(tiny)
    half, whole = (
        frames_per_epoch(make_tasks(options.read_plan(), options, Destination(tmp_path), more)[0], dataset)
        for more in (["--speakers", "0.5"], [])
    )
    fitted = dataset.train.lengths[speaker_folds(dataset.train, 2) != 0]
    assert whole == fitted.sum() and 0 < half < whole
    (limited, _) = tasks_of(tiny, tmp_path, "--limit", "3")
    assert frames_per_epoch(limited, dataset) == fitted[:3].sum()
    (with_dev,) = tasks_of(tiny, tmp_path, "--with-dev", folds="none", refits=True)
    assert frames_per_epoch(with_dev, dataset) == dataset.train.lengths.sum() + dataset.dev.lengths.sum()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("members: [", "not readable as YAML"),
        ("members: []", "no members"),
        ("members:\n  - {model: gru, fold: 1}", "members[0]: Object contains unknown field fold"),
        ("members:\n  - {model: gru, seeds: x}", "members[0].seeds: expected array, found str"),
        ("\x00", "not readable as YAML"),
        (f"fold_count: 1\n{MEMBERS}", "fold_count: expected int >= 2"),
        (f"max_params: banana\n{MEMBERS}", "max_params: banana: expected a number up to 1000G such as 20M, 950k"),
        (f"max_params: -1\n{MEMBERS}", "max_params: -1: expected a number up to 1000G"),
        (f"max_params: true\n{MEMBERS}", "max_params: expected"),
        (f"forbid: [atention]\n{MEMBERS}", "forbid: atention: no model has this tag; did you mean attention?"),
    ],
)
def test_a_file_that_is_no_plan(text, message, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="^[^\n]*$") as error:
        read_plan(str(path))
    assert str(error.value).startswith(f"--plan {path}: ") and message in str(error.value)
