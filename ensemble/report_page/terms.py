"""The glossary of the page, for readers who have not trained the models."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ensemble.blenders.base import BLENDERS

TERMS = (
    ("network", "One trained model, usually with one part of the training utterances, its fold, held out."),
    ("member", "All networks of one model and seed, each with a different fold held out."),
    ("blend", "One answer per utterance, combined from several members according to their weights."),
    ("system", "A single member, decoded with the language model, or a blend."),
    (
        "distance",
        "Edits per utterance: the substitutions, insertions and deletions that separate the hypothesis from the "
        "reference, the transcript. This is also the competition's score. Lower is better.",
    ),
    ("posteriors", "A network's probability for each phoneme in each frame. Greedy decoding takes the largest."),
    ("hypothesis", "A sequence of phonemes proposed for an utterance. The pool contains those of all members."),
    ("oof", "Out of fold: measured on training utterances, each decoded by networks that held it out."),
    ("oof, nested", "The same for a blend whose weights were fitted on other folds. It decides which blend is chosen."),
    ("dev", "Measured on separate utterances, on which nothing was trained or fitted. Test has no transcripts."),
    ("with LM", "Decoded with a language model of phoneme sequences, estimated from the training transcripts."),
    ("95 % interval", "With other speakers like these, 95 of 100 such intervals would contain the true value."),
    ("stride", "Frames of features (10 ms each in most data) per frame of posteriors."),
)
"""Terms and their meanings, in the order in which they appear on the page."""


def glossary(blenders: Sequence[str]) -> str:
    """The terms and the methods of these blends, as HTML that is collapsed at first."""
    known = [name for name in dict.fromkeys(blenders) if name in BLENDERS.names()]
    methods = [(name, BLENDERS.entry(name).summary.replace("`", "")) for name in known]
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in (*TERMS, *methods))
    return f"<details><summary>Glossary</summary><dl class=terms>{items}</dl></details>"
