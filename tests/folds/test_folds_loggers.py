"""Loggers: TensorBoard by default, Weights & Biases and MLflow offline, and failures that never stop a training run."""

from __future__ import annotations

import importlib.util
import json
import sys
import time

import pytest
from training_runs import metric_rows, metrics, run, run_folder

from folds.store.run_folder import RunFolder
from folds.training.cost import cpu_time
from folds.training.loggers.base import LOGGERS, Loggers, logger_names
from folds.training.metrics_logger import MetricsLogger
from registry import InputError

CONFIG = {"model": "lstm", "options": {"seed": 3, "recipe": {"lr": 0.002}}}


class Recorder:
    """A logger that keeps what it is given, and fails at the epochs named."""

    fails_at: tuple[int, ...] = ()
    rows: list[tuple[int, dict[str, float]]]

    def __init__(self, folder: RunFolder, step: int) -> None:
        type(self).rows = []

    def log(self, values, step):
        if values["epoch"] in self.fails_at:
            raise ConnectionError("no route to the tracker, token=abcdefgh1234")
        self.rows.append((step, dict(values)))

    def close(self):
        self.rows.append((-1, {}))


class Unreachable(Recorder):
    fails_at = (2, 3)


class Quitting(Recorder):
    def __init__(self, folder, step):
        sys.exit(0)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    if "recorder" not in LOGGERS:
        LOGGERS.register("recorder")(Recorder)
        LOGGERS.register("unreachable")(Unreachable)
        LOGGERS.register("quitting")(Quitting)
        LOGGERS.register("absent", needs="no_such_tracker")(Recorder)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A run's folder that has a config.json."""
    folder = RunFolder(tmp_path / "runs" / "lstm" / "fold0")
    folder.path.mkdir(parents=True)
    folder.config.write_text(json.dumps(CONFIG))
    return folder


def test_loggers_get_the_metrics_of_metrics_jsonl_and_a_failure_stops_nothing(monkeypatch, tiny, tmp_path, capsys):
    assert run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--log", "recorder,unreachable") == 0
    folder, errors = run_folder(tmp_path), capsys.readouterr().err
    rows = metric_rows(folder)
    logged = [values for _, values in Recorder.rows[:-1]]
    assert [{name: row[name] for name in rows[0]} for row in logged] == rows
    assert [step for step, _ in Recorder.rows] == [*(row["step"] for row in rows), -1]
    assert [values["epoch"] for _, values in Unreachable.rows] == [1]
    assert errors.count("warning: --log unreachable: ConnectionError: no route to the tracker") == 1
    assert "abcdefgh1234" not in errors and not folder.joinpath("tensorboard").exists()


def test_the_cost_of_an_epoch_includes_that_of_its_part_before_a_checkpoint(folder):
    with MetricsLogger(folder, 0, 0, 0.0, []) as logger:
        logger.begin_epoch(1000.0, 500.0, 700)
        logger.step(0.5, 30, 1.0)
        wall, cpu, frames = logger.epoch_cost
    assert 1000 <= wall < 1060 and 500 <= cpu < 560 and frames == 730


def test_a_logger_that_ends_the_process_stops_nothing(folder, capsys):
    loggers = Loggers(["quitting"], folder, 0)
    loggers.log({"epoch": 1.0}, 1)
    assert capsys.readouterr().err.count("warning: --log quitting: SystemExit: 0; it gets no more metrics, and") == 1


def test_tensorboard_is_the_default_none_writes_nothing_and_resuming_may_change_it(monkeypatch, tiny, tmp_path, capsys):
    run(monkeypatch, tiny, tmp_path / "a", "--epochs", "1")
    run(monkeypatch, tiny, tmp_path / "b", "--epochs", "1", "--log", "none")
    assert list(run_folder(tmp_path / "a").glob("tensorboard/events.*"))
    assert not run_folder(tmp_path / "b").joinpath("tensorboard").exists()
    assert metrics(run_folder(tmp_path / "a")) == metrics(run_folder(tmp_path / "b"))
    run(monkeypatch, tiny, tmp_path / "b", "--epochs", "1", "--resume")
    assert "already finished" in capsys.readouterr().out


