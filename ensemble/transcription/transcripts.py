"""Transcribe recordings: utterance by utterance, in batches that may span several recordings, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.transcription.recognizer import Recognizer, features_of
from ensemble.transcription.sources import Source
from ensemble.transcription.timing import NetworkFrames, TimedPhoneme, mean_posteriors, time_phonemes
from folds.audio.segments import split_at_pauses
from folds.competition.alphabets import SILENCES
from folds.frontends.base import FRONT_ENDS, SAMPLE_RATE, compute_features
from registry.errors import InputError

BATCH = 32
"""Number of utterances recognized together: enough that loading the networks takes a small part of the time, and at
most 20 minutes of audio in memory."""


@dataclass(frozen=True)
class Transcript:
    """The phonemes of one recording."""

    name: str
    source: str
    seconds: float
    recognizer: str
    phonemes: tuple[TimedPhoneme, ...]
    characters: str
    """The submission string, one character per phoneme."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """A recording, or a part of a long one, before it is recognized."""

    recording: int
    """Index of its source."""
    start: float
    """Seconds from the start of the recording."""
    seconds: float
    features: np.ndarray
    """`(T, F)`."""
    samples: np.ndarray | None
    """`(S,)` at 16 kHz; None for a source of features."""


@dataclass(frozen=True, eq=False)
class Recognized:
    """An utterance with its phonemes; times are measured from the beginning of the recording."""

    utterance: Utterance
    phonemes: list[TimedPhoneme]
    posteriors: np.ndarray
    """`(T', C)`, the networks' weighted mean at the highest frame rate among them."""


def transcribe(
    sources: Sequence[Source],
    recognizer: Recognizer,
    front_end: str | None,
    max_seconds: float,
    watch: Callable[[Source, Recognized], None] = lambda source, recognized: None,
) -> Iterator[Transcript]:
    """The transcript of each source, in order; `watch` is called with every recognized utterance.

    Recordings longer than `max_seconds` are split at pauses. Raises InputError for a source that cannot be read, for
    audio without a known `front_end`, and for features that differ in width from the training data.
    """
    character_of = dict(zip(recognizer.phonemes, recognizer.characters, strict=True))
    recognized = _recognize(_utterances(sources, recognizer, front_end, max_seconds), recognizer)
    for index, parts in itertools.groupby(recognized, key=lambda part: part.utterance.recording):
        source, end = sources[index], 0.0
        phonemes: list[TimedPhoneme] = []
        for part in parts:
            watch(source, part)
            _extend(phonemes, part.phonemes)
            end = part.utterance.start + part.utterance.seconds
        characters = "".join(character_of[timed.phoneme] for timed in phonemes)
        yield Transcript(source.name, source.where, end, recognizer.name, tuple(phonemes), characters)


def _extend(phonemes: list[TimedPhoneme], more: Sequence[TimedPhoneme]) -> None:
    """Append the phonemes of the next utterance; silences on both sides of the cut are merged."""
    if phonemes and more and phonemes[-1].phoneme == more[0].phoneme and more[0].phoneme in SILENCES:
        confidence = (phonemes[-1].confidence + more[0].confidence) / 2
        phonemes[-1] = replace(phonemes[-1], end=more[0].end, confidence=confidence)
        more = more[1:]
    phonemes += more


def _utterances(
    sources: Sequence[Source], recognizer: Recognizer, front_end: str | None, max_seconds: float
) -> Iterator[Utterance]:
    for index, source in enumerate(sources):
        if source.is_features:
            features = source.features()
            if features.shape[1] != (width := features_of(recognizer.networks[0])):
                raise InputError(
                    f"{source.where}: {features.shape[1]} features per frame; {recognizer.name} was trained on "
                    f"{width}: transcribe the recording, or a file with the features of its training data"
                )
            yield Utterance(index, 0.0, recognizer.frames.duration(len(features)), features, None)
            continue
        if front_end is None:
            raise InputError(
                f"{source.where}: the front end of the model's training features is not recorded: pass --frontend with "
                f"one of {', '.join(FRONT_ENDS.names())}"
            )
        with source.audio() as audio:
            for start, samples in split_at_pauses(audio.blocks(), max_seconds):
                features = compute_features(front_end, samples)
                yield Utterance(index, start, len(samples) / SAMPLE_RATE, features, samples)


def _recognize(utterances: Iterable[Utterance], recognizer: Recognizer) -> Iterator[Recognized]:
    stream = iter(utterances)
    delays = [network.delay for network in recognizer.networks]
    while batch := list(itertools.islice(stream, BATCH)):
        predicted = recognizer.predict([utterance.features for utterance in batch])
        columns = list(zip(predicted.log_probs, recognizer.weights, delays, strict=True))
        for row, (utterance, tokens) in enumerate(zip(batch, recognizer.decide(predicted), strict=True)):
            networks = [NetworkFrames(own[row], own.stride, weight, delay) for own, weight, delay in columns]
            timed = time_phonemes(tokens, networks, recognizer.phonemes, utterance.seconds, recognizer.frames)
            phonemes = [replace(it, start=it.start + utterance.start, end=it.end + utterance.start) for it in timed]
            yield Recognized(utterance, phonemes, mean_posteriors(networks))
