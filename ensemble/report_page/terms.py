"""The glossary of the page, for readers who have not trained the models."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ensemble.blenders.base import BLENDERS

TERMS = (
    ("network", "One trained model. Most hold out a part of the training utterances, a fold."),
    ("member", "All networks of one model and seed, each with another fold held out."),
    ("blend", "One answer per utterance from several members, which count by their weights."),
    ("system", "A member alone, decoded with the language model, or a blend."),
    (
        "distance",
        "Substitutions, insertions and deletions between what was recognised and the reference, the transcript: the "
        "edits per utterance, which are also the score of the competition. Lower is better.",
    ),
    ("posteriors", "A network's probability of each phoneme in each frame. Greedy takes the most probable one."),
    ("hypothesis", "A sequence of phonemes proposed for an utterance. The pool has those of all members."),
    ("oof", "Out of fold: on training utterances, each recognised by networks that held it out."),
    ("oof, nested", "The same for a blend whose weights were fitted on other folds. This figure chooses the blend."),
    ("dev", "On utterances apart, with transcripts, that nothing was trained or fitted on. Test has no transcripts."),
    ("with LM", "Decoded with a language model, which knows the sequences of phonemes in the training transcripts."),
    ("95 % interval", "Where the figure would be for 95 of 100 other draws of speakers like these."),
    ("stride", "Frames of features, of 10 ms in most data, for each frame of posteriors."),
)
"""Terms and their meanings, in the order in which they appear on the page."""


def glossary(blenders: Sequence[str]) -> str:
    """The terms and the methods of these blends, as HTML that is collapsed at first."""
    known = [name for name in dict.fromkeys(blenders) if name in BLENDERS.names()]
    methods = [(name, BLENDERS.entry(name).summary.replace("`", "")) for name in known]
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in (*TERMS, *methods))
    return f"<details><summary>What the words mean</summary><dl class=terms>{items}</dl></details>"
