"""The tables of the campaign: options, environment and texts; `file_cases.py` has damaged files.

Options are read from each command's `--help`, so a new command or option is tried without a list to edit.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.damage import make_special
from faults.stage import LAS, SLUG, TRAIN

EITHER, REFUSED, ACCEPTED = ("accepted", "refused"), ("refused",), ("accepted",)

NUMBERS = ("-1", "0", "nan", "inf", "-inf", "1e99", str(10**23), "", "x", "1_0", "0x10", "٣", "1" * 400)
ALWAYS_REFUSED = ("nan", "inf", "-inf", "1e99", str(10**23), "", "x", "1" * 400)
PATHS = (
    *("", "/", ".", "..", "data", "submission.csv", "missing", "missing/a/b", "submission.csv/a", "x" * 300),
    *("special/device", "special/null", "special/pipe", "special/socket", "special/loop", "special/dangling link"),
    *("/dev/full", "/proc/self/mem", "/proc/version", "/proc", "special/\udcff", "special/a\nb", "special/<b>&'\""),
    *("~", "-", "$HOME", "special/ ", "a" * 5000),
)
TEXTS = (
    *("", " ", "x", "*", "[", "x" * 300, "../x", "/", ".", "a\nb", "\udcff", "ä" * 200, "<b>", "--data", "-1", "None"),
    *("all", "0,0", "0,1,2,3", "0,", ",", "gru_small,gru_small", "cuda:99", "cuda:x", "meta", "xpu", "20M", "1e99M"),
    *("9" * 400 + "M", "train", "lm.arpa", "data", "https://www.kaggle.com/c/" + "x" * 300),
)
# Writing to a folder is what these do, and "/" is one: they must not be tried by root on a real machine.
FOLDERS_WRITTEN = {
    *(("folds.train", "--runs"), ("folds.launch", "--runs"), ("folds.tune", "--study")),
    *(("folds.demo", "--out"), ("ensemble.transcribe", "--out"), ("submit.__main__", "--out")),
}
OUTSIDE = ("/", "..", "/proc", "~")

BASE = {
    "folds.demo": ["--out", "demo", "--speakers", "4", "--utterances", "1"],
    "folds.train": ["--data", "data", *TRAIN, "--epochs", "1", "--fold", "0", "--runs", "new"],
    "folds.soup": ["--data", "data", "runs/lstm_small/fold0"],
    "folds.delay": ["--data", "data", "runs/lstm_small/fold0", "--frames", "1"],
    "folds.adapt": [
        *("--data", "data", "runs/lstm_small/fold0", "--hypotheses", "submission.csv.json", "--passes", "1"),
    ],
    "ensemble.blend": ["--data", "data", "--method", "single"],
    "ensemble.decode": ["--data", "data", "--decoder", "greedy"],
    "ensemble.joint": ["--data", "data", "--runs", "las"],
    "ensemble.report": ["--data", "data"],
    "ensemble.transcribe": ["--data", "data", "data/test-clean/mfcc/91-1-0000.npy"],
    "folds.launch": ["--data", "data", "--models", "lstm_small", "--runs", "new", "--dry-run", "--fold-count", "2"],
    "folds.tune": [
        *("--data", "data", "--model", "lstm_small", "--study", "study.journal", "--trials", "1", "--minutes", "0.01"),
        *("--folds", "4", "--fix", "hidden=8", "layers=1", "batch_frames=400"),
    ],
    "submit.__main__": ["--competition", SLUG, "--dry-run", "--data", "data"],
}

ENVIRONMENT: dict[str, tuple[str, ...]] = {
    "WORLD_SIZE": ("abc", "-1", "0", "1.5", "", "9" * 400, "٢", "nan"),
    "LOCAL_WORLD_SIZE": ("abc", "0"),
    "HW3P2_CACHE": ("x" * 5000, "x" * 300, "special/pipe", "special/null", "submission.csv", "special/loop", "/proc"),
    "HW3P2_DATA": ("missing", "x" * 5000, "submission.csv", "special/pipe", "special/loop", "\udcff", "a\nb", "/proc"),
    "XDG_CACHE_HOME": ("x" * 5000,),
    "OMP_NUM_THREADS": ("abc", "0", "9" * 50),
    "TMPDIR": ("missing", "submission.csv", "x" * 5000),
    "COLUMNS": ("x", "0", "9" * 30),
    "HOME": ("missing", ""),
    "NO_COLOR": ("1",),
    "TERM": ("nonsense",),
    "KAGGLE_KEY": ("a\nb",),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of a command on a copy of the stage, and what may come of it."""

    kind: str
    name: str
    module: str
    arguments: list[str]
    prepare: Callable[[Path], None] | None = None
    """Damages the copy, its argument, beforehand."""
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    allowed: tuple[str, ...] = EITHER
    same: bool = False
    """If accepted, the result must be that of the same command without the damage."""
    surroundings: str = ""
    """A name in `SURROUNDINGS`."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.module} {' '.join(self.arguments)}"


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command, and the type of its values as `--help` shows it."""

    name: str
    metavar: str

    @property
    def is_number(self) -> bool:
        return bool(re.search(r"\b(INT|FLOAT)\b", self.metavar))

    @property
    def is_path(self) -> bool:
        return "PATH" in self.metavar

    @property
    def is_text(self) -> bool:
        return "STR" in self.metavar


