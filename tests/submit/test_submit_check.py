"""Checks of a file before Kaggle is contacted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InputError
from submit.__main__ import SubmitOptions, run
from submit.check import check_file, is_unchanged
from submit.client import Client

ROWS = [f"{number},-@-" for number in range(6)]


def lines(*rows: str, header: str = "index,label") -> bytes:
    return "\n".join([header, *rows, ""]).encode()


GOOD = lines(*ROWS)

FAULTS = {
    "wrong header": (lines(*ROWS, header="id,label"), "the header is id,label; expected index,label"),
    "permuted rows": (lines(ROWS[1], ROWS[0], *ROWS[2:]), "another order"),
    "missing row": (lines(*ROWS[:-1]), "1 rows missing, first '5'"),
    "extra row": (lines(*ROWS, "6,-"), "1 rows too many, first '6'"),
    "row twice": (lines(*ROWS, ROWS[0]), "twice"),
    "unknown character": (lines(*ROWS[:-1], "5,-?-"), "unknown character '?'"),
    "empty label": (lines(*ROWS[:-1], "5,"), "row 5 is empty"),
    "byte-order mark": (b"\xef\xbb\xbf" + GOOD, "byte-order mark"),
    "Windows line ends": (GOOD.replace(b"\n", b"\r\n"), "carriage return"),
    "not UTF-8": (GOOD.replace(b"@", b"\xe9"), "not UTF-8"),
    "one column": (b"label\n-\n", "1 columns; expected 2"),
    "empty file": (b"", "the file is empty"),
    "no rows": (b"index,label\n", "a header and no rows"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "submission.csv"
    path.write_bytes(GOOD)
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_invalid_file_is_refused_before_kaggle_is_contacted(fault: str, file: Path, tiny: Path) -> None:
    content, message = FAULTS[fault]
    file.write_bytes(content)
    options = SubmitOptions(competition="hw", file=file, data=tiny, ledger_file=file.with_name("submissions.jsonl"))
    with Client() as client:
        with pytest.raises(InputError) as caught:
            run(options, client)
        assert client._child is None  # the client was not even started
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not options.ledger_file.exists()


def test_file_that_is_too_large_for_a_submission_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("submit.check._MAX_BYTES", len(GOOD))
    check_file(file)
    file.write_bytes(GOOD + b"6,-\n")
    with pytest.raises(InputError, match=f"{len(GOOD) + 4} bytes, expected at most {len(GOOD)}; is it the right file"):
        check_file(file)


def test_good_file_with_the_competition(file: Path, tiny: Path) -> None:
    checked = check_file(file, tiny)
    assert (checked.rows, checked.size) == (6, len(GOOD))
    assert checked.sha256 == hashlib.sha256(GOOD).hexdigest()
    sample = tiny / "test-clean" / "random_submission.csv"
    assert checked.notes[0] == f"file: 6 rows in the alphabet of F22-S26; header, ids and order as in {sample}"


def test_sample_alone_is_enough_to_compare_with(file: Path, tmp_path: Path) -> None:
    (tmp_path / "sample_submission.csv").write_bytes(GOOD)
    assert check_file(file, tmp_path).rows == 6
    file.write_bytes(lines(*ROWS[:-1]))
    with pytest.raises(InputError, match="1 rows missing"):
        check_file(file, tmp_path)


def test_without_the_competition_what_was_not_checked_is_reported(file: Path) -> None:
    file.write_bytes(lines(*ROWS[:-1], header="id,predictions"))
    assert "header, number and order of rows NOT checked: pass --data DIR" in check_file(file).notes[0]


def test_without_the_competition_sentences_are_accepted(file: Path) -> None:
    file.write_text("id,text\n0,you can see the code\n1,i don't know\n")
    assert "2 rows of sentences, whose characters are NOT checked; header, number" in check_file(file).notes[0]


def test_without_the_competition_any_known_alphabet_is_accepted(file: Path) -> None:
    file.write_bytes(lines("0,.h?."))
    assert "in the alphabet of S22" in check_file(file).notes[0]
    file.write_bytes(lines("0,.h?.", "1,9"))
    with pytest.raises(InputError, match=r"line 2: row 0 is '\.h\?\.'; no known alphabet has all characters"):
        check_file(file)


def test_empty_labels_are_accepted_with_allow_empty(file: Path, tiny: Path) -> None:
    file.write_bytes(lines(*ROWS[:-1], "5,"))
    assert check_file(file, tiny, allow_empty=True).rows == 6
    assert check_file(file, allow_empty=True).rows == 6
    with pytest.raises(InputError, match="--allow-empty"):
        check_file(file)


def test_file_changed_after_the_check_is_detected(file: Path) -> None:
    file.write_bytes(GOOD)
    checked = check_file(file)
    assert is_unchanged(checked)
    file.write_bytes(GOOD.replace(b"-@-", b"-@@"))
    assert not is_unchanged(checked)
    file.unlink()
    assert not is_unchanged(checked)


def test_folder_of_the_environment_variable_is_compared_with(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample_submission.csv").write_bytes(lines(*reversed(ROWS)))
    monkeypatch.setenv("HW3P2_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match="another order"), Client() as client:
        run(SubmitOptions(competition="hw", file=file, ledger_file=tmp_path / "submissions.jsonl"), client)


def test_missing_file_and_missing_folder(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        check_file(tmp_path / "none.csv")
    with pytest.raises(InputError, match="no folder"), Client() as client:
        run(SubmitOptions(competition="hw", file=file, data=tmp_path / "none"), client)


class TestSidecar:
    def write(self, file: Path, **figures: object) -> None:
        figures.setdefault("sha256", hashlib.sha256(file.read_bytes()).hexdigest())
        file.with_name(file.name + ".json").write_text(json.dumps(figures))

    def test_results_are_reported_and_kept(self, file: Path) -> None:
        recipe = {"method": "mbr", "weights": {"pblstm": 0.6, "conv": 0.4}}
        self.write(file, recipe=recipe, oof=9.75, dev=9.9, parameters=18_000_000, tags=["lstm"], options={"seed": "0"})
        checked = check_file(file)
        assert checked.notes[1] == "blend: mbr of 2 members; oof 9.750; dev 9.900; 18,000,000 parameters; tags lstm"
        assert checked.blend == {
            "recipe": recipe, "oof": 9.75, "dev": 9.9, "parameters": 18_000_000, "tags": ["lstm"]
        }

    @pytest.mark.parametrize("sha256", ["0", None])
    def test_sidecar_of_another_version_is_ignored_and_reported(self, file: Path, sha256: str | None) -> None:
        self.write(file, oof=9.75, sha256=sha256)
        checked = check_file(file)
        assert (checked.blend, "another version of the file: ignored" in checked.notes[1]) == ({}, True)

    @pytest.mark.parametrize("content", ["{", "[]", "null"])
    def test_invalid_sidecar_is_ignored_and_reported(self, file: Path, content: str) -> None:
        file.with_name(file.name + ".json").write_text(content)
        checked = check_file(file)
        assert (checked.blend, "ignored" in checked.notes[1]) == ({}, True)

    def test_broken_rules_are_refused(self, file: Path) -> None:
        self.write(file, parameters=21_000_000, tags=["attention", "lstm"])
        assert check_file(file, max_params=21_000_000, forbid=["pretrained"]).rows == 6
        with pytest.raises(InputError, match="21,000,000 parameters; the rules allow 20,000,000"):
            check_file(file, max_params=20_000_000)
        with pytest.raises(InputError, match="uses attention, which the rules forbid"):
            check_file(file, forbid=["attention", "pretrained"])
        with pytest.raises(InputError, match=r"--forbid atention: the blend has no such tag, but attention; did you"):
            check_file(file, forbid=["atention"])

    def test_rules_that_cannot_be_checked_are_refused(self, file: Path) -> None:
        with pytest.raises(InputError, match="submission.csv.json gives no parameters for this file"):
            check_file(file, max_params=20_000_000)
        with pytest.raises(InputError, match="submission.csv.json gives no parameters or tags for this file"):
            check_file(file, max_params=20_000_000, forbid=["attention"])
        self.write(file, parameters=1, tags=["lstm"], sha256="0")  # of another version of the file
        with pytest.raises(InputError, match="submission.csv.json gives no tags for this file"):
            check_file(file, forbid=["attention"])

    @pytest.mark.parametrize(
        ("rule", "message"),
        [({"max_params": "20M"}, "the rules allow 20,000,000"), ({"forbid": ("attention",)}, "the rules forbid")],
    )
    def test_rules_given_to_the_command_are_checked(self, file: Path, rule: dict[str, Any], message: str) -> None:
        self.write(file, parameters=21_000_000, tags=["attention", "lstm"])
        options = SubmitOptions(competition="hw", file=file, ledger_file=file.with_name("submissions.jsonl"), **rule)
        with pytest.raises(InputError, match=message), Client() as client:
            run(options, client)
