"""CTC acoustic models: features `(N, T, F)` and lengths in, log-probabilities `(N, T', C)` and lengths out; blank is 0.

One family a file; a new file with a `@register_model` function is found by itself.
"""

from models.network import BLANK, CTCModel, CTCNetwork, ModelConfig
from models.trained import WEIGHTS_FILE

__all__ = ["BLANK", "WEIGHTS_FILE", "CTCModel", "CTCNetwork", "ModelConfig"]
