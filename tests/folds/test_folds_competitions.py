"""One contract for every registered competition of which there is a small example, and what breaks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from brain_to_text_files import brain_to_text

from folds.competition.base import COMPETITIONS, Competition, Rules
from folds.competition.check import check_competition
from folds.competition.detect import open_competition
from registry.errors import InputError

FEATURES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def _write_utterance_files(root: Path, write_split: Callable[..., None], train: str, dev: str, test: str) -> None:
    silence = "SIL" if train == "train" else "[SIL]"
    write_split(root / train, {f"1-1-{k}": (FEATURES, [silence, "AE", "K"]) for k in range(3)})
    write_split(root / dev, {"2-1-0": (FEATURES, ["K"])})
    write_split(root / test, {f"3-1-{k}": (FEATURES, None) for k in range(2)})


def _f22(root: Path, write_split: Callable[..., None]) -> None:
    _write_utterance_files(root, write_split, "train-clean-100", "dev-clean", "test-clean")


def _s22(root: Path, write_split: Callable[..., None]) -> None:
    _write_utterance_files(root, write_split, "train", "dev", "test")
    (root / "test" / "test_order.csv").write_text("file\n3-1-0.npy\n3-1-1.npy\n")


def _f20(root: Path, write_split: Callable[..., None]) -> None:
    for split in ("train", "dev", "test"):
        np.save(root / f"{split}.npy", np.stack([FEATURES] * 2))
        np.save(root / f"{split}_labels.npy", np.array([[1, 41], [3, 4]]))


def _f18(root: Path, write_split: Callable[..., None]) -> None:
    for split in ("train", "dev", "test"):
        np.save(root / f"wsj0_{split}.npy", np.stack([FEATURES] * 2))
        np.save(root / f"wsj0_{split}_merged_labels.npy", np.array([[0, 45], [3, 4]]))


def _brain_to_text(root: Path, write_split: Callable[..., None]) -> None:
    brain_to_text(root)


EXAMPLES = {"F22-S26": _f22, "S22": _s22, "F20-F21": _f20, "F18-S20": _f18, "brain-to-text-25": _brain_to_text}


@pytest.fixture
def examples(tmp_path: Path, write_split: Callable[..., None]) -> dict[str, Path]:
    """The folder of each example, by the competition's name."""
    folders = {name: tmp_path / name for name in EXAMPLES}
    for name, folder in folders.items():
        folder.mkdir()
        EXAMPLES[name](folder, write_split)
    return folders


def test_there_is_an_example_of_each_of_our_competitions():
    assert {name for name in COMPETITIONS.names() if COMPETITIONS.is_built_in(name)} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_competition_keeps_the_contract(name, examples, tmp_path):
    root = examples.pop(name)
    check_competition(COMPETITIONS.get(name), root, [*examples.values(), tmp_path])
    assert open_competition(root).format == name


def test_rules_that_are_not_set_are_those_of_the_competition():
    of_competition = Rules(5, ("attention",))
    assert Rules().completed(of_competition) == of_competition
    assert Rules(0).completed(of_competition) == Rules(0, ("attention",))
    assert Rules(7, ("pretrained",)).completed(of_competition) == Rules(7, ("pretrained",))


class Broken(COMPETITIONS.get("F22-S26")):
    """A competition whose rules tests break one by one."""


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("recognises", lambda root: False, r"Broken.recognises: does not recognise .*F22-S26; expected the folder of"),
        ("recognises", lambda root: True, r"Broken.recognises: recognises .*S22, the folder of another competition"),
        ("group", lambda self, utterance: "x" + utterance, r"Broken.group: 3 training utterances, 3 groups such as"),
        ("submission_text", lambda self, labels: "?!", r"Broken, train, 1-1-0: check_text rejects '\?!', made by"),
    ],
)
def test_a_competition_that_breaks_a_rule_is_refused(attribute, value, message, examples, monkeypatch):
    monkeypatch.setattr(Broken, attribute, value)
    with pytest.raises(InputError, match=f"^{message}"):
        check_competition(Broken, examples["F22-S26"], [examples["S22"]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("1-1-0", "1-1-0")}, "Broken, train: 2 ids, 1 distinct; expected one or more, each once"),
        ({"ids": ()}, "Broken, train: 0 ids, 0 distinct"),
        ({"files": ("no.csv",)}, r"Broken, train: files names no\.csv, which is not a file"),
        ({"features": lambda index: FEATURES[0]}, r"Broken, train, 1-1-0: features are float32 \(4,\); expected"),
        ({"features": lambda index: FEATURES * np.nan}, r"Broken, train, 1-1-0: features are float32 \(5, 4\)"),
        ({"features": lambda index: FEATURES[:, :3]}, r"Broken: utterances have \[3, 4\] features per frame"),
        ({"labels": None}, "Broken, train: labels is None; expected a function"),
        ({"labels": lambda index: np.int16([0, 41])}, r"labels are int16 \(2,\), \[ 0 41\]; expected .* from 1 to 40"),
        ({"labels": lambda index: np.array([1])}, r"labels are int64 \(1,\), \[1\]; expected int16"),
        ({"text": lambda index: "two\nlines"}, "Broken, train, 1-1-0: text has characters"),
    ],
)
def test_a_split_that_breaks_a_rule_is_refused(change, message, examples, monkeypatch):
    original = Competition.__init__

    def init(self, root, allow_pickle=False):
        original(self, root, allow_pickle)
        self.train = dataclasses.replace(self.train, **change)

    monkeypatch.setattr(Broken, "__init__", init)
    with pytest.raises(InputError, match=message):
        check_competition(Broken, examples["F22-S26"])
