"""The Python examples of README.md, CONTRIBUTING.md and docs/, run as printed.

A block whose first line is a comment with a path, such as `# models/convnet.py`, is a whole file: it is put into a copy
of the project, where it must be found and work. Other blocks are run one after the other in a folder with a competition
and trained models, as README's steps leave them. Of notebook cells, which have `!` and `%` lines, the syntax is checked
here and the commands in test_commands.py.
"""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from documents import DOCUMENTS, PACKAGES, ROOT, blocks, is_notebook_cell, path_of

from folds.competition.base import Competition
from folds.competition.detect import open_competition
from folds.store.attempts import read_attempts
from folds.store.run_folder import RunFolder
from folds.training.loggers.base import LOGGERS

TRAIN = ["--folds", 2, "--fold", "all", "--epochs", 1, "--batch-frames", 400, "--threads", 1, "--time-mask", 4]
SMALL = ["--hidden", 8, "--channels", 8, 8, "--layers", 1]


def sessions(document: str) -> list[str]:
    """The Python blocks of a document that are neither whole files nor notebook cells."""
    return [block for block in blocks(document, "python") if path_of(block) is None and not is_notebook_cell(block)]


FILES = [
    (document, path, block)
    for document in DOCUMENTS
    for block in blocks(document, "python")
    if (path := path_of(block))
]


def copied_project(folder: Path, path: str, source: str) -> Path:
    """The packages as links to ours, compiled code included, with one more file."""
    for package in PACKAGES:
        _link(ROOT / package, folder / package, (folder / path).parent)
    (folder / path).write_text(source, encoding="utf-8")
    return folder


def _link(source: Path, target: Path, written: Path) -> None:
    """Link a folder, or what is in it where a file is to be written somewhere inside."""
    if target != written and target not in written.parents:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
        return
    target.mkdir(parents=True)
    for inside in source.iterdir():
        if inside.is_dir() and inside.name != "__pycache__":
            _link(inside, target / inside.name, written)
        else:
            (target / inside.name).symlink_to(inside)


