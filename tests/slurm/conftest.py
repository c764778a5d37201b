"""A Slurm cluster of two nodes on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster of two nodes; its folder."""
    pytest.importorskip("submitit", reason="no submitit: pip install -e '.[cluster-test]'")
    folder = tmp_path / "slurm"
    folder.mkdir()
    subprocess.run(["sh", str(HERE / "start_slurm.sh"), str(folder)], check=True)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    yield folder
    subprocess.run(["sh", str(HERE / "stop_slurm.sh"), str(folder)], check=True)
