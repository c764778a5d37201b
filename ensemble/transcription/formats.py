"""Transcripts as text: plain, Praat's TextGrid, NIST's CTM, and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from ensemble.transcription.transcripts import Transcript

Format = Literal["text", "textgrid", "ctm", "json"]


def to_text(transcript: Transcript) -> str:
    """One line: the recording's name and its phonemes."""
    return f"{transcript.name}: {' '.join(timed.phoneme for timed in transcript.phonemes)}\n"


def to_ctm(transcript: Transcript) -> str:
    """NIST's time-marked conversations: `<name> 1 <start> <duration> <phoneme> <confidence>` per phoneme.

    Fields are separated by spaces, so spaces in a name become underscores.
    """
    name = "_".join(transcript.name.split()) or "_"
    return "".join(
        f"{name} 1 {timed.start:.3f} {timed.end - timed.start:.3f} {timed.phoneme} {timed.confidence:.3f}\n"
        for timed in transcript.phonemes
    )


def to_json(transcript: Transcript) -> str:
    """One line of JSON with the fields of `Transcript`; times in seconds."""
    content = dataclasses.asdict(transcript)
    for timed in content["phonemes"]:
        timed |= {key: round(timed[key], 4) for key in ("start", "end", "confidence")}
    return json.dumps(content) + "\n"


def to_textgrid(transcript: Transcript) -> str:
    """Praat's TextGrid with two tiers of the same intervals: the phonemes, and their confidences."""
    intervals = list(_contiguous(transcript))
    names = [(start, end, label) for start, end, label, _ in intervals]
    confidences = [(start, end, confidence) for start, end, _, confidence in intervals]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {transcript.seconds:.6f}", "tiers? <exists>", "size = 2", "item []:"]
    lines += _tier(1, "phonemes", names, transcript.seconds)
    lines += _tier(2, "confidence", confidences, transcript.seconds)
    return "\n".join(lines) + "\n"


def _contiguous(transcript: Transcript) -> Iterator[tuple[float, float, str, str]]:
    """Start, end, phoneme and confidence; a TextGrid's intervals must leave no gaps, so some have no text."""
    time = 0.0
    for timed in transcript.phonemes:
        if _rounded(timed.end) <= _rounded(timed.start):
            continue
        if _rounded(timed.start) > _rounded(time):
            yield time, timed.start, "", ""
        yield max(time, timed.start), timed.end, timed.phoneme, f"{timed.confidence:.3f}"
        time = timed.end
    if _rounded(transcript.seconds) > _rounded(time):
        yield time, transcript.seconds, "", ""


def _rounded(seconds: float) -> float:
    """Round to the digits that are written, so that no interval is written with a length of 0."""
    return round(seconds, 6)


def _tier(number: int, name: str, intervals: Sequence[tuple[float, float, str]], end: float) -> list[str]:
    lines = [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
    lines += ["        xmin = 0", f"        xmax = {end:.6f}", f"        intervals: size = {len(intervals)}"]
    for index, (start, stop, text) in enumerate(intervals, start=1):
        quoted = text.replace('"', '""')
        lines += [f"        intervals [{index}]:", f"            xmin = {start:.6f}", f"            xmax = {stop:.6f}"]
        lines += [f'            text = "{quoted}"']
    return lines


FORMATS: dict[Format, tuple[str, Callable[[Transcript], str]]] = {
    "text": (".txt", to_text),
    "textgrid": (".TextGrid", to_textgrid),
    "ctm": (".ctm", to_ctm),
    "json": (".json", to_json),
}
"""The file extension and the writer of each format."""
