"""The notebook runs from top to bottom, in a kernel of its own, on a smaller demo than its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import jupytext
import nbformat
from documents import ROOT
from nbclient import NotebookClient

SMALL = """\
DEMO = "--speakers 6 --utterances 4"
MODELS = "gru_small,lstm_small"
OPTIONS = "--epochs 1 --batch-frames 3000 --hidden 16 --channels 16 16 --layers 1 --threads 1"
"""


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    notebook = jupytext.read(ROOT / "docs" / "notebook.py")
    # As papermill does it: the parameters are set anew in a cell after theirs.
    (row,) = (row for row, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(row + 1, nbformat.v4.new_code_cell(SMALL))
    kernels = tmp_path / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = {"argv": command, "display_name": "Python 3", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(specification))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "work"
    folder.mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert all(part in text for part in ("lstm_small fold 0 epoch 1/1", "lstm_small.delay1", "wrote submission.csv"))
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert len((folder / "submission.csv").read_text().splitlines()) == 1 + 4
