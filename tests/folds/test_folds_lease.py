"""Leases: one process at a time works in a folder, whoever dies, sleeps, or begins in the same moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import run, run_folder

from folds.store import lease
from folds.store.lease import EXPIRY_S, Held, delete_dead, hold, holder_of
from folds.training import loop, predict, train_fold_model
from registry import InputError
from registry.files import remove_leftovers
from registry.processes import this_process

# A process that takes the lease of the folder argv[1], says so, and keeps it until its input ends.
HOLDER = """
import sys
from pathlib import Path
from folds.store.lease import Held, hold
try:
    with hold(Path(sys.argv[1]), "gru fold 0"):
        print("held", flush=True)
        sys.stdin.read()
except Held:
    print("refused", flush=True)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lease of `folder`, or has been refused."""
    arguments = [sys.executable, "-c", HOLDER, str(folder)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def of_another_host(folder: Path, age: float) -> Path:
    """The lease of a process on another machine, with its last heartbeat `age` seconds ago."""
    path = folder / "lease-0123456789abcdef.json"
    facts = {"host": "node7", "pid": 42, "machine": "0" * 12, "started": 5, "since": "2026-01-01 10:00:00"}
    path.write_text(json.dumps(facts))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_lease_is_a_file_while_it_is_held(tmp_path):
    folder = tmp_path / "runs" / "gru" / "fold0"
    with hold(folder, "gru fold 0"):
        found = holder_of(folder)
        assert found is not None and found.process == this_process() and len(list(folder.iterdir())) == 1
        with pytest.raises(Held, match=f"gru fold 0 is being worked on by process {os.getpid()} on ") as refused:
            hold(folder, "gru fold 0").__enter__()
        assert str(folder) in str(refused.value) and len(list(folder.iterdir())) == 1
    assert holder_of(folder) is None and list(tmp_path.iterdir()) == []  # it created the folders, and nothing in them
    with hold(folder, "gru fold 0"):
        (folder / "config.json").touch()
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_of_many_processes_that_begin_at_once_one_is_admitted(tmp_path):
    folder = tmp_path / "fold0"
    processes = [holder(folder) for _ in range(4)]
    answers = [process.stdout.readline().strip() for process in processes]  # type: ignore[union-attr]
    assert sorted(answers) == ["held", "refused", "refused", "refused"]
    killed = processes[answers.index("held")]
    killed.kill()  # not yet collected by this process: dead all the same
    time.sleep(0.05)
    with hold(folder, "gru fold 0"):
        assert len(list(folder.glob("lease-*"))) == 1
    for process in processes:
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_another_machine_counts_as_abandoned_without_heartbeats(tmp_path):
    path = of_another_host(tmp_path, age=EXPIRY_S - 30)
    message = "by process 42 on node7, since 2026-01-01 10:00:00: wait until"
    with pytest.raises(Held, match=message), hold(tmp_path, "x"):
        pass
    assert list(tmp_path.iterdir()) == [path]
    of_another_host(tmp_path, age=EXPIRY_S + 30)
    assert holder_of(tmp_path) is None
    with hold(tmp_path, "x"):
        assert not path.exists()
        (tmp_path / "config.json").touch()


def test_the_age_of_another_machines_lease_is_by_the_file_servers_clock(tmp_path, monkeypatch):
    """This machine's clock may be ahead of it."""
    of_another_host(tmp_path, age=30)
    now = time.time() + EXPIRY_S
    monkeypatch.setattr(time, "time", lambda: now)
    assert holder_of(tmp_path) is not None and len(list(tmp_path.iterdir())) == 1


def test_a_living_process_of_this_machine_keeps_its_lease_however_long_it_sleeps(tmp_path):
    with hold(tmp_path, "x") as held:
        os.utime(held.path, (0, 0))  # suspended, or the clock was set forward
        with pytest.raises(Held), hold(tmp_path, "x"):
            pass
        held.check()


def test_whoever_lost_the_lease_is_stopped(tmp_path):
    with hold(tmp_path, "x") as held:
        held.path.unlink()
        with pytest.raises(InputError, match=r"lease was deleted \(lease-\w+.json is gone\): stopped"):
            held.check()
        of_another_host(tmp_path, age=0)
        with pytest.raises(InputError, match="lease was taken over by process 42 on node7"):
            held.check()


def test_some_heartbeats_may_be_late_before_a_lease_expires():
    assert lease.HEARTBEAT_S * 5 <= EXPIRY_S


def test_a_heartbeat_refreshes_the_lease_and_does_not_bring_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.01)
    with hold(tmp_path, "x") as held:
        os.utime(held.path, (0, 0))
        deadline = time.monotonic() + 30
        while held.path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held.path.stat().st_mtime > time.time() - 60
        held.path.unlink()
        time.sleep(0.05)
        assert not held.path.exists()


def test_a_heartbeat_outlasts_a_network_drive_that_fails_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.01)
    utime, failed = os.utime, []

    def failing(path: Path) -> None:
        if not failed:
            failed.append(path)
            raise PermissionError(path)
        utime(path)

    monkeypatch.setattr(os, "utime", failing)
    with hold(tmp_path, "x") as held:
        utime(held.path, (0, 0))
        deadline = time.monotonic() + 30
        while held.path.stat().st_mtime == 0 and held._heartbeat.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert failed == [held.path] and held.path.stat().st_mtime > time.time() - 60


