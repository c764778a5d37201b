"""The tables of damaged files: which command reads which file, and how the file is damaged."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from faults import damage
from faults.cases import ACCEPTED, EITHER, REFUSED, Case
from faults.damage import Damage
from faults.stage import SLUG, TRAIN

READ_DATA = ["--data", "data", "--decoder", "greedy"]
TRAIN_AGAIN = ["--data", "data", *TRAIN, "--epochs", "1", "--fold", "0", "--runs", "new"]
OLD = ["--data", "old", *TRAIN, "--epochs", "1", "--fold", "0", "--runs", "new", "--allow-pickle"]
RESUME = ["--data", "data", *TRAIN, "--fold", "0", "--resume"]
STUDENT = [*TRAIN_AGAIN[:-2], "--folds", "1", "--runs", "new", "--teacher", "submission.csv.json"]
SUBMIT = ["--competition", SLUG, "--dry-run", "--data", "data"]
DECODE_LM = ["--data", "data", "--lm", "lm.arpa", "--beam", "4"]

FEATURES, LABELS = "data/train-clean-100/mfcc/0-1-0000.npy", "data/train-clean-100/transcript/0-1-0000.npy"
RUN = "runs/lstm_small/fold0"
ADAPT = ["--data", "data", RUN, "--hypotheses", "submission.csv.json", "--passes", "1"]

JSON_FILES = [
    (f"{RUN}/config.json", "ensemble.decode", READ_DATA),
    (f"{RUN}/config.json", "folds.train", RESUME),
    (f"{RUN}/config.json", "folds.soup", ["--data", "data", RUN]),
    (f"{RUN}/summary.json", "folds.soup", ["--data", "data", RUN]),
    (f"{RUN}/config.json", "folds.delay", ["--data", "data", RUN, "--frames", "1"]),
    ("submission.csv.json", "folds.adapt", ADAPT),
    ("submission.csv.json", "ensemble.report", ["--data", "data"]),
    ("submission.csv.json", "folds.train", STUDENT),
    ("demo/demo.json", "folds.demo", ["--out", "demo", "--speakers", "4", "--utterances", "1"]),
]
LINE_FILES = [
    (f"{RUN}/metrics.jsonl", "ensemble.report", ["--data", "data"]),
    ("submissions.jsonl", "submit.__main__", ["--ledger"]),
]
TENSOR_FILES = [
    (f"{RUN}/oof.safetensors", "ensemble.decode", [*READ_DATA, "--split", "oof"]),
    (f"{RUN}/dev.safetensors", "ensemble.decode", READ_DATA),
    (f"{RUN}/test.safetensors", "ensemble.decode", [*READ_DATA, "--split", "test", "--out", "submission.csv"]),
    ("las/las_small/fold0/checkpoint/weights.safetensors", "ensemble.joint", ["--data", "data", "--runs", "las"]),
    ("nbest.safetensors", "folds.train", STUDENT),
    ("nbest.safetensors", "folds.adapt", ADAPT),
    (f"{RUN}/checkpoint", "folds.soup", ["--data", "data", RUN]),
    (f"{RUN}/checkpoint/weights.safetensors", "folds.delay", ["--data", "data", RUN, "--frames", "1"]),
    ("cache", "ensemble.decode", READ_DATA),
]
TEXT_FILES = [
    ("lm.arpa", "ensemble.decode", DECODE_LM),
    ("submission.csv", "submit.__main__", SUBMIT),
    ("submission.csv", "folds.demo", ["--out", "demo", "--score", "submission.csv"]),
    ("data/test-clean/random_submission.csv", "ensemble.decode", READ_DATA),
]
READABLE_HEADERS = ("long integer suffix",)
ARPA_NUMBERS = ("1e37", "-1e37", "1e400", "nan", "inf", "-1e9", "5000", "x", "", "-99", "١")


class Unpicklable:
    """Its pickle calls a function with an argument that it does not take."""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("no number",)


def object_elements() -> dict[str, list[object]]:
    """Elements of object arrays: what Python can pickle besides arrays of floats."""
    good = np.ones((24, 5), np.float32)
    ragged = np.empty(2, object)
    ragged[:] = [[1, 2], [3]]
    return {
        "dictionaries": [{"a": 1}], "none": [None], "texts": ["abc"], "digits": [np.array([["1", "2"]])],
        "bytes": [b"\xff"], "numbers": [1.0], "Booleans": [np.ones((24, 5), bool)], "ragged": [ragged],
        "ragged lists": [[[1.0, 2.0], [3.0]]], "complex": [np.ones((24, 5), complex)], "huge ints": [[[10**400]]],
        "nan": [np.full((24, 5), np.nan)], "1e308": [good.astype(np.float64) * 1e308], "empty": [np.zeros((0, 5))],
        "no features": [np.zeros((24, 0))], "one dimension": [np.ones(24)], "three dimensions": [np.ones((2, 3, 4))],
        "other width": [good, good[:, :3]], "nested labels": [[[1], [2]]], "sets": [{1, 2}], "types": [int],
        "slices": [slice(1)], "unpicklable": [Unpicklable()], "times": [np.ones((2, 5), "M8[s]")],
        "structures": [np.ones(3, [("a", "f4")])], "zero labels": [[0, 1]], "large labels": [[10**6]],
        "int64": [[2**62]], "negative": [[-1]], "float labels": [[1.0, 2.0]], "half": [good.astype(np.float16)],
        "masked": [np.ma.masked_array(good, good > 0)], "recursive": [_recursive()],
    }  # fmt: skip


def _recursive() -> list[object]:
    inner: list[object] = []
    inner.append(inner)
    return inner


def damaged(kind: str, name: str, file: str, module: str, arguments: list[str], how: Damage, **more: object) -> Case:
    """A case in which one file is damaged, `file` or the newest in the folder `file`."""

    def prepare(folder: Path) -> None:
        path = folder / file
        if path.is_dir() and path.suffix == "" and kind.startswith("safetensors"):
            path = max(path.glob("*.safetensors"), key=lambda it: (it.name.startswith("step"), it.name))
        how(path)

    return Case(kind, f"{file}, {name}", module, arguments, prepare, **more)  # type: ignore[arg-type]


def array_cases(flips: int) -> Iterator[Case]:
    """Damaged features and transcripts."""
    for (file, kind), (name, text) in itertools.product(
        [(FEATURES, "features"), (LABELS, "transcripts")], damage.HEADERS.items()
    ):
        for version in (1, 2):
            how = damage.header(text, version)
            title, allowed = f"header {name}, version {version}", EITHER if name in READABLE_HEADERS else REFUSED
            yield damaged(kind, title, file, "folds.train", TRAIN_AGAIN, how, allowed=allowed)
    for file, kind in [(FEATURES, "features"), (LABELS, "transcripts")]:
        for name, content in damage.CONTENTS.items():
            how = damage.replace(content)
            yield damaged(kind, name, file, "folds.train", TRAIN_AGAIN, how, allowed=REFUSED)
        for special in damage.SPECIAL:
            yield damaged(kind, special, file, "folds.train", TRAIN_AGAIN, damage.special(special), allowed=REFUSED)
        for share in (0.1, 0.5, 0.99):
            how = damage.truncate(share)
            yield damaged(kind, f"first {share}", file, "folds.train", TRAIN_AGAIN, how, allowed=REFUSED)
        for seed in range(flips):
            ways = {"bit": damage.flip(seed), "header bit": damage.flip_in_header(seed, 128)}
            ways["splice"] = damage.splice(seed)
            for name, how in ways.items():
                yield damaged(kind, f"{name} {seed}", file, "folds.train", TRAIN_AGAIN, how)
    for name, array in bad_features().items():
        how = damage.replace(_npy(array))
        yield damaged("features", name, FEATURES, "folds.train", TRAIN_AGAIN, how, allowed=REFUSED)
    for name, array in bad_labels().items():
        how = damage.replace(_npy(array))
        yield damaged("transcripts", name, LABELS, "folds.train", TRAIN_AGAIN, how, allowed=REFUSED)


def bad_features() -> dict[str, np.ndarray]:
    """Arrays that are no features."""
    good = np.ones((24, 5), np.float32)
    return {
        "nan": good * np.nan, "inf": good * np.inf, "1e308": good.astype(np.float64) * 1e308, "1e38": good * 1e38,
        "ints": good.astype(int), "Booleans": good > 0, "complex": good * 1j, "one dimension": good[:, 0],
        "other width": good[:, :3], "empty": good[:0], "no features": good[:, :0], "texts": np.array([["a"]]),
        "three dimensions": good[None], "scalar": np.array(1.0),
    }  # fmt: skip


def bad_labels() -> dict[str, np.ndarray]:
    """Arrays that are no transcript."""
    surrogate = np.frombuffer(np.array([0xD800, 0xFFFFFFFF], "<u4").tobytes(), "<U1")
    return {
        "empty": np.array([], str), "marks": np.array(["[SOS]", "[EOS]"]), "unknown": np.array(["AE", "XX"]),
        "numbers": np.arange(3), "nested": np.array([["AE"], ["K"]]), "bytes": np.array([b"AE", b"\xff\xfe"]),
        "surrogates": surrogate, "lower case": np.array(["ae"]), "long": np.array(["x" * 10_000]),
        "newline": np.array(["AE\nK"]), "empty text": np.array([""]), "scalar": np.array("AE"),
    }  # fmt: skip


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def object_array_cases() -> Iterator[Case]:
    """The object arrays of F18 to F21 with arbitrary contents."""
    for file, count in (("old/train.npy", 6), ("old/train_labels.npy", 6), ("old/test.npy", 2)):
        for name, elements in object_elements().items():
            yield damaged("object arrays", name, file, "folds.train", OLD, damage.object_array(elements, count))
        for name, content in damage.CONTENTS.items():
            how = damage.replace(content)
            yield damaged("object arrays", name, file, "folds.train", OLD, how, allowed=REFUSED)
        for name, text in damage.HEADERS.items():
            yield damaged("object arrays", f"header {name}", file, "folds.train", OLD, damage.header(text))
        for special in damage.SPECIAL:
            yield damaged("object arrays", special, file, "folds.train", OLD, damage.special(special))
        for seed in range(12):
            yield damaged("object arrays", f"bit {seed}", file, "folds.train", OLD, damage.flip(seed))
    without = OLD[:-1]
    yield Case("object arrays", "without --allow-pickle", "folds.train", without, allowed=REFUSED)


def json_cases(stage: Path) -> Iterator[Case]:
    """Every key of every JSON file of ours at every doubtful value; whole files replaced; bits."""
    for file, module, arguments in JSON_FILES:
        content = json.loads((stage / file).read_bytes())
        for keys, (name, value) in itertools.product(damage.keys_of(content), damage.VALUES.items()):
            title = ".".join(map(str, keys))
            yield damaged("json", f"{title} {name}", file, module, arguments, damage.change_json(keys, value))
        yield from whole_file("json", file, module, arguments)
    for file, module, arguments in LINE_FILES:
        lines = (stage / file).read_text().splitlines()
        for line, text in enumerate(lines[:2]):
            for keys, (name, value) in itertools.product(damage.keys_of(json.loads(text)), damage.VALUES.items()):
                how = damage.change_line(line, keys, value)
                title = ".".join(map(str, keys))
                yield damaged("json lines", f"line {line}, {title} {name}", file, module, arguments, how)
        yield from whole_file("json lines", file, module, arguments)


def tensor_cases(stage: Path, flips: int) -> Iterator[Case]:
    """Predictions, weights, checkpoints, N-best lists and the cache."""
    for file, module, arguments in TENSOR_FILES:
        path = stage / file
        if path.is_dir():
            path = max(path.glob("*.safetensors"), key=lambda it: (it.name.startswith("step"), it.name))
        header, _ = damage.split_safetensors(path.read_bytes())
        size = len(json.dumps(header)) + 8
        keys = list(damage.keys_of(header))
        chosen = keys[:: max(1, len(keys) // 25)]
        for place, (name, value) in itertools.product(chosen, damage.VALUES.items()):
            how = damage.change_header(place, value)
            title = ".".join(map(str, place))
            yield damaged("safetensors", f"{title} {name}", file, module, arguments, how, same=True)
        yield from whole_file("safetensors", file, module, arguments, same=True)
        for seed in range(flips):
            how = damage.flip_in_header(seed, size)
            yield damaged("safetensors", f"header bit {seed}", file, module, arguments, how, same=True)
            yield damaged("safetensors", f"bit {seed}", file, module, arguments, damage.flip(seed, 0.3), same=True)
            yield damaged("safetensors", f"splice {seed}", file, module, arguments, damage.splice(seed), same=True)


def text_cases(flips: int) -> Iterator[Case]:
    """Language models, submissions and sample files."""
    for file, module, arguments in TEXT_FILES:
        yield from whole_file("text files", file, module, arguments)
        for seed in range(flips):
            yield damaged("text files", f"bit {seed}", file, module, arguments, damage.flip(seed))
            yield damaged("text files", f"splice {seed}", file, module, arguments, damage.splice(seed))
    for number, column in itertools.product(ARPA_NUMBERS, ("probability", "back-off", "count")):
        how = _arpa_number(number, column)
        yield damaged("text files", f"{column} {number}", "lm.arpa", "ensemble.decode", DECODE_LM, how)


def _arpa_number(number: str, column: str) -> Damage:
    def how(path: Path) -> None:
        lines = path.read_text().splitlines()
        if column == "count":
            row = next(index for index, line in enumerate(lines) if line.startswith("ngram 1="))
            lines[row] = f"ngram 1={number}"
        else:
            row = next(index for index, line in enumerate(lines) if line.count("\t") == 2)
            fields = lines[row].split("\t")
            fields[0 if column == "probability" else 2] = number
            lines[row] = "\t".join(fields)
        path.write_text("\n".join(lines) + "\n")

    return how


def whole_file(kind: str, file: str, module: str, arguments: list[str], same: bool = False) -> Iterator[Case]:
    for name, content in damage.CONTENTS.items():
        yield damaged(kind, name, file, module, arguments, damage.replace(content), same=same)
    for special in damage.SPECIAL:
        yield damaged(kind, special, file, module, arguments, damage.special(special), same=same)
    for share in (0.1, 0.5, 0.9, 0.999):
        yield damaged(kind, f"first {share}", file, module, arguments, damage.truncate(share), same=same)


def recording_cases(flips: int) -> Iterator[Case]:
    """Recordings, and features in their place."""
    for file in ("recording.wav", "data/test-clean/mfcc/91-1-0000.npy"):
        arguments = ["--data", "data", file]
        yield from whole_file("recordings", file, "ensemble.transcribe", arguments)
        for seed in range(flips):
            for name, how in {"bit": damage.flip(seed), "splice": damage.splice(seed)}.items():
                yield damaged("recordings", f"{name} {seed}", file, "ensemble.transcribe", arguments, how)
            how = damage.flip_in_header(seed, 128)
            yield damaged("recordings", f"header bit {seed}", file, "ensemble.transcribe", arguments, how)
    for name, text in damage.HEADERS.items():
        how = damage.header(text)
        yield damaged("recordings", f"header {name}", file, "ensemble.transcribe", arguments, how)


def layout_cases() -> Iterator[Case]:
    """Files and folders of a competition that are missing, misnamed, or have doubtful names."""
    names = ("a\nb", "\udcff", "a\tb", "x" * 240, "é-1-0000", "a b", "<b>-1-0000", "\u202e-1-0000", " ", "-", "..npy")
    for name in names:

        def rename(folder: Path, name: str = name) -> None:
            for kind in ("mfcc", "transcript"):
                path = folder / "data/train-clean-100" / kind / "0-1-0000.npy"
                path.rename(path.with_name(f"{name}.npy"))

        allowed = REFUSED if not name.isprintable() else ACCEPTED
        yield Case("names", repr(name[:20]), "folds.train", TRAIN_AGAIN, rename, allowed=allowed)
        renamed = [*TRAIN_AGAIN[2:], "--data", f"data {name}"]
        yield Case("names", f"folder {name[:20]!r}", "folds.train", renamed, _moved(name))
        yield Case("names", f"page of {name[:20]!r}", "ensemble.report", ["--data", f"data {name}"], _moved(name))
    for path in ("data/train-clean-100", "data/dev-clean/mfcc", "data/test-clean", "data/train-clean-100/transcript"):
        for special in damage.SPECIAL:
            yield damaged("names", special, path, "folds.train", TRAIN_AGAIN, damage.special(special), allowed=REFUSED)


def _moved(name: str):
    return lambda folder: (folder / "data").rename(folder / f"data {name}")
