"""From many models' log-probabilities to one phoneme sequence per utterance: decoding, blending, weights, reports.

Commands: `ensemble.blend` makes a submission of all members, `ensemble.decode` and `ensemble.joint` of one, and
`ensemble.report` writes a page on them. The calls of the same names as their modules are imported from there:
`ensemble.blend.blend`, `ensemble.rover.rover`, `ensemble.mbr.mbr`, `ensemble.beam.beam_search`.
"""

from ensemble.beam import Hypothesis, beam_search
from ensemble.blenders.base import BLENDERS, Blender, BlendRecipe
from ensemble.hypotheses.blend_inputs import BlendInputs, SplitPredictions
from ensemble.hypotheses.open_inputs import InputOptions, OpenedInputs, open_inputs
from ensemble.lm.ngram import PhoneLM, estimate
from ensemble.members.eligibility import Rules
from ensemble.members.member import Member, group_by_member

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
    "open_inputs",
]
