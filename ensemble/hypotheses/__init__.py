"""What members propose for each utterance: N-best lists, pools of hypotheses, and their scores and distances."""
