"""`python -m ensemble.decode`: decode members' stored log-probabilities, tell distance and speed; tune with --tune.

A language model is made of training transcripts, and for out-of-fold utterances of those outside the utterance's fold,
or it is read from an ARPA file. With --out it writes one member's submission; `ensemble.blend` writes that of several.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from ensemble.decoding.batched import Decoded, DecodingTask, decode_in_batches
from ensemble.decoding.decoders import Decoder, decoder
from ensemble.fitting.settings import tune
from ensemble.lm.arpa import read_arpa, write_arpa
from ensemble.lm.ngram import PhoneLM, estimate, estimate_folds
from ensemble.members.member import Member, group_by_member, oof_folds
from ensemble.members.predictions import mean_predictions, oof_predictions
from folds.competition.detect import data_root
from folds.competition.submission import write_submission
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset
from folds.store.fold_model import find_fold_models
from registry.errors import InputError, check_place, command


@dataclass(frozen=True)
class DecodeOptions:
    """Decode members of the store."""

    data: Path | None = None
    """The competition's folder; else $HW3P2_DATA, else the demo's."""
    runs: Path = Path("runs")
    """Folder of trained members."""
    members: tuple[str, ...] = ("*",)
    """Globs over members' names; each is decoded on its own."""
    split: Literal["oof", "dev", "test"] = "dev"
    """Which utterances; a member's fold models are averaged on dev and test."""
    decoder: str = "beam"
    """A registered decoder: greedy, beam, or an installed peer."""
    beam: int = 50
    """Prefixes kept at each frame."""
    nbest: int = 1
    """Hypotheses for each utterance; the distance of the best of them is printed too."""
    lm: str = "none"
    """`train`: a phone language model of the training transcripts; `none`; or an ARPA file, as it is for any fold."""
    lm_order: int = 4
    """Order of the model that `--lm train` makes."""
    lm_weight: float = 0.3
    """Weight of the language model, and where --tune begins."""
    length_bonus: float = 0.0
    """What each label adds to a score, and where --tune begins."""
    tune: bool = False
    """Find weight and bonus by out-of-fold distance first, then decode the split with them."""
    limit: int | None = None
    """Decode only so many utterances, drawn by a fixed seed."""
    out: Path | None = None
    """Write the best hypotheses here as a submission; for one member and --split test."""
    arpa: Path | None = None
    """Write the language model of all training transcripts here, for KenLM and others."""
    allow_pickle: bool = False
    """Read object arrays of the competition's files (the formats of F20 and F21 need it)."""

    def __post_init__(self) -> None:
        if not 1 <= self.nbest <= self.beam:
            raise InputError(f"--nbest {self.nbest} --beam {self.beam}: expected 1 or more, and nbest at most beam")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: expected 1 or more")
        if self.out is not None and self.limit is not None:
            raise InputError("--out with --limit: a submission holds every utterance; say one of the two")
        if self.out is not None and self.split != "test":
            raise InputError(f"--out with --split {self.split}: a submission holds the test split; say --split test")
        if self.tune and self.lm == "none":
            raise InputError("--tune without a language model: say --lm train, or name an ARPA file")








def open_task(group: Member, split: str, dataset: Dataset, options: DecodeOptions) -> DecodingTask:
    """A member's utterances of one split. The language model of an out-of-fold utterance never saw its fold."""
    alphabet = dataset.alphabet.hash
    if split == "oof":
        fold_of = oof_folds(group)
        if not fold_of:
            raise InputError(
                f"member {group.name}: was fitted on everything and has nothing out of fold: tune a member with folds "
                "of the same model, and give its --lm-weight and --length-bonus here"
            )
        ids = [name for name in dataset.train.ids if name in fold_of]
        if len(ids) < len(fold_of):
            raise InputError(f"member {group.name}: was trained on other data; leave it out with --members")
    else:
        ids = list((dataset.dev if split == "dev" else dataset.test).ids)
    if options.limit is not None and options.limit < len(ids):
        drawn = np.random.default_rng(0).choice(len(ids), options.limit, replace=False)
        ids = [ids[i] for i in np.sort(drawn)]
    if split == "oof":
        parts = np.array([fold_of[name] for name in ids], np.int64)
        row_of = {name: row for row, name in enumerate(dataset.train.ids)}
        references = [dataset.train.labels(row_of[name]).tolist() for name in ids]
        folds = np.array([fold_of.get(name, -1) for name in dataset.train.ids])
        stream = oof_predictions(group, 0, ids, alphabet)
        log_probs = stream.load()
    else:
        source = dataset.dev if split == "dev" else dataset.test
        parts, folds = np.zeros(len(ids), np.int64), None
        row_of = {name: row for row, name in enumerate(source.ids)}
        references = None if source.tokens is None else [source.labels(row_of[name]).tolist() for name in ids]
        log_probs = mean_predictions(group, 0, split, source.ids, alphabet).load().select(ids)
    return DecodingTask(log_probs, references, parts, language_models(dataset, options, parts, folds))


