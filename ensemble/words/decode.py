"""Decode one member to words: what `ensemble.decode` does for a competition scored in words."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ensemble.decoding.batched import DecodingTask, decode_in_batches
from ensemble.decoding.decoders import get_decoder
from ensemble.members.member import Member
from ensemble.words.search import Vocabulary, WordSettings
from ensemble.words.search_trials import SearchTrials
from ensemble.words.word_inputs import decode_by_fold, number_words
from folds.competition.bootstrap import bootstrap
from folds.competition.metric import PHONEME_ERROR_RATE, word_distances, words_of
from folds.data.dataset import Dataset, Split


def fit_settings(task: DecodingTask, name: str, dataset: Dataset, vocabulary: Vocabulary, beam: int) -> SearchTrials:
    """The search settings, fitted on the out-of-fold utterances of `task`."""
    texts = _texts_of(dataset.train, task)
    references = number_words([text or "" for text in texts], vocabulary.lexicon)
    start = WordSettings()._replace(beam=beam)
    return SearchTrials.of(task.log_probs, references, task.outer_folds, vocabulary, name, start)


def decode_to_words(
    task: DecodingTask, member: Member, split: Split, vocabulary: Vocabulary, trials: SearchTrials | None, beam: int
) -> tuple[list[str], WordSettings]:
    """The best sentence of each utterance of `task`, and the settings; prints the settings, error rates and speed.

    Each out-of-fold utterance is decoded with the settings fitted on the other folds. Without `trials`, as for a refit
    without fold models, the default settings are used.
    """
    folds = np.unique(task.outer_folds).tolist()
    fitted: Mapping[int, WordSettings] = {
        fold: WordSettings() if trials is None else trials.settings(fold if split.name == "train" else None)
        for fold in folds
    }
    settings = {fold: own._replace(beam=beam) for fold, own in fitted.items()}
    used = next(iter(settings.values())) if trials is None else trials.settings()
    origin = "the defaults, since it has no fold models to fit them on" if trials is None else "fitted out of fold"
    print(f"{member.name}: language model weight {used.lm_weight:g}, word bonus {used.word_bonus:g} ({origin})")
    start = time.perf_counter()
    found = decode_by_fold(task.log_probs, task.outer_folds, vocabulary, settings, 1, member.name)
    seconds = max(time.perf_counter() - start, 1e-6)
    sentences = [vocabulary.lexicon.text(words) for words in found.best]
    line = f"{member.name}: {len(sentences)} utterances"
    references = [text for text in _texts_of(split, task) if text is not None]
    if len(references) == len(sentences):
        groups = [split.groups[split.row_of[utterance]] for utterance in task.log_probs.ids]
        errors, words = word_distances(sentences, references), np.array([len(words_of(text)) for text in references])
        rate = bootstrap(errors, groups, sizes=words)
        line += f", word error rate {100 * rate.mean:.2f} % [{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
    if task.references is not None:
        phonemes = decode_in_batches(task, get_decoder("greedy"), f"decoding to phonemes, {member.name}").hypotheses
        greedy = [nbest[0].tokens for nbest in phonemes]
        line += f", greedy {PHONEME_ERROR_RATE.text(PHONEME_ERROR_RATE.of(greedy, task.references))}"
    print(f"{line}, {len(sentences) / seconds:.0f} utterances/s")
    return sentences, settings[folds[0]]


def _texts_of(split: Split, task: DecodingTask) -> list[str | None]:
    """The sentence of each utterance of the task, None if unknown."""
    texts = dict(zip(split.ids, split.texts or (), strict=False))
    return [texts.get(utterance) for utterance in task.log_probs.ids]