def test_unknown_and_absent_loggers_are_refused_before_anything_is_read(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="unknown logger 'tensorbord'; did you mean tensorboard"):
        logger_names("tensorbord")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--log wandb: wandb is not installed: pip install -e '\.\[wandb\]'"):
        run(monkeypatch, tmp_path / "no such data", tmp_path, "--log", "tensorboard,wandb")
    assert logger_names("none") == () and logger_names("tensorboard,tensorboard") == ("tensorboard",)


def test_a_plug_in_s_logger_is_no_extra_of_ours():
    with pytest.raises(InputError, match=r"^--log absent: no_such_tracker is not installed: pip install no_such_"):
        logger_names("absent")


@pytest.mark.parametrize("name", LOGGERS.names())
def test_every_logger_takes_metrics_of_which_some_are_missing_and_continues_a_resumed_run(
    name, folder, monkeypatch, capsys
):
    if needs := LOGGERS.entry(name).info.get("needs"):
        pytest.importorskip(needs)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder.path)
    logger_names(name)
    before = set(folder.path.parents[1].rglob("*"))
    for done in (0, 5):
        loggers = Loggers([name], folder, done)
        loggers.log({"epoch": 1 + done / 5, "step": done + 5, "loss": 2.5, "held_out": 3.5, "threads": 1}, done + 5)
        loggers.log({"epoch": 2 + done / 5, "step": done + 10, "threads": 1}, done + 10)
        loggers.close()
    assert "warning: --log" not in capsys.readouterr().err
    assert set(folder.path.parents[1].rglob("*")) > before


def test_a_logger_that_cannot_be_opened_is_left_out(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises ImportError
    loggers = Loggers(["wandb", "recorder"], folder, 0)
    loggers.log({"epoch": 1}, 5)
    assert Recorder.rows == [(5, {"epoch": 1})]
    assert capsys.readouterr().err.startswith("warning: --log wandb: ModuleNotFoundError: ")


def test_wandb_offline_writes_into_the_run(folder, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    loggers = Loggers(["wandb"], folder, 0)
    loggers.log({"loss": 2.5, "epoch": 1}, 7)
    loggers.close()
    wandb.teardown()  # its process has written everything
    (run_id,) = json.loads(folder.tracker_ids.read_text()).values()
    (log,) = folder.path.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
    content = log.read_bytes()
    assert b"options.recipe.lr" in content and b"loss" in content and b"lstm fold 0" in content


def test_mlflow_keeps_metrics_in_a_database_in_the_runs_folder_and_resumes(folder, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for epoch in (1, 2):  # the second time as a resumed run
        loggers = Loggers(["mlflow"], folder, 7 * (epoch - 1))
        loggers.log({"loss": 2.5 / epoch, "epoch": epoch}, 7 * epoch)
        loggers.close()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hw3p2")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.run_name == "lstm fold 0" and logged.info.status == "FINISHED"
    assert logged.data.params == {"model": "lstm", "options.seed": "3", "options.recipe.lr": "0.002"}
    history = client.get_metric_history(logged.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(7, 2.5), (14, 1.25)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # nothing beside the runs folder


def test_cpu_time_is_never_rounded_to_nothing():
    assert [cpu_time(seconds) for seconds in (0.043, 12.3, 59.6, 100)] == [
        "0.043 CPU-seconds",
        "12 CPU-seconds",
        "1.0 CPU-minutes",
        "1.7 CPU-minutes",
    ]


def test_tensorboard_keeps_the_epoch_before_the_checkpoint_and_hides_what_is_trained_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begun, epochs in ((0, {5: 1.0, 10: 2.0, 15: 3.0}), (10, {15: 4.0, 20: 5.0})):
        time.sleep(1.1 if begun else 0)  # files are read in the order of the seconds in their names
        logger = LOGGERS.get("tensorboard")(RunFolder(tmp_path), begun)
        for step, loss in epochs.items():
            logger.log({"loss": loss}, step)
        logger.close()
    events = EventAccumulator(str(RunFolder(tmp_path).tensorboard))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(5, 1), (10, 2), (15, 4), (20, 5)]
