"""What a user has sent, or may have sent, to a competition, regardless of the ledger.

The user chooses the ledger's path, so two runs may use different ledgers, and Kaggle's list shows a new submission only
after some time. What both runs share is the user: in `$XDG_STATE_HOME/hw3p2-ensemble/submit/` (by default
`~/.local/state/…`) each competition has a lock, held while anything is sent to it, and an empty file per attempt, named
after the submitted file's hash and the attempt's id. The empty file is created before the attempt is sent, and removed
if no submission was made: after a failure, or if Kaggle's list does not show one in time. It is kept when the list
shows the submission, because the next answer may come from a server that does not know it yet.
"""

from __future__ import annotations

import os
from pathlib import Path

from registry.errors import InputError


class PendingAttempts:
    """This user's attempts for one competition that made a submission, or may have made one."""

    def __init__(self, competition: str) -> None:
        self.folder = _state_folder() / competition

    def prepare(self) -> None:
        """Create the folder. Raises `InputError` if it cannot be written."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.folder / f".{os.getpid()}"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written ({error.strerror}); what is sent is recorded there, so that it is "
                "sent only once: set XDG_STATE_HOME to another folder"
            ) from None

    def add(self, id: str, sha256: str) -> None:
        """Record an attempt before it is sent, and flush the record to disk."""
        self._path(id, sha256).touch()
        if os.name == "posix":
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def remove(self, id: str, sha256: str) -> None:
        """Remove the record of an attempt."""
        self._path(id, sha256).unlink(missing_ok=True)

    def find(self, sha256: str) -> set[str]:
        """The ids of attempts with this content."""
        return {path.name.partition("-")[2] for path in self.folder.glob(f"{sha256[:16]}-*")}

    def _path(self, id: str, sha256: str) -> Path:
        return self.folder / f"{sha256[:16]}-{id}"


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    except RuntimeError:  # a user without an entry in /etc/passwd and without HOME, as in a container
        raise InputError("no home folder for the record of submissions: set XDG_STATE_HOME to a folder") from None
    return base / "hw3p2-ensemble" / "submit"
