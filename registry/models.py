"""Models by name: register_model, create_model, list_models and is_model, as in timm.

A model is a function from its config dataclass to a module. That one dataclass is the schema, the command-line help,
the row of the listing and the search space; a variant is the same function with other defaults, in four lines. The
models themselves are in the package `models`, which is imported by name on the first look-up.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from registry.config import Config, build_config, check_options, config_type
from registry.errors import InputError, PlugInError, one_line
from registry.registry import Registry

if TYPE_CHECKING:
    from torch import nn

MODELS: Registry[Callable[..., Any]] = Registry("models", package="models")

# A model's size depends slightly on the data; listings count parameters for the competitions of F24 to S26.
LISTING_FEATURES, LISTING_CLASSES = 28, 41

Function = TypeVar("Function", bound=Callable[..., Any])
Adapter = Callable[[str, Any, Config], "nn.Module"]

_adapter: Adapter | None = None


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """One row of the listing. `stride` is input frames per output frame; `error` is why a model cannot be built."""

    name: str
    family: str
    parameters: int
    stride: int
    tags: tuple[str, ...]
    doc: str
    error: str = ""


def register_model(name: str, tags: str | Iterable[str] = (), **defaults: Any) -> Callable[[Function], Function]:
    """Register `f(config) -> nn.Module` under `name`.

    The annotation of f's only parameter is its config dataclass, which has the fields `features` and `classes`
    (`models.ModelConfig` has both). `defaults` are the variant's own defaults for fields of that dataclass. `tags` is
    one tag or several.

        @register_model("lstm_tiny", tags="recurrent", hidden=64)
        def lstm_tiny(config: RecurrentConfig) -> nn.Module:
            \"\"\"Two stride-2 convolutions, 3 BiLSTM of 64.\"\"\"
            return recurrent_network(config, "lstm")

    Raises a one-line TypeError for a function without such a config, or for a default that does not fit it.
    """

    def decorate(function: Function) -> Function:
        config = config_type(function)
        try:
            check_options(f"model '{name}'", config, defaults)
        except InputError as error:
            raise TypeError(str(error)) from None
        absent = {"features", "classes"} - {field.name for field in dataclasses.fields(config)}
        if absent:
            raise TypeError(
                f"model '{name}': {config.__name__} has no field {' and '.join(sorted(absent))}: "
                "derive it from models.ModelConfig"
            )
        MODELS.register(name, tags=_tags(tags), defaults=defaults, config=config)(function)
        return function

    return decorate


def model_config(name: str, *, features: int, classes: int, **options: Any) -> Config:
    """The config dataclass of model `name`: its defaults, then `options`.

    Raises InputError for an unknown model, or an option that the model does not have or that has the wrong type.
    """
    config, defaults = _schema(name)
    return build_config(f"model '{name}'", config, {**defaults, **options, "features": features, "classes": classes})


def create_model(
    name: str,
    config: Config | None = None,
    *,
    features: int | None = None,
    classes: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build model `name` from its config dataclass, or from `features`, `classes` and options of that dataclass.

    `features` is the number of values per frame, `classes` the number of classes including the blank. The result is a
    `models.CTCModel`; any other module `(features (N, T, F), lengths (N,)) -> (log_probs (N, T', C), lengths (N,))` is
    wrapped in one.

        create_model("lstm", features=28, classes=41, hidden=512)

    Raises InputError for an unknown name (similar ones are suggested), an option that the model does not have or that
    has the wrong type, or a module with another interface.
    """
    function = MODELS.get(name)
    if config is None:
        if features is None or classes is None:
            raise InputError(f"model '{name}': features and classes are required, or a config")
        config = model_config(name, features=features, classes=classes, **options)
    elif options or features is not None or classes is not None:
        raise InputError(f"model '{name}': found a config and options beside it; expected one of the two")
    elif not isinstance(config, expected := _schema(name)[0]):
        raise InputError(f"model '{name}': the config is a {type(config).__name__}; expected a {expected.__name__}")
    with MODELS.using(name):
        module = function(config)
        return module if _adapter is None else _adapter(name, module, config)


def use_adapter(adapter: Adapter) -> None:
    """Make `create_model` return `adapter(name, module, config)` for the module of a model function.

    The package `models` calls this once: it knows what training needs, but this package cannot import it.
    """
    global _adapter
    _adapter = adapter


def is_model(name: str) -> bool:
    """Whether `name` is a registered model."""
    return name in MODELS


def list_models(
    pattern: str = "*", tags: str | Iterable[str] | None = None, max_params: int | None = None
) -> list[str]:
    """Names of models that match the glob `pattern`, have all `tags`, and have at most `max_params` parameters.

    A model that cannot be built has no known size, so it is left out if `max_params` is given.
    """
    wanted = set(_tags(tags or ()))
    names = [name for name in MODELS.names(pattern) if wanted <= set(MODELS.entry(name).info.get("tags", ()))]
    if max_params is None:
        return names
    rows = [describe(name) for name in names]
    return [row.name for row in rows if not row.error and row.parameters <= max_params]


def describe(name: str) -> ModelRow:
    """The row of the listing for `name`. A model that cannot be built has an `error` and no size."""
    entry = MODELS.entry(name)
    tags = tuple(entry.info.get("tags", ()))
    family = entry.module.rpartition(".")[2]
    try:
        model: Any = _listed_model(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return ModelRow(name, family, parameters, model.stride, tags, entry.summary)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one model that cannot be built must not abort the listing
        cause = error.__cause__ if isinstance(error, PlugInError) else None  # the listing names the model itself
        return ModelRow(name, family, 0, 0, tags, entry.summary, one_line(cause or error))


def _listed_model(name: str) -> nn.Module:
    """The model to count, if possible without allocating or initialising weights; preserves torch's random state."""
    import torch  # nothing else here needs torch

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return create_model(name, features=LISTING_FEATURES, classes=LISTING_CLASSES)
        except Exception:  # noqa: BLE001 - some modules read values during construction, and wrapped ones are run
            return create_model(name, features=LISTING_FEATURES, classes=LISTING_CLASSES)


def _schema(name: str) -> tuple[type, Mapping[str, Any]]:
    """A model's config dataclass, and the defaults that the model sets itself."""
    info = MODELS.entry(name).info
    if info:
        return info["config"], info["defaults"]
    # A plug-in's undecorated function: the entry point gives the model's name, the annotation its config.
    try:
        return config_type(MODELS.get(name)), {}
    except TypeError as error:
        raise InputError(f"model '{name}': {error}") from None


def _tags(tags: str | Iterable[str]) -> tuple[str, ...]:
    return (tags,) if isinstance(tags, str) else tuple(tags)


MAX_COUNT = 10**12
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_count(text: str) -> int:
    """A number of parameters: `20M`, `950k`, `1.5M` or plain digits. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)", text.strip().upper())
    count = float(match[1]) * _UNITS[match[2]] if match else math.inf
    if count > MAX_COUNT:
        raise InputError(f"--max-params {text[:40]}: expected a number up to 1000G such as 20M, 950k or 20000000")
    return int(count)
