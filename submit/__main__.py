"""`python -m submit`: check a file and submit it, show the ledger, or download a competition's data.

Only the command line and its exit status are here: 0 done, 1 Kaggle or the network, 2 our input.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from folds.competition.detect import DATA_VARIABLE, open_competition
from registry.errors import InputError, command
from registry.models import parse_count
from submit import ledger
from submit import ledger_table as report
from submit.advice import SITE, Credentials, advise
from submit.check import Checked, check, method_of
from submit.client import Client, Failure, Patience
from submit.download import download
from submit.send import Sender

_ADDRESS = r"(?:https?://(?:www\.)?kaggle\.com/(?:competitions|c)/([\w-]+)(?:[/?#].*)?|([\w-]+))"
_DEADLINE = 900.0
_DOWNLOAD_DEADLINE = 86400.0


@dataclass(frozen=True)
class Options:
    """Submit a file to a Kaggle competition: checked first, sent once, written down."""

    competition: str = ""
    """The last part of the competition's address, or the whole address."""
    file: Path = Path("submission.csv")
    """The file to submit."""
    message: str = ""
    """What Kaggle shows beside the submission; the blend's recipe and distances when it is left out."""
    data: Path | None = None
    """The competition's folder, to check the file against its sample; $HW3P2_DATA when it is left out."""
    wait: bool = False
    """Follow the submission until it has a score."""
    dry_run: bool = False
    """Do everything but send."""
    again: bool = False
    """Submit content that was submitted before."""
    allow_empty: bool = False
    """Allow rows without a label."""
    max_params: str | None = None
    """The most parameters the rules allow all models of the blend together, such as 20M."""
    forbid: tuple[str, ...] = ()
    """Tags that no model of the blend may have, such as attention."""
    ledger: bool = False
    """Print the ledger as a table and draw it beside itself as a PNG; with --competition, fetch new scores first."""
    ledger_file: Path = Path("submissions.jsonl")
    """Where attempts are written down."""
    download: bool = False
    """Download the competition's data into --out and unpack it there."""
    out: Path | None = None
    """The folder for --download."""
    deadline: float | None = None
    """Seconds for everything together: 900, or a day for --download, when it is left out."""
    timeout: float = 60.0
    """Seconds for one call."""
    pause: float = 2.0
    """Seconds before the first retry and between the first looks for a score; doubles up to thirtyfold."""
    settle: float = 60.0
    """Seconds after which a submission without an answer that Kaggle does not list counts as never arrived."""

    def __post_init__(self) -> None:
        for name in ("deadline", "timeout", "pause", "settle"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"--{name} {value:g}: expected seconds, 0 or more")

    @property
    def slug(self) -> str:
        """The competition's name from itself or from its address; `InputError` when it is neither."""
        found = re.fullmatch(_ADDRESS, self.competition)
        if not found:
            raise InputError(
                f"--competition {self.competition!r}: expected the last part of its address, such as 11785-hw3p2-f24 "
                f"of {SITE}/competitions/11785-hw3p2-f24"
            )
        return found[1] or found[2]

    def patience(self) -> Patience:
        """The run's clock, which starts now."""
        default = _DOWNLOAD_DEADLINE if self.download else _DEADLINE
        return Patience(self.timeout, self.deadline if self.deadline is not None else default, self.pause)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; answer its exit status. `InputError` is for `command` to print."""
    options = tyro.cli(Options, args=arguments, prog="python -m submit", config=(tyro.conf.FlagCreatePairsOff,))
    with Client() as client:
        return run(options, client)


def run(options: Options, client: Client) -> int:
    """Do what the options say with this client; answer the exit status. Raises `InputError`."""
    if options.ledger and not options.competition:
        return _show(options)
    if options.download and options.out is None:
        raise InputError("--download: give the folder for the data with --out DIR")
    session = _Session(options, client)
    try:
        if options.ledger:
            session.connect()
            session.sender.refresh()
            return _show(options)
        return session.download() if options.download else session.submit()
    except Failure as failure:
        line = advise(failure, options.slug, session.credentials)
        if failure.kind in ("credentials", "import"):
            raise InputError(line) from failure
        print(f"error: {line}", file=sys.stderr)
        return 1


class _Session:
    """One run of the command against one competition."""

    def __init__(self, options: Options, client: Client) -> None:
        self._options, self._client, self._patience = options, client, options.patience()
        self.credentials: Credentials | None = None
        self.sender = Sender(client, self._patience, options.slug, options.ledger_file, options.settle, say)

    def connect(self) -> None:
        """Import the client, which finds credentials, and say whose."""
        self.credentials = Credentials(**self._client.ask("hello", self._patience))
        if self.credentials.method is None:
            self._client.ask("authenticate", self._patience)
        user = f" of {self.credentials.user}" if self.credentials.user else ""
        say(f"credentials: {self.credentials.source}{user}, kaggle {self.credentials.version}")

    def submit(self) -> int:
        options = self._options
        most = None if options.max_params is None else parse_count(options.max_params)
        checked = check(options.file, _data(options), options.allow_empty, most, options.forbid)
        for note in checked.notes:
            say(note)
        if options.dry_run:
            return self._rehearse(checked)
        self.connect()
        attempt = self.sender.submit(checked, options.message or _message(checked), options.again)
        print(f"submitted as ref {attempt.ref}: {SITE}/competitions/{options.slug}/submissions")
        if not options.wait:
            return 0
        attempt = self.sender.follow(attempt)
        if attempt.status == "ERROR":
            reason = attempt.reason or "no reason given"
            print(f"error: Kaggle could not score ref {attempt.ref}: {reason}", file=sys.stderr)
            return 1
        public, private = attempt.public_score or "none yet", attempt.private_score or "none yet"
        print(f"ref {attempt.ref}: public score {public}, private score {private}{_distances(checked)}")
        return 0

    def _rehearse(self, checked: Checked) -> int:
        try:
            self.connect()
        except Failure as failure:
            if failure.kind != "credentials":
                raise
            print("dry run: the file is fit; no credentials, so Kaggle was not asked for limits or duplicates")
            return 0
        self.sender.rehearse(checked, self._options.again)
        print("dry run: nothing was sent")
        return 0

    def download(self) -> int:
        out = self._options.out
        self.connect()
        download(self._client, self._patience, self._options.slug, out, say)
        try:
            competition = open_competition(out)
        except InputError as error:
            print(f"unpacked into {out}, but folds.train does not know the layout: {error}")
            return 0
        print(f"format {competition.format}: python -m folds.train --data {competition.root}")
        return 0


def _show(options: Options) -> int:
    attempts = ledger.attempts(options.ledger_file)
    if options.competition:
        attempts = [attempt for attempt in attempts if attempt.competition == options.slug]
    if not attempts:
        print(f"{options.ledger_file} has no attempts")
        return 0
    print(report.table(attempts))
    picture = options.ledger_file.with_suffix(".png")
    if count := report.plot(attempts, picture):
        print(f"{picture}: {count} scored submissions")
    return 0


def _data(options: Options) -> Path | None:
    """The competition's folder where one is named. Not the demo's: a real submission is not the demo's."""
    named = options.data or os.environ.get(DATA_VARIABLE)
    if named and not Path(named).is_dir():
        raise InputError(f"no folder {named}: expected the competition's, unzipped; check --data or ${DATA_VARIABLE}")
    return Path(named) if named else None


def _message(checked: Checked) -> str:
    return (method_of(checked.blend) or checked.path.name) + _distances(checked)


def _distances(checked: Checked) -> str:
    figures = [(label, checked.blend.get(name)) for name, label in (("oof", "OOF"), ("dev", "dev"))]
    return "".join(f", {label} {value:.3f}" for label, value in figures if isinstance(value, int | float))


def say(line: str) -> None:
    """A line of progress."""
    print(line, flush=True)


if __name__ == "__main__":
    command(main)
