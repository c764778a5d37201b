"""The embedded demo competition: synthetic speech in the layout of the real data, so that everything runs at once.

    python -m folds.demo --out DIR                            makes it
    python -m folds.demo --out DIR --score submission.csv     scores a submission against its own answers

Every sentence is spoken by eSpeak NG from phonemes, so labels are exact; speakers of train, dev and test are disjoint.
Same settings, same bytes. It shows that the road works, and says nothing about how a model does on human speech.
"""

from __future__ import annotations

import csv
import json
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from scipy.signal import lfilter
from tqdm import tqdm

from folds.competition.alphabets import F22
from folds.competition.metric import edit_distances
from folds.competition.submission import check_submission, read_submission
from folds.synthesis import lexicon, speech
from registry.errors import InputError, command

HEADER = ("index", "label")
ANSWERS = "test-answers.csv"
SETTINGS = "demo.json"
# Goes up whenever the same settings give other data, so that an older folder is made anew.
VERSION = 1
SPLITS = ("train-clean-100", "dev-clean", "test-clean")


@dataclass(frozen=True)
class DemoOptions:
    """Make a small competition spoken by a synthesiser, or score a submission to it."""

    out: Path = Path("demo/competition")
    """Folder of the demo competition."""
    seed: int = 0
    """Same seed and sizes, same files, byte for byte."""
    speakers: int = 18
    """Speakers in all; a sixth of them each for dev and test."""
    utterances: int = 50
    """Utterances a speaker, of about 3 seconds each."""
    score: Path | None = None
    """Make nothing: score this submission against the answers of the demo in --out."""

    def __post_init__(self) -> None:
        if not 4 <= self.speakers <= 1000:
            raise InputError(f"--speakers is {self.speakers}, expected 4 (2 to train, 1 for dev, 1 for test) to 1000")
        if not 1 <= self.utterances <= 9999:
            raise InputError(f"--utterances is {self.utterances}, expected 1 to 9999 a speaker")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}, expected 0 or more")

    @property
    def settings(self) -> dict[str, object]:
        """What decides every byte of the folder; kept in it, as the sign that it is a demo and which one."""
        return {"demo": VERSION, "seed": self.seed, "speakers": self.speakers, "utterances": self.utterances}


@dataclass(frozen=True)
class Speaker:
    """Who speaks, how, and over how much noise (signal-to-noise ratio in dB)."""

    id: int
    chapter: int
    voice: speech.Voice
    snr: float


