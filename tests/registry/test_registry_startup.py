"""A user's own models.py beside the command, and variables with which libraries are not imported, are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry import startup

ROOT = Path(startup.__file__).parents[1]


def run(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["folds.train", "ensemble.blend", "submit"])
def test_a_file_that_hides_a_package_is_named_in_one_line(tmp_path: Path, module: str) -> None:
    (tmp_path / "models.py").write_text("x = 1\n")
    result = run(tmp_path, "-m", module)
    assert result.returncode == 2 and not result.stdout
    advice = "rename it, or start in another folder"
    assert result.stderr == f"error: {tmp_path}/models.py hides the package models of {ROOT}: {advice}\n"


def test_in_a_notebook_it_is_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("x = 1\n")
    result = run(tmp_path, "-c", "import folds")
    assert result.returncode == 1 and "ImportError: " in result.stderr and "hides the package models" in result.stderr


def test_threads_with_which_numba_is_not_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = run(tmp_path, "-m", "ensemble.decode", NUMBA_NUM_THREADS="0")
    assert result.returncode == 2
    assert result.stderr == "error: environment variable NUMBA_NUM_THREADS is 0: expected 1 or more, or unset\n"
    for value in ("2", "abc", ""):
        monkeypatch.setenv("NUMBA_NUM_THREADS", value)
        startup.check_variables()


def test_our_own_packages_are_not_hidden(tmp_path: Path) -> None:
    startup.check_packages()
    with pytest.raises(ImportError, match="hides the package folds"):
        startup.check_packages(("folds",), tmp_path)


def test_a_working_folder_that_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    start = "import os; os.rmdir(os.getcwd()); import folds"
    result = run(folder, "-c", start)
    assert "ImportError: the working folder cannot be used (No such file or directory)" in result.stderr


@pytest.mark.parametrize(("pattern", "status"), [("gru_small", 0), ("no_such_model", 2)])
def test_closed_streams(tmp_path: Path, pattern: str, status: int) -> None:
    shell = f'"{sys.executable}" -m registry {pattern} >&- 2>&-'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(shell, shell=True, cwd=tmp_path, env=environment).returncode == status
