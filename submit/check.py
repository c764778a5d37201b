"""Check a submission file before it is sent, as far as possible without Kaggle.

`folds.competition.submission` defines what rows must look like. This module applies it to one file, with the sample
file and the alphabet of the competition's folder if there is one, and with the results that the blend wrote next to it.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from folds.competition.alphabets import COURSE_ALPHABETS, Alphabet
from folds.competition.detect import open_competition
from folds.competition.submission import check_submission, read_submission, sample_of
from registry.console import counted
from registry.errors import InputError
from registry.files import read_regular
from registry.json_files import convert, read_json

_MAX_BYTES = 50 * 2**20
"""Far more than the submission of any semester; a larger file is not a submission."""

_AGAIN = "write the file again with `python -m ensemble.blend`"

_SIDECAR_KEYS = ("recipe", "oof", "nested", "dev", "parameters", "tags")


class _SubmissionRecipe(Struct):
    method: str = "blend"
    weights: dict[str, float | None] | None = None


class BlendResults(Struct):
    """A blend's results, as stored next to a submission file and in the ledger; the recipe may be plain text."""

    recipe: _SubmissionRecipe | str | None = None
    oof: float | None = None
    nested: float | None = None
    dev: float | None = None
    parameters: Annotated[int, Meta(ge=0)] | None = None
    tags: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CheckedFile:
    """A file that passed the check, and what the check found."""

    path: Path
    sha256: str
    size: int
    rows: int
    rows_checked: bool = False
    """Whether ids and their order were compared with the competition's."""
    blend: dict[str, Any] = field(default_factory=dict)
    """The blend's results, if it wrote any: recipe, oof, nested, dev, parameters, tags."""
    notes: tuple[str, ...] = ()
    """What was checked and against what, one line per check."""


def check_file(
    path: Path,
    data: Path | None = None,
    allow_empty: bool = False,
    max_params: int | None = None,
    forbid: Sequence[str] = (),
    allow_pickle: bool = False,
) -> CheckedFile:
    """Check a submission file, against the competition in `data` if given. Raises `InputError`.

    `max_params` and `forbid` are the competition's rules for all models of the blend taken together; they are checked
    against the results next to the file. `allow_pickle` is needed to open data in the F18 to F21 formats.
    """
    path = Path(path)
    try:
        content = read_regular(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check the name, or write it with "
            f"`python -m ensemble.blend --out {path}`"
        ) from None
    if len(content) > _MAX_BYTES:
        raise InputError(f"{path}: {len(content)} bytes, expected at most {_MAX_BYTES}; is it the right file?")
    if data is None:
        rows, file_note = _check_without_competition(path, allow_empty)
    else:
        rows, file_note = _check_with_competition(path, Path(data), allow_empty, allow_pickle)
    sha256 = hashlib.sha256(content).hexdigest()
    blend, blend_note = _read_sidecar(path, sha256)
    _check_rules(path, blend, max_params, forbid)
    return CheckedFile(path, sha256, len(content), rows, data is not None, blend, (file_note, blend_note))


def is_unchanged(checked: CheckedFile) -> bool:
    """Whether the file still has the content that was checked."""
    try:
        return hashlib.sha256(checked.path.read_bytes()).hexdigest() == checked.sha256
    except OSError:
        return False


def _check_with_competition(path: Path, data: Path, allow_empty: bool, allow_pickle: bool) -> tuple[int, str]:
    """Check against a competition's folder, complete or with only its sample file. Returns row count and note."""
    sample = sample_of(data) if data.is_dir() else None
    try:
        competition = open_competition(data, allow_pickle)
    except InputError:
        if sample is None:
            raise
        header, ids, alphabet = sample.header, sample.ids, _find_alphabet(path, read_submission(path))
        check_text: Callable[[str], object] = alphabet.from_string if alphabet else str
        reference = str(sample.path)
    else:
        sample = competition.sample
        header, ids, alphabet = competition.header, competition.test_rows, competition.alphabet
        check_text = competition.check_text
        reference = str(sample.path) if sample else f"format {competition.format} ({data} has no sample file)"
    rows = len(check_submission(path, header, ids, check_text, allow_empty))
    return rows, f"file: {rows} rows {_written_in(alphabet)}; header, ids and order as in {reference}"


