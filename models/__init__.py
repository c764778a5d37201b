"""CTC acoustic models: features `(N, T, F)`, lengths `(N,)` → log-probabilities `(N, T', C)`, lengths; blank is 0."""

from models import layers
from models.adapter import as_ctc_model, build_network, create_model
from models.ctc import BLANK, greedy, log_likelihood
from models.group_layer import GroupFacts, GroupLayer
from models.network import CTCModel, CTCNetwork, ModelConfig, TrainingOutputs
from models.trained import TrainedModel, load
from models.weights_file import WEIGHTS_FILE, write_weights
from registry.models import use_adapter

__all__ = [
    "BLANK",
    "WEIGHTS_FILE",
    "CTCModel",
    "CTCNetwork",
    "GroupFacts",
    "GroupLayer",
    "ModelConfig",
    "TrainedModel",
    "TrainingOutputs",
    "build_network",
    "create_model",
    "greedy",
    "layers",
    "load",
    "log_likelihood",
    "write_weights",
]

# The registry cannot import this package, so it is passed the function that makes any registered model trainable.
use_adapter(as_ctc_model)
