"""Models and other components by name; errors, files and console output shared by all packages."""

from registry.errors import InputError, command
from registry.files import atomic_write, check_writable
from registry.models import MODELS, create_model, describe, is_model, list_models, model_config, register_model
from registry.registry import Registry
from registry.startup import check_startup

__all__ = [
    "MODELS",
    "InputError",
    "Registry",
    "atomic_write",
    "check_writable",
    "command",
    "create_model",
    "describe",
    "is_model",
    "list_models",
    "model_config",
    "register_model",
]

check_startup()