def language_models(
    dataset: Dataset, options: DecodeOptions, parts: np.ndarray, folds: np.ndarray | None
) -> Mapping[int, PhoneLM | None]:
    """One language model for each part; `folds (N,)` of the training utterances tells which to leave out of each."""
    if options.lm == "none":
        return dict.fromkeys(map(int, np.unique(parts)))
    if options.lm != "train":
        return dict.fromkeys(map(int, np.unique(parts)), read_arpa(options.lm, dataset.alphabet.phonemes))
    transcripts = [dataset.train.labels(row) for row in range(len(dataset.train))]
    if folds is None:
        return {0: estimate(transcripts, dataset.alphabet.classes, options.lm_order)}
    return estimate_folds(transcripts, folds, dataset.alphabet.classes, options.lm_order)




def report(group: Member, task: DecodingTask, decoded: Decoded, nbest: int) -> str:
    """One line: distance, distance of the best of the N-best, utterances per second."""
    count = len(task.log_probs)
    line = f"{group.name}: {count} utterances"
    if task.references is not None:
        line += f", distance {decoded.distances(task.references).mean():.3f}"
        if nbest > 1:
            line += f", best of {nbest} {decoded.oracle(task.references).mean():.3f}"
    return line + f", {count / decoded.wall:.0f} utterances/s, {count / decoded.cpu:.0f} utterances/CPU-s"


def main() -> None:
    """The command."""
    options = tyro.cli(DecodeOptions, prog="python -m ensemble.decode", description=__doc__)
    search = decoder(options.decoder)
    groups = group_by_member(find_fold_models(options.runs), options.members)
    if options.out is not None and len(groups) > 1:
        names = ", ".join(group.name for group in groups)
        raise InputError(f"--out with {len(groups)} members ({names}): choose one with --members, or blend them")
    for path in filter(None, (options.out, options.arpa)):
        check_place(path)
    dataset = load_dataset(data_root(options.data), allow_pickle=options.allow_pickle)
    if options.arpa is not None:
        transcripts = [dataset.train.labels(row) for row in range(len(dataset.train))]
        model = estimate(transcripts, dataset.alphabet.classes, options.lm_order)
        write_arpa(options.arpa, model, dataset.alphabet.phonemes)
        print(f"wrote {options.arpa}")
    for group in groups:
        weight, bonus = options.lm_weight if options.lm != "none" else 0.0, options.length_bonus
        if options.tune:
            weight, bonus = tune_group(group, dataset, options, search)
        task = open_task(group, options.split, dataset, options)
        settings = {"beam": options.beam, "nbest": options.nbest, "lm_weight": weight, "length_bonus": bonus}
        # The first call loads compiled code, which is no part of the speed.
        search(*task.log_probs.padded([0]), beam=options.beam)
        decoded = decode_in_batches(task, search, group.name, **settings)
        print(report(group, task, decoded, options.nbest))
        if options.out is not None:
            strings = [dataset.alphabet.to_string(found[0].tokens) for found in decoded.hypotheses]
            write_submission(options.out, dataset, strings)
            print(f"wrote {options.out} ({len(strings)} rows)")


def tune_group(group: Member, dataset: Dataset, options: DecodeOptions, search: Decoder) -> tuple[float, float]:
    """Weight and bonus by the member's out-of-fold distance, and the options that repeat them."""
    task = open_task(group, "oof", dataset, options)

    def loss(weight: float, bonus: float) -> float:
        settings = {"beam": options.beam, "nbest": 1, "lm_weight": weight, "length_bonus": bonus}
        value = float(
            decode_in_batches(task, search, f"weight {weight:g} bonus {bonus:g}", **settings)
            .distances(task.references)
            .mean()
        )
        print(f"  weight {weight:.3f} bonus {bonus:+.3f}: out-of-fold distance {value:.3f}", file=sys.stderr)
        return value

    weight, bonus = tune(loss, options.lm_weight, options.length_bonus)
    found = f"--lm-weight {weight:g} --length-bonus {bonus:g}"
    print(f"{group.name}: tuned on {len(task.log_probs)} out-of-fold utterances: {found}")
    return weight, bonus


if __name__ == "__main__":
    command(main)
