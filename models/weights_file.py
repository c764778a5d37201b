"""The weights of a trained network in one safetensors file, with everything needed to use them as JSON in its header.

Nothing is unpickled. The header holds a description:

    model           the registered name
    config          the options of its config dataclass, features and classes among them
    phonemes        phoneme of each class; empty for class 0, the blank
    characters      submission character of each class; empty for class 0, the blank
    normalization   "utterance", "group" or "none": see `models.features.FeatureTransform`
    smooth          standard deviation, in frames, of the smoothing before normalisation; 0 for none
    delay           copies of the first frame prepended to the features; 0 for none
    group_layer     its `GroupFacts`, or null
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from torch import Tensor, nn

from models.checked_tensors import read_tensors, write_tensors
from models.features import FeatureTransform
from models.group_layer import GroupFacts
from registry import InputError
from registry.json_files import describe_mismatch
from registry.tensor_files import open_tensors

# Where a run keeps the weights used for prediction.
WEIGHTS_FILE = Path("checkpoint/weights.safetensors")


@dataclass(frozen=True)
class Description:
    """What a weights file says about its network. Raises ValueError for invalid values."""

    model: str
    config: dict[str, Any]
    phonemes: tuple[str, ...]
    characters: tuple[str, ...]
    normalization: str
    smooth: float = 0.0
    group_layer: GroupFacts | None = None
    delay: int = 0

    def __post_init__(self) -> None:
        features, classes = (self.config.get(key) for key in ("features", "classes"))
        if type(features) is not int or type(classes) is not int:
            raise ValueError(f"features and classes are {features} and {classes}; expected integers")
        if min(features, classes) < 1:
            raise ValueError(f"features and classes are {features} and {classes}; expected at least 1")
        for name, labels in (("phonemes", self.phonemes), ("characters", self.characters)):
            if len(labels) != classes or not all(isinstance(label, str) for label in labels):
                raise ValueError(f"{len(labels)} {name}; expected one string for each of the {classes} classes")
            if labels[0] != "" or len(set(labels)) != len(labels):
                raise ValueError(f"{name} are not distinct, or that of class 0, the blank, is not empty")
        FeatureTransform(self.normalization, self.smooth, self.delay)

    @property
    def transform(self) -> FeatureTransform:
        """Preprocessing of raw features before the network reads them."""
        return FeatureTransform(self.normalization, self.smooth, self.delay)

    @staticmethod
    def of(values: Mapping[str, Any]) -> Description:
        """The description with these values. Raises ValueError if one is missing or wrong."""
        try:
            return msgspec.convert(dict(values), Description)
        except msgspec.ValidationError as error:
            raise ValueError(describe_mismatch(error)) from None
        except TypeError as error:
            raise ValueError(str(error)) from None


def write_weights(path: Path, network: nn.Module, description: Mapping[str, Any]) -> None:
    """Write the weights of `network` with a description, as listed at the top of this module.

    Raises ValueError for a description that `read_description` would reject.
    """
    Description.of(description)
    write_tensors(path, network.state_dict(), {"description": json.dumps(dict(description), ensure_ascii=False)})


def read_description(path: Path) -> Description:
    """The description in the file's header. Raises InputError if the file is damaged or has none."""
    try:
        with open_tensors(path, "pt") as file:
            text = (file.metadata() or {}).get("description")
        if text is None:
            raise InputError(f"{path}: has no description, so it was made by an earlier version: train this run again")
        return Description.of(json.loads(text))
    except (SafetensorError, FileNotFoundError) as error:
        raise InputError(f"{path}: cannot be read ({_brief(error)}): copy the file again, or train again") from None
    except (ValueError, RecursionError) as error:  # JSONDecodeError is a ValueError too
        raise InputError(f"{path}: the description is damaged ({_brief(error)}): train this run again") from None


def load_weights(path: Path, network: nn.Module) -> None:
    """Load the weights into `network`. Raises InputError for a damaged file, or weights that do not fit the network."""
    try:
        tensors, _ = read_tensors(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise InputError(f"{path}: cannot be read ({_brief(error)}): copy the file again, or train again") from None
    set_weights(network, tensors, path)


def set_weights(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Set the weights of `network` to those read from `path`. Raises InputError if they do not fit the network."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{path}: not the weights of this network ({_brief(error)}): train this run again") from None


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
