"""The real client against a fake Kaggle: one server and one child process for each version of the client."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_kaggle import KEY, FakeKaggle

from registry.errors import InputError
from submit.__main__ import SubmitOptions, run
from submit.client import Client, TimeBudget
from submit.ledger import Attempt, read_attempts

VERSIONS = ("2.2.4", "2.2.5")
ROOT = Path(__file__).parents[2]

QUICK = {"pause": 0.02, "settle": 0.3, "deadline": 60.0, "timeout": 20.0}


@dataclass
class CommandResult:
    """Exit status, output and duration of a run of the command."""

    status: int
    out: str
    err: str
    seconds: float


@dataclass
class Harness:
    """A user's folder and home, the client, and the server it talks to."""

    kaggle: FakeKaggle
    client: Client
    folder: Path
    home: Path
    packages: Path | None

    @property
    def file(self) -> Path:
        return self.folder / "submission.csv"

    @property
    def ledger(self) -> Path:
        return self.folder / "submissions.jsonl"

    @property
    def attempts(self) -> list[Attempt]:
        return read_attempts(self.ledger)

    def write(self, text: str) -> None:
        self.file.write_bytes(text.encode())

    def run(self, *, err: io.StringIO | None = None, **options: Any) -> CommandResult:
        """`python -m submit` in this process, with the shared child."""
        arguments: dict[str, Any] = {"competition": "hw", "file": self.file, "ledger_file": self.ledger}
        out, err, start = io.StringIO(), err or io.StringIO(), time.monotonic()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = run(SubmitOptions(**(arguments | QUICK | options)), self.client)
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                status = 2
        outcome = CommandResult(status, out.getvalue(), err.getvalue(), time.monotonic() - start)
        if not err.isatty():
            self.check_output(outcome)
        return outcome

    def environment(self) -> dict[str, str]:
        """The environment of a separate process."""
        environment = self.kaggle.environment(self.home, self.packages)
        paths = [str(ROOT), *([str(self.packages)] if self.packages else [])]
        return environment | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`python -m submit` as a separate process."""
        command = [sys.executable, "-m", "submit", "--ledger-file", str(self.ledger), "--pause", "0.02", *arguments]
        return subprocess.Popen(
            command, env=self.environment(), cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The real `kaggle` command."""
        script = Path(sys.executable).with_name("kaggle")
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            env=self.environment(), cwd=self.folder, text=True, capture_output=True, timeout=120,
        )

    def check_output(self, outcome: CommandResult) -> None:
        """One line on standard error for a failure, none otherwise; no secrets anywhere."""
        lines = outcome.err.splitlines()
        assert len(lines) == (outcome.status != 0), outcome
        assert all(line.startswith("error: ") for line in lines)
        written = self.ledger.read_text() if self.ledger.exists() else ""
        for secret in (KEY, "do-not-print-me"):
            assert secret not in outcome.out + outcome.err + written

    def check_ledger(self) -> None:
        """The ledger agrees with the server, except for attempts that it calls open."""
        submissions = {submission["description"][4:16]: submission for submission in self.kaggle.submissions}
        attempts = {attempt.id: attempt for attempt in self.attempts}
        for attempt in attempts.values():
            if attempt.state == "submitted":
                assert submissions[attempt.id]["ref"] == attempt.ref
            if attempt.state == "failed":
                assert attempt.id not in submissions
        for id in submissions:
            assert attempts[id].state in ("submitted", "open")


@pytest.fixture(autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is a new user, who has sent nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="session", params=VERSIONS)
def packages(request: pytest.FixtureRequest) -> Path | None:
    """Where the client of this version is: None for the installed one, else a folder in pytest's cache."""
    version = request.param
    if importlib.metadata.version("kaggle") == version:
        return None
    folder = request.config.cache.mkdir(f"kaggle-{version}")
    if not (folder / f"kaggle-{version}.dist-info").is_dir():
        # Its dependencies are installed with the other version; only its own SDK is installed with it.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--target", str(folder), "--upgrade", f"kaggle=={version}", "kagglesdk>=0.1.38,<1"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"kaggle {version} cannot be installed here: {getattr(error, 'stderr', None) or error}")
    return folder


@pytest.fixture(scope="session")
def _service(packages: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    home = tmp_path_factory.mktemp("home")
    with FakeKaggle() as kaggle, Client(kaggle.environment(home, packages)) as client:
        yield kaggle, client, home


@pytest.fixture
def harness(_service: tuple, packages: Path | None, tmp_path: Path) -> Harness:
    """A new user and a server without faults, for each version of the client."""
    kaggle, client, home = _service
    kaggle.reset()
    # Restarts a child that the previous test killed.
    client.query("find_credentials", TimeBudget(timeout=120, deadline=240))
    harness = Harness(kaggle, client, tmp_path, home, packages)
    harness.write("index,label\n0,-@-\n1,-G-\n2,-IZ-\n")
    return harness
