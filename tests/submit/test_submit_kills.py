"""Random sequences of faults, kills and users' mistakes, each run a process of its own: nothing is sent twice or leaks.

A sequence is up to three runs, perhaps two at once, with the server's faults, a kill at some request or moment, a list
that lags, another ledger or another name for the same one, and a wrong clock; and a last run without faults.
`make test` runs a few sequences, `make faults` a thousand: SUBMIT_SEQUENCES is their number.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import ROOT
from fake_kaggle import KEY, FakeKaggle
from fake_kaggle_requests import SPELLINGS

from submit.ledger import read_attempts

SEQUENCES = int(os.environ.get("SUBMIT_SEQUENCES", "8"))
TOKEN = "KGAT_5ecret+To/ken=9876543210"
SECRETS = (KEY, TOKEN, "do-not-print-me", "another-line-of-it")

DEADLINE = 20.0
SETTLE = 1.0
QUICK = [
    *("--pause", "0.003", "--timeout", "2", "--deadline", f"{DEADLINE:g}", "--settle", f"{SETTLE:g}"),
    *("--competition", "hw", "--file", "submission.csv"),
]
GARBAGE = (
    "[]", "3", "null", '"x"', "{}", '{"ref": "abc"}', '{"ref": -1}', '{"submissions": 3}', '{"code": "x"}',
    '{"submissions": [{"ref": "abc"}]}', '{"submissions": [3]}', '{"numToday": "x"}', '{"numAllowedNow": -5}',
    '{"nextPageToken": 7}', '{"token": 3, "createUrl": 4}', '{"createUrl": "", "token": ""}', "{",
)  # fmt: skip
FAULTS = (
    *("", "", "", "400", "401", "403", "404", "429", "429 0", "429 nan", "500", "503", "html", "reset"),
    *(f"json {text}" for text in GARBAGE[::3]),
)
LOST_ANSWERS = ("lost", "lost-html", "lost-500", "lost-429", "lost-type", "no-ref")
# What a run says when it found out in time that it must not send, or send again.
EVENTS = ("already submitted", "the answer was lost", "without an outcome", "under another ledger", "waiting for it")
ENDPOINTS = ("ListSubmissions", "GetSubmissionLimits", "StartSubmissionUpload", "CreateSubmission", "GetSubmission")


@dataclass
class Campaign:
    """One server, the process that starts the runs, and what became of them."""

    kaggle: FakeKaggle
    starter: subprocess.Popen[str]
    home: Path
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    seconds: float = 0.0
    """The longest run."""

    def ask(self, **request: Any) -> int:
        assert self.starter.stdin is not None and self.starter.stdout is not None
        self.starter.stdin.write(json.dumps(request) + "\n")
        self.starter.stdin.flush()
        return int(self.starter.stdout.readline())


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    home = tmp_path_factory.mktemp("home")
    with FakeKaggle() as kaggle:
        variables = kaggle.environment(home) | {"PYTHONPATH": str(ROOT), "KAGGLE_KEY": "", "KAGGLE_USERNAME": ""}
        command = [sys.executable, str(Path(__file__).with_name("preloaded.py"))]
        with subprocess.Popen(
            command, env=variables, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as starter:
            yield Campaign(kaggle, starter, home)
            starter.kill()


@dataclass
class Sequence:
    """One sequence: its folder, its random numbers, and its user's credentials."""

    campaign: Campaign
    folder: Path
    rng: random.Random
    runs: list[int] = field(default_factory=list)
    """The process ids of the runs in progress."""
    fails: bool = False
    """Whether Kaggle cannot score the submission, and quotes the credentials when it says why."""

    @property
    def kaggle(self) -> FakeKaggle:
        return self.campaign.kaggle

    def write_file(self, number: int) -> None:
        (self.folder / "submission.csv").write_text(f"index,label\n0,-@-\n1,-{'G' * (number + 1)}-\n")

    def draw_credentials(self) -> dict[str, str]:
        """Variables and files with credentials, one in ten of them unusable."""
        token_file = self.campaign.home / ".kaggle" / "access_token"
        token_file.parent.mkdir(exist_ok=True)
        token_file.unlink(missing_ok=True)
        kinds = ("key", "key", "key line", "token", "token line", "file", "file line", "two", "two file")
        kind = self.rng.choice(kinds)
        if kind in ("key", "key line"):
            return {"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": KEY + "\n" * (kind == "key line")}
        end = {"two": "\nanother-line-of-it", "two file": "\nanother-line-of-it\n"}.get(kind, "\n" * ("line" in kind))
        if "file" in kind:
            token_file.write_text(TOKEN + end)
            return {}
        return {"KAGGLE_API_TOKEN": TOKEN + end}

    def draw_faults(self) -> None:
        """Faults of the first few requests to each endpoint."""
        rng = self.rng
        echo = f"echo {rng.choice((400, 403, 429, 500))} {rng.choice(list(SPELLINGS))}"
        choices = (*FAULTS, echo, echo, f"json {rng.choice(GARBAGE)}")
        for endpoint in ENDPOINTS:
            self.kaggle.faults[endpoint] = list(rng.choices(choices, k=rng.choice((0, 0, 1, 2, 3))))
        self.kaggle.faults["CreateSubmission"] = list(rng.choices(choices + 4 * LOST_ANSWERS, k=rng.randrange(1, 4)))
        self.kaggle.faults["upload"] = list(rng.choices(("", "", "403", "503", "reset"), k=rng.randrange(3)))
        if rng.random() < 0.06:
            endpoint = rng.choice(ENDPOINTS)
            fault = "lost-hang" if endpoint == "CreateSubmission" else "hang"
            self.kaggle.faults[endpoint].insert(0, fault)

    def draw_kill(self) -> threading.Timer | None:
        """Kill the newest run at a request, before or after the server carries it out, or after a random time."""
        kind = self.rng.choice(("none", "none", "create", "create", "request", "time"))
        if kind in ("create", "request"):
            endpoint = "CreateSubmission" if kind == "create" else self.rng.choice((*ENDPOINTS, "upload"))
            after = self.rng.choice(("", "", "reset", "lost"))

            def kill() -> str:
                self.kill()
                return after if endpoint != "upload" else ""

            queue = self.kaggle.faults[endpoint]
            queue.insert(self.rng.randrange(len(queue) + 1), kill)
        if kind != "time":
            return None
        timer = threading.Timer(self.rng.uniform(0.0, 1.5), self.kill)
        timer.start()
        return timer

    def kill(self) -> None:
        if self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.runs[-1], signal.SIGKILL)

    def draw_ledger(self) -> str:
        """A ledger: always the same, another one, or another name for the first."""
        main, name = self.folder / "submissions.jsonl", self.rng.choice(("", "", "other.jsonl", "link", "hard"))
        if name in ("link", "hard") and not os.path.lexists(self.folder / name):
            if name == "hard" and not main.exists():
                return main.name
            (self.folder / name).symlink_to(main) if name == "link" else os.link(main, self.folder / name)
        return name or main.name

    def start(self, credentials: dict[str, str], ledger: str, *more: str, clock: float = 0.0) -> None:
        if self.fails:
            text = f"bad\nfile: {KEY if 'KAGGLE_KEY' in credentials else TOKEN}?signature=do-not-print-me"
            self.kaggle.score = {"status": "ERROR", "errorDescription": text}
        variables = self.kaggle.environment(self.campaign.home)
        variables |= {"KAGGLE_USERNAME": "", "KAGGLE_KEY": "", "TMPDIR": str(self.folder), "COLUMNS": "200"}
        variables |= {"XDG_STATE_HOME": str(self.folder / "state")} | credentials
        pid = self.campaign.ask(
            start=[*QUICK, "--ledger-file", ledger, *more], variables=variables, folder=str(self.folder),
            output=str(self.folder / "output"), clock=clock,
        )
        self.runs.append(pid)

    def finish(self) -> int:
        """Wait for the oldest run, at most a little longer than its deadline. Returns its exit status."""
        begin, pid = time.monotonic(), self.runs[0]
        overdue = threading.Timer(DEADLINE + 40, lambda: os.kill(pid, signal.SIGABRT))
        overdue.daemon = True
        overdue.start()
        status = self.campaign.ask(wait=pid)
        overdue.cancel()
        self.runs.remove(pid)
        self.campaign.seconds = max(self.campaign.seconds, time.monotonic() - begin)
        self.campaign.outcomes[{0: "success", 1: "failure", 2: "refusal", -9: "killed"}.get(status, str(status))] += 1
        assert status in (0, 1, 2, -9), (status, self.output())
        return status

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")


