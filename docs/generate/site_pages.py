"""MkDocs hook: pages made when the site is built, formulas, and the notebook as a download.

The command reference comes from the commands' own parsers, the Python reference from the public names of each package.
Formulas, written as GitHub reads them (a ```math block, or $`…`$ in a line), become MathML, so that the site needs
neither scripts nor a network for them.
"""

from __future__ import annotations

import html
import importlib
import re

import jupytext
from command_options import ROOT, CommandHelp, Option, command_help, find_commands
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Public names by package, then what is imported from a module of its own.
PYTHON = {
    "registry": (),
    "models": ("models.layers",),
    "folds": ("folds.competition.base", "folds.competition.alphabets"),
    "ensemble": (
        *("ensemble.blend.blend", "ensemble.blend.BlendResult", "ensemble.rover.rover", "ensemble.mbr.mbr"),
        *("ensemble.blenders.base", "ensemble.decoding.decoders"),
    ),
    "submit": (),
}
_DISPLAY = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"\$`(.+?)`\$")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the notebook."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    for package in PYTHON:
        files.append(File.generated(config, f"reference/python/{package}.md", content=python_page(package)))
    notebook = jupytext.writes(jupytext.read(ROOT / "docs" / "notebook.py"), fmt="ipynb")
    files.append(File.generated(config, "notebook.ipynb", content=notebook))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML."""
    markdown = _DISPLAY.sub(lambda formula: _mathml(formula[1], "block"), markdown)
    parts, fences = _FENCE.split(markdown), _FENCE.findall(markdown)
    # At the start of a line, Markdown takes <math> for a paragraph of its own, and <span> not.
    inline = [_INLINE.sub(lambda formula: f"<span>{_mathml(formula[1], 'inline')}</span>", part) for part in parts]
    return "".join(text for pair in zip(inline, [*fences, ""], strict=True) for text in pair)


def _mathml(formula: str, display: str) -> str:
    """A LaTeX formula as MathML, with the space after a logarithm that the converter leaves out."""
    return convert(formula, display=display).replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.167em" />')


def commands_page() -> str:
    """The command reference, in Markdown."""
    introduction = (
        "# Commands\n\nEvery command prints these texts with `--help`. A command without options uses the defaults. "
        "Exit status: 0 success, 2 bad input or a refusal (one line on stderr says what to do), 70 a bug, "
        "130 after Ctrl-C, 143 after SIGTERM; 1 from `submit` after an error at Kaggle or in the network, and from "
        "`folds.launch` if a run has failed.\n"
    )
    return introduction + "".join(map(_command_section, map(command_help, find_commands())))


def _command_section(command: CommandHelp) -> str:
    text = f"\n## python -m {command.module}\n\n{_described(command.description)}\n"
    for title, options in command.panels.items():
        name = title if title not in ("options", "positional arguments") else ""
        note = ""
        if command.module == "folds.train" and title == "model":
            name, note = "model: pblstm", "Each model has its own options: `--model las --help` shows those of las.\n\n"
        text += (f"\n### {command.module}: {name}\n\n" if name else "\n") + note
        text += "| option | default | what it does |\n|---|---|---|\n" + "".join(map(_row, options))
    return text


def _row(option: Option) -> str:
    names = "<br>".join(f"`{name}`" for name in option.names)
    values = f"`{_plain(option.values)}`" if option.values else ""
    default = f"`{option.default}`" if option.default not in ("", "None", "''") else ""
    cells = (" ".join(filter(None, (names, values))), default, _escaped(" ".join(option.help.split())))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _plain(values: str) -> str:
    """What an option takes, without the braces of a help text: "wall, cpu", "PATH or None"."""
    alternatives = [value.strip() for value in values.split("|") if value.strip() != "None"]
    plain = [value[1:-1].replace(",", ", ") if value.startswith("{") else value for value in alternatives]
    return " or ".join([*plain, "None"] if len(alternatives) < len(values.split("|")) else plain)


def _described(description: str) -> str:
    """A description whose placeholders, such as <out>, are not taken for tags."""
    return "\n".join(line if line.startswith("    ") else _escaped(line) for line in description.splitlines())


def _escaped(text: str) -> str:
    """`<`, `>` and `&` as entities, and `*` and `_` escaped, except in code spans."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    return "".join(parts)


def python_page(package: str) -> str:
    """The reference of a package's public names, in Markdown for mkdocstrings."""
    module = importlib.import_module(package)
    names = [f"{package}.{name}" for name in getattr(module, "__all__", ())]
    names = [name for name in names if name not in PYTHON[package]]
    summary = _escaped((module.__doc__ or "").strip().split("\n\n")[0])
    return f"# {package}\n\n{summary}\n\n" + "\n".join(f"::: {name}\n" for name in [*names, *PYTHON[package]])
