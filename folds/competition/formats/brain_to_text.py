"""Brain-to-Text '25: neural activity of a speaking participant to text, one HDF5 file per session and split.

    hdf5_data_final/t15.2023.08.11/data_{train,val,test}.hdf5: trial_0000, trial_0001, …

A trial has `input_features` (T, 512) float32, 20 ms per frame; outside test, also `seq_class_ids`, 0-padded, and the
sentence, as the attribute `sentence_label` and as the character codes `transcription`. A session is a day.

Source: Neuroprosthetics-Lab/nejm-brain-to-text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from folds.competition.alphabets import Alphabet
from folds.competition.base import COMPETITIONS, Competition, SplitSource
from folds.competition.hdf5_files import TrialFiles
from folds.competition.metric import MEAN_DISTANCE, PHONEME_ERROR_RATE, WORD_ERROR_RATE
from registry.errors import InputError

FOLDER = "hdf5_data_final"
FILES = {"train": "data_train.hdf5", "dev": "data_val.hdf5", "test": "data_test.hdf5"}
# Class 40, " | " in the organisers' list, is the silence after each word. Submissions are words, so the characters are
# used only for reports and distances.
ALPHABET = Alphabet.of(
    "Brain-to-Text '25",
    "AA a AE @ AH A AO c AW W AY Y B b CH C D d DH D EH e ER R EY E F f G g HH h IH I IY i JH j K k L l M m N n NG G "
    "OW o OY O P p R r S s SH S T t TH T UH U UW u V v W w Y y Z z ZH Z | |",
)
_SESSION = re.compile(r"t\d+\.\d{4}\.\d\d\.\d\d")


@COMPETITIONS.register("brain-to-text-25")
class BrainToText25(Competition):
    """Brain-to-Text '25: hdf5_data_final with data_train.hdf5, data_val.hdf5 and data_test.hdf5 per session."""

    alphabet = ALPHABET
    columns = ("id", "text")
    grouped_by = "day"
    metrics = (WORD_ERROR_RATE, PHONEME_ERROR_RATE, MEAN_DISTANCE)
    frame_shift = frame_length = 0.02  # neural activity in non-overlapping bins

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / FOLDER).is_dir() or bool(_sessions(root))

    def read(self, split: str) -> SplitSource:
        folder = self.root / FOLDER if (self.root / FOLDER).is_dir() else self.root
        sessions = _sessions(folder)
        if not sessions:
            raise InputError(f"{folder}: no sessions in it; expected folders such as t15.2023.08.11; unzip it again")
        for session in sessions:
            _check_session(folder / session)
        paths = [folder / session / FILES[split] for session in sessions]
        trials = TrialFiles([path for path in paths if path.is_file()], self.alphabet, labelled=split != "test")
        if not trials.keys:
            raise InputError(f"{folder}: no {FILES[split]} in any session; expected them; unzip the whole competition")
        return SplitSource(
            name=split,
            ids=tuple(f"{path.parent.name}/{trial}" for path, trial in trials.keys),
            files=tuple(str(path.relative_to(self.root)) for path in trials.paths),
            location=trials.location,
            features=trials.features,
            labels=trials.labels if trials.labelled else None,
            text=trials.text if trials.labelled else None,
        )

    def group(self, utterance: str) -> str:
        return utterance.split("/", 1)[0]

    def submission_text(self, labels: Iterable[int]) -> str:
        """The phonemes by name: words need a lexicon."""
        return " ".join(filter(None, (self.alphabet.phonemes[label] for label in labels)))

    def check_text(self, text: str) -> None:
        check_words(text)


def check_words(text: str) -> None:
    """Raise InputError for anything but a single line of text."""
    if not text.isprintable():
        raise InputError(f"{text[:40]!r} has characters that cannot be printed; expected words")


def _sessions(folder: Path) -> list[str]:
    """Names of the session folders, by date."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _SESSION.fullmatch(path.name) and path.is_dir())


def _check_session(folder: Path) -> None:
    """Raise InputError for a session without training trials; the shortest sessions have only those."""
    if not (folder / FILES["train"]).is_file():
        raise InputError(
            f"no file {folder / FILES['train']}: each session has one; unzip the whole competition, or remove the "
            f"session's folder"
        )
