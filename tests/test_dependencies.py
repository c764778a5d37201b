"""What setup.cfg declares is what the code imports: nothing missing, nothing that no code needs."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("registry", "models", "folds", "ensemble", "submit")
# Import names that differ from the name of the distribution.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "Levenshtein": "python-Levenshtein", "kagglesdk": "kaggle"}
# Imported by others on our behalf: kaggle imports six without declaring it, torch.utils.tensorboard needs tensorboard,
# msgspec.yaml needs PyYAML.
INDIRECT = {"six", "tensorboard", "PyYAML"}
# Decoders, trackers, executors, file systems and the search library, used where they are installed.
OPTIONAL = {"ctcdecode", "flashlight", "fast_ctc_decode", "wandb", "mlflow", "submitit", "ray", "fsspec"}
OPTIONAL |= {"optuna", "plotly"}


def imported() -> set[str]:
    """Top-level names of third-party modules imported anywhere in the packages."""
    names = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - set(PACKAGES) - OPTIONAL


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def test_declared_dependencies_are_those_imported():
    lines = [line for line in setup()["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
    declared = {re.split(r"[<>=~!\[ ]", line)[0] for line in lines}
    used = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in imported()}
    assert declared - INDIRECT == used


def test_every_package_is_listed():
    listed = set(setup()["options"]["packages"].split())
    inits = [path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    assert listed == found


def test_no_file_is_longer_than_300_lines():
    long = {
        str(path.relative_to(ROOT)): count
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert long == {}
