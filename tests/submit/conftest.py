"""The real client against a Kaggle of our own: one server and one child process for each version of the client."""

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

import pytest
from fake_kaggle import KEY, FakeKaggle

from registry.errors import InputError
from submit.__main__ import Options, run
from submit.client import Client, Patience
from submit.ledger import Attempt, attempts

VERSIONS = ("2.2.4", "2.2.5")
ROOT = Path(__file__).parents[2]

QUICK = {"pause": 0.02, "settle": 0.3, "deadline": 60.0, "timeout": 20.0}


@dataclass
class BlendResult:
    """What a run showed its user."""

    status: int
    out: str
    err: str
    seconds: float


@dataclass
class Desk:
    """A user's folder, the client, and the server it talks to."""

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
        return attempts(self.ledger)

    def write(self, text: str) -> None:
        self.file.write_bytes(text.encode())

    def run(self, client: Client | None = None, **options: object) -> BlendResult:
        """`python -m submit` in this process, with the shared child."""
        chosen = {"competition": "hw", "file": self.file, "ledger_file": self.ledger} | QUICK | options
        out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = run(Options(**chosen), client or self.client)
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                status = 2
        outcome = BlendResult(status, out.getvalue(), err.getvalue(), time.monotonic() - start)
        self.expect_decency(outcome)
        return outcome

    def environment(self) -> dict[str, str]:
        """For processes of their own."""
        environment = self.kaggle.environment(self.home, self.packages)
        paths = [str(ROOT), *([str(self.packages)] if self.packages else [])]
        return environment | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`python -m submit` as a process."""
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

    def expect_decency(self, outcome: BlendResult) -> None:
        """One line for a failure, none otherwise, beside progress bars; no secrets anywhere."""
        lines = [line for line in outcome.err.splitlines() if line and "B/s]" not in line]
        assert len(lines) == (outcome.status != 0), outcome
        assert all(line.startswith("error: ") for line in lines)
        written = self.ledger.read_text() if self.ledger.exists() else ""
        for secret in (KEY, "do-not-print-me"):
            assert secret not in outcome.out + outcome.err + written

    def expect_agreement(self) -> None:
        """Ledger and server tell the same, except where the ledger says that it cannot tell."""
        by_id = {each["description"][4:16]: each for each in self.kaggle.submissions}
        told = {attempt.id: attempt for attempt in self.attempts}
        for attempt in told.values():
            if attempt.state == "submitted":
                assert by_id[attempt.id]["ref"] == attempt.ref
            if attempt.state == "failed":
                assert attempt.id not in by_id
        for id in by_id:
            assert told[id].state in ("submitted", "open")


@pytest.fixture(scope="session", params=VERSIONS)
def packages(request: pytest.FixtureRequest) -> Path | None:
    """Where the client of this version lies: None for the installed one, else installed into pytest's cache."""
    version = request.param
    if importlib.metadata.version("kaggle") == version:
        return None
    folder = request.config.cache.mkdir(f"kaggle-{version}")
    if not (folder / f"kaggle-{version}.dist-info").is_dir():
        # What it needs besides is installed with the other version; only its own SDK goes with it.
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
def desk(_service: tuple, packages: Path | None, tmp_path: Path) -> Desk:
    """A fresh user and a server in good health, for each version of the client."""
    kaggle, client, home = _service
    kaggle.reset()
    client.ask("hello", Patience(timeout=120, deadline=240))  # a child killed by the test before is back
    made = Desk(kaggle, client, tmp_path, home, packages)
    made.write("index,label\n0,-@-\n1,-G-\n2,-IZ-\n")
    return made
