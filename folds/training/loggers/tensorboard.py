"""TensorBoard, the default."""

from __future__ import annotations

from collections.abc import Mapping

from folds.store.run_folder import RunFolder
from folds.training.loggers.base import LOGGERS


@LOGGERS.register("tensorboard")
class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir runs`."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed for training

        # purge_step itself is hidden too, and the epoch that ended at `step` is not logged again.
        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One scalar per metric."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
