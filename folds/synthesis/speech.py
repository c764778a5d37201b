"""Phonemes to sound, for the demo competition: eSpeak NG through ctypes.

`Speech` speaks ARPAbet exactly as given: eSpeak takes phonemes instead of text, and the phonemes that it reports are
compared with those requested. It is a formant synthesiser: its speech is clear, regular, and much easier to recognise
than human speech. Training on a real competition needs none of this.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import numpy as np
from scipy.signal import resample_poly

from registry.errors import InputError, is_full_disk

_ESPEAK_RATE = 22_050

# ARPAbet → eSpeak's mnemonic in its American English; the second table has vowels that change without stress.
MNEMONICS = {
    "AA": "A:", "AE": "a", "AH": "V", "AO": "O:", "AW": "aU", "AY": "aI", "B": "b", "CH": "tS", "D": "d", "DH": "D",
    "EH": "E", "ER": "3:", "EY": "eI", "F": "f", "G": "g", "HH": "h", "IH": "I", "IY": "i:", "JH": "dZ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "N", "OW": "oU", "OY": "OI", "P": "p", "R": "r", "S": "s", "SH": "S", "T": "t",
    "TH": "T", "UH": "U", "UW": "u:", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "Z",
}  # fmt: skip
UNSTRESSED = {"AH": "@", "IY": "i"}
_STRESS = {"0": "", "1": "'", "2": ","}
# What eSpeak reports, as ARPAbet. `t#` is the flap of "water", `3` a schwa coloured by a following R; glides are what
# it inserts between vowels: "her(r) eye", "be(y)ond".
_ALLOPHONES = {"t#": "T", "3": "AH"}
_PHONEMES_OF = _ALLOPHONES | {
    mnemonic: phoneme for table in (MNEMONICS, UNSTRESSED) for phoneme, mnemonic in table.items()
}
_GLIDES = (";", "r-")

# Variants of eSpeak's voice. Robots, whispers, and all voices with breath noise are left out: the noise comes from
# memory that the library does not initialise, so no seed reproduces it.
VOICES = (
    "m1", "f1", "m3", "linda", "m7", "belinda", "edward", "f4", "m2", "steph", "Michael", "anika", "m5", "Annie",
    "john", "aunty", "m6", "steph2", "paul", "Andrea", "m4", "steph3", "max", "grandma", "m8", "adam", "ian",
    "benjamin", "rob", "david",
)  # fmt: skip

# espeak-ng/speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS, _INITIALIZE_PHONEME_EVENTS, _INITIALIZE_DONT_EXIT = 2, 1, 0x8000
_RATE, _PITCH, _RANGE = 1, 3, 4
_CHARS_UTF8, _PHONEMES = 0x0001, 0x0100
_EVENT_LIST_TERMINATED, _EVENT_PHONEME = 0, 7
_REINSTALL = "reinstall it with `pip install --force-reinstall espeakng-loader`"


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _SpeechEvent(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _EventId),
    )  # fmt: skip


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_SpeechEvent))


@dataclass(frozen=True)
class Voice:
    """One speaker's voice. `tract` scales all resonances (1.1: a vocal tract that is 10 % shorter)."""

    variant: str = VOICES[0]
    words_per_minute: int = 175
    pitch: int = 50
    pitch_range: int = 50
    tract: float = 1.0


