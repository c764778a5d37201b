"""`python -m ensemble.decode`: decode members' stored log-probabilities; report edit distance and speed.

`--lm train` estimates a phone language model from the training transcripts, and for out-of-fold utterances from those
outside the utterance's fold. `--tune` finds its weight and the length bonus by out-of-fold distance. With `--out`, one
member's hypotheses are written as a submission; `ensemble.blend` writes a submission of several members.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from ensemble.decoding.batched import DecodingResult, DecodingTask, decode_in_batches, sample_rows
from ensemble.decoding.decoders import Decoder, DecoderSettings, decoder
from ensemble.fitting.settings import pattern_search
from ensemble.lm.arpa import read_arpa, write_arpa
from ensemble.lm.ngram import PhoneLM, estimate, estimate_folds
from ensemble.members.member import Member, group_by_member
from ensemble.members.out_of_fold import oof_folds
from ensemble.members.predictions import mean_predictions, oof_predictions
from folds.competition.submission import write_submission
from folds.data.data_options import StoreOptions
from folds.data.dataset import Dataset
from folds.store.fold_model import find_fold_models
from registry.errors import InputError, check_place, command


@dataclass(frozen=True)
class DecodeOptions(StoreOptions):
    """Decode members of the store."""

    members: tuple[str, ...] = ("*",)
    """Members to decode, each on its own: globs over their names."""
    split: Literal["oof", "dev", "test"] = "dev"
    """Utterances to decode. On dev and test, the posteriors of a member's fold models are averaged."""
    decoder: str = "beam"
    """A registered decoder: greedy, beam, or an installed third-party one (ctcdecode, flashlight, fast_ctc_decode)."""
    beam: int = 50
    """Prefixes kept after each frame."""
    nbest: int = 1
    """Hypotheses per utterance; with more than one, the distance of the best of them (the oracle) is reported too."""
    lm: str = "none"
    """`none`; `train`, a phone language model of the training transcripts; or an ARPA file, the same for all folds."""
    lm_order: int = 4
    """Order of the model that `--lm train` estimates."""
    lm_weight: float = 0.3
    """Weight of the language model; with `--tune`, the start of the search."""
    length_bonus: float = 0.0
    """Added to a hypothesis's score per label; with `--tune`, the start of the search."""
    tune: bool = False
    """Find the weight and the bonus with the lowest out-of-fold distance first, then decode the split with them."""
    limit: int | None = None
    """Decode only this many utterances, drawn with a fixed seed."""
    out: Path | None = None
    """Write the best hypotheses to this file as a submission; for one member and `--split test`."""
    arpa: Path | None = None
    """Write the language model of all training transcripts to this file, in the format of KenLM and SRILM."""

    def __post_init__(self) -> None:
        if not 1 <= self.nbest <= self.beam:
            raise InputError(f"--nbest {self.nbest} --beam {self.beam}: expected 1 or more, and nbest at most beam")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: expected 1 or more")
        if self.out is not None and self.limit is not None:
            raise InputError("--out with --limit: a submission needs every utterance; pass only one of the two")
        if self.out is not None and self.split != "test":
            raise InputError(f"--out with --split {self.split}: a submission needs the test split; use --split test")
        if self.tune and self.lm == "none":
            raise InputError("--tune without a language model: use --lm train, or pass an ARPA file")


def open_task(member: Member, split: str, dataset: Dataset, options: DecodeOptions) -> DecodingTask:
    """The member's predictions of one split, with references and language models.

    The language model of an out-of-fold utterance is estimated without the utterances of its fold.
    """
    return _open_oof(member, dataset, options) if split == "oof" else _open_split(member, split, dataset, options)


def _open_oof(member: Member, dataset: Dataset, options: DecodeOptions) -> DecodingTask:
    fold_of = oof_folds(member)
    if not fold_of:
        raise InputError(
            f"member {member.name}: was trained on all utterances, so none is out of fold: tune a member with folds of "
            "the same model, and pass its --lm-weight and --length-bonus here"
        )
    train = dataset.train
    rows = np.array([row for row, name in enumerate(train.ids) if name in fold_of], np.int64)
    if len(rows) < len(fold_of):
        raise InputError(f"member {member.name}: was trained on other data; leave it out with --members")
    rows = sample_rows(rows, options.limit)
    ids = [train.ids[row] for row in rows]
    parts = np.array([fold_of[name] for name in ids], np.int64)
    return DecodingTask(
        log_probs=oof_predictions(member, 0, ids, dataset.alphabet.hash).load(),
        references=[train.labels(row).tolist() for row in rows],
        parts=parts,
        languages=language_models(dataset, options, parts, np.array([fold_of.get(name, -1) for name in train.ids])),
    )


def _open_split(member: Member, split: str, dataset: Dataset, options: DecodeOptions) -> DecodingTask:
    source = dataset.dev if split == "dev" else dataset.test
    rows = sample_rows(np.arange(len(source)), options.limit)
    parts = np.zeros(len(rows), np.int64)
    return DecodingTask(
        log_probs=mean_predictions(member, 0, split, source.ids, dataset.alphabet.hash).load().take(rows),
        references=None if source.tokens is None else [source.labels(row).tolist() for row in rows],
        parts=parts,
        languages=language_models(dataset, options, parts, None),
    )


