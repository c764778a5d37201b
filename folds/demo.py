"""`python -m folds.demo`: a small competition of synthetic speech, so that everything can be tried without downloads.

    python -m folds.demo --out DIR                            makes it
    python -m folds.demo --out DIR --score submission.csv     scores a submission against its answers
    python -m folds.demo --competition brain-to-text          the same for Brain-to-Text: simulated neural activity

It has the layout of the real data. eSpeak NG speaks every sentence from phonemes, so that labels are exact, and no
speaker is in two splits. The same settings give the same bytes. Distances on it do not predict those on human speech.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from scipy.signal import lfilter

from folds.competition.alphabets import F22
from folds.competition.detect import DEMO_FOLDER
from folds.competition.metric import edit_distances
from folds.competition.submission import check_submission, read_submission, write_submission
from folds.frontends.base import SAMPLE_RATE
from folds.frontends.kaldi import demo as demo_features
from folds.store.lease import hold
from folds.synthesis import brain_to_text, lexicon, speech
from folds.synthesis.brain_to_text import BrainSettings
from registry.bounds import MAX_SEED, Bounded, number
from registry.command_line import parse_options
from registry.console import ProgressBar
from registry.errors import InputError, command
from registry.files import exists
from registry.json_files import read_json

BRAIN_FOLDER = Path("demo/brain-to-text")
HEADER = ("index", "label")
ANSWERS = "test-answers.csv"
SETTINGS = "demo.json"
# Increase it whenever the same settings give other data, so that an older folder is made again.
VERSION = 1
SPLITS = ("train-clean-100", "dev-clean", "test-clean")


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
    """Speakers in all, at least 4; a sixth of them each for dev and test."""
    utterances: int = number(15, at_least=1, at_most=9999)
    """Utterances per speaker, of about 3 seconds each."""
    days: int = number(8, at_least=2, at_most=1000)
    """Days of brain-to-text; each has trials in train, dev and test."""
    sentences: int = number(75, at_least=3, at_most=9999)
    """Sentences per day of brain-to-text, of about 6 words each; a sixth of them each for dev and test."""
    channels: int = number(512, at_least=1, at_most=4096)
    """Features per frame of brain-to-text."""
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
    def settings(self) -> dict[str, object]:
        """All that decides the folder's bytes; stored in it, to mark it as a demo competition with these settings."""
        if self.competition == "brain-to-text":
            return msgspec.structs.asdict(self.brain_settings)
        return {"demo": VERSION, "seed": self.seed, "speakers": self.speakers, "utterances": self.utterances}

    @property
    def brain_settings(self) -> BrainSettings:
        """The settings of the demo of Brain-to-Text."""
        return BrainSettings(self.seed, self.days, self.sentences, self.channels)


class _Settings(msgspec.Struct):
    """The content of `SETTINGS`."""

    demo: int
    seed: int
    speakers: int
    utterances: int


@dataclass(frozen=True)
class Speaker:
    """A speaker of the demo: the ids in file names, the voice, and its signal-to-noise ratio in dB."""

    id: int
    chapter: int
    voice: speech.Voice
    snr: float


def make(options: DemoOptions) -> bool:
    """Make the demo in `options.folder`, whole or not at all. False if it already exists with these settings.

    Raises InputError if the folder holds anything else: only a demo with other settings is ever replaced; or if another
    process is making it.
    """
    out = Path(os.path.realpath(options.folder))
    if _settings_of(out) == options.settings:
        return False
    _check_replaceable(options)
    # Beside `out`, so that it can be renamed. A killed process leaves it, and the next one begins it again.
    unfinished = out.parent / f".{out.name}.unfinished"
    with hold(unfinished, f"the demo competition {options.folder}"):
        new, replaced = unfinished / "new", unfinished / "replaced"
        try:
            _discard(new, replaced, out)
            if options.competition == "brain-to-text":
                brain_to_text.write(new, options.brain_settings)
            else:
                _write(new, options)
            _check_replaceable(options)  # minutes have passed
            if exists(out):
                out.rename(replaced)
            new.rename(out)
        finally:
            _discard(new, replaced, out)
    return True


def _check_replaceable(options: DemoOptions) -> None:
    """Raise InputError if there is something else in the demo's place than a demo."""
    out = Path(os.path.realpath(options.folder))
    if _settings_of(out) and exists(out / brain_to_text.SETTINGS) != (options.competition == "brain-to-text"):
        raise InputError(f"{options.folder} holds the demo of another competition: pass another --out, or remove it")
    replaceable = {*SPLITS, ANSWERS, SETTINGS, *brain_to_text.PARTS} if _settings_of(out) else set()
    if exists(out) and (not out.is_dir() or {path.name for path in out.iterdir()} - replaceable):
        message = "holds something that is not part of a demo competition: pass another --out, or remove it"
        raise InputError(f"{options.folder} {message}")


def _discard(new: Path, replaced: Path, out: Path) -> None:
    """Delete an unfinished demo; the one that it was to replace is moved back, or deleted if it was replaced."""
    shutil.rmtree(new, ignore_errors=True)
    if exists(replaced) and not exists(out):
        replaced.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def score(root: Path, submission: Path) -> tuple[float, float]:
    """Mean edit distance of a submission to the demo's answers, and the answers' mean length, in phonemes."""
    if _settings_of(root) is None:
        raise InputError(f"{root} is not a demo competition and has no answers: make one with --out {root} alone")
    ids, answers = zip(*read_submission(root / ANSWERS), strict=True)
    # A model trained for seconds may predict nothing for an utterance; here that is only a bad score.
    strings = check_submission(submission, HEADER, ids, F22.from_string, allow_empty=True)
    return float(edit_distances(strings, answers).mean()), float(np.mean([len(answer) for answer in answers]))


