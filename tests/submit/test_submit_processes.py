"""Tests that need separate processes: kills, concurrent runs, the plain `kaggle` command, and what is printed where."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Harness
from fake_kaggle import KEY

from submit.client import TimeBudget


def arguments(harness: Harness) -> list[str]:
    return ["--competition", "hw", "--file", str(harness.file), "--settle", "1"]


def start_and_kill(harness: Harness, endpoint: str, then: str = "") -> None:
    """Start a submission whose process is killed by SIGKILL when its client reaches `endpoint`."""
    process: subprocess.Popen[str]

    def kill() -> str:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
        return then

    harness.kaggle.faults[endpoint].append(kill)
    process = harness.start(*arguments(harness))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def test_kill_after_the_request_is_reconciled_at_the_next_start(harness: Harness) -> None:
    start_and_kill(harness, "CreateSubmission")
    (attempt,) = harness.attempts
    assert attempt.state == "open"
    outcome = harness.run(settle=1.0)
    assert outcome.status == 0
    assert "already submitted as ref 101 by an interrupted run; not sending it again" in outcome.out
    harness.check_ledger()
    assert len(harness.kaggle.submissions) == 1


def test_kill_during_the_upload_leaves_no_child_that_submits(harness: Harness) -> None:
    start_and_kill(harness, "upload")
    outcome = harness.run(settle=1.0)
    assert outcome.status == 0 and "submitted as ref 101" in outcome.out
    assert [attempt.state for attempt in harness.attempts] == ["failed", "submitted"]
    assert harness.kaggle.requests.count("CreateSubmission") == 1
    harness.check_ledger()


def test_two_processes_at_once_make_one_submission(harness: Harness) -> None:
    both = [harness.start(*arguments(harness)) for _ in range(2)]
    ends = [(*process.communicate(timeout=120), process.returncode) for process in both]
    assert sorted(end[2] for end in ends) == [0, 2], ends
    assert len(harness.kaggle.submissions) == 1
    assert [attempt.state for attempt in harness.attempts] == ["submitted"]


def test_command_prints_neither_the_clients_output_nor_the_key(harness: Harness) -> None:
    process = harness.start(*arguments(harness), "--wait")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    starts = ("file: ", "blend: ", "credentials: ", "limits: ", "submitted as ref ", "ref ")
    assert all(line.startswith(starts) for line in out.splitlines()), out
    assert "credentials: the key in KAGGLE_USERNAME and KAGGLE_KEY of ada" in out
    assert KEY not in out


def test_plain_kaggle_command_accepts_the_same_file(harness: Harness) -> None:
    done = harness.cli("competitions", "submit", "-c", "hw", "-f", "submission.csv", "-m", "by hand")
    assert done.returncode == 0, done
    assert "Successfully submitted" in done.stdout
    assert harness.kaggle.contents == {101: harness.file.read_bytes()}
    assert harness.kaggle.submissions[0]["description"] == "by hand"


def test_exit_status_of_the_plain_kaggle_command_after_a_failed_upload(harness: Harness) -> None:
    harness.kaggle.faults["upload"] = ["403"]
    done = harness.cli("competitions", "submit", "-c", "hw", "-f", "submission.csv", "-m", "by hand")
    version = harness.client.call("find_credentials", TimeBudget(), 60)["version"]
    assert (version, done.returncode) in (("2.2.4", 0), ("2.2.5", 1))
    assert not harness.kaggle.submissions


def test_expired_token_that_takes_precedence_over_a_valid_key_is_reported(harness: Harness, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    (home / ".kaggle" / "access_token").write_text("expired-secret-token")
    outcome = run_at(harness, home)
    assert outcome.returncode == 1
    (line,) = outcome.stderr.splitlines()
    assert f"rejects the token in {home}/.kaggle/access_token (401: Unauthenticated: [redacted])" in line
    assert "takes precedence over the key in KAGGLE_USERNAME and KAGGLE_KEY: remove the token" in line
    assert "expired-secret-token" not in outcome.stdout + outcome.stderr


def test_valid_token_is_used_and_its_location_is_reported(harness: Harness, tmp_path: Path) -> None:
    harness.kaggle.token = "a-valid-secret-token"
    outcome = run_at(harness, tmp_path, KAGGLE_API_TOKEN="a-valid-secret-token")
    assert outcome.returncode == 0, outcome
    assert "credentials: the token in KAGGLE_API_TOKEN of ada" in outcome.stdout
    assert "a-valid-secret-token" not in outcome.stdout + outcome.stderr


def test_host_that_does_not_answer_the_token_check_is_a_timeout(harness: Harness, tmp_path: Path) -> None:
    harness.kaggle.faults["IntrospectToken"] = ["hang"] * 9
    outcome = run_at(harness, tmp_path, "--deadline", "6", KAGGLE_API_TOKEN="any")
    assert outcome.returncode == 1
    assert "deadline" in outcome.stderr or "no answer within" in outcome.stderr


@pytest.mark.parametrize(("dry", "status"), [([], 2), (["--dry-run"], 0)], ids=["send", "dry run"])
def test_without_credentials_the_page_to_visit_is_reported(
    harness: Harness, tmp_path: Path, dry: list[str], status: int
) -> None:
    outcome = run_at(harness, tmp_path, *dry, KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert outcome.returncode == status, outcome
    assert ("no credentials" if dry else "https://www.kaggle.com/settings/api") in outcome.stdout + outcome.stderr
    assert "First, you will need a Kaggle account" not in outcome.stdout + outcome.stderr
    assert not harness.kaggle.requests


def run_at(harness: Harness, home: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with another home folder and other credentials."""
    variables = harness.environment() | environment | {"HOME": str(home)}
    variables = {name: value for name, value in variables.items() if value}
    command = [sys.executable, "-m", "submit", "--ledger-file", str(harness.ledger), *arguments(harness), *more]
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=120)
