"""The timm verbs over the model registry: register_model, create_model, list_models, is_model.

A model is a function from its config dataclass to a module. That one dataclass is the schema, the command line's help,
the documentation row and the search space; a variant is the same function of four lines with other defaults. Models
themselves live in the room `models`, which is imported by name at the first look-up.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from registry.errors import InputError
from registry.registry import Registry

if TYPE_CHECKING:
    from torch import nn

MODELS: Registry[Callable[..., Any]] = Registry("models", package="models")

# Sizes depend on the data a little; listings count parameters for the competition of F24 to S26.
LISTING_FEATURES, LISTING_CLASSES = 28, 41


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """One line of the listing. `stride` is input frames per output frame; `error` says why a model cannot be built."""

    name: str
    family: str
    parameters: int
    stride: int
    tags: tuple[str, ...]
    doc: str
    error: str = ""


def register_model(name: str, tags: Iterable[str] = (), **defaults: Any) -> Callable[[Callable], Callable]:
    """Register `f(config) -> nn.Module` under `name`.

    The annotation of f's only parameter is its config dataclass, which must have the fields `features` and `classes`.
    `defaults` are the variant's own values of that dataclass's fields.

        @register_model("lstm_small", tags=("recurrent",), hidden=256)
        def lstm_small(config: LSTMConfig) -> nn.Module:
            \"\"\"Three BiLSTM layers of 256: trains on two CPU cores.\"\"\"
            return build(config)

    Raises TypeError for a function without such a config, or a default that is none of its fields.
    """

    def decorate(function: Callable) -> Callable:
        config = _config_type(function)
        fields = {field.name for field in dataclasses.fields(config)}
        unknown = sorted(set(defaults) - fields)
        if unknown or not {"features", "classes"} <= fields:
            raise TypeError(
                f"model '{name}': {config.__name__} has no field {', '.join(unknown) or 'features and classes'}"
            )
        return MODELS.register(name, tags=tuple(tags), defaults=defaults, config=config)(function)

    return decorate


def model_config(name: str, *, features: int, classes: int, **config: Any) -> Any:
    """The config dataclass of model `name`: its own defaults, then `config`. Raises InputError for unknown fields."""
    info = MODELS.entry(name).info
    if not info:  # a plug-in's bare function: the entry-point name is the model's, the annotation its schema
        info = {"config": _config_type(MODELS.get(name)), "defaults": {}}
    fields = [field.name for field in dataclasses.fields(info["config"])]
    unknown = sorted(set(config) - set(fields))
    if unknown:
        raise InputError(f"model '{name}': no option {', '.join(unknown)}; it has {', '.join(fields)}")
    return info["config"](**{**info["defaults"], **config, "features": features, "classes": classes})


def create_model(name: str, *, features: int, classes: int, **config: Any) -> nn.Module:
    """Build model `name` for `features` values a frame and `classes` classes, the blank included.

    Raises InputError for an unknown name (near ones are suggested) or option.
    """
    return MODELS.get(name)(model_config(name, features=features, classes=classes, **config))


def is_model(name: str) -> bool:
    """Whether `name` is a registered model."""
    return name in MODELS


def list_models(pattern: str = "*", tags: Iterable[str] | None = None, max_params: int | None = None) -> list[str]:
    """Names that match the glob `pattern`, carry all of `tags`, and have at most `max_params` parameters."""
    wanted = set(tags or ())
    names = [name for name in MODELS.names(pattern) if wanted <= set(MODELS.entry(name).info.get("tags", ()))]
    if max_params is not None:
        names = [name for name in names if describe(name).parameters <= max_params]
    return names


@cache
def describe(name: str) -> ModelRow:
    """The listing's row for `name`; the model is built without memory or initial values, only to be counted."""
    import torch  # a listing without sizes, and everything else here, needs no torch

    entry = MODELS.entry(name)
    tags = tuple(entry.info.get("tags", ()))
    family = MODELS.get(name).__module__.rsplit(".", 1)[-1]
    try:
        with torch.device("meta"):
            model = create_model(name, features=LISTING_FEATURES, classes=LISTING_CLASSES)
        stride = model.stride
    except Exception as error:  # noqa: BLE001 - one model that cannot be built must not take the listing down
        return ModelRow(name, family, 0, 0, tags, entry.doc, f"{type(error).__name__}: {error}")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelRow(name, family, parameters, stride, tags, entry.doc)


def _config_type(function: Callable) -> type:
    hints = [hint for name, hint in typing.get_type_hints(function).items() if name != "return"]
    if len(hints) != 1 or not dataclasses.is_dataclass(hints[0]):
        raise TypeError(f"{function.__qualname__}: a model takes one parameter, annotated with its config dataclass")
    return hints[0]


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_count(text: str) -> int:
    """A number of parameters: `20M`, `950k`, `1.5M` or plain digits. Raises InputError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)", text.strip().upper())
    if not found:
        raise InputError(f"--max-params {text}: expected a number such as 20M, 950k or 20000000")
    return int(float(found[1]) * _UNITS[found[2]])
