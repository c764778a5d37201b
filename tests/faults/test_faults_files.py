"""Damaged files of our own: each is one InputError line that names the file and what is wrong with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import nn

from ensemble.members.sidecar import Sidecar
from folds.store import checkpoint
from folds.store.fold_model import read_fold_model
from folds.store.log_probs import LogProbs, read_log_probs, write_log_probs
from folds.store.run_folder import RunFolder
from folds.store.schemas import ConfigFile, EpochMetrics, EpochTiming, SummaryFile
from folds.training.step_metrics import Counters
from models.features import FeatureTransform
from registry import InputError
from registry.json_files import read_json, read_json_lines
from submit import ledger
from submit.check import check_file

CONFIG = {
    "model": "gru", "fold": 0, "folds": 2, "seed": 0, "parameters": 1000, "tags": ["cpu"], "stride": 4,
    "model_config": {"hidden": 8}, "options": {"recipe": {"batch_frames": 400}}, "data": {"hash": "a"},
}
SIDECAR = {"recipe": {"method": "mbr", "weights": {"gru": 1.0}, "settings": {}}, "parameters": 10, "tags": []}
ABSENT = object()

# File, key that is changed, its value, and what the message must say.
CHANGES: list[tuple[str, str, Any, str]] = [
    ("config", "model", ABSENT, "no model"),
    ("config", "model", 3, "model: expected str, found int"),
    ("config", "fold", None, "fold: expected int, found null"),
    ("config", "fold", -1, "fold: expected int >= 0"),
    ("config", "fold", 2, "fold: expected less than folds, 2, found 2"),
    ("config", "fold", 1.5, "fold: expected int, found float"),
    ("config", "folds", "x", "folds: expected int, found str"),
    ("config", "folds", 0, "folds: expected int >= 1"),
    ("config", "seed", True, "seed: expected int, found bool"),
    ("config", "seed", 10**30, "seed: "),
    ("config", "tags", None, "tags: expected array, found null"),
    ("config", "tags", [1], r"tags\[0\]: expected str, found int"),
    ("config", "stride", [], "stride: expected int, found array"),
    ("config", "parameters", "many", "parameters: expected int, found str"),
    ("config", "speller", "yes", "speller: expected bool, found str"),
    ("config", "with_dev", 1, "with_dev: expected bool, found int"),
    ("config", "model_config", [], "model_config: expected object, found array"),
    ("config", "options", {"recipe": 3}, "options.recipe: expected object, found int"),
    ("config", "data", "x", "data: expected object, found str"),
    ("config", "hardware", [1], "hardware: expected object, found array"),
    ("config", "hardware", {"halved": "no"}, "hardware.halved: expected bool, found str"),
    ("config", "options", {"recipe": {"normalise": 1}}, "options.recipe.normalise: expected str, found int"),
    ("config", "data", {"format": 1}, r"data.format: expected str \| null, found int"),
    ("config", "group_layer", "day", r"group_layer: expected object \| null, found str"),
    ("config", "soup", 2, r"soup: expected array \| null, found int"),
    ("config", "guide", {}, "guide: no weights"),
    ("config", "teacher", [1, 2], r"teacher: expected object \| null, found array"),
    ("config", "teacher", {"from": "a"}, "teacher: no nbest"),
    ("summary", "cpu_minutes", ABSENT, "no cpu_minutes"),
    ("summary", "cpu_minutes", "1", "cpu_minutes: expected float, found str"),
    ("summary", "cpu_minutes", float("nan"), "cpu_minutes: expected float >= 0"),
    ("summary", "greedy_distance", {"oof": []}, "greedy_distance.*found array"),
    ("sidecar", "recipe", ABSENT, "no recipe"),
    ("sidecar", "recipe", {"weights": {}}, "recipe: no method"),
    ("sidecar", "tags", 3, "tags: expected array, found int"),
    ("sidecar", "parameters", "many", "parameters: expected int, found str"),
    ("sidecar", "oof", "x", "oof: expected float, found str"),
    ("sidecar", "dev_minus_best_member", {"member": "gru"}, "dev_minus_best_member: no mean"),
]
SCHEMAS: dict[str, tuple[dict[str, Any], type]] = {
    "config": (CONFIG, ConfigFile),
    "summary": ({"cpu_minutes": 1.0, "greedy_distance": {"oof": 8.0, "dev": None}}, SummaryFile),
    "sidecar": (SIDECAR, Sidecar),
}
GARBAGE = [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe\x00", b"[" * 100_000, b"1" * 5000, b'{"a": 1} {']


def one_line_of(error: pytest.ExceptionInfo[InputError], path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path))
    return message


@pytest.mark.parametrize(("file", "key", "value", "expected"), CHANGES)
def test_a_wrong_value_is_named(tmp_path: Path, file: str, key: str, value: Any, expected: str) -> None:
    content, schema = SCHEMAS[file]
    path = tmp_path / f"{file}.json"
    path.write_text(json.dumps(content))
    read_json(path, schema)
    changed = {name: entry for name, entry in (content | {key: value}).items() if entry is not ABSENT}
    path.write_text(json.dumps(changed))
    with pytest.raises(InputError) as error:
        read_json(path, schema)
    assert re.search(expected, one_line_of(error, path))


@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("file", SCHEMAS)
def test_garbage_is_one_line(tmp_path: Path, file: str, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(path, SCHEMAS[file][1])
    one_line_of(error, path)


def test_a_folder_or_a_loop_in_a_files_place_is_one_line(tmp_path: Path) -> None:
    folder, loop = tmp_path / "folder", tmp_path / "loop"
    folder.mkdir()
    loop.symlink_to(loop)
    for path in (folder, loop, tmp_path / "missing", tmp_path / ("x" * 300)):
        with pytest.raises(InputError) as error:
            read_json(path, ConfigFile)
        one_line_of(error, path)
    with pytest.raises(InputError, match="Is a directory"):
        read_json_lines(folder, EpochMetrics)


def test_a_config_is_read_whole_and_what_training_needs_is_checked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text(json.dumps(CONFIG | {"of_a_later_version": 1}))
    fold_model = read_fold_model(folder)
    assert fold_model.recorded["of_a_later_version"] == 1 and fold_model.check_trained().data.hash == "a"
    folder.config.write_text(json.dumps({key: value for key, value in CONFIG.items() if key != "options"}))
    with pytest.raises(InputError, match="config.json: no options: delete this run's folder"):
        read_fold_model(folder).check_trained()


def test_what_an_earlier_version_did_not_record_has_its_default(tmp_path: Path) -> None:
    folder, required = RunFolder(tmp_path), ("model", "fold", "folds", "seed", "parameters", "tags", "stride")
    folder.config.write_text(json.dumps({key: CONFIG[key] for key in required}))
    fold_model = read_fold_model(folder)
    config = fold_model.config
    assert fold_model.fold_assignment == 1 and config.select == "last" and fold_model.transform == FeatureTransform()
    assert not (fold_model.with_dev or config.speller or config.hardware.halved or config.model_config)
    sources = (config.restart, config.guide, config.teacher, config.delay, config.adaptation, config.soup)
    assert {*sources, config.group_layer, config.front_end, config.data.hash, config.data.format} == {None}


def test_a_torn_last_line_is_left_out_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "timing.jsonl"
    line = '{"epoch": 1, "wall_s": 2.0, "cpu_s": 1, "frames_per_s": 100}\n'
    for torn in (line[:20], "\0\0\0"):
        path.write_text(line + torn)
        assert [row.wall_s for row in read_json_lines(path, EpochTiming)] == [2.0]
    assert capsys.readouterr().err == f"warning: {path}, line 2: cut off, and left out\n"
    path.write_text(line[:20] + "\n" + line)
    with pytest.raises(InputError, match="timing.jsonl, line 1: not readable as JSON"):
        read_json_lines(path, EpochTiming)
    path.write_text(line + line.replace("2.0", '"x"'))
    with pytest.raises(InputError, match="timing.jsonl, line 2: wall_s: expected float, found str"):
        read_json_lines(path, EpochTiming)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=5), children, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(sorted(CONFIG)), JSON)
def test_any_json_in_a_key_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, key: str, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(CONFIG | {key: value}))
    try:
        read_json(path, ConfigFile)
    except InputError as error:
        assert str(error).startswith(str(path))


EVENT = {"event": "attempt", "id": "a", "epoch": 1.0, "competition": "hw", "file": "x.csv", "sha256": "0"}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({key: value for key, value in EVENT.items() if key != "sha256"}, "no sha256"),
        (EVENT | {"epoch": "noon"}, "epoch: expected float, found str"),
        (EVENT | {"epoch": 1e99}, "epoch: expected float <= "),
        (EVENT | {"blend": 3}, "blend: expected object, found int"),
        (EVENT | {"blend": {"oof": "x"}}, "blend: oof: expected float"),
        ({"event": "score", "id": "a", "epoch": 1.0, "public_score": 9.5}, "public_score: expected str"),
        ({"event": "submitted", "id": "a", "epoch": 1.0, "ref": "abc"}, "ref: expected int, found str"),
        ({"event": "failed", "id": "a", "epoch": 1.0}, "no reason"),
        ({"id": "a", "epoch": 1.0}, "no event"),
        ({"event": "attempt", "id": ["a"], "epoch": 1.0}, "id: expected str, found array"),
    ],
)
def test_a_damaged_event_of_the_ledger_is_one_line(tmp_path: Path, event: dict[str, Any], expected: str) -> None:
    path = tmp_path / "submissions.jsonl"
    path.write_text(json.dumps(EVENT) + "\n" + json.dumps(event) + "\n")
    with pytest.raises(InputError, match=expected) as error:
        ledger.read_attempts(path)
    one_line_of(error, path)


@pytest.mark.parametrize("change", [{"tags": 3}, {"recipe": []}, {"recipe": {"weights": 3}}, {"parameters": "many"}])
def test_a_damaged_sidecar_is_ignored_with_a_note(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("id,label\n0,@\n")
    path.with_name("submission.csv.json").write_text(json.dumps(SIDECAR | change))
    checked = check_file(path)
    assert checked.blend == {} and "submission.csv.json is ignored: " in checked.notes[1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"blank": "x"}, "blank: expected int, found str"),
        ({"stride": "0"}, "stride: expected int >= 1"),
        ({"alphabet": None}, "no alphabet"),
        ({"ids_hash": None}, "no ids_hash"),
    ],
)
def test_a_damaged_header_of_log_probs_is_one_line(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = _log_probs(tmp_path)
    header = {"schema": "1", "ids_hash": "0", "alphabet": "a", "blank": "0", "stride": "4"} | _header(path) | change
    save_arrays(load_file(path), path, {key: value for key, value in header.items() if value is not None})
    with pytest.raises(InputError, match=expected) as error:
        read_log_probs(path)
    one_line_of(error, path)


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": np.array([0.0, 3.0])},
        {"offsets": np.array([0, 5, 3], np.int64)},
        {"offsets": np.array([[0, 3]], np.int64)},
        {"log_probs": np.zeros((3, 2), np.float32)},
        {"log_probs": np.zeros(3, np.float16)},
    ],
)
def test_misshapen_log_probs_are_one_line(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    path = _log_probs(tmp_path)
    save_arrays(load_file(path) | change, path, _header(path))
    with pytest.raises(InputError) as error:
        read_log_probs(path)
    one_line_of(error, path)


def _log_probs(folder: Path) -> Path:
    path = folder / "oof.safetensors"
    write_log_probs(path, LogProbs(np.full((3, 2), np.log(0.5), np.float16), np.array([0, 3]), ("a-0",), "a", 0, 4))
    read_log_probs(path)
    return path


def _header(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.parametrize(
    ("changes", "header", "expected"),
    [
        ({}, None, "header: KeyError"),
        ({}, "{", "header: JSONDecodeError"),
        ({}, "[]", "header: expected object, found list"),
        ({}, "{}", "header: no at"),
        ({}, '{"counters": {"step": "x"}}', "header, counters: step: expected int, found str"),
        ({"model.weight": None}, '{"counters": {}}', "tensor weight: missing"),
        ({"model.more": torch.zeros(1)}, '{"counters": {}}', "tensor more: not expected"),
        ({"model.weight": torch.zeros(3)}, '{"counters": {}}', "tensor weight: .*expected"),
        ({"optimizer.7.step": torch.zeros(1)}, '{"counters": {}}', "tensor optimizer.7.step: not expected"),
        ({"optimizer.x": torch.zeros(1)}, '{"counters": {}}', "tensor optimizer.x: not expected"),
        ({"optimizer.0.step": torch.zeros(9)}, '{"counters": {}}', "tensor optimizer.0.step: .*expected"),
    ],
)
def test_a_damaged_checkpoint_is_not_half_loaded(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, torch.Tensor | None],
    header: str | None,
    expected: str,
) -> None:
    run, model = RunFolder(tmp_path), nn.Linear(2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors: dict[str, torch.Tensor | None] = {
        f"model.{name}": value + 1 for name, value in model.state_dict().items()
    }
    path = run.checkpoint(1)
    path.parent.mkdir()
    kept = {name: value for name, value in (tensors | changes).items() if value is not None}
    save_file(kept, path, None if header is None else {"header": header})
    optimizer = torch.optim.AdamW(model.parameters())
    assert checkpoint.load(run, model, optimizer, lambda header, more: Counters.from_header(header)) is None
    warning = capsys.readouterr().err
    assert re.search(expected, warning) and warning.count("\n") == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
