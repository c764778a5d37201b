"""The blenders, one file each. The registry `ensemble.blenders.base.BLENDERS` finds every file in this folder.

Two files are not blenders: `base`, their interface, and `nbest_out`, which writes their posteriors for students.
"""
