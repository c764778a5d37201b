"""`python -m ensemble.decode`: decode members' stored log-probabilities, and report edit distance and speed.

`--lm train` estimates a phone language model from the training transcripts. Each out-of-fold utterance is decoded with
a model estimated without its fold, so that the model has not seen the utterance's transcript. `--tune` finds the
language-model weight and the length bonus with the lowest out-of-fold distance; for a refit, those of its fold models.
With `--out`, one member's hypotheses are written as a submission, with `<out>.json` next to it; `ensemble.blend` writes
a submission from several members.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ensemble.blenders.base import BlendRecipe
from ensemble.decoding.batched import DecodingResult, DecodingTask, decode_in_batches
from ensemble.decoding.decoders import DECODERS, Decoder, DecoderSettings, get_decoder
from ensemble.decoding.language_models import transcripts_of
from ensemble.fitting.settings import pattern_search
from ensemble.hypotheses.open_inputs import InputOptions
from ensemble.lm.arpa import write_arpa
from ensemble.lm.ngram import MAX_ORDER, estimate
from ensemble.members.decoding_task import open_decoding_task
from ensemble.members.member import Member, group_by_member, measurable_on
from ensemble.members.refits import recipe_difference
from ensemble.members.sidecar import write_with_sidecar
from ensemble.members.stores import StoresOptions
from ensemble.words.decode import decode_to_words, fit_settings
from ensemble.words.files import WordOptions
from ensemble.words.search import WordSettings
from folds.competition.detect import data_root
from folds.data.dataset import Dataset
from folds.store.fold_model import FoldModel
from registry.bounds import MAX_UTTERANCES, number
from registry.command_line import parse_options
from registry.errors import InputError, command
from registry.files import check_writable


@dataclass(frozen=True)
class DecodeOptions(WordOptions, StoresOptions):
    """Decode members in the runs folders."""

    members: tuple[str, ...] = ("*",)
    """Members to decode, each separately: globs over their names."""
    split: Literal["oof", "dev", "test"] = "dev"
    """Split to decode. On dev and test, the posteriors of a member's fold models are averaged."""
    decoder: str = "beam"
    """A registered decoder: greedy, beam, a plug-in's, or, if installed, ctcdecode, flashlight or fast_ctc_decode."""
    beam: int | None = number(None, at_least=1, at_most=10_000, scale="log")
    """Number of prefixes kept after each frame; by default 50 for phonemes, and 100 for words, as in a blend."""
    nbest: int = number(1, at_least=1, at_most=10_000, scale="log")
    """Number of hypotheses per utterance; if above 1, the oracle distance (of the best of them) is reported too."""
    lm: str = "none"
    """`none`; `train`, a phone language model of the training transcripts; or an ARPA file, used for all folds. If
    out-of-fold utterances are decoded (`--tune`, `--split oof`), it must not come from the training transcripts."""
    lm_order: int = number(InputOptions.lm_order, at_least=1, at_most=MAX_ORDER)
    """Order of the model estimated by `--lm train`: the length of its longest n-grams."""
    lm_weight: float = number(0.3, at_least=-100, at_most=100)
    """Weight of the language model; with `--tune`, the initial value of the search."""
    length_bonus: float = number(0.0, at_least=-100, at_most=100)
    """Added to a hypothesis's score per label; with `--tune`, the initial value of the search."""
    tune: bool = False
    """First find the weight and the bonus with the lowest out-of-fold distance, then decode the split with them."""
    limit: int | None = number(None, at_least=1, at_most=MAX_UTTERANCES, scale="log")
    """Decode only this many utterances, sampled with a fixed seed."""
    out: Path | None = None
    """Write the best hypotheses to this file as a submission; for one member and `--split test`."""
    arpa: Path | None = None
    """Write the language model of all training transcripts to this file, in the format of KenLM and SRILM."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nbest > self.phoneme_beam:
            raise InputError(f"--nbest {self.nbest}: expected 1 to --beam ({self.phoneme_beam})")
        if self.out is not None and self.limit is not None:
            raise InputError("--out with --limit: a submission needs every utterance; pass only one of the two")
        if self.out is not None and self.split != "test":
            raise InputError(f"--out with --split {self.split}: a submission needs the test split; use --split test")
        if self.tune and self.lm == "none":
            why = "--tune without a language model: use --lm train, or pass --lm FILE.arpa"
            raise InputError(f"{why}; leave it out where words are decoded")

    @property
    def phoneme_beam(self) -> int:
        """Number of prefixes kept in a search for phonemes."""
        return self.beam or 50

    def check_for_phonemes(self) -> None:
        """Raise InputError for options meant for words, and for language-model options without a language model."""
        self.check_unused()
        if self.lm == "none" and self.lm_weight != DecodeOptions.lm_weight:
            raise InputError(f"--lm-weight {self.lm_weight:g} without a language model: pass --lm train as well")
        if self.lm != "train" and self.arpa is None and self.lm_order != DecodeOptions.lm_order:
            raise InputError(f"--lm-order {self.lm_order} is for --lm train and --arpa: pass one of them")

    def check_for_words(self) -> None:
        """Raise InputError for options that a search in words does not have."""
        if (self.lm_weight, self.length_bonus) != (DecodeOptions.lm_weight, DecodeOptions.length_bonus):
            raise InputError(
                "--lm-weight and --length-bonus are for phonemes, and this competition is decoded to words, for which "
                "the weight and the bonus are fitted out of fold: leave them out"
            )
        plain = (self.lm, self.nbest, self.decoder, self.arpa, self.lm_order)
        if plain != ("none", 1, "beam", None, DecodeOptions.lm_order):
            raise InputError(
                "--lm, --lm-order, --tune, --nbest, --arpa and --decoder are for phonemes, and this competition is "
                "decoded to words: leave them out (--lexicon and --word-lm name the files for words)"
            )


def open_task(member: Member, split: str, dataset: Dataset, options: DecodeOptions) -> DecodingTask:
    """One split of a member, with the language models and the limit given by the options."""
    return open_decoding_task(member, split, dataset, options.lm, options.lm_order, options.limit)


def tune_member(
    member: Member, dataset: Dataset, options: DecodeOptions, decode: Decoder
) -> tuple[float, float, float]:
    """The language model weight and length bonus with the lowest out-of-fold distance, and this distance.

    Prints the first two as options.
    """
    task = open_task(member, "oof", dataset, options)
    references = task.references
    assert references is not None  # training utterances have transcripts
    distances: dict[tuple[float, float], float] = {}

    def distance(weight: float, bonus: float) -> float:
        description = f"weight {weight:g} bonus {bonus:g}"
        settings: DecoderSettings = {"beam": options.phoneme_beam, "lm_weight": weight, "length_bonus": bonus}
        mean = float(decode_in_batches(task, decode, description, **settings).distances(references).mean())
        print(f"  weight {weight:.3f} bonus {bonus:+.3f}: out-of-fold distance {mean:.3f}", file=sys.stderr)
        distances[weight, bonus] = mean
        return mean

    weight, bonus = pattern_search(distance, options.lm_weight, options.length_bonus)
    tuned = f"--lm-weight {weight:g} --length-bonus {bonus:g}"
    print(f"{member.name}: tuned on {len(task.log_probs)} out-of-fold utterances: {tuned}")
    return weight, bonus, distances[weight, bonus]


def format_summary(member: Member, task: DecodingTask, result: DecodingResult, nbest: int, fitted: bool) -> str:
    """One line with the distance, the oracle distance of the N-best, and the speed.

    `fitted` says whether the settings were fitted on these utterances, so that the distance is slightly too low.
    """
    count = len(task.log_probs)
    line = f"{member.name}: {count} utterances"
    if task.references is not None:
        line += f", distance {result.distances(task.references).mean():.3f}"
        if fitted:
            line += " (weight and bonus were tuned on these utterances)"
        if nbest > 1:
            line += f", oracle of the {nbest}-best {result.oracle_distances(task.references).mean():.3f}"
    # Clock resolution is too coarse for a few utterances.
    wall, cpu = max(result.wall, 1e-6), max(result.cpu, 1e-6)
    return line + f", {count / wall:.0f} utterances/s, {count / cpu:.0f} utterances/CPU-s"


def member_to_tune(member: Member, fold_models: Sequence[FoldModel]) -> Member:
    """The member itself or, for a refit, the member of its fold models, if they exist.

    Raises InputError if these were trained differently.
    """
    network = member.fold_models[0]
    held_out = [model for model in fold_models if model.folds > 1 and model.name == network.folder.refit_of]
    if network.folds > 1 or not held_out:
        return member
    (folds,) = group_by_member(held_out)
    if difference := recipe_difference(network, folds.fold_models):
        raise InputError(
            f"--tune: {member.name} was not trained like the fold models of {folds.name}: {difference}; pass "
            "--lm-weight and --length-bonus instead"
        )
    return folds


def decode_member(
    member: Member, tuned_on: Member, dataset: Dataset, options: DecodeOptions, decode: Decoder
) -> tuple[DecodingResult, DecoderSettings, dict[str, float]]:
    """Decode one split of a member, with settings tuned on `tuned_on` if `--tune` is given, and print the summary.

    Returns the hypotheses, the decoder's settings, and the out-of-fold distance with them if they were tuned.
    """
    weight, bonus = options.lm_weight if options.lm != "none" else 0.0, options.length_bonus
    results: dict[str, float] = {}
    if options.tune:
        weight, bonus, results["oof"] = tune_member(tuned_on, dataset, options, decode)
    task = open_task(member, options.split, dataset, options)
    # The first call loads compiled code, which must not count for the speed.
    decode(*task.log_probs.padded([0]), beam=options.phoneme_beam)
    beam = options.phoneme_beam
    settings: DecoderSettings = {"beam": beam, "nbest": options.nbest, "lm_weight": weight, "length_bonus": bonus}
    result = decode_in_batches(task, decode, member.name, **settings)
    fitted = options.tune and options.split == "oof"
    print(format_summary(member, task, result, options.nbest, fitted))
    return result, settings, results


def decode_words(
    members: Sequence[Member], available: Sequence[FoldModel], dataset: Dataset, options: DecodeOptions
) -> None:
    """Decode members of a competition in words, with the settings of the search fitted out of fold."""
    options.check_for_words()
    vocabulary = options.open_vocabulary(dataset, data_root(options.data))
    beam = options.beam or WordSettings().beam
    split = dataset.split(options.split)
    for member in members:
        fitted_on = member_to_tune(member, available)
        trials = None
        if fitted_on.fold_count > 1:
            task = open_task(fitted_on, "oof", dataset, replace(options, limit=None))
            trials = fit_settings(task, member.name, dataset, vocabulary, beam)
        task = open_task(member, options.split, dataset, options)
        texts, settings = decode_to_words(task, member, split, vocabulary, trials, beam)
        if options.out is not None:
            recipe = BlendRecipe("decode", {member.name: 1.0}, {"decoder": "words", **settings._asdict()})
            write_with_sidecar(options.out, texts, dataset, member, recipe.to_json(), options)


def main() -> None:
    """Run the command."""
    options = parse_options(DecodeOptions, "python -m ensemble.decode", description=__doc__)
    decode = get_decoder(options.decoder)
    options.use_threads()
    available = options.find_fold_models()
    fold_models, notes = measurable_on(options.split, available, options.members)
    members = group_by_member(fold_models, options.members)
    for note in (*notes, *options.unfinished_notes({member.name for member in members})):
        print(note, file=sys.stderr)
    if options.out is not None and len(members) > 1:
        names = ", ".join(member.name for member in members)
        raise InputError(f"--out with {len(members)} members ({names}): choose one with --members, or blend them")
    for path in filter(None, (options.out, options.arpa)):
        check_writable(path)
    dataset = options.open_dataset()
    if dataset.in_words:
        decode_words(members, available, dataset, options)
        return
    options.check_for_phonemes()
    if options.arpa is not None:
        lm = estimate(transcripts_of(dataset.train), dataset.alphabet.classes, options.lm_order)
        write_arpa(options.arpa, lm, dataset.alphabet.phonemes)
        print(f"wrote {options.arpa}")
    for member in members:
        tuned_on = member_to_tune(member, available) if options.tune else member
        with DECODERS.using(options.decoder):
            result, settings, results = decode_member(member, tuned_on, dataset, options, decode)
        if options.out is not None:
            strings = [dataset.competition.submission_text(nbest[0].tokens) for nbest in result.hypotheses]
            language_model = {"decoder": options.decoder, "lm": options.lm, "lm_order": options.lm_order}
            recipe = BlendRecipe("decode", {member.name: 1.0}, language_model | settings)
            write_with_sidecar(options.out, strings, dataset, member, recipe.to_json(), options, results)


if __name__ == "__main__":
    command(main)
