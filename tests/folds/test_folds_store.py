"""The store: damaged contents are refused, what cannot be read is not absent, and a beginning binds nobody."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from training_runs import metric_rows, metrics, run, run_folder

from folds.store.fold_model import find_fold_models, read_fold_model, unfinished_runs
from folds.store.log_probs import LogProbs, read_log_probs, write_log_probs
from folds.store.ragged import offsets_of
from folds.store.run_folder import SPLITS, RunFolder
from folds.training import loop
from folds.training.cost import Cost
from folds.training.metrics_logger import MetricsLogger
from folds.training.step import train_step
from models.weights_file import load_weights
from registry import InputError


def some_log_probs() -> LogProbs:
    values = np.log(np.random.default_rng(0).dirichlet(np.ones(4), size=9)).astype(np.float16)
    return LogProbs(values, offsets_of([4, 2, 3]), ("u0", "u1", "u2"), "abc", 0, 4)


def header_of(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def change_tensors(path: Path, with_checksum: bool = True, **changes: np.ndarray) -> None:
    """Replace tensors of a file of log-probabilities, and keep its header."""
    header = header_of(path) | ({} if with_checksum else {"checksum": ""})
    save_file(load_file(path) | changes, path, {key: value for key, value in header.items() if value})


def test_every_flipped_bit_of_the_contents_is_detected(tmp_path):
    path = tmp_path / "oof.safetensors"
    write_log_probs(path, some_log_probs())
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    accepted = []
    for position in range(begin, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.unlink()
        path.write_bytes(damaged)
        try:
            read_log_probs(path)
            accepted.append(position)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    assert accepted == [] and len(whole) - begin > 70


def test_equal_predictions_give_equal_files(tmp_path):
    # The library writes a header's six entries in random order: eight such files would hardly be equal by chance.
    paths = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for path in paths:
        write_log_probs(path, some_log_probs())
    assert len({path.read_bytes() for path in paths}) == 1


CHANGES = {
    "zeroed": {"log_probs": np.zeros((9, 4), np.float16)},
    "shifted": {"log_probs": np.roll(some_log_probs().values, 1, axis=0)},
    "moved offsets": {"offsets": np.array([0, 3, 6, 9])},
    "other ids": {"ids": np.frombuffer(b"u0\nu2\nu1", np.uint8)},
    "float32": {"log_probs": some_log_probs().values.astype(np.float32)},
    "int32 offsets": {"offsets": np.array([0, 4, 6, 9], np.int32)},
    "too few frames": {"log_probs": some_log_probs().values[:8]},
    "float ids": {"ids": np.zeros(2, np.float32)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_contents_are_refused(tmp_path, change):
    path = tmp_path / "dev.safetensors"
    write_log_probs(path, some_log_probs())
    change_tensors(path, **CHANGES[change])
    with pytest.raises(InputError, match=r"dev\.safetensors: .*(damaged|expected|do not match)"):
        read_log_probs(path)


@pytest.mark.parametrize("offsets", [[0, 4, 6, 8], [1, 4, 6, 9], [0, 6, 4, 9], [0, 4, 9]])
def test_offsets_that_do_not_divide_the_frames_are_refused_without_a_checksum_too(tmp_path, offsets):
    path = tmp_path / "dev.safetensors"
    write_log_probs(path, some_log_probs())
    change_tensors(path, with_checksum=False, offsets=np.array(offsets))
    with pytest.raises(InputError, match="offsets, rows and utterances do not match"):
        read_log_probs(path)


@pytest.mark.parametrize("lengths", [[], [0], [4, 0, 5]])
def test_utterances_without_frames_are_read_as_written(tmp_path, lengths):
    values, ids = some_log_probs().values[: sum(lengths)], tuple(f"u{row}" for row in range(len(lengths)))
    write_log_probs(tmp_path / "dev.safetensors", LogProbs(values, offsets_of(lengths), ids, "abc", 3, 4))
    read = read_log_probs(tmp_path / "dev.safetensors")
    assert read.lengths.tolist() == lengths and read.ids == ids and np.array_equal(read.values, values)
    assert (read.alphabet_hash, read.blank, read.stride) == ("abc", 3, 4)


def test_a_blank_that_is_no_class_and_another_schema_are_refused(tmp_path):
    path = tmp_path / "dev.safetensors"
    write_log_probs(path, replace(some_log_probs(), blank=4))
    with pytest.raises(InputError, match="the blank is class 4 of 4: train this model again"):
        read_log_probs(path)
    save_file(load_file(path), path, header_of(path) | {"blank": "0", "schema": "2"})
    with pytest.raises(InputError, match="schema 2, expected 1: train this model again"):
        read_log_probs(path)


def test_padding_is_blank_and_utterances_end(tmp_path):
    log_probs = replace(some_log_probs(), blank=3)
    batch, lengths = log_probs.padded([2, 0])
    assert lengths.tolist() == [3, 4]
    np.testing.assert_array_equal(batch[0, :3], log_probs[2])
    np.testing.assert_array_equal(np.exp(batch[0, 3]), [0, 0, 0, 1])
    np.testing.assert_array_equal(log_probs[-1], log_probs[2])
    assert [len(frames) for frames in log_probs] == [4, 2, 3]
    for index in (3, -4):
        with pytest.raises(IndexError):
            log_probs[index]


@pytest.mark.parametrize("key, value", [("stride", "2"), ("blank", "3"), ("alphabet", "abd")])
def test_a_changed_header_is_refused(tmp_path, key, value):
    path = tmp_path / "dev.safetensors"
    write_log_probs(path, some_log_probs())
    save_file(load_file(path), path, header_of(path) | {key: value})
    with pytest.raises(InputError, match=r"dev\.safetensors: damaged \(the contents do not match their checksum\)"):
        read_log_probs(path)


def test_a_file_of_an_older_version_has_no_checksum_and_must_hold_log_probabilities(tmp_path):
    path = tmp_path / "dev.safetensors"
    write_log_probs(path, some_log_probs())
    change_tensors(path, with_checksum=False)
    assert "checksum" not in header_of(path)
    assert np.array_equal(read_log_probs(path).values, some_log_probs().values)
    values = some_log_probs().values.copy()
    values[5] = 0
    # Another file: one of the same size, changed within a tick of the clock, would count as read before.
    path = tmp_path / "test.safetensors"
    write_log_probs(path, some_log_probs())
    change_tensors(path, with_checksum=False, log_probs=values)
    with pytest.raises(InputError, match="prediction for u1 has a frame with probabilities that sum to 4, not 1"):
        read_log_probs(path)


def test_contents_are_compared_once_in_a_process(tmp_path, monkeypatch):
    """A blend reads each file several times."""
    path = tmp_path / "dev.safetensors"
    write_log_probs(path, some_log_probs())
    read_log_probs(path)
    with monkeypatch.context() as patch:
        patch.setattr("folds.store.log_probs._checksum", lambda *contents: pytest.fail("compared again"))
        read_log_probs(path)
    # Of the same size, but written since.
    change_tensors(path, log_probs=np.roll(some_log_probs().values, 1, axis=0))
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match="do not match their checksum"):
        read_log_probs(path)


@pytest.mark.parametrize("check_rows", [3, 100])
def test_frames_that_do_not_sum_to_one_are_not_written(tmp_path, monkeypatch, check_rows):
    monkeypatch.setattr("folds.store.log_probs._CHECK_ROWS", check_rows)
    log_probs = some_log_probs()
    log_probs.values[8] += np.float16(np.log(1.01))  # no more than networks in bfloat16 are off
    write_log_probs(tmp_path / "oof.safetensors", log_probs)
    (tmp_path / "oof.safetensors").unlink()
    log_probs.values[4] += np.float16(np.log(1.03))
    with pytest.raises(InputError, match=r"output for u1 has a frame with probabilities that sum to 1\.03"):
        write_log_probs(tmp_path / "oof.safetensors", log_probs)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything, so tests of permissions drop that."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize(
    ("locked", "look"),
    [
        ("gru/fold0/checkpoint", lambda run: run.checkpoints),
        ("gru/fold0", lambda run: run.begun),
        ("gru/fold0", lambda run: run.finished),
        ("gru", lambda run: find_fold_models(run.path.parents[1])),
        ("gru/fold0", lambda run: unfinished_runs(run.path.parents[1])),
        ("", lambda run: find_fold_models(run.path.parents[1])),
        ("gru/fold0/oof.safetensors", lambda run: read_log_probs(run.predictions("oof"))),
        ("gru/fold0/config.json", lambda run: read_fold_model(run)),
        ("gru/fold0/checkpoint/weights.safetensors", lambda run: load_weights(run.weights, None)),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_read_is_not_absent(readable, locked, look):
    run = RunFolder(readable / "runs" / "gru" / "fold0")
    run.checkpoint(1).parent.mkdir(parents=True)
    for path in (run.checkpoint(1), run.config, run.weights, *map(run.predictions, SPLITS)):
        path.touch()
    path = readable / "runs" / locked
    path.chmod(0)
    try:
        with without_privileges(), pytest.raises((InputError, PermissionError), match="Permission denied"):
            look(run)
    finally:
        path.chmod(0o755)


def test_a_crashed_beginning_blocks_nobody(tiny, tmp_path, monkeypatch):
    """It was killed before its first checkpoint: other settings may begin there, without --resume."""

    def crash(*arguments):
        raise MemoryError

    monkeypatch.setattr(loop, "train_step", crash)
    with pytest.raises(MemoryError):
        run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--dropout", "0.4")
    folder = RunFolder(run_folder(tmp_path))
    assert folder.begun and folder.tensorboard.exists() and not folder.has_results
    folder.metrics.write_text('{"epoch": 1, "step"')  # killed later still, while it wrote
    monkeypatch.setattr(loop, "train_step", train_step)
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    assert [row["epoch"] for row in metric_rows(folder.path)] == [1] and folder.finished
    assert json.loads(folder.config.read_text())["options"]["recipe"]["epochs"] == 1
    assert len(list(folder.tensorboard.glob("events*"))) == 1


def test_refused_settings_leave_no_folder(tiny, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--batch-frames 10"):
        run(monkeypatch, tiny, tmp_path / "runs", "--batch-frames", "10")
    assert list(tmp_path.iterdir()) == []


def test_results_without_a_config_are_refused(undisturbed, tiny, tmp_path, monkeypatch):
    shutil.copytree(undisturbed, run_folder(tmp_path))
    (run_folder(tmp_path) / "config.json").unlink()
    with pytest.raises(InputError, match="has checkpoints or predictions and no config.json"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")


def test_other_data_are_named_as_the_difference(undisturbed, tiny, tmp_path, monkeypatch):
    data = tmp_path / "competition"
    shutil.copytree(tiny, data)
    for path in (data / "train-clean-100" / name / "0-1-0000.npy" for name in ("mfcc", "transcript")):
        path.unlink()
    with pytest.raises(InputError, match="fold0: was started on different data: pass those with --data, or use"):
        run(monkeypatch, data, undisturbed.parents[1], "--epochs", "6", "--resume")


@pytest.mark.parametrize("options", [["--epochs", "1", "--select", "best"], ["--epochs", "2"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_in_its_last_step_is_finished(tiny, tmp_path, monkeypatch, options, number):
    run(monkeypatch, tiny, tmp_path / "whole", *options)
    whole, steps = RunFolder(run_folder(tmp_path / "whole")), []
    last = metric_rows(whole.path)[-1]["step"]

    def stopping(*arguments):
        steps.append(1)
        if len(steps) == last:
            os.kill(os.getpid(), number)
        return train_step(*arguments)

    monkeypatch.setattr(loop, "train_step", stopping)
    assert run(monkeypatch, tiny, tmp_path, *options) == 128 + number
    stopped = RunFolder(run_folder(tmp_path))
    assert not stopped.finished
    run(monkeypatch, tiny, tmp_path, *options, "--resume")
    assert len(steps) == last and metrics(stopped.path) == metrics(whole.path)
    for split in SPLITS:
        one, other = (read_log_probs(folder.predictions(split)).values for folder in (stopped, whole))
        assert np.array_equal(one, other)


def test_torn_and_missing_logs_do_not_keep_a_run_from_being_finished(tmp_path):
    folder = RunFolder(tmp_path / "gru" / "fold0")
    folder.path.mkdir(parents=True)
    timing = {"wall_s": 2.0, "cpu_s": 60.0, "frames_per_s": 100, "threads": 1}
    slower = {"wall_s": 6.0, "frames_per_s": 20}
    lines = [json.dumps({"epoch": epoch, **timing, **(slower if epoch == 3 else {})}) for epoch in (1, 2, 2, 3)]
    folder.timing.write_text("\n".join([lines[0], lines[1][:9], lines[1], lines[2], lines[3], lines[0][:20]]))
    assert Cost.of_run(folder) == Cost(cpu_minutes=4.0, wall_minutes=0.2, frames_per_s=60.0)
    MetricsLogger(folder, 2, 0, 0.0, [])
    assert folder.timing.read_text() == f"{lines[0]}\n{lines[1]}\n"  # one line for each epoch before the checkpoint
    folder.timing.unlink()
    assert Cost.of_run(folder) == Cost(0.0, 0.0, 0.0)
