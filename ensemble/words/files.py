"""The files that decoding to words needs, and the options that set their paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.words.lexicon import read_lexicon, silence_class
from ensemble.words.search import Vocabulary
from ensemble.words.word_lm import read_word_lm
from folds.data.dataset import Dataset
from registry import InputError
from registry.bounds import Bounded

LEXICON = "lexicon.txt"
WORD_LM = "words.arpa"


@dataclass(frozen=True)
class WordOptions(Bounded):
    """The lexicon and language model for a competition in words."""

    lexicon: Path | None = None
    """For a competition in words: its lexicon, with one word and its phonemes per line; by default lexicon.txt in its
    folder."""
    word_lm: Path | None = None
    """For a competition in words: a word language model in ARPA format; by default words.arpa in its folder."""

    def open_vocabulary(self, dataset: Dataset, root: Path) -> Vocabulary:
        """Read the lexicon and the word language model, and print a line about both.

        By default they are in the competition's folder `root` or in the folder inside it that holds the layout. Raises
        InputError if one is missing or damaged.
        """
        folders = (dataset.root, root)
        lexicon = self.lexicon or _in_folders(LEXICON, folders)
        word_lm = self.word_lm or _in_folders(WORD_LM, folders)
        needed = ((lexicon, "--lexicon", "lexicon"), (word_lm, "--word-lm", "language model of words"))
        for path, option, what in needed:
            if not path.is_file():
                raise InputError(f"{path}: no such file; a competition in words needs a {what}: pass {option} FILE")
        phonemes = dataset.alphabet.phonemes
        words = read_lexicon(lexicon, phonemes)
        lm = read_word_lm(word_lm, words)
        print(
            f"lexicon: {len(words.words) - 1} words; language model of words: order {lm.order}, {lm.unknown} of them "
            "unknown\n"
        )
        return Vocabulary(words, lm, silence_class(phonemes))

    def check_unused(self) -> None:
        """Raise InputError if one of these options was passed for a competition in phonemes."""
        for option, path in (("--lexicon", self.lexicon), ("--word-lm", self.word_lm)):
            if path is not None:
                raise InputError(f"{option} is for competitions in words, and this one is in phonemes: leave it out")


def _in_folders(name: str, folders: Sequence[Path]) -> Path:
    """The path of that file in the first folder that has it, else in the first folder."""
    return next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
