"""What the site generates: the command reference, formulas, and the shell completion; and links between its pages."""

from __future__ import annotations

import re
import subprocess

import pytest
from command_options import CommandHelp, Option, command_help, find_commands, parse_only
from completion import completion_script
from documents import DOCUMENTS, ROOT, blocks
from markdown.extensions.toc import slugify
from site_pages import _command_section, on_page_markdown

from registry import InputError

COMPLETE = """
. {script}
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_hw3p2; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def test_all_commands_are_found_and_their_options_read():
    found = find_commands()
    assert {"registry", "folds.train", "folds.demo", "ensemble.blend", "ensemble.report", "submit"} <= set(found)
    nbest = next(option for option in command_help("ensemble.decode").options if option.names == ("--nbest",))
    assert (nbest.values, nbest.default) == ("INT", "1")
    assert parse_only("ensemble.decode", ["--nbest", "7"]).nbest == 7
    with pytest.raises(InputError, match="--bean"):
        parse_only("ensemble.decode", ["--bean", "7"])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("folds.launch", "--on"),
        ("folds.tune", "--on"),
        ("folds.train", "--log"),
        ("ensemble.blend", "--method"),
        ("ensemble.decode", "--decoder"),
        ("ensemble.transcribe", "--frontend"),
    ],
)
def test_the_help_of_an_option_that_plug_ins_extend_says_so(module, name):
    (option,) = (option for option in command_help(module).options if option.names == (name,))
    assert "plug-in" in " ".join(option.help.split())


def test_the_command_reference_escapes_what_would_be_markup():
    option = Option(("--clock",), "{wall,cpu}", "Of <model>.all | of `<out>.json`.", "wall")
    optional = Option(("--out",), "None | PATH", "A file.", "None")
    positional = Option((), "RUN …", "Folders *of* runs.", "")
    panels = {"options": [option, optional, positional]}
    section = _command_section(CommandHelp("a.b", "Says <x>.\n\n    a <y>", panels))
    assert "\n## python -m a.b\n\nSays &lt;x&gt;.\n\n    a <y>\n" in section
    assert "| `--clock` `wall, cpu` | `wall` | Of &lt;model&gt;.all \\| of `<out>.json`. |\n" in section
    assert "| `--out` `PATH or None` |  | A file. |\n" in section
    assert "| `RUN …` |  | Folders \\*of\\* runs. |\n" in section


def test_formulas_become_mathml_but_not_in_code():
    page = "With $`x_1`$:\n\n```math\n\\frac{1}{2}\n```\n\n```sh\necho $`x`$\n```\n"
    made = on_page_markdown(page, page=None, config=None, files=None)
    assert made.count("<math") == 2 and "<msub><mi>x</mi><mn>1</mn></msub>" in made and "<mfrac>" in made
    assert "```sh\necho $`x`$\n```" in made


def test_every_formula_of_the_documents_converts():
    (path,) = (document for document in ("docs/method.md",) if blocks(document, "math"))
    made = on_page_markdown((ROOT / path).read_text(encoding="utf-8"), page=None, config=None, files=None)
    assert made.count('display="block"') == len(blocks(path, "math")) >= 8 and "$`" not in made
    # What the converter does not know stays as it is.
    assert not re.search(r"\\[a-z]+|&amp;|&#x00026;", "".join(re.findall(r"<math.*?</math>", made, re.DOTALL)))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_exist(document):
    """Those in docs/ only to files of the site: `make docs` fails for others."""
    page, site = ROOT.resolve() / document, ROOT.resolve() / "docs"
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve() if target else page
        assert path.is_file(), target
        assert path.is_relative_to(site) or not page.is_relative_to(site), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slugify(heading, "-") for heading in headings}, f"{target}#{anchor}"


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """A function: the completions of a line's last word, in a real bash."""
    script = tmp_path_factory.mktemp("completion") / "completion.bash"
    script.write_text(completion_script())

    def complete(words: str) -> list[str]:
        shell = ["bash", "-c", COMPLETE.format(script=script, words=words)]
        return subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split()

    return complete


def test_modules_options_and_values_are_completed(completed):
    assert completed("python -m ensemble.de") == ["ensemble.decode"]
    assert set(completed("python -m folds.train --model lstm --intermed")) == {"--intermediate"}
    assert completed("python -m folds.train --clock ''") == ["wall", "cpu"]
    assert completed("python -m ensemble.decode --split d") == ["dev"]
    assert {"--beam", "--help"} <= set(completed("python -m ensemble.decode --"))


def test_other_programs_and_arguments_are_left_to_the_shell(completed):
    assert completed("python script.p") == []
    assert completed("python -m pytest --co") == []
    assert completed("python -m ensemble.decode --arpa fi") == []
