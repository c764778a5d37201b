"""The shell commands of README.md, CONTRIBUTING.md and docs/ run on a tiny competition, or their options exist."""

from __future__ import annotations

import re
import shlex

import pytest
from command_options import command_help, find_commands, parse_only
from documents import DOCUMENTS, ROOT, blocks, is_notebook_cell, languages

OTHERS = [document for document in DOCUMENTS if document != "README.md"]
WITH_SHELL = [document for document in OTHERS if languages(document) & {"sh", "bash"}]
# Options of tests/benchmarks that are named without their script.
OTHER_PROGRAMS = ("kaggle", "torchrun", "tensorboard", "mlflow", "pip", "scancel")
BENCHMARK_OPTIONS = {"--estimate"}
KNOWN = {"sh", "bash", "zsh", "python", "ini", "text", "math", ""}


def test_readme_runs_as_printed(after_readme):
    folder = after_readme.folder
    assert (folder / "submission.csv").is_file() and (folder / "single.csv").is_file()
    assert (folder / "runs" / "pblstm.all" / "fold0" / "test.safetensors").is_file()


@pytest.mark.parametrize("document", WITH_SHELL)
def test_commands_of_other_documents_run_as_printed(document, after_readme):
    for block in [*blocks(document, "sh"), *blocks(document, "bash")]:
        for call in after_readme.calls(block):
            after_readme.check(call)


def test_commands_of_notebook_cells_have_the_options_named():
    cells = [block for document in DOCUMENTS for block in blocks(document, "python") if is_notebook_cell(block)]
    calls = [shlex.split(call) for cell in cells for call in re.findall(r"^!python -m (.*)$", cell, re.MULTILINE)]
    assert calls
    for module, *arguments in calls:
        parse_only(module, arguments)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_has_a_language_that_is_checked_or_is_no_code(document):
    assert languages(document) <= KNOWN


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """All options of all commands, those of each model of `folds.train` and of Slurm included."""
    families = [("folds.train", ["--model", model]) for model in ("lstm", "pblstm", "cnn_lstm", "conformer", "las")]
    families.append(("folds.launch", ["--on", "slurm"]))
    helps = [command_help(module, arguments) for module, arguments in [*((m, []) for m in find_commands()), *families]]
    return {name for text in helps for option in text.options for name in option.names} | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_named_in_the_text_exist(document, flags):
    text = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    spans = [span for span in spans if not span.startswith(OTHER_PROGRAMS)]
    spans = [span for span in spans if "tests/" not in span]  # benchmarks have options of their own
    named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert named - BENCHMARK_OPTIONS <= flags
