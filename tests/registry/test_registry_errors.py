"""Commands end with one line and a status."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from registry import InputError, atomic_write, command
from registry.errors import HelpShown, and_more, one_line


def _status(main) -> int:
    with pytest.raises(SystemExit) as exit:
        command(main)
    return exit.value.code


def _raise(error):
    raise error


def test_status_and_message(capsys):
    assert _status(lambda: None) == 0
    assert _status(lambda: 1) == 1
    assert _status(lambda: _raise(InputError("a.npy: empty: expected frames"))) == 2
    assert capsys.readouterr().err == "error: a.npy: empty: expected frames\n"
    assert _status(lambda: _raise(KeyboardInterrupt())) == 130


@pytest.mark.parametrize("status", [0, 1, "done"])
def test_an_end_of_the_process_that_nobody_expects_is_a_bug(tmp_path, monkeypatch, capsys, status):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert _status(lambda: _raise(SystemExit(status))) == 70
    assert capsys.readouterr().err.startswith(f"internal error: SystemExit: {status}; details in {tmp_path}")


def test_help_is_no_error():
    assert _status(lambda: _raise(HelpShown(0))) == 0


def test_a_reader_that_has_read_enough_is_no_error():
    code = "from registry import command; command(lambda: print('x' * 10**6))"
    shell = f'"{sys.executable}" -c "{code}" | head -c 1; echo " ${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("x 0\n", "")


def test_a_long_message_is_shortened_in_the_middle_once_secrets_are_removed(capsys, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "0123456789")
    _status(lambda: _raise(InputError("a" * 995 + "0123456789" + "b" * 1000 + ": check\nit")))
    line = capsys.readouterr().err
    assert line == f"error: {'a' * 995}[reda … {'b' * 990}: check it\n"
    _status(lambda: _raise(InputError("a" * 2000)))
    assert capsys.readouterr().err == f"error: {'a' * 2000}\n"


def test_an_error_of_the_operating_system_without_a_number_is_a_bug(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert _status(lambda: _raise(OSError("no number"))) == 70
    assert capsys.readouterr().err.startswith(f"internal error: OSError: no number; details in {tmp_path}")


def test_closed_streams_take_and_give_nothing(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert _status(lambda: print("lost") or len(sys.stdin.buffer.read())) == 0
    assert _status(lambda: _raise(InputError("lost"))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried",
        "not enough memory",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_a_tensor_that_does_not_fit_is_one_line(capsys, text):
    assert _status(lambda: _raise(RuntimeError(text))) == 2
    assert capsys.readouterr().err.startswith(f"error: not enough memory (RuntimeError: {text})")


def test_sigterm_removes_temporary_files(tmp_path, capsys):
    def main() -> None:
        with atomic_write(tmp_path / "file") as temporary:
            temporary.write_text("torn")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    assert _status(main) == 143
    assert capsys.readouterr().err == "terminated\n" and list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line(capsys, code):
    assert _status(lambda: _raise(OSError(code, os.strerror(code), "x.bin"))) == 2
    assert capsys.readouterr().err == (
        "error: the disk or a quota is full while writing x.bin: no partial file was left; free some space and run the "
        "command again\n"
    )



def test_an_exception_on_one_line():
    assert one_line(ValueError("two\n  lines")) == "ValueError: two lines" and one_line(KeyError()) == "KeyError"
    assert one_line(InputError("a.npy: empty")) == "a.npy: empty"


def test_the_number_of_further_cases():
    assert and_more(2) == " (and 2 more)" and and_more(1, "files") == " (and 1 more files)" and and_more(0) == ""


def test_a_bug_is_one_line_and_a_file_without_secrets(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")

    assert _status(lambda: _raise(ZeroDivisionError("by 0123456789abcdef\nAuthorization: Bearer xyz"))) == 70
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().err == (
        "internal error: ZeroDivisionError: by [redacted] Authorization: Bearer [redacted]; "
        f"details in {path}; please report it\n"
    )
    details = path.read_text()
    assert "Traceback" in details and "ZeroDivisionError" in details
    assert "0123456789abcdef" not in details and "xyz" not in details


def test_a_bug_whose_details_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert _status(lambda: 1 // 0) == 70
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "could not be written (No such file or directory); please report it" in error


@pytest.mark.parametrize(
    "code",
    [
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
        *(errno.ELOOP, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.ENOTSUP, errno.EMFILE, errno.EINVAL),
    ],
)
def test_a_refusal_of_the_operating_system_is_one_line(code, capsys):
    assert _status(lambda: _raise(OSError(code, os.strerror(code), "x.bin"))) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: x.bin: {os.strerror(code)}: ") and error.count("\n") == 1


def test_memory_that_cannot_be_had_is_one_line(capsys):
    assert _status(lambda: _raise(MemoryError("Unable to allocate 8 TiB"))) == 2
    assert capsys.readouterr().err.startswith("error: not enough memory (MemoryError: Unable to allocate 8 TiB): ")
