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

from folds import alphabets
from folds.alphabets import Alphabet
from folds.competition import open_competition
from folds.submission import check_submission, read_submission, sample_of
from registry.errors import InputError

_MOST_BYTES = 50 * 2**20
"""No semester's test set comes near it: a larger file is another file."""

_ALPHABETS = [each for each in vars(alphabets).values() if isinstance(each, Alphabet)]


@dataclass(frozen=True)
class Checked:
    """A file found fit, with what the check saw."""

    path: Path
    sha256: str
    size: int
    rows: int
    blend: dict[str, Any] = field(default_factory=dict)
    """The blend's figures, where it left them: recipe, oof, dev, parameters, tags, rules."""
    notes: tuple[str, ...] = ()
    """What was checked against what, one line each, for the user."""


def check(path: Path, data: Path | None = None, allow_empty: bool = False) -> Checked:
    """Check a submission file, against the competition in `data` where given. Raises `InputError`."""
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
    return Checked(path, sha256, len(content), rows, blend, (note, *told))


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


def _figures(path: Path, sha256: str) -> tuple[dict[str, Any], list[str]]:
    """What the blend left beside the file, `<file>.json`, and the lines to tell. `InputError` when a rule is broken."""
    sidecar = path.with_name(path.name + ".json")
    try:
        blend = json.loads(sidecar.read_bytes())
    except FileNotFoundError:
        return {}, [f"blend: no {sidecar.name} beside the file: its recipe and figures are not known"]
    except (OSError, ValueError) as error:
        return {}, [f"blend: {sidecar.name} cannot be read ({error}): ignored"]
    if not isinstance(blend, dict):
        return {}, [f"blend: {sidecar.name} holds no figures: ignored"]
    if blend.get("sha256") != sha256:
        return {}, [f"blend: {sidecar.name} belongs to another version of the file: ignored"]
    del blend["sha256"]
    rules = blend.get("rules") if isinstance(blend.get("rules"), dict) else {}
    parameters, tags = blend.get("parameters"), blend.get("tags") or []
    most, forbidden = rules.get("max_params"), rules.get("forbid") or []
    if isinstance(parameters, int) and isinstance(most, int) and parameters > most:
        raise InputError(f"{path}: the blend has {parameters:,} parameters; the rules it was made under allow {most:,}")
    if broken := sorted(set(tags) & set(forbidden)):
        raise InputError(f"{path}: the blend uses {', '.join(broken)}, which the rules it was made under forbid")
    figures = [f"{name} {blend[name]}" for name in ("recipe", "oof", "dev") if blend.get(name) is not None]
    if isinstance(parameters, int):
        figures.append(f"{parameters:,} parameters" + (f" of {most:,} allowed" if isinstance(most, int) else ""))
    if tags:
        figures.append("tags " + ", ".join(map(str, tags)))
    return blend, ["blend: " + ("; ".join(figures) or "no figures")]
