"""`python -m folds.demo`: a small competition of synthetic speech, so that everything can be tried without downloads.

    python -m folds.demo --out DIR                            makes it
    python -m folds.demo --out DIR --score submission.csv     scores a submission against its answers
    python -m folds.demo --competition brain-to-text          the same for Brain-to-Text: simulated neural activity

It has the layout of the real data. eSpeak NG speaks every sentence from phonemes, so labels are exact, and no speaker
is in two splits. The same settings give the same bytes. Distances on it do not predict those on human speech.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from folds.competition.detect import DEMO_FOLDER
from folds.store.lease import hold
from folds.synthesis import brain_to_text, speech_competition
from folds.synthesis.brain_to_text import BrainSettings
from folds.synthesis.speech_competition import SpeechSettings
from registry.bounds import MAX_SEED, Bounded, number
from registry.command_line import parse_options
from registry.errors import InputError, command
from registry.files import exists
from registry.json_files import read_json

DemoSettings: TypeAlias = SpeechSettings | BrainSettings
BRAIN_FOLDER = Path("demo/brain-to-text")


@dataclass(frozen=True)
class DemoOptions(Bounded):
    """Make a small competition of synthetic speech, or score a submission to it."""

    out: Path | None = None
    """Folder of the demo competition; by default demo/competition, or demo/brain-to-text."""
    competition: Literal["hw3p2", "brain-to-text"] = "hw3p2"
    """Speech of several speakers in MFCC files, or neural activity of several days in HDF5 files with a lexicon and a
    word model."""
    seed: int = number(0, at_least=0, at_most=MAX_SEED)
    """The same seed and sizes give the same files, byte for byte."""
    speakers: int = number(60, at_least=4, at_most=1000)
    """Total number of speakers, at least 4; one sixth each for dev and test."""
    utterances: int = number(15, at_least=1, at_most=9999)
    """Utterances per speaker, of about 3 seconds each."""
    days: int = number(8, at_least=2, at_most=1000)
    """Number of days (brain-to-text); each has trials in train, dev and test."""
    sentences: int = number(75, at_least=3, at_most=9999)
    """Sentences per day (brain-to-text), of about 6 words each; one sixth each for dev and test."""
    channels: int = number(512, at_least=1, at_most=4096)
    """Features per frame (brain-to-text)."""
    score: Path | None = None
    """Score this submission against the answers of the demo in --out, instead of making it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        of_brain, of_speech = ("days", "sentences", "channels"), ("speakers", "utterances")
        of_other, other = (of_speech, "hw3p2") if self.competition == "brain-to-text" else (of_brain, "brain-to-text")
        for name in of_other:
            if getattr(self, name) != getattr(DemoOptions, name):
                raise InputError(f"--{name} is for --competition {other}: pass that, too, or leave --{name} out")

    @property
    def folder(self) -> Path:
        """The demo's folder."""
        return self.out or (BRAIN_FOLDER if self.competition == "brain-to-text" else DEMO_FOLDER)

    @property
    def settings(self) -> DemoSettings:
        """Everything that determines the folder's bytes; stored in it to mark it as a demo with these settings."""
        if self.competition == "brain-to-text":
            return BrainSettings(self.seed, self.days, self.sentences, self.channels)
        return SpeechSettings(seed=self.seed, speakers=self.speakers, utterances=self.utterances)


def make(options: DemoOptions) -> bool:
    """Make the demo in `options.folder`, atomically; returns False if it already exists with these settings.

    Raises InputError if the folder holds anything else, since only a demo with other settings is ever replaced, or if
    another process is making the demo.
    """
    out = Path(os.path.realpath(options.folder))
    if _settings_of(out) == options.settings:
        return False
    _check_replaceable(options)
    # Next to `out`, so that it can be renamed. A killed process leaves it behind, and the next one starts it over.
    unfinished = out.parent / f".{out.name}.unfinished"
    with hold(unfinished, f"the demo competition {options.folder}"):
        new, replaced = unfinished / "new", unfinished / "replaced"
        try:
            _discard(new, replaced, out)
            _write(new, options.settings)
            _check_replaceable(options)  # check again: minutes have passed
            if exists(out):
                out.rename(replaced)
            new.rename(out)
        finally:
            _discard(new, replaced, out)
    return True


def _check_replaceable(options: DemoOptions) -> None:
    """Raise InputError if something other than a demo is in the demo's place."""
    out = Path(os.path.realpath(options.folder))
    found = _settings_of(out)
    if found is not None and type(found) is not type(options.settings):
        raise InputError(f"{options.folder} holds the demo of another competition: pass another --out, or remove it")
    replaceable = speech_competition.PARTS | brain_to_text.PARTS if found is not None else frozenset()
    if exists(out) and (not out.is_dir() or {path.name for path in out.iterdir()} - replaceable):
        message = "holds something that is not part of a demo competition: pass another --out, or remove it"
        raise InputError(f"{options.folder} {message}")


def _discard(new: Path, replaced: Path, out: Path) -> None:
    """Delete an unfinished demo; move back the one it was to replace, or delete that one if it was replaced."""
    shutil.rmtree(new, ignore_errors=True)
    if exists(replaced) and not exists(out):
        replaced.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _write(root: Path, settings: DemoSettings) -> None:
    if isinstance(settings, BrainSettings):
        brain_to_text.write(root, settings)
    else:
        speech_competition.write(root, settings)


def _contents(settings: DemoSettings) -> str:
    """A description of the demo's contents."""
    if isinstance(settings, BrainSettings):
        return brain_to_text.contents(settings)
    return speech_competition.contents(settings)


def score(root: Path, submission: Path) -> str:
    """The score of a submission against the answers of the demo in `root`, as a sentence."""
    settings = _settings_of(root)
    if settings is None:
        raise InputError(f"{root} is not a demo competition and has no answers: make one with --out {root} alone")
    of_kind = brain_to_text.score if isinstance(settings, BrainSettings) else speech_competition.score
    return of_kind(root, submission)


def _settings_of(root: Path) -> DemoSettings | None:
    """The settings that the demo in `root` was made with; None if there is no demo."""
    with contextlib.suppress(InputError):
        return read_json(root / speech_competition.SETTINGS, SpeechSettings)
    with contextlib.suppress(InputError):
        return read_json(root / brain_to_text.SETTINGS, BrainSettings)
    return None


def main() -> None:
    """Make the demo, or score a submission to it."""
    options = parse_options(DemoOptions, "python -m folds.demo", description=__doc__)
    if options.score is not None:
        print(score(options.folder, options.score))
        return
    started, data = time.monotonic(), shlex.quote(str(options.folder))
    if make(options):
        print(f"wrote {data}: {_contents(options.settings)} ({time.monotonic() - started:.0f} s)")
    else:
        print(f"{data} already exists with these settings")
    print(f"next: python -m folds.train --data {data} --model gru_small --fold all --folds 2")


if __name__ == "__main__":
    command(main)
