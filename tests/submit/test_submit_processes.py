"""What only processes of their own show: kills, two at once, the plain `kaggle` command, and what is printed where."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Desk
from fake_kaggle import KEY


def arguments(desk: Desk) -> list[str]:
    return ["--competition", "hw", "--file", str(desk.file), "--settle", "1"]


def start_and_kill(desk: Desk, endpoint: str, then: str = "") -> None:
    """Start a submission whose process is killed by SIGKILL when its client reaches `endpoint`."""
    process = None

    def kill() -> str:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
        return then

    desk.kaggle.faults[endpoint].append(kill)
    process = desk.start(*arguments(desk))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def test_kill_after_the_request_is_reconciled_at_the_next_start(desk: Desk) -> None:
    start_and_kill(desk, "CreateSubmission")
    (attempt,) = desk.attempts
    assert attempt.state == "open"
    outcome = desk.run(settle=1.0)
    assert outcome.status == 0 and "had arrived as ref 101" in outcome.out
    desk.expect_agreement()
    assert len(desk.kaggle.submissions) == 1


def test_kill_during_the_upload_leaves_no_child_that_submits(desk: Desk) -> None:
    start_and_kill(desk, "upload")
    outcome = desk.run(settle=1.0)
    assert outcome.status == 0 and "submitted as ref 101" in outcome.out
    assert [attempt.state for attempt in desk.attempts] == ["failed", "submitted"]
    assert desk.kaggle.requests.count("CreateSubmission") == 1
    desk.expect_agreement()


def test_two_processes_at_once_make_one_submission(desk: Desk) -> None:
    both = [desk.start(*arguments(desk)) for _ in range(2)]
    ends = [(*process.communicate(timeout=120), process.returncode) for process in both]
    assert sorted(end[2] for end in ends) == [0, 2], ends
    assert len(desk.kaggle.submissions) == 1
    assert [attempt.state for attempt in desk.attempts] == ["submitted"]


def test_command_keeps_the_clients_chatter_and_the_key_to_itself(desk: Desk) -> None:
    process = desk.start(*arguments(desk), "--wait")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    starts = ("file: ", "blend: ", "credentials: ", "limits: ", "submitted as ref ", "ref ")
    assert all(line.startswith(starts) for line in out.splitlines()), out
    assert "credentials: the key in KAGGLE_USERNAME and KAGGLE_KEY of ada" in out
    assert KEY not in out


def test_plain_kaggle_command_takes_the_same_file(desk: Desk) -> None:
    done = desk.cli("competitions", "submit", "-c", "hw", "-f", "submission.csv", "-m", "by hand")
    assert done.returncode == 0, done
    assert "Successfully submitted" in done.stdout
    assert desk.kaggle.contents == {101: desk.file.read_bytes()}
    assert desk.kaggle.submissions[0]["description"] == "by hand"


def test_plain_kaggle_command_on_a_failed_upload_is_why_ours_exists(desk: Desk) -> None:
    desk.kaggle.faults["upload"] = ["403"]
    done = desk.cli("competitions", "submit", "-c", "hw", "-f", "submission.csv", "-m", "by hand")
    version = desk.client.call("hello", _patience(), 60)["version"]
    assert (version, done.returncode) in (("2.2.4", 0), ("2.2.5", 1))
    assert not desk.kaggle.submissions


def test_stale_token_that_masks_a_good_key_is_named(desk: Desk, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    (home / ".kaggle" / "access_token").write_text("stale-secret-token")
    outcome = run_at(desk, home)
    assert outcome.returncode == 1
    (line,) = outcome.stderr.splitlines()
    assert f"refuses the token in {home}/.kaggle/access_token (401: Unauthenticated: ***)" in line
    assert "masks the key in KAGGLE_USERNAME and KAGGLE_KEY: remove the token" in line
    assert "stale-secret-token" not in outcome.stdout + outcome.stderr


def test_good_token_is_used_and_its_place_told(desk: Desk, tmp_path: Path) -> None:
    desk.kaggle.token = "a-good-secret-token"
    outcome = run_at(desk, tmp_path, KAGGLE_API_TOKEN="a-good-secret-token")
    assert outcome.returncode == 0, outcome
    assert "credentials: the token in KAGGLE_API_TOKEN of ada" in outcome.stdout
    assert "a-good-secret-token" not in outcome.stdout + outcome.stderr


def test_host_that_does_not_answer_the_token_check_is_a_timeout(desk: Desk, tmp_path: Path) -> None:
    desk.kaggle.faults["IntrospectToken"] = ["hang"] * 9
    outcome = run_at(desk, tmp_path, "--deadline", "6", KAGGLE_API_TOKEN="any")
    assert outcome.returncode == 1
    assert "deadline" in outcome.stderr or "no answer within" in outcome.stderr


@pytest.mark.parametrize(("dry", "status"), [([], 2), (["--dry-run"], 0)], ids=["send", "dry run"])
def test_without_credentials_the_page_to_visit_is_told(desk: Desk, tmp_path: Path, dry: list[str], status: int) -> None:
    outcome = run_at(desk, tmp_path, *dry, KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert outcome.returncode == status, outcome
    assert ("no credentials" if dry else "https://www.kaggle.com/settings/api") in outcome.stdout + outcome.stderr
    assert "First, you will need a Kaggle account" not in outcome.stdout + outcome.stderr
    assert not desk.kaggle.requests


def run_at(desk: Desk, home: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a home with other credentials."""
    chosen = {name: value for name, value in (desk.environment() | environment).items() if value} | {"HOME": str(home)}
    command = [sys.executable, "-m", "submit", "--ledger-file", str(desk.ledger), *arguments(desk), *more]
    return subprocess.run(command, env=chosen, cwd=ROOT, capture_output=True, text=True, timeout=120)


def _patience():
    from submit.client import Patience

    return Patience()