def run_random(sequence: Sequence) -> None:
    """The runs of a sequence except for the last."""
    rng = sequence.rng
    for _ in range(rng.randrange(1, 4)):
        sequence.draw_faults()
        credentials = sequence.draw_credentials()
        sequence.kaggle.restart_lag()
        more = list(rng.choice(((), (), (), ("--wait",), ("--wait",), ("--dry-run",), ("--ledger",))))
        for _ in range(1 + (rng.random() < 0.2)):
            clock = rng.choice((0, 0, 86400, -86400, 10 * 365 * 86400))
            sequence.start(credentials, sequence.draw_ledger(), *more, clock=clock)
        timer = sequence.draw_kill()
        while sequence.runs:
            sequence.finish()
        if timer:
            timer.cancel()


def check_ledgers(sequence: Sequence) -> None:
    """What the ledgers say about a submission, Kaggle has; and they leave nothing open that they could have settled."""
    made = {submission["description"][4:16]: submission["ref"] for submission in sequence.kaggle.submissions}
    for name in ("submissions.jsonl", "other.jsonl"):
        for attempt in read_attempts(sequence.folder / name):
            if attempt.state == "submitted":
                assert made[attempt.id] == attempt.ref
            if attempt.state == "failed":
                assert attempt.id not in made


def spellings(text: str) -> Iterator[str]:
    """The text as it is and decoded, without white space and escapes: where a secret would be seen."""
    for decode in (str, unquote, lambda text: text.replace("\\n", ""), _decode_escapes):
        yield "".join(decode("".join(text.split())).split())


