"""The Brain-to-Text demo: HDF5 files in the competition's format, a lexicon, a word model, and the test answers.

Sentences are clauses of `folds.synthesis.lexicon`'s grammar. The word model is estimated from other sentences of the
same grammar, none of which is in the test set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import h5py
import msgspec
import numpy as np

from folds.competition.formats.brain_to_text import ALPHABET, FILES, FOLDER, BrainToText25, check_words
from folds.competition.metric import word_error_rate, words_of
from folds.competition.submission import check_submission, read_submission, write_submission
from folds.synthesis import lexicon
from folds.synthesis.neural_activity import Participant
from folds.synthesis.word_model import WordModel, write_lexicon
from registry.console import ProgressBar

ANSWERS = "test-answers.csv"
SETTINGS = "brain-to-text-demo.json"
LEXICON = "lexicon.txt"
WORD_MODEL = "words.arpa"
SAMPLE = "sample_submission.csv"
PARTS = frozenset({FOLDER, ANSWERS, SETTINGS, LEXICON, WORD_MODEL, SAMPLE})
# Increase it whenever the same settings give different data, so that an older folder is replaced.
VERSION = 1
SENTENCES_OF_WORD_MODEL = 5000
_PADDED = 500
"""Length of `seq_class_ids` and `transcription`, which are padded with zeros."""
_FIRST_DAY = date(2023, 8, 11)
PRONUNCIATIONS = {
    word.lower(): tuple(phoneme.rstrip("012") for phoneme in phonemes) for word, phonemes in lexicon.LEXICON.items()
}


class BrainSettings(msgspec.Struct):
    """Everything that determines the folder's bytes, and the content of `SETTINGS`."""

    seed: int
    days: int
    sentences: int
    channels: int
    demo: int = VERSION


@dataclass(frozen=True)
class Trial:
    """A sentence that the participant tries to say."""

    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def labels(self) -> list[int]:
        """The sentence's classes; a silence follows each word."""
        phonemes = [phoneme for word in self.words for phoneme in (*PRONUNCIATIONS[word], "|")]
        return ALPHABET.encode(phonemes).tolist()


def counts(settings: BrainSettings) -> dict[str, int]:
    """Number of trials per day in train, dev and test; one sentence in six is for dev, and one for test."""
    held_out = max(1, round(settings.sentences / 6))
    return {"train": max(1, settings.sentences - 2 * held_out), "dev": held_out, "test": held_out}


def contents(settings: BrainSettings) -> str:
    """A description of the demo's contents."""
    train, dev, test = (settings.days * count for count in counts(settings).values())
    return (
        f"{train} train, {dev} dev and {test} test sentences of {settings.days} days; the test set's answers are in "
        f"{ANSWERS}, its lexicon in {LEXICON}, the word model in {WORD_MODEL}"
    )


def draw_trials(settings: BrainSettings) -> list[dict[str, list[Trial]]]:
    """The trials of each split, day by day."""
    rng = np.random.default_rng([settings.seed, VERSION])
    return [
        {split: [_draw_trial(rng) for _ in range(count)] for split, count in counts(settings).items()}
        for _ in range(settings.days)
    ]


def write(root: Path, settings: BrainSettings) -> None:
    """Write the demo into the folder `root`, which does not exist yet."""
    days = draw_trials(settings)
    participant = Participant(ALPHABET.classes, settings.channels, [settings.seed, VERSION])
    with ProgressBar("simulating trials", settings.days * sum(counts(settings).values())) as bar:
        for day, splits in enumerate(days):
            rng = np.random.default_rng([settings.seed, VERSION, day])
            mixing = participant.day(rng)
            session = f"t15.{_FIRST_DAY + timedelta(days=7 * day):%Y.%m.%d}"
            (root / FOLDER / session).mkdir(parents=True)
            for split, trials in splits.items():
                with h5py.File(root / FOLDER / session / FILES[split], "w") as file:
                    for index, trial in enumerate(trials):
                        features = participant.trial(trial.labels, mixing, rng)
                        group = file.create_group(f"trial_{index:04d}")
                        group.attrs.update({"session": session, "block_num": 1, "trial_num": index})
                        _write_trial(group, trial, features, split != "test")
                        bar.advance()
    test = [trial for splits in days for trial in splits["test"]]
    ids = [str(row) for row in range(len(test))]
    write_submission(root / SAMPLE, BrainToText25.columns, ids, ["the"] * len(ids))
    write_submission(root / ANSWERS, BrainToText25.columns, ids, [trial.text for trial in test])
    write_lexicon(root / LEXICON, PRONUNCIATIONS)
    WordModel(other_sentences(settings, test), PRONUNCIATIONS).write_arpa(root / WORD_MODEL)
    (root / SETTINGS).write_text(json.dumps(msgspec.structs.asdict(settings)) + "\n", encoding="utf-8")


def score(root: Path, submission: Path) -> str:
    """The word error rate of a submission against the demo's answers, as a sentence."""
    ids, answers = zip(*read_submission(root / ANSWERS), strict=True)
    texts = check_submission(submission, BrainToText25.columns, ids, check_words, allow_empty=True)
    words = sum(len(words_of(answer)) for answer in answers)
    rate = f"{word_error_rate(texts, answers):.1%}".replace("%", " %")
    return f"{submission}: word error rate {rate} on the demo's test set, {words} words in {len(answers)} sentences"


def _draw_trial(rng: np.random.Generator) -> Trial:
    return Trial(tuple(word.lower() for word in lexicon.sentence(rng)[0]))


def other_sentences(settings: BrainSettings, test: Sequence[Trial]) -> list[tuple[str, ...]]:
    """Sentences to estimate the word model from, none of which is in `test`."""
    rng = np.random.default_rng([settings.seed, VERSION, settings.days, settings.sentences])
    kept_out = {trial.words for trial in test}
    drawn = (_draw_trial(rng).words for _ in range(SENTENCES_OF_WORD_MODEL))
    return [words for words in drawn if words not in kept_out]


def _write_trial(group: h5py.Group, trial: Trial, features: np.ndarray, labelled: bool) -> None:
    group["input_features"] = features
    group.attrs["n_time_steps"] = len(features)
    if not labelled:
        return
    labels, codes = trial.labels, list(trial.text.encode("ascii"))
    group["seq_class_ids"] = np.pad(np.array(labels, np.int32), (0, _PADDED - len(labels)))
    group["transcription"] = np.pad(np.array(codes, np.int32), (0, _PADDED - len(codes)))
    group.attrs["seq_len"] = len(labels)
    group.attrs["sentence_label"] = trial.text
