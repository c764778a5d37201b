"""`python -m ensemble.transcribe`: recordings to phonemes with times and confidences.

    python -m ensemble.transcribe talk.wav --runs runs                               one network, phonemes on stdout
    python -m ensemble.transcribe recordings/ --submission submission.csv --out transcripts     the whole fitted blend
    arecord -d 10 -f S16_LE -r 16000 | python -m ensemble.transcribe - --format json

Files are wav or flac (or anything else that libsndfile reads), or npy with features (T, F) as in the competition. Audio
is mixed down to one channel, converted to 16 kHz, and processed by the front end of the training data: as recorded in
the run if known, else given by `--frontend`. Recordings longer than `--max-seconds` are split at pauses. A blend also
needs the data it was fitted on (`--data`), for its language model.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ensemble.members.stores import StoresOptions
from ensemble.transcription.fitted_blend import open_fitted_blend
from ensemble.transcription.formats import FORMATS, Format
from ensemble.transcription.plot import plot
from ensemble.transcription.recognizer import Recognizer, open_network
from ensemble.transcription.sources import Source, find_sources, open_all
from ensemble.transcription.transcripts import Recognized, Transcript, transcribe
from registry.bounds import number
from registry.command_line import parse_options
from registry.errors import InputError, command
from registry.files import atomic_write, check_writable


@dataclass(frozen=True)
class TranscribeOptions(StoresOptions):
    """Transcribe recordings into phonemes with times and confidences."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Recordings: wav, flac or npy files, folders of them, or - for standard input."""
    submission: Path | None = None
    """Transcribe with the whole blend that wrote this submission; `<submission>.json` describes it."""
    member: str | None = None
    """Transcribe with a network of this member; by default, the network with the lowest greedy distance on dev."""
    frontend: str | None = None
    """The front end that computed the features of the training data, if the run does not record it: hw3p2-mini,
    kaldi-mfcc-13, demo, or a plug-in's."""
    format: tuple[Format, ...] = ()
    """Formats to write: by default text on standard output; textgrid, ctm and json into --out."""
    out: Path | None = None
    """Folder for one file per recording and format; without it, transcripts are printed."""
    plot: bool = False
    """Also draw spectrogram, posteriors and phonemes into --out, one picture per utterance."""
    max_seconds: float = number(20.0, at_least=4, at_most=600)
    """Longer recordings are split at pauses into utterances of at most this length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise InputError(
                "no recording is given: pass, before the options, wav, flac or npy files, folders, or - (stdin)"
            )
        if self.submission is not None and self.member is not None:
            raise InputError("--member with --submission: pass one of the two: one network, or the whole blend")
        if self.plot and self.out is None:
            raise InputError("--plot without --out: pass the folder for the pictures")

    @property
    def formats(self) -> tuple[Format, ...]:
        """The given formats, or the default ones."""
        return tuple(dict.fromkeys(self.format)) or (("text",) if self.out is None else ("textgrid", "ctm", "json"))


def open_recognizer(options: TranscribeOptions) -> Recognizer:
    """The network or the blend selected by the options."""
    if options.submission is not None:
        return open_fitted_blend(options.submission, options)
    return open_network(options, options.member)


def write_transcript(transcript: Transcript, options: TranscribeOptions) -> None:
    """Print a transcript, or write its files into `--out`."""
    for name in options.formats:
        suffix, to_string = FORMATS[name]
        if options.out is None:
            print(to_string(transcript), end="", flush=True)
            continue
        with atomic_write(options.out / f"{transcript.name}{suffix}") as temporary:
            temporary.write_text(to_string(transcript), encoding="utf-8")
    if options.out is not None:
        files = ", ".join(f"{transcript.name}{FORMATS[name][0]}" for name in options.formats)
        print(f"{transcript.source}: {len(transcript.phonemes)} phonemes in {transcript.seconds:.1f} s; wrote {files}")


def draw(source: Source, recognized: Recognized, recognizer: Recognizer, out: Path) -> None:
    """Write the picture of an utterance; for parts of long recordings, the name includes the second at which it starts.
    """
    start = recognized.utterance.start
    name = source.name if start == 0 else f"{source.name}.{start:07.2f}s"
    plot(recognized, recognizer.phonemes, f"{source.name} · {recognizer.name}", out / f"{name}.png")


def main() -> None:
    """Run the command."""
    options = parse_options(TranscribeOptions, "python -m ensemble.transcribe", description=__doc__)
    options.use_threads()
    with tempfile.TemporaryDirectory(prefix="hw3p2-transcribe-") as scratch:
        sources = find_sources(options.files, Path(scratch))
        if options.out is not None:
            check_writable(options.out / f"{sources[0].name}{FORMATS[options.formats[0]][0]}")
        for note in open_all(sources):
            print(note, file=sys.stderr)
        recognizer = open_recognizer(options)
        front_end = recognizer.front_end(options.frontend)

        def watch(source: Source, recognized: Recognized) -> None:
            if options.plot and options.out is not None:
                draw(source, recognized, recognizer, options.out)

        for transcript in transcribe(sources, recognizer, front_end, options.max_seconds, watch):
            write_transcript(transcript, options)


if __name__ == "__main__":
    command(main)