def draw_speakers(options: DemoOptions) -> tuple[tuple[Speaker, ...], ...]:
    """The speakers of train, dev and test, none in two of them."""
    rng = np.random.default_rng([options.seed, VERSION])
    variants = rng.permutation(speech.VOICES)
    ids = rng.choice(np.arange(14, 9000), options.speakers, replace=False)
    speakers = tuple(
        Speaker(
            id=int(ids[index]),
            chapter=int(rng.integers(100, 200_000)),
            voice=speech.Voice(
                variant=str(variants[index % len(variants)]),
                words_per_minute=int(rng.integers(150, 191)),
                pitch=int(rng.integers(35, 66)),
                pitch_range=int(rng.integers(35, 66)),
                tract=float(rng.uniform(0.94, 1.06)),
            ),
            snr=float(rng.uniform(15, 30)),
        )
        for index in range(options.speakers)
    )
    held_out = max(1, round(options.speakers / 6))
    return speakers[2 * held_out :], speakers[:held_out], speakers[held_out : 2 * held_out]


def synthesise(
    synthesiser: speech.Speech, speaker: Speaker, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """A random utterance: MFCCs `(T, 28)` float32 and transcript, `[SOS]` to `[EOS]` with `[SIL]` at every pause."""
    voice = replace(speaker.voice, words_per_minute=round(speaker.voice.words_per_minute * rng.uniform(0.93, 1.07)))
    sound, transcript = [_pause(rng)], ["[SOS]", "[SIL]"]
    for clause in lexicon.sentence(rng):
        words = [lexicon.LEXICON[word] for word in clause]
        sound += [synthesiser.speak(words, voice), _pause(rng)]
        transcript += [phoneme.rstrip("012") for word in words for phoneme in word] + ["[SIL]"]
    samples = np.concatenate(sound)
    noise = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.9)], rng.standard_normal(len(samples)))
    noise *= np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-speaker.snr / 20)
    samples = (samples + noise) * rng.uniform(0.3, 0.9)
    return demo_features(samples.astype(np.float32)), [*transcript, "[EOS]"]


def _pause(rng: np.random.Generator) -> np.ndarray:
    return np.zeros(round(SAMPLE_RATE * rng.uniform(0.1, 0.3)), dtype=np.float32)


def _write(root: Path, options: DemoOptions) -> None:
    answers: dict[str, str] = {}
    bar = ProgressBar("synthesising speech", options.speakers * options.utterances)
    with bar, speech.Speech() as synthesiser:
        for split, speakers in zip(SPLITS, draw_speakers(options), strict=True):
            (root / split / "mfcc").mkdir(parents=True)
            if split != "test-clean":
                (root / split / "transcript").mkdir()
            for name, features, transcript in _utterances(synthesiser, speakers, options):
                _save(root / split / "mfcc" / name, features)
                if split == "test-clean":
                    answers[name] = F22.to_string(F22.encode(transcript))
                else:
                    _save(root / split / "transcript" / name, np.array(transcript))
                bar.advance()
    # The competition numbers its test utterances by sorted file name.
    labels = [answers[name] for name in sorted(answers)]
    ids = [str(row) for row in range(len(labels))]
    rng = np.random.default_rng([options.seed, VERSION, options.speakers])
    random_labels = ["".join(rng.choice(F22.characters[1:], 20)) for _ in labels]
    write_submission(root / "test-clean" / "random_submission.csv", HEADER, ids, random_labels)
    write_submission(root / ANSWERS, HEADER, ids, labels)
    (root / SETTINGS).write_text(json.dumps(options.settings) + "\n", encoding="utf-8")


def _save(path: Path, array: np.ndarray) -> None:
    """`np.save`, except that a full disk is an OSError with its number, which `np.save` loses."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getvalue())


def _utterances(
    synthesiser: speech.Speech, speakers: tuple[Speaker, ...], options: DemoOptions
) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    for speaker in speakers:
        for index in range(options.utterances):
            rng = np.random.default_rng([options.seed, VERSION, speaker.id, index])
            yield f"{speaker.id}-{speaker.chapter}-{index:04d}.npy", *synthesise(synthesiser, speaker, rng)


def _settings_of(root: Path) -> Mapping[str, object] | None:
    """The settings that the demo in `root` was made with; None if there is no demo."""
    for name, content in ((SETTINGS, _Settings), (brain_to_text.SETTINGS, BrainSettings)):
        try:
            return msgspec.structs.asdict(read_json(root / name, content))
        except InputError:
            continue
    return None


def main() -> None:
    options = parse_options(DemoOptions, "python -m folds.demo", description=__doc__)
    if options.score is not None:
        if exists(options.folder / brain_to_text.SETTINGS):
            print(brain_to_text.score(options.folder, options.score))
            return
        distance, length = score(options.folder, options.score)
        print(f"{options.score}: mean distance {distance:.3f} on the demo's test set, mean length {length:.1f}")
        return
    started, data, made = time.monotonic(), shlex.quote(str(options.folder)), make(options)
    if made and options.competition == "brain-to-text":
        print(f"wrote {data}: {brain_to_text.contents(options.brain_settings)} ({time.monotonic() - started:.0f} s)")
    elif made:
        train, dev, test = (len(speakers) * options.utterances for speakers in draw_speakers(options))
        print(
            f"wrote {data}: {train} train, {dev} dev and {test} test utterances of {options.speakers} speakers; the "
            f"test set's answers are in {ANSWERS} ({time.monotonic() - started:.0f} s)"
        )
    else:
        print(f"{data} already exists with these settings")
    print(f"next: python -m folds.train --data {data} --model gru_small --fold all --folds 2")


if __name__ == "__main__":
    command(main)