def test_a_folder_that_is_deleted_while_it_is_claimed_is_created_again(tmp_path, monkeypatch):
    """By a process that created it too, and had nothing to write."""
    folder, write_json = tmp_path / "fold0", lease.write_json

    def delete_first(*arguments: object) -> None:
        monkeypatch.setattr(lease, "write_json", write_json)
        folder.rmdir()
        raise InputError(f"{folder}: no such folder")

    monkeypatch.setattr(lease, "write_json", delete_first)
    with hold(folder, "x") as held:
        held.check()


def test_a_process_tries_again_when_the_other_gave_up_too(tmp_path, monkeypatch):
    path = of_another_host(tmp_path, age=0)
    monkeypatch.setattr(time, "sleep", lambda seconds: path.unlink())
    with hold(tmp_path, "x") as held:
        held.check()


def test_a_lease_that_is_deleted_while_it_is_read_is_nobodys(tmp_path, monkeypatch):
    def too_late(path: Path, schema: type) -> None:
        path.unlink()
        raise InputError(f"{path}: no such file")

    of_another_host(tmp_path, age=0)
    monkeypatch.setattr(lease, "read_json", too_late)
    assert holder_of(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", '{"pid": "x"}', "[]"])
def test_a_damaged_lease_is_respected_until_it_expires(tmp_path, content):
    path = of_another_host(tmp_path, age=0)
    path.write_text(content)
    with pytest.raises(Held, match=r"an unknown host \(lease-0123456789abcdef.json\)"), hold(tmp_path, "x"):
        pass
    os.utime(path, (0, 0))
    with hold(tmp_path, "x"):
        assert not path.exists()


def test_a_process_killed_after_its_last_file_leaves_no_lease_for_good(tmp_path):
    """Of a finished run nobody takes the lease again."""
    path = of_another_host(tmp_path, age=2 * EXPIRY_S)
    delete_dead(tmp_path)
    assert path.exists()  # nothing is known about a process of another machine
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": this_process().machine, "pid": dead.pid}))
    delete_dead(tmp_path)
    assert not path.exists()


def test_temporary_files_of_killed_processes_are_deleted_and_others_kept(tmp_path):
    me = this_process()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f".config.json.{me.machine}-{dead.pid}-1.abc.tmp": False,
        f".config.json.{me.machine}-{me.pid}-{me.started}.abc.tmp": True,
        f".config.json.{'0' * 12}-{dead.pid}-1.abc.tmp": True,
        ".of_something_else.tmp": True,
    }
    (tmp_path / "checkpoint").mkdir()
    for name in names:
        (tmp_path / name).touch()
        (tmp_path / "checkpoint" / name).touch()
    expected = sorted(name for name, kept in names.items() if kept)
    remove_leftovers(tmp_path, "other.json")
    assert {*names} <= {path.name for path in tmp_path.iterdir()}
    with hold(tmp_path, "x"):
        pass
    assert sorted(path.name for path in tmp_path.glob(".*")) == expected
    assert sorted(path.name for path in tmp_path.glob("checkpoint/.*")) == expected
    long_ago = tmp_path / expected[0]
    os.utime(long_ago, (0, 0))
    remove_leftovers(tmp_path, "config.json")
    assert not long_ago.exists()


@pytest.mark.parametrize(
    ("module", "name", "stopped", "unwritten"),
    [
        (loop, "train_step", True, "checkpoint/step*"),
        (loop, "train_step", False, "metrics.jsonl"),
        (loop, "_measure", False, "checkpoint/step*"),
        (train_fold_model, "fit", False, "checkpoint/weights*"),
        (predict, "predict", False, "summary.json"),
    ],
)
def test_a_training_that_lost_its_lease_writes_nothing_more(
    module, name, stopped, unwritten, tiny, tmp_path, monkeypatch
):
    """Before each kind of file it looks whether it still has the lease."""
    folder, work = run_folder(tmp_path), getattr(module, name)

    def losing(*arguments, **options):
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        result = work(*arguments, **options)
        for path in folder.glob("lease-*"):
            path.unlink()
        return result

    monkeypatch.setattr(module, name, losing)
    with pytest.raises(InputError, match="lease was deleted"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    assert (folder / "config.json").exists() and not list(folder.glob(unwritten))


def test_two_trainings_of_one_run_do_not_mix(tiny, tmp_path, monkeypatch, capsys):
    folder = run_folder(tmp_path)
    process = holder(folder)
    assert process.stdout.readline() == "held\n"  # type: ignore[union-attr]
    for resume in ([], ["--resume"]):
        with pytest.raises(Held, match=f"lstm_small fold 0 is being worked on by process {process.pid} on "):
            run(monkeypatch, tiny, tmp_path, "--epochs", "1", *resume)
    assert [path.name[:6] for path in folder.iterdir()] == ["lease-"]
    process.communicate()
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    assert not list(folder.glob("lease-*"))
    process = holder(folder)
    assert process.stdout.readline() == "held\n"  # type: ignore[union-attr]
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")  # finished: nothing is written
    assert "already finished" in capsys.readouterr().out
    process.communicate()
