"""The alphabets of the competitions: the class of each phoneme, and its character in a submission.

An alphabet belongs to a competition's format, not to a model: in other semesters the same phoneme has a different
character and a different class.

Sources: the course's own `phonemes.py` and `phoneme_list.py` as published with the homeworks (F18, F20, S21, S22, F22).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from registry.errors import InputError

# Markers around a transcript, neither scored nor predicted. `[SIL]` is not one of them: it is a scored label.
MARKS = ("[SOS]", "[EOS]", "<sos>", "<eos>")
# Silence is written both ways, sometimes within one semester.
SILENCES = ("[SIL]", "SIL")


@dataclass(frozen=True)
class Alphabet:
    """Phonemes and characters by class; class 0 is the CTC blank, whose phoneme and character are the empty string.

    >>> F22.to_string([1, 5, 1]), F22.from_string("-@-"), F22.classes
    ('-@-', [1, 5, 1], 41)
    """

    name: str
    phonemes: tuple[str, ...]
    characters: tuple[str, ...]

    def __post_init__(self) -> None:
        if not (self.phonemes[0] == self.characters[0] == ""):
            raise ValueError(f"alphabet {self.name}: class 0 must be the blank, with an empty phoneme and character")
        if not len(self.phonemes) == len(set(self.phonemes)) == len(self.characters) == len(set(self.characters)):
            raise ValueError(f"alphabet {self.name}: phonemes and characters must be distinct and of equal number")
        if any(len(character) != 1 for character in self.characters[1:]):
            raise ValueError(f"alphabet {self.name}: each phoneme must have one character")

    @staticmethod
    def of(name: str, text: str) -> Alphabet:
        """The alphabet with the phonemes and characters that alternate in `text`, separated by spaces: classes 1, 2, ….

        >>> Alphabet.of("vowels", "AA a IY i").phonemes
        ('', 'AA', 'IY')
        """
        words = text.split()
        return Alphabet(name, ("", *words[::2]), ("", *words[1::2]))

    @property
    def classes(self) -> int:
        """Number of classes, including the blank: the `C` of every shape."""
        return len(self.phonemes)

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits: hash of all classes, phonemes and characters."""
        text = json.dumps([self.phonemes, self.characters], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def _class_of_phoneme(self) -> dict[str, int]:
        table = {phoneme: index for index, phoneme in enumerate(self.phonemes) if index}
        silence = next((table[name] for name in SILENCES if name in table), None)
        return table if silence is None else table | dict.fromkeys(SILENCES, silence)

    @functools.cached_property
    def _class_of_character(self) -> dict[str, int]:
        return {character: index for index, character in enumerate(self.characters) if index}

    def encode(self, phonemes: Iterable[str]) -> np.ndarray:
        """Classes `(L,)` int16 of a transcript without its markers. Raises InputError for an unknown phoneme."""
        table = self._class_of_phoneme
        try:
            return np.array([table[phoneme] for phoneme in phonemes if phoneme not in MARKS], dtype=np.int16)
        except KeyError as error:
            raise InputError(
                f"unknown phoneme {error.args[0][:40]!r}: expected one of the {self.classes - 1} of alphabet "
                f"{self.name} ({' '.join(self.phonemes[1:])}), or [SOS] and [EOS] around them"
            ) from None

    def to_string(self, tokens: Iterable[int]) -> str:
        """The submission string, one character per phoneme; blanks among the tokens are dropped."""
        characters = self.characters
        return "".join([characters[token] for token in tokens])

    def from_string(self, string: str) -> list[int]:
        """Classes of a submission string. Raises InputError for a character that is not in the alphabet."""
        table = self._class_of_character
        try:
            return [table[character] for character in string]
        except KeyError as error:
            raise InputError(
                f"unknown character {error.args[0]!r}: expected only {''.join(self.characters)} (alphabet {self.name})"
            ) from None


F22 = Alphabet.of(
    "F22-S26",
    "[SIL] - NG G F f M m AE @ R r UW u N n IY i AW W V v UH U OW o AA a ER R HH h Z z K k CH C W w EY e "
    "ZH Z T t EH E Y y AH A B b P p TH T DH D AO c G g L l JH j OY O SH S D d AY Y S s IH I",
)
S22 = Alphabet.of(
    "S22",
    "SIL . AA a AE A AH h AO o AW w AY y B b CH c D d DH D EH e ER r EY E F f G g HH H IH i IY I JH j K k "
    "L l M m N n NG N OW O OY Y P p R R S s SH S T t TH T UH u UW U V v W W Y ? Z z ZH Z",
)
F20 = Alphabet.of(
    "F20-F21",
    "SIL . SPN ! AA a AE A AH h AO o AW w AY y B b CH c D d DH D EH e ER r EY E F f G g H H IH i IY I JH j K k "
    "L l M m N n NG N OW O OY Y P p R R S s SH S T t TH T UH u UW U V v W W Y ? Z z ZH Z",
)
F18 = Alphabet.of(
    "F18-S20",
    "+BREATH+ _ +COUGH+ + +NOISE+ ~ +SMACK+ ! +UH+ - +UM+ @ AA a AE A AH h AO o AW w AY y B b CH c D d DH D EH e "
    "ER r EY E F f G g HH H IH i IY I JH j K k L l M m N n NG G OW O OY Y P p R R S s SH S SIL . T t TH T UH u UW U "
    "V v W W Y ? Z z ZH Z",
)

COURSE_ALPHABETS = (F22, S22, F20, F18)
"""The course's alphabets, newest first."""
