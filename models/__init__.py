"""CTC acoustic models: features `(N, T, F)` and lengths in, log-probabilities `(N, T', C)` and lengths out; blank is 0.

One family a file; a new file with a `@register_model` function is found by itself.
"""

from models.network import BLANK, CTCNetwork, ModelConfig

__all__ = ["BLANK", "CTCNetwork", "ModelConfig"]
