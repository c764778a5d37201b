"""Fixtures shared by all packages: the stand-in competition where it is present, and a tiny synthetic one."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_competition import tiny_competition

from folds.data.cache import load_dataset
from folds.data.dataset import Dataset

# Tests share the machine with whatever else runs; small tensors gain nothing from more threads.
torch.set_num_threads(1)
# Tests compute on the CPU where there is a GPU, too: they compare results bit for bit and know a CPU's defaults.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Tests pass their own folders, whatever the user has set.
os.environ.pop("HW3P2_DATA", None)

STAND_IN = Path(__file__).parents[2] / "shared" / "competition" / "hw3p2-mini.tar.gz"


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in competition's folder: $HW3P2_MINI, else unpacked from beside the checkout, else skips."""
    if path := os.environ.get("HW3P2_MINI"):
        return Path(path)
    if not STAND_IN.exists():
        pytest.skip("the stand-in competition is not on this machine")
    folder = tmp_path_factory.mktemp("mini")
    with tarfile.open(STAND_IN) as archive:
        archive.extractall(folder, filter="data")
    return folder / "hw3p2-mini"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Real audio that belongs to the stand-in: $HW3P2_AUDIO, else beside the checkout, else skips."""
    folder = Path(os.environ.get("HW3P2_AUDIO") or STAND_IN.parents[1] / "audio")
    if not folder.is_dir():
        pytest.skip("the recordings are not on this machine")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests have their own cache."""
    before = os.environ.get("HW3P2_CACHE")
    os.environ["HW3P2_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["HW3P2_CACHE"]
    else:
        os.environ["HW3P2_CACHE"] = before


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition in the layout of S24: 48 utterances of 6 speakers to train on, 6 each of dev and test."""
    return tiny_competition(tmp_path_factory.mktemp("tiny") / "competition", speakers=6, each=8, others=6)


@pytest.fixture(scope="session")
def dataset(tiny: Path) -> Dataset:
    """The `tiny` competition, packed."""
    return load_dataset(tiny, progress=False)
