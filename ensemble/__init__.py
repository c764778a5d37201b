"""Combine many models' log-probabilities into one phoneme sequence per utterance, by decoding and blending.

Commands: `ensemble.blend` writes a submission from all members, `ensemble.decode` from one member, `ensemble.joint`
from one fold model; `ensemble.report` writes a page about all members; `ensemble.transcribe` transcribes recordings.
Functions with the same name as their module are imported from it: `ensemble.blend.blend`, `ensemble.rover.rover`,
`ensemble.mbr.mbr`, `ensemble.beam.beam_search`.
"""

import registry  # noqa: F401 - before all else: see registry.startup
from ensemble.beam import Hypothesis, beam_search
from ensemble.blenders.base import BLENDERS, Blender, BlendRecipe
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import InputOptions, OpenedInputs, open_inputs
from ensemble.hypotheses.split_predictions import SplitPredictions
from ensemble.lm.ngram import PhoneLM, estimate
from ensemble.members.finished import members_of
from ensemble.members.member import Member, group_by_member
from folds.competition.base import Rules

__all__ = [
    "BLENDERS",
    "BlendInputs",
    "BlendRecipe",
    "Blender",
    "Hypothesis",
    "InputOptions",
    "Member",
    "OpenedInputs",
    "PhoneLM",
    "Rules",
    "SplitPredictions",
    "beam_search",
    "estimate",
    "group_by_member",
    "members_of",
    "open_inputs",
]
