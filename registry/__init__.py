"""What exists, by name: models and everything else that is registered."""

from registry.errors import InputError, atomic_write, check_place, command
from registry.models import MODELS, create_model, describe, is_model, list_models, model_config, register_model
from registry.registry import Registry

__all__ = [
    "MODELS",
    "InputError",
    "Registry",
    "atomic_write",
    "check_place",
    "command",
    "create_model",
    "describe",
    "is_model",
    "list_models",
    "model_config",
    "register_model",
]
