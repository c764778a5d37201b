"""MLflow (extra `mlflow`). MLflow's own environment variables apply; by default, a database in the runs folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

from filelock import FileLock

from folds.store.run_folder import RunFolder
from folds.training.loggers.base import LOGGERS, remembered_id, run_settings

# MLflow accepts at most this many parameters in one request.
MOST_PARAMS = 100


@LOGGERS.register("mlflow", needs="mlflow")
class MLflow:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, by default hw3p2, at MLFLOW_TRACKING_URI."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        from mlflow import MlflowClient  # slow to import

        database = folder.path.resolve().parents[1] / "mlflow.db"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database.as_posix()}")
        # If several runs start at the same time, only one creates the database and the experiment.
        lock = FileLock(f"{database}.lock", fallback_to_soft=False)
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks
            lock.acquire()
        try:
            self._run_id = remembered_id(folder, "mlflow", lambda: self._create_run(folder))
        finally:
            lock.release()

    def _create_run(self, folder: RunFolder) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "hw3p2")
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        run_id: str = self._client.create_run(experiment_id, run_name=folder.title).info.run_id
        params = [Param(key, str(value)) for key, value in run_settings(folder).items()]
        self._client.log_batch(run_id, params=params[:MOST_PARAMS])
        return run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One value per metric, in one request."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def close(self) -> None:
        """Mark the run as finished; a resumed run can still continue it."""
        self._client.set_terminated(self._run_id)