def _check_without_competition(path: Path, allow_empty: bool) -> tuple[int, str]:
    """Check what can be checked without the competition. Returns row count and note."""
    rows = read_submission(path)
    for line, (row, label) in enumerate(rows, start=2):
        if not label and not allow_empty:
            raise InputError(f"{path}, line {line}: row {row} is empty; pass --allow-empty if that is intended")
    alphabet = _find_alphabet(path, rows)
    return len(rows), (
        f"file: {len(rows)} rows {_written_in(alphabet)}; header, number and order of rows NOT checked: "
        f"pass --data DIR to compare them with the sample file"
    )


def _written_in(alphabet: Alphabet | None) -> str:
    return f"in the alphabet of {alphabet.name}" if alphabet else "of sentences, whose characters are NOT checked"


def _find_alphabet(path: Path, rows: Sequence[tuple[str, str]]) -> Alphabet | None:
    """The first alphabet, newest semester first, that has every character of the file; None for sentences of words.

    Raises `InputError` for phonemes that fit no alphabet.
    """
    used = {character for _, label in rows for character in label}
    for alphabet in COURSE_ALPHABETS:
        if used <= set(alphabet.characters):
            return alphabet
    if " " in used:
        return None
    newest = COURSE_ALPHABETS[0]
    line, (row, label) = next(
        (line, row) for line, row in enumerate(rows, start=2) if set(row[1]) - set(newest.characters)
    )
    raise InputError(
        f"{path}, line {line}: row {row} is {label!r}; no known alphabet has all characters of the file; expected only "
        f"the characters of one semester, for example {''.join(newest.characters)} ({newest.name})"
    )


def _read_sidecar(path: Path, sha256: str) -> tuple[dict[str, Any], str]:
    """Read the results that the blend wrote to `<file>.json`. Returns them and a note that summarizes them."""
    sidecar = Path(f"{path}.json")
    try:
        if not os.path.lexists(sidecar):
            return {}, f"blend: no {sidecar.name} next to the file, so its recipe and results are not known"
        blend = read_json(sidecar, dict[str, Any], _AGAIN)
        convert(blend, BlendResults, str(sidecar), _AGAIN)
    except InputError as error:
        return {}, f"blend: {sidecar.name} is ignored: {error}"
    if blend.get("sha256") != sha256:
        return {}, f"blend: {sidecar.name} belongs to another version of the file: ignored"
    blend = {name: blend[name] for name in _SIDECAR_KEYS if blend.get(name) is not None}
    return blend, f"blend: {_summarize(blend) or 'no results'}"


def _summarize(blend: dict[str, Any]) -> str:
    parts = [method] if (method := describe_method(blend)) else []
    parts += [f"{name} {blend[name]:.3f}" for name in ("oof", "nested", "dev") if isinstance(blend.get(name), float)]
    if isinstance(blend.get("parameters"), int):
        parts.append(f"{blend['parameters']:,} parameters")
    if "tags" in blend:
        parts.append(f"tags {', '.join(map(str, blend['tags'])) or 'none'}")
    return "; ".join(parts)


def describe_method(blend: dict[str, Any]) -> str:
    """Describe the blend's method and number of members; empty if it has no recipe."""
    recipe = blend.get("recipe") or ""
    if not isinstance(recipe, dict):
        return str(recipe)
    weights = recipe.get("weights") or {}
    members = f" of {counted(len(weights), 'member')}" if weights else ""
    return f"{recipe.get('method', 'blend')}{members}"


def _check_rules(path: Path, blend: dict[str, Any], max_params: int | None, forbid: Sequence[str]) -> None:
    """Raise `InputError` if the blend breaks the competition's rules, or if its results are missing."""
    needed = [name for name, rule in (("parameters", max_params is not None), ("tags", bool(forbid))) if rule]
    if missing := [name for name in needed if name not in blend]:
        raise InputError(
            f"{path}: {path.name}.json gives no {' or '.join(missing)} for this file, so the rules cannot be checked; "
            "write the file again with `python -m ensemble.blend` or `python -m ensemble.decode`"
        )
    if max_params is not None and blend["parameters"] > max_params:
        raise InputError(
            f"{path}: the blend has {blend['parameters']:,} parameters; the rules allow {max_params:,}; "
            f"blend again with --max-params {max_params}"
        )
    for tag in forbid:
        if tag not in blend["tags"] and (similar := difflib.get_close_matches(tag, blend["tags"], n=1)):
            raise InputError(f"--forbid {tag}: the blend has no such tag, but {similar[0]}; did you mean that?")
    if forbid and (forbidden := sorted(set(blend["tags"]) & set(forbid))):
        raise InputError(
            f"{path}: the blend uses {', '.join(forbidden)}, which the rules forbid; blend again with "
            f"--forbid {' '.join(forbid)}"
        )
