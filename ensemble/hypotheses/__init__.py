"""The hypotheses that members propose for each utterance: N-best lists, pools, and their scores and distances."""
