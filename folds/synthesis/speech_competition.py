"""The HW3P2 demo: synthetic speech as MFCC files in the layout of F22 to S26, and the test answers.

eSpeak NG speaks every sentence from phonemes, so that labels are exact, and no speaker is in two splits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from scipy.signal import lfilter

from folds.competition.alphabets import F22
from folds.competition.metric import edit_distances
from folds.competition.submission import check_submission, read_submission, write_submission
from folds.frontends.base import SAMPLE_RATE
from folds.frontends.kaldi import demo as demo_features
from folds.synthesis import lexicon, speech
from registry.console import ProgressBar

HEADER = ("index", "label")
ANSWERS = "test-answers.csv"
SETTINGS = "demo.json"
SPLITS = ("train-clean-100", "dev-clean", "test-clean")
PARTS = frozenset({*SPLITS, ANSWERS, SETTINGS})
# Increase it whenever the same settings give different data, so that an older folder is replaced.
VERSION = 1


class SpeechSettings(msgspec.Struct, kw_only=True):
    """Everything that determines the folder's bytes, and the content of `SETTINGS`."""

    demo: int = VERSION
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


def contents(settings: SpeechSettings) -> str:
    """A description of the demo's contents."""
    train, dev, test = (len(speakers) * settings.utterances for speakers in draw_speakers(settings))
    return (
        f"{train} train, {dev} dev and {test} test utterances of {settings.speakers} speakers; the test set's answers "
        f"are in {ANSWERS}"
    )


def draw_speakers(settings: SpeechSettings) -> tuple[tuple[Speaker, ...], ...]:
    """The speakers of train, dev and test, none in two of them."""
    rng = np.random.default_rng([settings.seed, VERSION])
    variants = rng.permutation(speech.VOICES)
    ids = rng.choice(np.arange(14, 9000), settings.speakers, replace=False)
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
        for index in range(settings.speakers)
    )
    held_out = max(1, round(settings.speakers / 6))
    return speakers[2 * held_out :], speakers[:held_out], speakers[held_out : 2 * held_out]


def write(root: Path, settings: SpeechSettings) -> None:
    """Write the demo into the folder `root`, which does not exist yet."""
    answers: dict[str, str] = {}
    bar = ProgressBar("synthesising speech", settings.speakers * settings.utterances)
    with bar, speech.Speech() as synthesiser:
        for split, speakers in zip(SPLITS, draw_speakers(settings), strict=True):
            (root / split / "mfcc").mkdir(parents=True)
            if split != "test-clean":
                (root / split / "transcript").mkdir()
            for name, features, transcript in _utterances(synthesiser, speakers, settings):
                _save(root / split / "mfcc" / name, features)
                if split == "test-clean":
                    answers[name] = F22.to_string(F22.encode(transcript))
                else:
                    _save(root / split / "transcript" / name, np.array(transcript))
                bar.advance()
    # The competition numbers its test utterances by sorted file name.
    labels = [answers[name] for name in sorted(answers)]
    ids = [str(row) for row in range(len(labels))]
    rng = np.random.default_rng([settings.seed, VERSION, settings.speakers])
    random_labels = ["".join(rng.choice(F22.characters[1:], 20)) for _ in labels]
    write_submission(root / "test-clean" / "random_submission.csv", HEADER, ids, random_labels)
    write_submission(root / ANSWERS, HEADER, ids, labels)
    (root / SETTINGS).write_text(json.dumps(msgspec.structs.asdict(settings)) + "\n", encoding="utf-8")


def score(root: Path, submission: Path) -> str:
    """The mean edit distance of a submission to the demo's answers, as a sentence."""
    distance, length = mean_distance_and_length(root, submission)
    return f"{submission}: mean distance {distance:.3f} on the demo's test set, mean length {length:.1f}"


def mean_distance_and_length(root: Path, submission: Path) -> tuple[float, float]:
    """Mean edit distance of a submission to the demo's answers, and the answers' mean length, in phonemes."""
    ids, answers = zip(*read_submission(root / ANSWERS), strict=True)
    # A model trained for seconds may predict nothing for an utterance; here this is merely a bad score.
    strings = check_submission(submission, HEADER, ids, F22.from_string, allow_empty=True)
    return float(edit_distances(strings, answers).mean()), float(np.mean([len(answer) for answer in answers]))


def _utterances(
    synthesiser: speech.Speech, speakers: tuple[Speaker, ...], settings: SpeechSettings
) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    for speaker in speakers:
        for index in range(settings.utterances):
            rng = np.random.default_rng([settings.seed, VERSION, speaker.id, index])
            yield f"{speaker.id}-{speaker.chapter}-{index:04d}.npy", *synthesise(synthesiser, speaker, rng)


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


def _save(path: Path, array: np.ndarray) -> None:
    """Like `np.save`, but a full disk raises OSError with its errno, which `np.save` loses."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getvalue())
