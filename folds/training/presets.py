"""Presets: recipes by model size and available time. `--preset` names one; other options override its values.

RESULTS.md has the measurements behind short, quick and small. Of base, only 25 epochs on a CPU have been measured, and
large not at all: public models of these sizes were trained for 150 to 250 epochs on the real data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from folds.data.augmentation import SpecAugment
from folds.training.options import RecipeOptions
from folds.training.threads import SMALL_MODEL
from registry import InputError, describe

AUTO = "auto"
SMALL, BASE = SMALL_MODEL, 16_500_000
"""Parameters up to which a model is small, and up to which it is of base size. The largest *_small model has 2.3 M,
base models have 12.4 to 15.8 M, *_large ones 17.3 M or more."""

_MASK_NAMES = {field.name for field in dataclasses.fields(SpecAugment)}
_VALUE_NAMES = {field.name for field in dataclasses.fields(RecipeOptions)} - {"augment", "batch_frames"} | _MASK_NAMES

_CR_CTC = {"consistency": 0.2, "time_every": 75}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Option values for models of `least` (exclusive) to `most` parameters, or for a single model."""

    values: Mapping[str, Any]
    """Options of RecipeOptions and SpecAugment."""
    cpu_frames: int
    """Frames per batch on CPUs; on CUDA they depend on the device, unless `values` has a learning rate."""
    least: int = 0
    most: float = math.inf
    model: str | None = None
    """The only registered model it is for; None for all models of these sizes."""
    shape: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of that model's config."""
    default_on: str = ""
    """The type of device ("cpu" or "cuda") on which `auto` selects this preset; each model has one for each type."""

    def __post_init__(self) -> None:
        unknown = sorted(self.values.keys() - _VALUE_NAMES)
        if unknown:
            raise ValueError(
                f"preset: unknown values {', '.join(unknown)}; expected fields of RecipeOptions or SpecAugment, other "
                "than batch_frames, which is cpu_frames"
            )

    def fits(self, model: str, parameters: int) -> bool:
        """Whether it is for a model of this name and size."""
        return self.model in (None, model) and self.least < parameters <= self.most

    def recipe(self, device: str) -> RecipeOptions:
        """The recipe on this type of device ("cpu" or "cuda")."""
        recipe = RecipeOptions()
        augment = dataclasses.replace(recipe.augment, **{k: v for k, v in self.values.items() if k in _MASK_NAMES})
        return dataclasses.replace(
            recipe,
            augment=augment,
            # A preset's own learning rate belongs to its batch size.
            batch_frames=self.cpu_frames if device == "cpu" or "lr" in self.values else None,
            **{name: value for name, value in self.values.items() if name not in _MASK_NAMES},
        )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "short": Preset(
            {
                "epochs": 12,
                "lr": 0.0038,
                "warmup": 0.028,
                "weight_decay": 0.032,
                "clip": 6.4,
                "time_mask": 53,
                "time_every": 294,
                "feature_mask": 2,
                "speed": 0.018,
            },
            4150,
            model="pblstm_small",
            shape={"channels": 70, "bottom": 90, "hidden": 110, "dropout": 0.033},
        ),
        "quick": Preset({"epochs": 18}, 6000, default_on="cpu"),
        "small": Preset({"epochs": 30, **_CR_CTC}, 4000, 0, SMALL, default_on="cuda"),
        "base": Preset({"epochs": 150, **_CR_CTC}, 4000, SMALL, BASE, default_on="cuda"),
        "large": Preset({"epochs": 200, **_CR_CTC}, 4000, BASE, default_on="cuda"),
    }
)


def find_preset(name: str, model: str, device: str) -> Preset:
    """The preset `name` for a registered model; `auto` is `quick` on a CPU, and on CUDA the one for the model's size.

    Raises InputError for an unknown preset, or one for models of another size.
    """
    parameters = describe(model).parameters
    fitting = [preset for preset, entry in PRESETS.items() if entry.fits(model, parameters)]
    if name == AUTO:
        name = next(preset for preset in fitting if PRESETS[preset].default_on == device)
    if name not in PRESETS:
        raise InputError(f"--preset {name}: unknown; expected one of {', '.join((AUTO, *PRESETS))}")
    if name not in fitting:
        only, expected = PRESETS[name].model, f"expected one of {', '.join((AUTO, *fitting))}"
        if only is not None:
            raise InputError(f"--preset {name}: only for {only}, not for {model}: {expected}")
        raise InputError(f"--preset {name}: not for {model}, which has {parameters / 1e6:.1f} M parameters: {expected}")
    return PRESETS[name]


def device_type(name: str) -> str:
    """The type of device ("cpu" or "cuda") that `--device` resolves to, for the values of presets."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if name.startswith("cuda") else "cpu"