def run(project: Path, *arguments: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

# The phonemes of the tiny competition, in the order of the letters that replace them.
PHONEMES = ("AE", "K", "T", "S", "IY", "N")


def write_letters(competition: Competition, folder: Path) -> Path:
    """The competition in the layout of the tutorial's, its phonemes as letters; speakers are writers."""
    folder.mkdir()
    strings = {}
    for split in competition.splits:
        tables = []
        for index, utterance in enumerate(split.ids):
            name = utterance.replace("-", "_")
            tables.append(pd.DataFrame(split.features(index)).add_prefix("f").assign(id=name))
            if split.labels is not None:
                phonemes = [competition.alphabet.phonemes[label] for label in split.labels(index)]
                strings[name] = "".join("abcdef"[PHONEMES.index(phoneme)] for phoneme in phonemes)
        pd.concat(tables).to_csv(folder / f"{split.name}.csv", index=False)
    pd.Series(strings, name="string").rename_axis("id").to_csv(folder / "strings.csv")
    return folder


CHECK_COMPETITION = """
from pathlib import Path
from folds.competition.base import COMPETITIONS
from folds.competition.check import check_competition
check_competition(COMPETITIONS.get("{name}"), Path("{own}"), [Path("{foreign}")])
"""


def registered_name(block: str) -> str:
    return re.findall(r"""register(?:_\w+)?\(\s*["'](\w+)["']""", block)[0]


def test_documents_show_a_file_of_each_kind():
    folders = [str(Path(path).parent) for _, path, _ in FILES]
    assert folders.count("models") == 3 and folders.count("ensemble/blenders") == 2
    assert {"ensemble/decoding", "folds/competition/formats", "folds/training/loggers"} <= set(folders)
    assert "folds/launching/executors" in folders


@pytest.mark.parametrize(("document", "path", "block"), FILES, ids=[f"{d}-{p}" for d, p, _ in FILES])
def test_a_file_as_printed_is_found_and_works(document, path, block, tiny, tmp_path):
    project = copied_project(tmp_path / "project", path, block)
    name, runs = registered_name(block), tmp_path / "runs"
    data = ["--data", tiny, "--runs", runs]
    if path.startswith("models/"):
        assert name in run(project, "registry", name)
        printed = run(project, "folds.train", *data, "--model", name, *TRAIN)
        assert f"{name} fold 1" in printed and len(block.splitlines()) <= 40
    elif path.startswith("folds/competition/formats/"):
        letters = ["--data", write_letters(open_competition(tiny), tmp_path / "letters"), "--runs", runs]
        run(project, "folds.train", *letters, "--model", "lstm_small", *SMALL, *TRAIN)
        out = tmp_path / "submission.csv"
        printed = run(project, "ensemble.blend", *letters, "--method", "average", "--out", out, "--nbest", 5)
        assert out.read_text().startswith("id,string\n0,") and "dev: normalised distance " in printed
        assert len(block.splitlines()) < 60
        (project / "check.py").write_text(CHECK_COMPETITION.format(name=name, own=letters[1], foreign=str(tiny)))
        run(project, "check")
    elif path.startswith("ensemble/decoding/"):
        run(project, "folds.train", *data, "--model", "lstm_small", *SMALL, *TRAIN)
        lm = ["--lm", "train", "--lm-order", 2, "--lm-weight", 0.5, "--nbest", 2] if "PhoneLM" in block else []
        assert "lstm_small: 6 utterances, distance" in run(project, "ensemble.decode", *data, "--decoder", name, *lm)
        # A copy, because pytest would put our own folder before the project's.
        shutil.copy(ROOT / "tests" / "ensemble" / "test_ensemble_decoders.py", project / "test_contract.py")
        assert " passed" in run(project, "pytest", "-q", "test_contract.py", "-k", name)
    elif path.startswith("ensemble/blenders/"):
        run(project, "folds.train", *data, "--model", "lstm_small", *SMALL, *TRAIN)
        out = tmp_path / "submission.csv"
        run(project, "ensemble.blend", *data, "--method", name, "--out", out, "--nbest", 5, "--lm-order", 2)
        assert out.read_text().startswith("index,label\n0,")
    elif path.startswith("folds/training/loggers/"):
        run(project, "folds.train", *data, "--model", "lstm_small", *SMALL, *TRAIN, "--log", name)
        header, row = (runs / "lstm_small" / "fold1" / "metrics.csv").read_text().splitlines()
        assert header == "epoch,step,loss,held_out" and row.startswith("1,") and row.count(",") == 3
        assert not (runs / "lstm_small" / "fold1" / "tensorboard").exists()
    elif path.startswith("folds/launching/executors/"):
        launched = [*data, "--models", "lstm_small", "--fold-count", 2, *SMALL, *TRAIN[4:]]
        assert "2 finished" in run(project, "folds.launch", *launched, "--on", name, "--cores", 1)
        attempts = read_attempts(RunFolder(runs / "lstm_small" / "fold1").attempts)
        assert [(attempt.event, attempt.executor) for attempt in attempts] == [("started", name), ("finished", name)]
    else:
        pytest.fail(f"{document}: no test for examples of {path}")


def test_the_logger_as_printed_continues_a_killed_run(tmp_path, monkeypatch):
    (source,) = (block for _, path, block in FILES if path.startswith("folds/training/loggers/"))
    LOGGERS.names()
    monkeypatch.setattr(LOGGERS, "_entries", dict(LOGGERS._entries))
    namespace = {"__name__": "example"}
    exec(compile(source, "csv_file", "exec"), namespace)
    logger = namespace["CSVFile"](RunFolder(tmp_path), 0)
    for epoch in (1, 2, 3):
        logger.log({"epoch": epoch, "step": 5 * epoch, "loss": 2.5, "grad_norm": 0.1, "held_out": 3.0}, 5 * epoch)
    resumed = namespace["CSVFile"](RunFolder(tmp_path), 5)
    resumed.log({"epoch": 2, "step": 10, "held_out": 2.0}, 10)  # all steps were skipped: no loss
    written = (tmp_path / "metrics.csv").read_text().splitlines()
    assert written == ["epoch,step,loss,held_out", "1,5,2.5,3.0", "2,10,,2.0"]


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if sessions(document)])
def test_python_sessions_run_as_printed(document, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(tiny)
    small = ["--hidden", 8, "--channels", 8, "--bottom", 8, "--layers", 1]
    run(ROOT, "folds.train", "--data", tiny, "--runs", tmp_path / "runs", "--model", "pblstm", *small, *TRAIN)
    namespace: dict[str, object] = {"__name__": "example"}
    for block in sessions(document):
        exec(compile(block, document, "exec"), namespace)


def test_notebook_cells_are_python():
    cells = [block for document in DOCUMENTS for block in blocks(document, "python") if is_notebook_cell(block)]
    assert cells
    for cell in cells:
        lines = ["pass" if line.startswith(("!", "%")) else line for line in cell.splitlines()]
        compile("\n".join(lines), "cell", "exec")


NEED_DATA = ("ensemble.blend", "models.trained")
"""Their examples are run on data by tests of their own."""


def modules_with_examples() -> list[str]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    with_examples = [path for path in files if ">>> " in path.read_text(encoding="utf-8")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in with_examples]
    return [name.removesuffix(".__init__") for name in names if name not in NEED_DATA]


@pytest.mark.parametrize("module", modules_with_examples())
def test_the_examples_in_docstrings_run_as_printed(module):
    """Those marked to be skipped count as none."""
    assert doctest.testmod(importlib.import_module(module)).failed == 0
