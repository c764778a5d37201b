"""The blenders, one file each. The registry `ensemble.blenders.base.BLENDERS` finds every file in this folder."""
