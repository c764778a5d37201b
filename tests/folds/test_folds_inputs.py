"""Names, plug-ins, folders and numbers of folds that do not fit are refused, or said, before any work is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from folds.competition.base import COMPETITIONS, Competition, SplitSource
from folds.competition.detect import open_competition
from folds.data.cache import cache_folder
from folds.data.data_options import DataOptions
from folds.store.nbest_file import NBestFile, NBestHypotheses, file_hash, write_nbest_file
from folds.store.ragged import Ragged, offsets_of
from folds.store.run_folder import RunFolder
from folds.store.schemas import ConfigFile, DataFacts
from folds.training.resumption import check_folds
from folds.training.teacher import open_teacher
from registry import InputError, Registry


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "a\tb", "a\u2028b", "\u202e1-1-0"])
def test_ids_that_are_no_line_of_text_are_refused(small: Path, name: str) -> None:
    for folder in ("mfcc", "transcript"):
        path = small / "train-clean-100" / folder / "9-1-0000.npy"
        path.rename(path.with_name(f"{name}.npy"))
    with pytest.raises(InputError, match="train: the utterance id .* rename its files") as error:
        open_competition(small)
    assert str(error.value).isprintable()


@pytest.fixture
def plug_in() -> Iterator[Callable[[Any], None]]:
    """Register a competition, as an installed package would, until the end of the test."""

    def register(kind: Any) -> None:
        COMPETITIONS.names()
        COMPETITIONS.register("plugged")(kind)

    yield register
    COMPETITIONS._entries.pop("plugged")


class Exits(Competition):
    @classmethod
    def recognises(cls, root: Path) -> bool:
        raise SystemExit(0)

    def read(self, split: str) -> SplitSource:
        raise NotImplementedError


class Fails(Exits):
    @classmethod
    def recognises(cls, root: Path) -> bool:
        return True

    def read(self, split: str) -> SplitSource:
        raise ZeroDivisionError("by zero")


def no_competition(root: Path) -> None:
    """A function, as a plug-in may register it by mistake."""


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Exits, "SystemExit: 0"),
        (Fails, "ZeroDivisionError: by zero"),
        (no_competition, "TypeError: it is not a subclass of Competition"),
    ],
)
def test_a_competition_of_a_plug_in_that_fails_is_left_out(
    small: Path, plug_in: Callable[[Any], None], capsys: pytest.CaptureFixture[str], kind: Any, reason: str
) -> None:
    plug_in(kind)
    assert open_competition(small).format == "F22-S26"
    assert capsys.readouterr().err == f"warning: the format plugged, a plug-in, is left out: {reason}\n"


def test_what_cannot_be_called_is_not_registered() -> None:
    with pytest.raises(TypeError, match="'x' is a int: register a function or a class"):
        Registry("uncallable").register("x")(3)  # type: ignore[type-var]


def test_a_competition_one_level_down_is_named(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    inner = small.rename(outer / "inner")
    assert DataOptions(data=outer).open_dataset().root == inner
    assert capsys.readouterr().err == f"data: {inner}, the only competition in {outer}\n"
    DataOptions(data=inner).open_dataset()
    assert capsys.readouterr().err == ""


def test_a_user_without_a_home_must_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HW3P2_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="set HW3P2_CACHE to a folder"):
        cache_folder()


def test_folds_of_one_member_are_of_one_number_and_assignment(tmp_path: Path) -> None:
    first = RunFolder.of(tmp_path, "gru", 0, folds=5)
    first.path.mkdir(parents=True)
    facts = {"model": "gru", "fold": 0, "folds": 5, "fold_assignment": 2, "seed": 0}
    facts |= {"parameters": 1, "tags": [], "stride": 4}
    first.config.write_text(json.dumps(facts))
    check_folds(RunFolder.of(tmp_path, "gru", 1, folds=2), 2, "group")  # without results
    first.predictions("oof").write_bytes(b"")
    check_folds(RunFolder.of(tmp_path, "gru", 1, folds=5), 5, "group")
    check_folds(RunFolder.of(tmp_path, "lstm", 1, folds=2), 2, "group")
    check_folds(RunFolder.of(tmp_path / "elsewhere", "gru", 1, folds=2), 2, "group")
    with pytest.raises(InputError, match=r"^2 folds: .*gru/fold0 was started with 5"):
        check_folds(RunFolder.of(tmp_path, "gru", 1, folds=2), 2, "group")
    with pytest.raises(InputError, match=r"--fold-by utterance: the folds of .*gru/fold0 were assigned differently"):
        check_folds(RunFolder.of(tmp_path, "gru", 1, folds=5), 5, "utterance")


def test_classes_that_the_student_does_not_have_are_refused(tmp_path: Path) -> None:
    tokens = Ragged(np.array([1, 7], np.int16), np.array([0, 2]))
    hypotheses = NBestHypotheses(("a",), offsets_of([1]), tokens, np.ones(1, np.float32))
    path = tmp_path / "nbest.safetensors"
    write_nbest_file(path, NBestFile(hypotheses, hypotheses, hypotheses, "data", "alphabet"))
    sidecar = tmp_path / "x.csv.json"
    sidecar.write_text(json.dumps({"nbest": {"file": path.name, "sha256": file_hash(path)}}))
    student: dict[str, Any] = {"model": "gru", "fold": 0, "folds": 1, "seed": 0}
    student |= {"parameters": 1, "tags": (), "stride": 4, "data": DataFacts("data", "alphabet")}
    config = ConfigFile(**student, model_config={"classes": 8})
    open_teacher(sidecar, False, config)
    with pytest.raises(InputError, match="has class 7; expected 1 to 6"):
        open_teacher(sidecar, False, msgspec.structs.replace(config, model_config={"classes": 7}))
