"""The blenders, one file each, registered in `ensemble.blenders.base.BLENDERS`; a new file is found by itself."""
