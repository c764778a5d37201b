"""The folder in which the documents' commands are run, in the order of the documents."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "generate"))

from documents import blocks  # noqa: E402 - needs the path
from workspace import Workspace  # noqa: E402


@pytest.fixture(scope="session")
def after_readme(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A folder as README's commands leave it: trained runs, blends, submissions. Each of them must work."""
    workspace = Workspace(tmp_path_factory.mktemp("documents"))
    (workspace.folder / "data").symlink_to(tiny)
    # docs/blending.md blends with a second runs folder, as if trained elsewhere.
    elsewhere = ["--model", "lstm", "--name", "elsewhere", "--fold", "all", "--runs", "more-runs"]
    workspace.check(["python", "-m", "folds.train", *elsewhere])
    for block in blocks("README.md", "sh"):
        for call in workspace.calls(block):
            workspace.check(call)
    return workspace
