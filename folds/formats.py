"""The layouts competitions have come in, each with its alphabet, header and row order; detected from the folder.

A format is one function that looks at a folder and answers a `Competition`, or None when the folder is not its own.
Nothing is packed or checked here beyond names: features and labels are read one utterance at a time by the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from folds.alphabets import F22, Alphabet
from folds.competition import Competition, Utterances, read_array
from folds.submission import SampleFile, sample_of
from registry.errors import InputError


def detect(root: Path, allow_pickle: bool) -> Competition:
    """The competition in `root`, or in the one folder inside it that has a known layout (as the zip unpacks)."""
    competition = per_utterance(root, allow_pickle)
    if competition is not None:
        return competition
    raise InputError(f"{root}: no known layout")


def per_utterance(root: Path, allow_pickle: bool) -> Competition | None:
    """F22 to S26: a `.npy` an utterance in `train-clean-*`, `dev-clean`, `test-clean`."""
    train = sorted(path for path in root.glob("train-clean-*") if (path / "mfcc").is_dir())
    if not train:
        return None
    sample = sample_of(root)
    rows, test = _test_order(root, sorted(_names(root / "test-clean" / "mfcc")), sample)
    return Competition(
        root, "F22-S26", F22, sample.header if sample else ("index", "label"), sample, rows,
        _labelled("train", root, train, F22),
        _labelled("dev", root, [root / "dev-clean"], F22),
        _utterances("test", root, [root / "test-clean" / "mfcc" / name for name in test], None, None),
    )


def _names(folder: Path) -> list[str]:
    """Names of the `.npy` files of a folder; other files are no one's business."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: expected the split's .npy files in it; unzip the whole competition")
    names = [path.name for path in folder.iterdir() if path.suffix == ".npy" and not path.name.startswith(".")]
    if not names:
        raise InputError(f"{folder}: no .npy files in it; unzip the whole competition")
    return names


def _labelled(name: str, root: Path, folders: Sequence[Path], alphabet: Alphabet) -> Utterances:
    """A split with transcripts, its utterances sorted by name whatever order the disk lists them in."""
    features: list[Path] = []
    transcripts: list[Path] = []
    for folder in folders:
        inside = next((sub for sub in ("raw", "processed") if (folder / "transcript" / sub).is_dir()), ".")
        spoken, written = folder / "mfcc", folder / "transcript" / inside
        names = sorted(_names(spoken))
        if missing := sorted(set(names).symmetric_difference(_names(written))):
            lonely, other = (spoken, written) if missing[0] in set(names) else (written, spoken)
            raise InputError(
                f"{lonely / missing[0]}: no file of that name in {other}{_more(len(missing) - 1)}; each utterance needs "
                f"features and a transcript: add the missing file or remove this one"
            )
        features += [spoken / each for each in names]
        transcripts += [written / each for each in names]
    return _utterances(name, root, features, transcripts, alphabet)


def _utterances(
    name: str, root: Path, features: Sequence[Path], transcripts: Sequence[Path] | None, alphabet: Alphabet | None
) -> Utterances:
    def labels(index: int) -> np.ndarray:
        path = transcripts[index]
        array = read_array(path)
        if array.ndim != 1 or array.dtype.kind not in "US":
            raise InputError(
                f"{path}: found shape {array.shape} of {array.dtype}; expected a 1-d array of strings, "
                f"['[SOS]', '[SIL]', …, '[EOS]']; download it again"
            )
        try:
            return alphabet.encode(array.astype(str).tolist())
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    return Utterances(
        name,
        tuple(path.stem for path in features),
        (*features, *(transcripts or ())),
        lambda index: str(features[index]),
        lambda index: read_array(features[index]),
        labels if transcripts is not None else None,
    )


def _test_order(root: Path, names: Sequence[str], sample: SampleFile | None) -> tuple[tuple[str, ...], list[str]]:
    """Row ids and test files in the submission's order: the sample's, whose ids are 0-based positions in `names`."""
    if sample is None:
        return tuple(str(row) for row in range(len(names))), list(names)
    by_id = {str(row): name for row, name in enumerate(names)}
    if len(sample.ids) != len(names) or set(sample.ids) != set(by_id):
        raise InputError(
            f"{sample.path}: {len(sample.ids)} rows for {len(names)} test utterances; expected the ids "
            f"0 to {len(names) - 1}, each once: unzip the whole competition again"
        )
    return sample.ids, [by_id[row] for row in sample.ids]


def _more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""
