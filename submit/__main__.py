"""`python -m submit`: check a file and submit it, show the ledger, or download a competition's data.

The exit status is 0 on success, 1 after an error at Kaggle or in the network, and 2 for bad input.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from folds.competition.detect import DATA_VARIABLE, open_competition
from folds.data.data_options import FolderOptions
from registry.bounds import number
from registry.command_line import parse_options
from registry.errors import InputError, command
from registry.models import parse_count
from registry.redaction import redact
from submit.advice import SITE, Credentials, advise, shorten
from submit.check import CheckedFile, check_file, describe_method
from submit.client import Client, Failure, TimeBudget
from submit.download import download_data
from submit.ledger import check_ledger, read_attempts
from submit.ledger_table import plot_attempts, print_attempts
from submit.send import Sender

_URL = r"(?:https?://(?:www\.)?kaggle\.com/(?:competitions|c)/([\w-]+)(?:[/?#].*)?|([\w-]+))"
_DEADLINE = 900.0
_DOWNLOAD_DEADLINE = 86400.0
MAX_SECONDS = 30 * 86400


@dataclass(frozen=True)
class SubmitOptions(FolderOptions):
    """Check a file, submit it to a Kaggle competition exactly once, and record the attempt in a ledger."""

    # Unlike the other commands, this one does not default to the demo: a submission must match a real competition.
    data: Path | None = None
    """The competition's folder, whose sample file the submission must match; by default the environment variable
    HW3P2_DATA."""
    competition: str = ""
    """The last part of the competition's URL, or the whole URL."""
    file: Path = Path("submission.csv")
    """The file to submit."""
    message: str = ""
    """The message shown with the submission on Kaggle; by default the blend's recipe and distances."""
    wait: bool = False
    """Wait until the submission has a score."""
    dry_run: bool = False
    """Do everything except sending."""
    again: bool = False
    """Submit even if the same content was submitted before."""
    allow_empty: bool = False
    """Allow rows with an empty label."""
    max_params: str | None = None
    """Maximum total number of parameters that the rules allow for all models of the blend, such as 20M."""
    forbid: tuple[str, ...] = ()
    """Tags that no model of the blend may have, such as attention."""
    ledger: bool = False
    """Print the ledger as a table and plot it to a PNG next to it; with --competition, fetch new scores first."""
    ledger_file: Path = Path("submissions.jsonl")
    """The file in which attempts are recorded."""
    download: bool = False
    """Download the competition's data into --out and unpack it there."""
    out: Path | None = None
    """The folder for --download."""
    deadline: float | None = number(None, at_least=0, at_most=MAX_SECONDS)
    """Time limit for the whole run in seconds; by default 900, or one day for --download."""
    timeout: float = number(60.0, at_least=0, at_most=MAX_SECONDS)
    """Time limit for one call to Kaggle in seconds."""
    pause: float = number(2.0, at_least=0, at_most=MAX_SECONDS)
    """Seconds before the first retry, and between the first two checks for a score; doubles each time, up to 30 times
    as long."""
    settle: float = number(60.0, at_least=0, at_most=MAX_SECONDS)
    """Seconds to look in Kaggle's list for a submission without a reply before it counts as never received."""

    @property
    def slug(self) -> str:
        """The competition's name in URLs. Raises `InputError` if `competition` is neither a name nor a URL."""
        match = re.fullmatch(_URL, self.competition)
        if not match:
            raise InputError(
                f"--competition {self.competition!r}: expected the last part of its URL, such as 11785-hw3p2-f24 in "
                f"{SITE}/competitions/11785-hw3p2-f24"
            )
        return (match[1] or match[2]).lower()

    def time_budget(self) -> TimeBudget:
        """Create the time limits of a run that starts now."""
        default = _DOWNLOAD_DEADLINE if self.download else _DEADLINE
        return TimeBudget(self.timeout, self.deadline if self.deadline is not None else default, self.pause)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status. Raises `InputError`, which `command` prints."""
    options = parse_options(SubmitOptions, "python -m submit", arguments, config=(tyro.conf.FlagCreatePairsOff,))
    with Client() as client:
        return run(options, client)


def run(options: SubmitOptions, client: Client) -> int:
    """Run the command with this client and return the exit status. Raises `InputError`."""
    if options.ledger and not options.competition:
        return _show_ledger(options)
    if options.download and options.out is None:
        raise InputError("--download: pass the folder for the data with --out DIR")
    download_folder = options.out if options.download else None
    session = _Session(options, client)
    try:
        if options.ledger:
            session.connect()
            session.sender.update_ledger()
            return _show_ledger(options)
        return session.submit() if download_folder is None else session.download(download_folder)
    except Failure as failure:
        line = advise(failure, options.slug, session.credentials)
        if failure.kind in ("credentials", "import"):
            raise InputError(line) from failure
        print(f"error: {redact(line)}", file=sys.stderr)
        return 1


class _Session:
    """One run of the command against one competition."""

    def __init__(self, options: SubmitOptions, client: Client) -> None:
        self._options, self._client, self._budget = options, client, options.time_budget()
        self.credentials: Credentials | None = None
        self.sender = Sender(client, self._budget, options.slug, options.ledger_file, options.settle, log)

    def connect(self) -> None:
        """Start the client, which finds credentials, and report where they come from."""
        self.credentials = Credentials(**self._client.query("find_credentials", self._budget))
        if self.credentials.method is None:
            self._client.query("authenticate", self._budget)
        user = f" of {shorten(self.credentials.user, 50)}" if self.credentials.user else ""
        log(f"credentials: {self.credentials.source}{user}, kaggle {self.credentials.version}")

    def submit(self) -> int:
        options = self._options
        max_params = None if options.max_params is None else parse_count(options.max_params)
        data = _find_competition_folder(options)
        checked = check_file(options.file, data, options.allow_empty, max_params, options.forbid, options.allow_pickle)
        for note in checked.notes:
            log(note)
        check_ledger(options.ledger_file)
        if options.dry_run:
            return self._dry_run(checked)
        self.connect()
        attempt = self.sender.submit(checked, options.message or _default_message(checked), options.again)
        print(f"submitted as ref {attempt.ref}: {SITE}/competitions/{options.slug}/submissions")
        if not options.wait:
            return 0
        attempt = self.sender.wait_for_score(attempt)
        if attempt.status == "ERROR":
            reason = shorten(attempt.reason, 500) or "no reason given"
            print(f"error: Kaggle could not score ref {attempt.ref}: {reason}", file=sys.stderr)
            return 1
        public, private = attempt.public_score or "none yet", attempt.private_score or "none yet"
        print(f"ref {attempt.ref}: public score {public}, private score {private}{_format_distances(checked)}")
        return 0

    def _dry_run(self, checked: CheckedFile) -> int:
        try:
            self.connect()
        except Failure as failure:
            if failure.kind != "credentials":
                raise
            found = "the file is valid" if checked.rows_checked else "its rows were not checked: pass --data"
            print(f"dry run: {found}; no credentials, so limits and duplicates at Kaggle were not checked")
            return 0
        self.sender.dry_run(checked, self._options.again)
        print("dry run: nothing was sent")
        return 0

    def download(self, out: Path) -> int:
        self.connect()
        download_data(self._client, self._budget, self._options.slug, out, log)
        try:
            competition = open_competition(out, self._options.allow_pickle)
        except InputError as error:
            print(f"unpacked into {out}, but folds.train does not know its layout: {error}")
            return 0
        print(f"format {competition.format}: python -m folds.train --data {competition.root}")
        return 0


def _show_ledger(options: SubmitOptions) -> int:
    attempts = read_attempts(options.ledger_file)
    if options.competition:
        attempts = [attempt for attempt in attempts if attempt.competition == options.slug]
    if not attempts:
        print(f"{options.ledger_file} has no attempts")
        return 0
    print_attempts(attempts)
    picture = options.ledger_file.with_suffix(".png")
    if count := plot_attempts(attempts, picture):
        print(f"{picture}: {count} scored submissions")
    return 0


def _find_competition_folder(options: SubmitOptions) -> Path | None:
    """Return the competition's folder, or None if none is given. Raises `InputError` if it does not exist."""
    folder = options.data or os.environ.get(DATA_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise InputError(
            f"no folder {folder}: expected the competition's folder, unzipped; check --data or ${DATA_VARIABLE}"
        )
    return Path(folder) if folder else None


def _default_message(checked: CheckedFile) -> str:
    return (describe_method(checked.blend) or checked.path.name) + _format_distances(checked)


def _format_distances(checked: CheckedFile) -> str:
    distances = [(label, checked.blend.get(name)) for name, label in (("oof", "OOF"), ("dev", "dev"))]
    return "".join(f", {label} {value:.3f}" for label, value in distances if isinstance(value, int | float))


def log(line: str) -> None:
    """Print a progress line without secrets, and flush it."""
    print(redact(line), flush=True)


if __name__ == "__main__":
    command(main)
