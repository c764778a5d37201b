"""Is this file fit to be sent? Everything that can be told without Kaggle, as `InputError`s.

What rows must look like is `folds.submission`'s; here it is applied to the file at hand, with the sample and the
alphabet of the competition's folder where there is one, and with the figures the blend left beside the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from folds.competition import alphabets
from folds.competition.alphabets import Alphabet
from folds.competition.detect import open_competition
from folds.competition.submission import check_submission, read_submission, sample_of
from registry.errors import InputError

_MOST_BYTES = 50 * 2**20
"""No semester's test set comes near it: a larger file is another file."""

_KEPT = ("recipe", "oof", "nested", "dev", "parameters", "tags")

_ALPHABETS = [each for each in vars(alphabets).values() if isinstance(each, Alphabet)]


@dataclass(frozen=True)
class Checked:
    """A file found fit, with what the check saw."""

    path: Path
    sha256: str
    size: int
    rows: int
    blend: dict[str, Any] = field(default_factory=dict)
    """The blend's figures, where it left them: recipe, oof, nested, dev, parameters, tags."""
    notes: tuple[str, ...] = ()
    """What was checked against what, one line each, for the user."""


def check(
    path: Path,
    data: Path | None = None,
    allow_empty: bool = False,
    max_params: int | None = None,
    forbid: Sequence[str] = (),
) -> Checked:
    """Check a submission file, against the competition in `data` where given. Raises `InputError`.

    `max_params` and `forbid` are the competition's rules on all models of the blend together, checked by the figures it
    left beside the file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); write it with `python -m ensemble.blend`"
        ) from None
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path}: {len(content)} bytes, far more than any submission has; is it the right file?")
    if data is None:
        rows, note = _without_sample(path, allow_empty)
    else:
        rows, note = _with_sample(path, Path(data), allow_empty)
    sha256 = hashlib.sha256(content).hexdigest()
    blend, told = _figures(path, sha256)
    _check_rules(path, blend, max_params, forbid)
    return Checked(path, sha256, len(content), rows, blend, (note, told))


def unchanged(checked: Checked) -> bool:
    """Whether the file still is what was checked."""
    try:
        return hashlib.sha256(checked.path.read_bytes()).hexdigest() == checked.sha256
    except OSError:
        return False


def _with_sample(path: Path, data: Path, allow_empty: bool) -> tuple[int, str]:
    """Check against a competition's folder, or what there is of one: its sample file is enough."""
    sample = sample_of(data) if data.is_dir() else None
    try:
        competition = open_competition(data)
    except InputError:
        if sample is None:
            raise
        header, ids, alphabet = sample.header, sample.ids, _alphabet(path, read_submission(path))
    else:
        sample = competition.sample
        header, ids, alphabet = competition.header, competition.test_rows, competition.alphabet
    rows = len(check_submission(path, header, ids, alphabet, allow_empty))
    against = sample.path if sample else f"format {competition.format} has them, for {data} has no sample file"
    return rows, f"file: {rows} rows in the alphabet of {alphabet.name}; header, ids and order as in {against}"


def _without_sample(path: Path, allow_empty: bool) -> tuple[int, str]:
    """Check what can be checked of a file alone."""
    rows = read_submission(path)
    for line, (row, string) in enumerate(rows, start=2):
        if not string and not allow_empty:
            raise InputError(f"{path}, line {line}: row {row} is empty; give --allow-empty if it is meant so")
    alphabet = _alphabet(path, rows)
    return len(rows), (
        f"file: {len(rows)} rows in the alphabet of {alphabet.name}; header, number and order of rows NOT checked: "
        f"give --data DIR to compare them with the sample"
    )


def _alphabet(path: Path, rows: Sequence[tuple[str, str]]) -> Alphabet:
    """The first known alphabet, newest semester first, that has every character of the file."""
    used = {character for _, string in rows for character in string}
    for alphabet in _ALPHABETS:
        if used <= set(alphabet.characters):
            return alphabet
    newest = _ALPHABETS[0]
    line, (row, string) = next(
        (line, each) for line, each in enumerate(rows, start=2) if set(each[1]) - set(newest.characters)
    )
    raise InputError(
        f"{path}, line {line}: row {row} has a character no known alphabet has beside the file's others: "
        f"{string!r}; expected, for example, only {''.join(newest.characters)} ({newest.name})"
    )


def _figures(path: Path, sha256: str) -> tuple[dict[str, Any], str]:
    """What the blend left beside the file, `<file>.json`, and the line to tell of it."""
    sidecar = path.with_name(path.name + ".json")
    try:
        blend = json.loads(sidecar.read_bytes())
    except FileNotFoundError:
        return {}, f"blend: no {sidecar.name} beside the file, so its recipe and figures are not known"
    except (OSError, ValueError) as error:
        return {}, f"blend: {sidecar.name} cannot be read ({error}): ignored"
    if not isinstance(blend, dict):
        return {}, f"blend: {sidecar.name} holds no figures: ignored"
    if blend.get("sha256") != sha256:
        return {}, f"blend: {sidecar.name} belongs to another version of the file: ignored"
    blend = {name: blend[name] for name in _KEPT if blend.get(name) is not None}
    told = [method] if (method := method_of(blend)) else []
    told += [f"{name} {blend[name]:.3f}" for name in ("oof", "nested", "dev") if isinstance(blend.get(name), float)]
    if isinstance(blend.get("parameters"), int):
        told.append(f"{blend['parameters']:,} parameters")
    if "tags" in blend:
        told.append(f"tags {', '.join(map(str, blend['tags'])) or 'none'}")
    return blend, f"blend: {'; '.join(told) or 'no figures'}"


def method_of(blend: dict[str, Any]) -> str:
    """The blend's recipe in a few words; empty where there is none."""
    recipe = blend.get("recipe") or ""
    if not isinstance(recipe, dict):
        return str(recipe)
    weights = recipe.get("weights") or {}
    return f"{recipe.get('method', 'blend')}" + (f" of {len(weights)} members" if weights else "")


def _check_rules(path: Path, blend: dict[str, Any], max_params: int | None, forbid: Sequence[str]) -> None:
    """`InputError` when the blend's figures break the competition's rules, or there are none to tell by."""
    needed = [name for name, asked in (("parameters", max_params is not None), ("tags", bool(forbid))) if asked]
    if lacking := [name for name in needed if name not in blend]:
        raise InputError(
            f"{path}: no {' and '.join(lacking)} of a blend beside it, so the rules cannot be checked; "
            f"write it again with `python -m ensemble.blend`"
        )
    if max_params is not None and blend["parameters"] > max_params:
        raise InputError(
            f"{path}: the blend has {blend['parameters']:,} parameters; the rules allow {max_params:,}; "
            f"blend again with --max-params {max_params}"
        )
    if forbid and (found := sorted(set(blend["tags"]) & set(forbid))):
        raise InputError(
            f"{path}: the blend uses {', '.join(found)}, which the rules forbid; blend again with "
            f"--forbid {' '.join(forbid)}"
        )