def _decode_escapes(text: str) -> str:
    return text.encode("ascii", "replace").decode("unicode_escape", "replace")


def find_secrets(text: str) -> list[str]:
    """Pieces of 10 characters of a secret, or of its base64 or hexadecimal form, that the text has in some spelling."""
    found = []
    for secret in SECRETS:
        forms = [secret, secret.encode().hex()]
        for before in range(3):
            encoded = base64.b64encode(b"x" * before + secret.encode()).decode()
            forms.append(encoded[4:-4])
        pieces = {form[start : start + 10] for form in forms for start in range(len(form) - 9)}
        found += [piece for seen in spellings(text) for piece in pieces if piece in seen]
    return found


def test_search_finds_secrets_in_every_spelling() -> None:
    for spell in SPELLINGS.values():
        assert find_secrets(f"some text {spell('ada:' + TOKEN)} more") and find_secrets(spell(KEY))
    assert not find_secrets("some text [redacted] more")


@pytest.mark.parametrize("first", range(0, SEQUENCES, 50))
def test_no_sequence_sends_twice_or_shows_a_secret(
    campaign: Campaign, tmp_path: Path, first: int, record_property: Callable[[str, object], None]
) -> None:
    for number in range(first, min(first + 50, SEQUENCES)):
        check_sequence(campaign, tmp_path / str(number), number)
    record_property("outcomes", dict(campaign.outcomes))
    print(f"{min(first + 50, SEQUENCES)} sequences: {dict(campaign.outcomes)}, longest run {campaign.seconds:.1f} s")


def check_sequence(campaign: Campaign, folder: Path, number: int) -> None:
    folder.mkdir()
    kaggle, sequence = campaign.kaggle, Sequence(campaign, folder, random.Random(f"11785 {number}"))
    kaggle.reset()
    kaggle.token = TOKEN
    kaggle.lag = sequence.rng.choice((0.0, 0.0, 0.2, 0.4))
    sequence.fails = sequence.rng.random() < 0.2
    sequence.write_file(number)
    run_random(sequence)
    assert len(kaggle.submissions) <= 1, (number, sequence.output())
    check_ledgers(sequence)
    kaggle.faults.clear()
    kaggle.restart_lag()
    sequence.draw_credentials()  # removes the token's file, or leaves one that the variable overrides
    sequence.start({"KAGGLE_API_TOKEN": TOKEN}, sequence.draw_ledger())
    status = sequence.finish()
    assert status in (0, 2), (number, sequence.output())
    assert len(kaggle.submissions) == 1, (number, sequence.output())
    assert kaggle.contents[kaggle.submissions[0]["ref"]] == (folder / "submission.csv").read_bytes()
    check_ledgers(sequence)
    for path in folder.rglob("*"):
        if path.is_file():
            assert not find_secrets(path.read_text(errors="replace")), (number, path)
    assert not list(folder.rglob("*.tmp")) and not list(folder.glob("hw3p2-internal-error*")), number
    assert "Traceback" not in sequence.output()
    campaign.outcomes["sequences"] += 1
    for phrase in EVENTS:
        campaign.outcomes[phrase] += sequence.output().count(phrase)
