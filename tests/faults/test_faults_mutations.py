"""Valid files with a few bytes or one JSON value changed: read as before, refused in one line, or plausible."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.damage import DELETED, keys_of, split_safetensors, with_value
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.lm.arpa import read_arpa, write_arpa
from ensemble.lm.ngram import estimate
from ensemble.members.sidecar import Sidecar
from folds.competition.submission import read_sample, read_submission
from folds.data.packed_file import PackWriter, open_packed
from folds.store import log_probs as log_probs_file
from folds.store.fold_model import read_fold_model
from folds.store.log_probs import LogProbs, read_log_probs, write_log_probs
from folds.store.nbest_file import NBestFile, NBestHypotheses, read_nbest_file, write_nbest_file
from folds.store.ragged import Ragged
from folds.store.run_folder import RunFolder
from folds.store.schemas import EpochMetrics, EpochTiming, SummaryFile
from registry import InputError
from registry.json_files import read_json, read_json_lines
from submit.ledger import read_attempts

PHONEMES = ("", "AE", "K", "T")
CONFIG = {
    "model": "gru", "fold": 0, "folds": 2, "seed": 0, "parameters": 9, "tags": ["cpu"], "stride": 4, "select": "last",
    "model_config": {"hidden": 8}, "options": {"recipe": {"batch_frames": 400}}, "data": {"hash": "a"}, "guide": None,
    "restart": {"weights": "a", "select": "last"}, "hardware": {"threads": 1}, "with_dev": False, "speller": False,
}  # fmt: skip
SIDECAR = {
    "recipe": {"method": "mbr", "weights": {"gru": 1.0}, "settings": {"a": [1]}}, "parameters": 10, "tags": ["cpu"],
    "dev_minus_best_member": {"member": "gru", "mean": 0.1, "low": 0.0, "high": 0.2}, "dev": 8.0,
}  # fmt: skip
EVENT = {"event": "attempt", "id": "a", "epoch": 1.0, "competition": "hw", "file": "x", "sha256": "0", "blend": {}}
DOCUMENTS: dict[str, tuple[Any, Callable[[Path], object]]] = {
    "config.json": (CONFIG, lambda path: read_fold_model(RunFolder(path.parent))),
    "summary.json": (
        {"cpu_minutes": 1.0, "greedy_distance": {"oof": 8.0, "dev": None}, "wall_minutes": 2.0},
        lambda path: read_json(path, SummaryFile),
    ),
    "x.csv.json": (SIDECAR, lambda path: read_json(path, Sidecar)),
    "submissions.jsonl": (EVENT, read_attempts),
    "metrics.jsonl": ({"epoch": 1, "held_out": 8.0, "loss": 3.0}, lambda path: read_json_lines(path, EpochMetrics)),
    "timing.jsonl": (
        {"epoch": 1, "wall_s": 2.0, "cpu_s": 1.0, "frames_per_s": 9.0},
        lambda path: read_json_lines(path, EpochTiming),
    ),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=5), children, max_size=2),
    max_leaves=4,
)

# Alphabet, blank and stride of the predictions.
OOF_HEADER = ("alphabet", 0, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutations")


def is_one_line(error: InputError) -> None:
    text = str(error)
    assert text and "\n" not in text and "\r" not in text


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(DOCUMENTS)), st.data())
def test_json_with_one_other_value(folder: Path, name: str, data: st.DataObject) -> None:
    content, read = DOCUMENTS[name]
    keys = data.draw(st.sampled_from(list(keys_of(content))))
    value = data.draw(st.just(DELETED) | JSON)
    path = folder / name
    path.write_text(json.dumps(with_value(content, keys, value)) + "\n")
    try:
        read(path)
    except InputError as error:
        is_one_line(error)
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_of_a_sidecar_is_a_number_from_0(tmp_path: Path, weight: float) -> None:
    path = tmp_path / "x.csv.json"
    path.write_text(json.dumps(with_value(SIDECAR, ("recipe", "weights", "gru"), weight)))
    with pytest.raises(InputError, match="recipe.weights"):
        read_json(path, Sidecar)


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, bytes]:
    values = np.log(np.full((5, 4), 0.25, np.float16))
    write_log_probs(folder / "oof", LogProbs(values, np.array([0, 2, 5]), ("a-0", "b-0"), *OOF_HEADER))
    with open(folder / "cache", "wb") as file:
        writer = PackWriter(file)
        writer.stream(np.arange(30, dtype="<f4").reshape(10, 3))
        writer.name("frames", (10, 3))
        writer.finish({"offsets": np.array([0, 4, 10], dtype="<i8")})
    tokens = Ragged(np.array([1, 2, 3], np.int16), np.array([0, 2, 3]))
    hypotheses = NBestHypotheses(("a", "b"), np.array([0, 1, 2]), tokens, np.ones(2, np.float32))
    write_nbest_file(folder / "nbest", NBestFile(hypotheses, hypotheses, hypotheses, "data", "alphabet"))
    write_arpa(folder / "lm", estimate([[1, 2, 3], [2, 2], [3]], 4, 2), PHONEMES)
    (folder / "csv").write_text("index,label\n0,-@\n1,ab\n2,-\n")
    return {name: (folder / name).read_bytes() for name in ("oof", "cache", "nbest", "lm", "csv")}


def mutated(content: bytes, data: st.DataObject) -> bytes:
    """Up to three bytes changed, a stretch removed or doubled, or the end cut off."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(changed)))
    stop = data.draw(st.integers(start, min(len(changed), start + 20)))
    how = data.draw(st.sampled_from(("keep", "keep", "remove", "double", "cut")))
    middle = {"keep": changed[start:stop], "remove": b"", "double": 2 * changed[start:stop], "cut": b""}[how]
    return bytes(changed[:start]) + bytes(middle) + (b"" if how == "cut" else bytes(changed[stop:]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_predictions_are_those_that_were_written_or_refused(
    folder: Path, files: dict[str, bytes], data: st.DataObject
) -> None:
    path = folder / "oof.safetensors"
    path.write_bytes(mutated(files["oof"], data))
    log_probs_file._intact.clear()  # the clock of the file system is coarser than these writes
    try:
        found = read_log_probs(path)
    except InputError as error:
        is_one_line(error)
        return
    assert found.ids == ("a-0", "b-0") and found.offsets.tolist() == [0, 2, 5]
    header = split_safetensors(path.read_bytes())[0]["__metadata__"]
    if "checksum" in header:
        assert (found.values == np.log(np.full((5, 4), 0.25, np.float16))).all()
        assert (found.alphabet_hash, found.blank, found.stride) == OOF_HEADER


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_cache_holds_what_was_packed_or_counts_as_none(
    folder: Path, files: dict[str, bytes], data: st.DataObject
) -> None:
    path = folder / "mutated cache"
    path.write_bytes(mutated(files["cache"], data))
    tensors = open_packed(path)
    if tensors is not None:
        assert (tensors["frames"] == np.arange(30).reshape(10, 3)).all() and tensors["offsets"].tolist() == [0, 4, 10]


READERS: dict[str, Callable[[Path], object]] = {
    "nbest": read_nbest_file,
    "lm": lambda path: read_arpa(path, PHONEMES).score([1, 2, 3]),
    "csv": lambda path: (read_sample(path), read_submission(path)),
}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(READERS)), st.data())
def test_other_files_are_read_or_refused(
    folder: Path, files: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    path = folder / f"mutated {name}"
    path.write_bytes(mutated(files[name], data))
    try:
        READERS[name](path)
    except InputError as error:
        is_one_line(error)
        assert str(error).startswith(str(path))
