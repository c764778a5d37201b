"""Recognizers: trained networks, and how their log-probabilities for new utterances are decoded to phonemes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import models
from ensemble.beam.search import beam_search
from ensemble.members.stores import StoresOptions
from ensemble.transcription.timing import FrameTimes
from folds.competition.base import COMPETITIONS
from folds.frontends.base import FRONT_ENDS, front_end_of
from folds.store.fold_model import FoldModel
from folds.store.log_probs import LogProbs
from folds.store.ragged import offsets_of
from folds.store.schemas import SummaryFile
from registry.errors import InputError
from registry.json_files import read_json


@dataclass(frozen=True, eq=False)
class RecognitionBatch:
    """N utterances and their log-probabilities under each network of a recognizer."""

    features: list[np.ndarray]
    """`(T, F)` of each utterance, not normalised."""
    log_probs: list[LogProbs]
    """One for each network, in the recognizer's order."""

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Recognizer:
    """Trained networks, and the function that decodes their log-probabilities to phonemes."""

    name: str
    """The name that transcripts record as their recognizer."""
    networks: tuple[FoldModel, ...]
    weights: tuple[float, ...]
    """The weight of each network in times and confidences; they sum to 1."""
    phonemes: tuple[str, ...]
    """The phoneme of each class; empty for class 0, the blank."""
    characters: tuple[str, ...]
    """The submission character of each class; empty for class 0, the blank."""
    decide: Callable[[RecognitionBatch], list[list[int]]]
    """One class sequence per utterance."""

    @property
    def frames(self) -> FrameTimes:
        """The timing of the feature frames in the networks' competition."""
        name = self.networks[0].config.data.format
        if name is None or name not in COMPETITIONS:
            return FrameTimes()
        competition = COMPETITIONS.get(name)
        return FrameTimes(competition.frame_shift, competition.frame_length)

    def predict(self, features: Sequence[np.ndarray]) -> RecognitionBatch:
        """All networks' log-probabilities; one network at a time is in memory. Raises InputError for bad features."""
        return RecognitionBatch(list(features), [_predict(network, features) for network in self.networks])

    def front_end(self, option: str | None) -> str | None:
        """The front end of the data that the networks were trained on; None if unknown.

        It is recorded in each run or known from the data; otherwise `option` names it. Raises InputError for an
        `option` that is not registered, for front ends that differ, and for one with another number of features.
        """
        names = {known_front_end(network): network for network in self.networks}
        if option is not None:
            FRONT_ENDS.entry(option)
            names.setdefault(option, self.networks[0])
        known = sorted(name for name in names if name is not None)
        if len(known) > 1:
            other = next(name for name in known if name != option)
            found = f"--frontend {option}" if option else f"{names[known[1]].path}, of {known[1]}"
            raise InputError(
                f"{names[other].path}: was trained on features of the front end {other}, not {found}: "
                + ("leave the option out" if option else "choose members of the same data")
            )
        for name in known:
            made = FRONT_ENDS.entry(name).info.get("features")
            for network in self.networks:
                if made is not None and made != features_of(network):
                    raise InputError(
                        f"{network.path}: was trained on {features_of(network)} features per frame; the front end "
                        f"{name} makes {made}: pass the --frontend of its training data"
                    )
        return known[0] if known else None


def known_front_end(network: FoldModel) -> str | None:
    """The front end of a network's data: as recorded in its run, or known from the data's hash, or None."""
    return network.config.front_end or front_end_of(network.config.data.hash)


def features_of(network: FoldModel) -> int:
    """The number of features per frame of a network's input."""
    return int(network.check_trained().model_config["features"])


def recognizer_of(
    name: str,
    networks: Sequence[FoldModel],
    weights: Sequence[float],
    decide: Callable[[RecognitionBatch], list[list[int]]],
) -> Recognizer:
    """A recognizer of these networks. Raises InputError if weights are missing, or alphabets or features differ."""
    loaded = [(network, models.load(network.path).description) for network in networks]
    first, description = loaded[0]
    for network, other in loaded[1:]:
        if (other.phonemes, other.characters) != (description.phonemes, description.characters):
            raise InputError(f"{network.path}, {first.path}: their alphabets differ: choose members of the same data")
        if features_of(network) != features_of(first):
            raise InputError(
                f"{network.path} was trained on {features_of(network)} features per frame, {first.path} on "
                f"{features_of(first)}: choose members of the same data"
            )
    return Recognizer(
        name, tuple(networks), tuple(weights), description.phonemes, description.characters, decide
    )


def open_network(options: StoresOptions, member: str | None) -> Recognizer:
    """One network without a language model: the one with the lowest greedy distance on dev, of `member` if given.

    Raises InputError if there is no network, or no member of that name.
    """
    available = options.find_fold_models()
    names = sorted({network.name for network in available})
    if member is not None and member not in names:
        raise InputError(f"--member {member}: no finished member has this name; there are: {', '.join(names)}")
    # If a network was trained on dev or adapted to its speakers, its distance on dev says nothing about a new
    # recording, so it is used only on request.
    def judged(network: FoldModel) -> bool:
        return not network.with_dev and network.config.adaptation is None

    networks = [network for network in available if network.name == member or (member is None and judged(network))]
    if not networks:
        found = f"every member was trained on dev or adapted to it: pass --member with one of {', '.join(names)}"
        why = found if names else "no finished run: train one with python -m folds.train"
        raise InputError(f"{options.describe_runs()}: {why}")
    best = min(networks, key=_dev_distance)
    return recognizer_of(best.folder.title, [best], [1.0], _decode)


def _dev_distance(network: FoldModel) -> float:
    summary = read_json(network.folder.summary, SummaryFile, "resume the run with folds.train --resume")
    distance = summary.greedy_distance.get("dev")
    return float("inf") if distance is None else distance


def _decode(batch: RecognitionBatch) -> list[list[int]]:
    """The best hypotheses of a beam search without a language model."""
    (log_probs,) = batch.log_probs
    found = beam_search(*log_probs.padded(range(len(log_probs))))
    return [list(nbest[0].tokens) for nbest in found]


def _predict(network: FoldModel, features: Sequence[np.ndarray]) -> LogProbs:
    trained = models.load(network.path)
    parts = trained.predict(list(features))
    values = np.concatenate(parts).astype(np.float16)  # like the stored predictions that blends are fitted on
    ids = tuple(map(str, range(len(parts))))
    return LogProbs(values, offsets_of(map(len, parts)), ids, alphabet_hash="", blank=0, stride=trained.stride)