def make(config: DemoOptions) -> bool:
    """Make the demo in `config.out`, whole or not at all. False if it is there already, with these settings.

    `InputError` if the folder holds anything that is not a demo of ours: nothing foreign is ever replaced.
    """
    out = config.out.resolve()
    present = _settings_of(out)
    if present == config.settings:
        return False
    ours = {*SPLITS, ANSWERS, SETTINGS} if present else set()
    if out.is_file() or out.is_dir() and {path.name for path in out.iterdir()} - ours:
        raise InputError(f"{config.out} holds something that is no demo competition: give another --out, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        reason = f"{error.strerror}: {error.filename}"
        raise InputError(f"{config.out} cannot be made ({reason}): give another --out") from None
    with folder as temporary:
        made = Path(temporary, "made")
        _write(made, config)
        if out.exists():
            out.rename(Path(temporary, "replaced"))
        made.rename(out)
    return True


def score(root: Path, submission: Path) -> tuple[float, float]:
    """Mean edit distance of a submission to the demo's answers, and the answers' mean length, in characters."""
    if _settings_of(root) is None:
        raise InputError(f"{root} is no demo competition, so it has no answers: make it with --out {root} alone")
    ids, answers = zip(*read_submission(root / ANSWERS), strict=True)
    # A model trained for seconds may have nothing to say about an utterance; here that is only a bad score.
    strings = check_submission(submission, HEADER, ids, F22, allow_empty=True)
    return float(edit_distances(strings, answers).mean()), float(np.mean([len(answer) for answer in answers]))


def cast(config: DemoOptions) -> tuple[tuple[Speaker, ...], ...]:
    """The speakers of train, dev and test: nobody is in two of them."""
    rng = np.random.default_rng([config.seed, VERSION])
    variants = rng.permutation(speech.VOICES)
    ids = rng.choice(np.arange(14, 9000), config.speakers, replace=False)
    people = tuple(
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
        for index in range(config.speakers)
    )
    held_out = max(1, round(config.speakers / 6))
    return people[2 * held_out :], people[:held_out], people[held_out : 2 * held_out]


def say(synthesiser: speech.Speech, speaker: Speaker, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """One utterance: MFCCs `(T, 28)` float32 and its transcript, `[SOS]` to `[EOS]`, with `[SIL]` at every pause."""
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
    return speech.mfcc(samples.astype(np.float32)), [*transcript, "[EOS]"]


def _pause(rng: np.random.Generator) -> np.ndarray:
    return np.zeros(round(speech.SAMPLE_RATE * rng.uniform(0.1, 0.3)), dtype=np.float32)


def _write(root: Path, config: DemoOptions) -> None:
    progress = tqdm(total=config.speakers * config.utterances, desc="speaking", unit="utt", disable=None)
    answers: dict[str, str] = {}
    with progress, speech.Speech() as synthesiser:
        for split, speakers in zip(SPLITS, cast(config), strict=True):
            (root / split / "mfcc").mkdir(parents=True)
            if split != "test-clean":
                (root / split / "transcript").mkdir()
            for name, features, transcript in _utterances(synthesiser, speakers, config):
                np.save(root / split / "mfcc" / name, features)
                if split == "test-clean":
                    answers[name] = F22.to_string(F22.encode(transcript))
                else:
                    np.save(root / split / "transcript" / name, np.array(transcript))
                progress.update()
    # The competition numbers its test utterances by sorted file name.
    labels = [answers[name] for name in sorted(answers)]
    rng = np.random.default_rng([config.seed, VERSION, config.speakers])
    rubbish = ["".join(rng.choice(F22.characters[1:], 20)) for _ in labels]
    for path, strings in ((root / "test-clean" / "random_submission.csv", rubbish), (root / ANSWERS, labels)):
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *enumerate(strings)])
    (root / SETTINGS).write_text(json.dumps(config.settings) + "\n", encoding="utf-8")


def _utterances(
    synthesiser: speech.Speech, speakers: tuple[Speaker, ...], config: DemoOptions
) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    for speaker in speakers:
        for index in range(config.utterances):
            rng = np.random.default_rng([config.seed, VERSION, speaker.id, index])
            yield f"{speaker.id}-{speaker.chapter}-{index:04d}.npy", *say(synthesiser, speaker, rng)


def _settings_of(root: Path) -> dict[str, object] | None:
    """The settings a demo folder was made with, or None where there is no demo."""
    try:
        settings = json.loads((root / SETTINGS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    ours = isinstance(settings, dict) and {"demo", "seed", "speakers"} <= settings.keys()
    return settings if ours else None


def main() -> None:
    config = tyro.cli(DemoOptions, prog="python -m folds.demo", description=__doc__)
    if config.score is not None:
        distance, length = score(config.out, config.score)
        print(f"{config.score}: mean distance {distance:.3f} on the demo's test set, mean length {length:.1f}")
        return
    started = time.monotonic()
    data = shlex.quote(str(config.out))
    if make(config):
        train, dev, test = (len(speakers) * config.utterances for speakers in cast(config))
        print(
            f"wrote {data}: {train} train, {dev} dev and {test} test utterances of {config.speakers} speakers "
            f"in {time.monotonic() - started:.0f} s; the test set's answers are in {ANSWERS}"
        )
    else:
        print(f"{data} is there already, with these settings")
    print(f"next: python -m folds.train --data {data} --model gru_small --fold all --folds 2")


if __name__ == "__main__":
    command(main)
