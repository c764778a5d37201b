"""Measurements made by a blend, stored next to its submission in `<out>.measured.json` so that a report can reuse them.

Measuring members takes minutes, since their search settings are fitted. The file records which predictions and options
it was made from; if they have changed, a report measures again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from ensemble.blenders.base import BlendRecipe
from ensemble.hypotheses.open_inputs import InputOptions, OpenedInputs
from ensemble.statistics.member_baselines import MemberBaseline
from folds.competition.alphabets import Alphabet
from folds.store.run_folder import SPLITS
from registry.json_files import read_json, write_json

VERSION = 1
"""Incremented whenever the same predictions and options give other figures."""


class MeasuredMember(Struct, frozen=True):
    """A `MemberBaseline`; hypotheses are in the characters of the submission."""

    name: str
    settings: dict[str, float]
    hypotheses: tuple[str, ...]
    oof: tuple[float, ...]
    dev: tuple[float, ...]
    dev_mean: tuple[float, ...]
    dev_lm: tuple[float, ...]
    refit: tuple[float, ...] | None = None
    refit_lm: tuple[float, ...] | None = None


class MeasuredBlender(Struct, frozen=True):
    """A blender that was compared: mean distances out of fold, and each utterance's distance on dev."""

    oof: float
    nested: float
    dev: tuple[float, ...]


class Measured(Struct, frozen=True):
    """The whole file."""

    inputs: str
    """The fingerprint of predictions and options."""
    sha256: str
    """The hash of the submission."""
    members: tuple[MeasuredMember, ...]
    blenders: dict[str, MeasuredBlender]
    chosen: str
    hypotheses: tuple[str, ...]
    """The chosen blender's hypotheses for dev."""

    def baselines(self, alphabet: Alphabet) -> list[MemberBaseline]:
        """The members' baselines."""
        return [_baseline(member, alphabet) for member in self.members]

    def dev(self, alphabet: Alphabet) -> list[list[int]]:
        """The blend's hypotheses for dev."""
        return [list(alphabet.from_string(text)) for text in self.hypotheses]


def measured_path(submission: Path) -> Path:
    """The file next to a submission."""
    return Path(f"{submission}.measured.json")


def fingerprint(inputs: OpenedInputs, data: str) -> str:
    """16 hexadecimal digits that identify what figures depend on: data hash, options, rules, prediction files."""
    options = {field.name: getattr(inputs.options, field.name) for field in dataclasses.fields(InputOptions)}
    files = [network.folder.predictions(split) for m in inputs.members for network in m.networks for split in SPLITS]
    states = [(*path.parts[-3:], path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()]
    content = json.dumps([VERSION, data, options, dataclasses.astuple(inputs.rules), states])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_measured(
    submission: Path,
    inputs: str,
    alphabet: Alphabet,
    baselines: Sequence[MemberBaseline],
    blenders: Mapping[str, MeasuredBlender],
    chosen: str,
    dev: Sequence[Sequence[int]],
) -> None:
    """Write the file of a submission, which must exist; `inputs` is a `fingerprint`, `dev` the blend's hypotheses."""
    sha256 = hashlib.sha256(submission.read_bytes()).hexdigest()
    members = tuple(_member(baseline, alphabet) for baseline in baselines)
    hypotheses = tuple(map(alphabet.to_string, dev))
    content = Measured(inputs, sha256, members, dict(blenders), chosen, hypotheses)
    write_json(measured_path(submission), msgspec.to_builtins(content))


def read_measured(submission: Path, inputs: str, sha256: str) -> Measured | None:
    """The measurements for these inputs and the submission with this hash; None if missing or made for others.

    Raises InputError for a damaged file.
    """
    path = measured_path(submission)
    if not path.exists():
        return None
    measured = read_json(path, Measured, "delete it: it can be measured again")
    return measured if (measured.inputs, measured.sha256) == (inputs, sha256) else None


def _member(baseline: MemberBaseline, alphabet: Alphabet) -> MeasuredMember:
    return MeasuredMember(
        name=baseline.name,
        settings=dict(baseline.recipe.settings),
        hypotheses=tuple(map(alphabet.to_string, baseline.hypotheses)),
        oof=_numbers(baseline.oof),
        dev=_numbers(baseline.dev),
        dev_mean=_numbers(baseline.dev_mean),
        dev_lm=_numbers(baseline.dev_lm),
        refit=None if baseline.refit is None else _numbers(baseline.refit),
        refit_lm=None if baseline.refit_lm is None else _numbers(baseline.refit_lm),
    )


def _numbers(distances: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, distances))


def _baseline(member: MeasuredMember, alphabet: Alphabet) -> MemberBaseline:
    return MemberBaseline(
        name=member.name,
        oof=np.array(member.oof),
        dev=np.array(member.dev),
        dev_mean=np.array(member.dev_mean),
        dev_lm=np.array(member.dev_lm),
        recipe=BlendRecipe("single", {member.name: 1.0}, dict(member.settings)),
        hypotheses=[list(alphabet.from_string(text)) for text in member.hypotheses],
        refit=None if member.refit is None else np.array(member.refit),
        refit_lm=None if member.refit_lm is None else np.array(member.refit_lm),
    )