def language_models(
    dataset: Dataset, options: DecodeOptions, parts: np.ndarray, folds: np.ndarray | None
) -> Mapping[int, PhoneLM | None]:
    """The language model of each part in `parts` `(N,)`, or None for `--lm none`.

    `folds` `(N,)` are the folds of the training utterances: the model of part k is estimated without fold k. Without
    `folds` there is one part, and its model is estimated from all training utterances.
    """
    if options.lm == "none":
        return dict.fromkeys(np.unique(parts).tolist())
    if options.lm != "train":
        return dict.fromkeys(np.unique(parts).tolist(), read_arpa(options.lm, dataset.alphabet.phonemes))
    if folds is None:
        return {0: estimate(_transcripts(dataset), dataset.alphabet.classes, options.lm_order)}
    return estimate_folds(_transcripts(dataset), folds, dataset.alphabet.classes, options.lm_order)


def _transcripts(dataset: Dataset) -> list[np.ndarray]:
    return [dataset.train.labels(row) for row in range(len(dataset.train))]


def tune_member(member: Member, dataset: Dataset, options: DecodeOptions, decode: Decoder) -> tuple[float, float]:
    """The language model weight and length bonus with the lowest out-of-fold distance; prints them as options."""
    task = open_task(member, "oof", dataset, options)
    references = task.references
    assert references is not None  # training utterances have transcripts

    def distance(weight: float, bonus: float) -> float:
        description = f"weight {weight:g} bonus {bonus:g}"
        settings: DecoderSettings = {"beam": options.beam, "lm_weight": weight, "length_bonus": bonus}
        mean = float(decode_in_batches(task, decode, description, **settings).distances(references).mean())
        print(f"  weight {weight:.3f} bonus {bonus:+.3f}: out-of-fold distance {mean:.3f}", file=sys.stderr)
        return mean

    weight, bonus = pattern_search(distance, options.lm_weight, options.length_bonus)
    tuned = f"--lm-weight {weight:g} --length-bonus {bonus:g}"
    print(f"{member.name}: tuned on {len(task.log_probs)} out-of-fold utterances: {tuned}")
    return weight, bonus


def summary(member: Member, task: DecodingTask, result: DecodingResult, nbest: int) -> str:
    """One line: distance, oracle distance of the N-best, utterances per second."""
    count = len(task.log_probs)
    line = f"{member.name}: {count} utterances"
    if task.references is not None:
        line += f", distance {result.distances(task.references).mean():.3f}"
        if nbest > 1:
            line += f", oracle of the {nbest}-best {result.oracle_distances(task.references).mean():.3f}"
    return line + f", {count / result.wall:.0f} utterances/s, {count / result.cpu:.0f} utterances/CPU-s"


def decode_member(member: Member, dataset: Dataset, options: DecodeOptions, decode: Decoder) -> DecodingResult:
    """Decode one split of a member, with tuned settings where `--tune` is given, and print the summary."""
    weight, bonus = options.lm_weight if options.lm != "none" else 0.0, options.length_bonus
    if options.tune:
        weight, bonus = tune_member(member, dataset, options, decode)
    task = open_task(member, options.split, dataset, options)
    # The first call loads compiled code, which is not part of the speed.
    decode(*task.log_probs.padded([0]), beam=options.beam)
    settings: DecoderSettings = {
        "beam": options.beam,
        "nbest": options.nbest,
        "lm_weight": weight,
        "length_bonus": bonus,
    }
    result = decode_in_batches(task, decode, member.name, **settings)
    print(summary(member, task, result, options.nbest))
    return result


def main() -> None:
    """The command."""
    options = tyro.cli(DecodeOptions, prog="python -m ensemble.decode", description=__doc__)
    decode = decoder(options.decoder)
    members = group_by_member(find_fold_models(options.runs), options.members)
    if options.out is not None and len(members) > 1:
        names = ", ".join(member.name for member in members)
        raise InputError(f"--out with {len(members)} members ({names}): choose one with --members, or blend them")
    for path in filter(None, (options.out, options.arpa)):
        check_place(path)
    dataset = options.open_dataset()
    if options.arpa is not None:
        lm = estimate(_transcripts(dataset), dataset.alphabet.classes, options.lm_order)
        write_arpa(options.arpa, lm, dataset.alphabet.phonemes)
        print(f"wrote {options.arpa}")
    for member in members:
        result = decode_member(member, dataset, options, decode)
        if options.out is not None:
            strings = [dataset.alphabet.to_string(nbest[0].tokens) for nbest in result.hypotheses]
            write_submission(options.out, dataset.header, dataset.sample_ids, strings)
            print(f"wrote {options.out} ({len(strings)} rows)")


if __name__ == "__main__":
    command(main)