def options_of(help_text: str) -> list[Option]:
    """The options that a command's help lists."""
    found = re.findall(r"│ (--[a-z][\w-]*) ((?:\{None\}\|)?(?:\[?[A-Z]+\b|\{[^}]*\})\S*)", help_text)
    return list({name: Option(name, metavar) for name, metavar in found}.values())


def option_cases(module: str, options: list[Option], base: list[str] | None = None) -> Iterator[Case]:
    """Every option of a command at doubtful values."""
    names = {option.name for option in options}
    base = BASE.get(module, ["--data", "data"] if "--data" in names else []) if base is None else base
    for option in options:
        if option.is_number:
            for value in NUMBERS:
                if option.name == "--minutes" and value in ("1_0", "٣"):
                    continue  # ten and three minutes, as Python reads them
                allowed = REFUSED if value in ALWAYS_REFUSED else EITHER
                arguments = [*base, option.name, value]
                yield Case("numbers", f"{option.name} {value[:30]}", module, arguments, allowed=allowed)
        if option.is_path:
            for value in PATHS:
                if not ((module, option.name) in FOLDERS_WRITTEN and value in OUTSIDE):
                    yield Case("paths", f"{option.name} {value[:30]!r}", module, [*base, option.name, value], specials)
        if option.is_text:
            for value in TEXTS:
                yield Case("texts", f"{option.name} {value[:30]!r}", module, [*base, option.name, value], specials)
    for arguments in (["--no-such-option"], ["--"], ["-"], ["surplus"], ["--data"], ["\udcff"], ["--data="]):
        yield Case("texts", " ".join(arguments), module, [*base, *arguments])


def specials(folder: Path) -> None:
    """Make a folder with every kind of special file."""
    place = folder / "special"
    place.mkdir()
    kinds = {"device": "link to device", "null": "link to null"}
    for name in ("device", "null", "pipe", "socket", "loop", "dangling link"):
        make_special(place / name, kinds.get(name, name))


def environment_cases(modules: list[str]) -> Iterator[Case]:
    """Doubtful values of environment variables."""
    for module in modules:
        base = BASE.get(module, [])
        for name, values in ENVIRONMENT.items():
            for value in values:
                without_data = base
                if name == "HW3P2_DATA" and "--data" in base:
                    at = base.index("--data")
                    without_data = base[:at] + base[at + 2 :]
                case = Case("environment", f"{name}={value[:30]!r}", module, without_data, specials, {name: value})
                yield case


def model_cases(help_of: Callable[[str, list[str]], str], models: list[str]) -> Iterator[Case]:
    """The options that only some models have."""
    common = {option.name for option in options_of(help_of("folds.train", ["--model", "lstm_small"]))}
    for model in models:
        options = options_of(help_of("folds.train", ["--model", model]))
        base = [*LAS[:-1], model, "--data", "data", "--epochs", "1", "--fold", "0", "--runs", "new"]
        base = [*base[2:]] if model.startswith("conformer") else base
        yield from option_cases("folds.train", [option for option in options if option.name not in common], base)