class Speech:
    """eSpeak NG in its initial state, as a context manager.

    The library keeps state, such as the phase of the voice's flutter, from one sentence to the next and even after its
    own `espeak_Terminate`. Each `Speech` therefore loads its own copy of the library: the same calls in the same order
    give the same samples, regardless of what was spoken before in this process.

    >>> with Speech() as speech:
    ...     samples = speech.speak([["HH", "AY1"]], Voice())
    >>> samples.dtype
    dtype('float32')
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-", ignore_cleanup_errors=True)
        self._samples: list[np.ndarray] = []
        self._reported: list[str] = []
        self._callback = _Callback(self._receive)
        try:
            source = Path(espeakng_loader.get_library_path())
            self._espeak = ctypes.CDLL(str(shutil.copy(source, Path(self._folder.name) / source.name)))
            # eSpeak truncates a path to 160 characters, and would then end the process.
            data = Path(self._folder.name) / "data"
            data.symlink_to(espeakng_loader.get_data_path(), target_is_directory=True)
            options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT
            rate = self._espeak.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), options)
        except (OSError, RuntimeError) as error:
            self._folder.cleanup()
            if is_full_disk(error):
                raise
            raise InputError(f"eSpeak NG cannot be loaded ({error}): {_REINSTALL}") from None
        if rate != _ESPEAK_RATE:
            self._folder.cleanup()
            raise InputError(f"eSpeak NG has a sample rate of {rate}, expected {_ESPEAK_RATE}: {_REINSTALL}")
        self._espeak.espeak_SetSynthCallback.argtypes = [_Callback]
        self._espeak.espeak_SetSynthCallback.restype = None
        self._espeak.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> Speech:
        return self

    def __exit__(self, *_: object) -> None:
        self._espeak.espeak_Terminate()
        self._folder.cleanup()

    def speak(self, words: Sequence[Sequence[str]], voice: Voice) -> np.ndarray:
        """Samples `(S,)` of the words without a pause between them: float32 at 16 kHz, full scale at 1.

        A word is ARPAbet phonemes, vowels with their stress digits. The silence that eSpeak adds at both ends is
        removed. Raises RuntimeError if eSpeak does not speak exactly the phonemes given.
        """
        self._samples.clear()
        self._reported.clear()
        name = f"en-us+{voice.variant}"
        if self._espeak.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {name!r}")
        parameters = {_RATE: voice.words_per_minute, _PITCH: voice.pitch, _RANGE: voice.pitch_range}
        for parameter, value in parameters.items():
            self._espeak.espeak_SetParameter(parameter, value, 0)
        text = f"[[{' '.join(mnemonics(word) for word in words)}]]".encode() + b"\0"
        self._espeak.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, _CHARS_UTF8 | _PHONEMES, None, None)
        self._check(words, text)
        sound = np.concatenate(self._samples).astype(np.float32) / 32_768
        loud = np.flatnonzero(np.abs(sound) > 1e-3)
        sound = sound[loud[0] : loud[-1] + 1]
        return resample_poly(sound, 320, round(441 * voice.tract)).astype(np.float32)

    def _check(self, words: Sequence[Sequence[str]], text: bytes) -> None:
        requested = [phoneme.rstrip("012") for word in words for phoneme in word]
        bare = (mnemonic.lstrip("',%=") for mnemonic in self._reported if not mnemonic.startswith("_"))
        spoken = [_PHONEMES_OF.get(mnemonic, f"({mnemonic})") for mnemonic in bare if mnemonic not in _GLIDES]
        if spoken != requested:
            raise RuntimeError(f"eSpeak NG was given {text!r} and spoke {' '.join(spoken)}, not {' '.join(requested)}")

    def _receive(
        self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_SpeechEvent]
    ) -> int:
        """eSpeak's callback: keeps the samples and the phonemes it reports; 0 means continue."""
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_TERMINATED:
            if events[index].type == _EVENT_PHONEME:
                self._reported.append(events[index].id.string.decode("utf-8", "replace"))
            index += 1
        return 0


def mnemonics(word: Sequence[str]) -> str:
    """One word in eSpeak's notation.

    Bars separate phonemes that eSpeak would read as one: `T SH` is not `CH`, and `AY AH` has two labels.

    >>> mnemonics(["HH", "AH0", "L", "OW1"])
    "h|@|l|'oU"
    """
    parts = []
    for phoneme in word:
        bare = phoneme.rstrip("012")
        stress = phoneme[len(bare) :]
        table = UNSTRESSED if stress == "0" and bare in UNSTRESSED else MNEMONICS
        parts.append(_STRESS.get(stress, "") + table[bare])
    return "|".join(parts)
