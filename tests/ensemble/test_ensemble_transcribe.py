"""Transcribing recordings: phonemes, times and files, by one network and by a blend; and what is refused."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tone_competition as tones

from ensemble import blend, transcribe
from folds import train
from folds.competition.metric import edit_distances
from folds.frontends.base import SAMPLE_RATE
from registry.errors import InputError

MODEL = ["--model", "lstm_small", "--hidden", 24, "--channels", 16, 16, "--strides", 2, 1, "--layers", 1]


TRAINING = ["--folds", 2, "--fold", "all", "--threads", 1, "--batch-frames", 800, "--lr", 0.01, "--epochs", 35]


TRAINING += ["--time-mask", 4, "--feature-mask", 1, "--speed", 0]


FRONT_END = ["--frontend", tones.FRONT_END]


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    module.main()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A competition of tones, the runs of two fold models, and their blend's submission."""
    folder = tmp_path_factory.mktemp("tones")
    data, runs, submission = tones.make(folder / "data"), folder / "runs", folder / "submission.csv"
    with pytest.MonkeyPatch.context() as monkeypatch:
        call(train, monkeypatch, "--data", data, "--runs", runs, *MODEL, *TRAINING)
        call(blend, monkeypatch, "--data", data, "--runs", runs, "--method", "mbr", "--out", submission,
             "--nbest", 20, "--pool", 20, "--lm-order", 2, "--threads", 1)  # fmt: skip
    return SimpleNamespace(data=data, runs=runs, submission=submission)


@pytest.fixture
def recording(tmp_path):
    """A wav file of 12 phonemes, and the phonemes."""
    rng = np.random.default_rng(5)
    phonemes = tones.draw(rng, 12)
    path = tmp_path / "talk.wav"
    soundfile.write(path, tones.sound(phonemes, rng), SAMPLE_RATE)
    return SimpleNamespace(path=path, phonemes=phonemes)


def lines_of(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_network_gives_phonemes_where_they_are(trained, recording, monkeypatch, capsys):
    call(transcribe, monkeypatch, recording.path, "--runs", trained.runs, *FRONT_END, "--format", "json")
    (transcript,) = lines_of(capsys)
    assert transcript["name"] == "talk" and transcript["seconds"] == pytest.approx(12 * 0.12 + 0.6)
    assert transcript["characters"] == tones.submission_string(recording.phonemes)
    found = transcript["phonemes"]
    assert [timed["phoneme"] for timed in found] == recording.phonemes
    centres = np.array([(timed["start"] + timed["end"]) / 2 for timed in found])
    np.testing.assert_allclose(centres, tones.PAUSE + tones.SECONDS * (np.arange(12) + 0.5), atol=0.06)
    assert all(0 < timed["confidence"] <= 1 for timed in found)
    assert all(before["end"] <= after["start"] + 1e-9 for before, after in itertools.pairwise(found))


def test_times_of_features_are_by_their_competition_s_frames(trained, tmp_path, monkeypatch, capsys):
    features = next((trained.data / "test-clean" / "mfcc").iterdir())
    runs = shutil.copytree(trained.runs, tmp_path / "runs")
    transcripts = []
    for name in ("F22-S26", "brain-to-text-25", "a plug-in that is not installed"):
        for path in runs.glob("*/*/config.json"):
            config = json.loads(path.read_text())
            path.write_text(json.dumps(config | {"data": config["data"] | {"format": name}}))
        call(transcribe, monkeypatch, features, "--runs", runs, "--format", "json")
        transcripts += lines_of(capsys)
    audio, neural, unknown = transcripts
    frames = len(np.load(features))
    assert audio["seconds"] == pytest.approx(0.01 * (frames - 1) + 0.025)
    assert neural["seconds"] == pytest.approx(0.02 * frames)
    # The boundary of two phonemes is half way between their centres. (t - 12.5 ms) / 10 ms frames are 20 ms each there.
    boundary = audio["phonemes"][1]["end"]
    assert neural["phonemes"][1]["end"] == pytest.approx(2 * (boundary - 0.0125) + 0.01, abs=2e-4)
    assert unknown == audio


def test_the_blend_decides_on_features_as_its_submission_does(trained, monkeypatch, capsys):
    test = trained.data / "test-clean" / "mfcc"
    call(transcribe, monkeypatch, test, "--runs", trained.runs, "--data", trained.data, "--submission",
         trained.submission, "--format", "json", "--threads", 1)  # fmt: skip
    transcripts = lines_of(capsys)
    with trained.submission.open() as file:
        rows = list(csv.DictReader(file))
    assert [transcript["name"] for transcript in transcripts] == [f"91-1-{number:04d}" for number in range(6)]
    assert [transcript["characters"] for transcript in transcripts] == [row["label"] for row in rows]


def test_a_blend_that_recorded_no_searches_fits_them_again(trained, recording, tmp_path, monkeypatch, capsys):
    sidecar = json.loads((trained.submission.parent / "submission.csv.json").read_text())
    del sidecar["fusion"]
    (tmp_path / "older.csv.json").write_text(json.dumps(sidecar))
    call(transcribe, monkeypatch, recording.path, "--runs", trained.runs, "--data", trained.data, "--submission",
         tmp_path / "older.csv", *FRONT_END, "--format", "json", "--threads", 1)  # fmt: skip
    (transcript,) = lines_of(capsys)
    assert transcript["characters"] == tones.submission_string(recording.phonemes)


def test_files_and_pictures_are_written(trained, recording, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    call(transcribe, monkeypatch, recording.path, "--runs", trained.runs, *FRONT_END, "--out", out, "--plot")
    assert sorted(path.name for path in out.iterdir()) == ["talk.TextGrid", "talk.ctm", "talk.json", "talk.png"]
    assert (out / "talk.png").read_bytes().startswith(b"\x89PNG")
    transcript = json.loads((out / "talk.json").read_text())
    rows = [line.split() for line in (out / "talk.ctm").read_text().splitlines()]
    assert [row[4] for row in rows] == [timed["phoneme"] for timed in transcript["phonemes"]]
    for row, timed in zip(rows, transcript["phonemes"], strict=True):
        assert row[:2] == ["talk", "1"] and float(row[2]) == pytest.approx(timed["start"], abs=1e-3)
        assert float(row[3]) == pytest.approx(timed["end"] - timed["start"], abs=2e-3)
    assert "12 phonemes in 2.0 s" in capsys.readouterr().out


def test_a_long_recording_in_other_form_is_read_from_standard_input(trained, monkeypatch, capsys):
    """30 seconds, stereo, 48 kHz: cut into several utterances in the pauses between its sentences."""
    from scipy.signal import resample_poly

    rng = np.random.default_rng(8)
    sentences = [tones.draw(rng, 8) for _ in range(20)]
    mono = np.concatenate([tones.sound(sentence, rng) for sentence in sentences])
    stereo = np.stack([resample_poly(mono, 3, 1)] * 2, axis=1)
    stream = io.BytesIO()
    soundfile.write(stream, stereo, 48_000, format="WAV")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stream.getvalue())))
    call(transcribe, monkeypatch, "-", "--runs", trained.runs, *FRONT_END, "--format", "json", "--max-seconds", 6)
    captured = capsys.readouterr()
    assert "standard input: 2 channels, mixed down to one" in captured.err
    transcript = json.loads(captured.out)
    assert transcript["name"] == "stdin" and transcript["seconds"] == pytest.approx(len(mono) / SAMPLE_RATE, abs=1e-3)
    reference = tones.submission_string(list(itertools.chain(*sentences)))
    assert edit_distances([transcript["characters"]], [reference])[0] <= 0.1 * len(reference)
    assert transcript["phonemes"][-1]["end"] == pytest.approx(transcript["seconds"] - tones.PAUSE, abs=0.15)


def make_text(path):
    path.write_text("no audio")


def make_empty(path):
    soundfile.write(path, np.zeros(0, np.float32), SAMPLE_RATE)


def make_nan(path):
    soundfile.write(path, np.full(SAMPLE_RATE, np.nan, np.float32), SAMPLE_RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "message"),
    [(make_text, "no audio"), (make_empty, "0 s of audio"), (make_nan, "NaN or infinite")],
)
def test_bad_audio_writes_nothing(trained, tmp_path, monkeypatch, capsys, make, message):
    make(tmp_path / "bad.wav")
    with pytest.raises(InputError, match=message):
        call(transcribe, monkeypatch, tmp_path / "bad.wav", "--runs", trained.runs, *FRONT_END, "--out", tmp_path / "o")
    assert not list((tmp_path / "o").glob("*")) and capsys.readouterr().out == ""


ADAPTED = {"of": "", "nbest": "", "passes": 1, "lr": 0.1}


@pytest.mark.parametrize("knows_dev", [{"with_dev": True}, {"adaptation": ADAPTED}])
def test_members_that_know_dev_have_to_be_asked_for(trained, recording, tmp_path, monkeypatch, knows_dev):
    runs = shutil.copytree(trained.runs, tmp_path / "runs")
    for path in runs.glob("*/*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | knows_dev))
    with pytest.raises(InputError, match="was trained on dev or adapted to it: pass --member with one of lstm_small"):
        call(transcribe, monkeypatch, recording.path, "--runs", runs, *FRONT_END)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "not recorded: pass --frontend with one of .*kaldi-mfcc-13"),
        (["--frontend", "kaldi"], "unknown frontend 'kaldi'; did you mean kaldi-mfcc-13"),
        (["--frontend", "demo"], "trained on 13 features per frame; the front end demo makes 28"),
        ([*FRONT_END, "--member", "gru"], "no finished member has this name; there are: lstm_small"),
        ([*FRONT_END, "--plot"], "--plot without --out"),
        ([*FRONT_END, "--member", "lstm_small", "--submission", "s.csv"], "pass one of the two"),
        ([*FRONT_END, "--submission", "missing.csv"], "missing.csv.json: no such file"),
        ([*FRONT_END, "--max-seconds", "1"], "expected at least 4"),
    ],
)
def test_options_that_cannot_be_are_one_line(trained, recording, monkeypatch, options, message):
    with pytest.raises(InputError, match=message):
        call(transcribe, monkeypatch, recording.path, "--runs", trained.runs, "--data", trained.data, *options)


def test_a_front_end_other_than_the_recorded_one_is_refused(trained, recording, tmp_path, monkeypatch):
    runs = tmp_path / "runs" / "lstm_small" / "fold0"
    runs.parent.mkdir(parents=True)
    runs.symlink_to(trained.runs / "lstm_small" / "fold0")
    config = json.loads((runs / "config.json").read_text())
    assert config["front_end"] is None
    copy = tmp_path / "copy" / "lstm_small" / "fold0"
    copy.mkdir(parents=True)
    for path in runs.iterdir():
        (copy / path.name).symlink_to(path.resolve())
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps(config | {"front_end": "hw3p2-mini"}))
    with pytest.raises(InputError, match="trained on features of the front end hw3p2-mini, not --frontend kaldi"):
        call(transcribe, monkeypatch, recording.path, "--runs", tmp_path / "copy", *FRONT_END)
    call(transcribe, monkeypatch, recording.path, "--runs", tmp_path / "copy")  # the recorded one is used


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "0" * 16}, "was blended on data 0000000000000000"),
        ({"recipe": {"method": "words"}}, "a blend in words"),
        ({"recipe": {"method": "decode"}}, "made by the method decode, which is not a blender"),
        ({"recipe": {"method": "mbr", "weights": {"x": 1}, "members": {"x": ["r/x/fold0"]}}}, "needs the run x/fold0"),
        ({"recipe": {"method": "mbr"}}, "names no members"),
        ({"weights": "outdated"}, "lstm_small/fold0 was trained again since it was blended"),
    ],
)
def test_blends_that_do_not_fit_are_refused(trained, recording, tmp_path, monkeypatch, change, message):
    sidecar = json.loads((trained.submission.parent / "submission.csv.json").read_text())
    if change == {"weights": "outdated"}:
        change = {"weights": dict.fromkeys(sidecar["weights"], "0" * 16)}
    sidecar |= change
    (tmp_path / "s.csv.json").write_text(json.dumps(sidecar))
    with pytest.raises(InputError, match=message):
        call(transcribe, monkeypatch, recording.path, "--runs", trained.runs, "--data", trained.data, "--submission",
             tmp_path / "s.csv", *FRONT_END)  # fmt: skip


def test_a_run_in_two_runs_folders_is_refused(trained, recording, tmp_path, monkeypatch):
    shutil.copytree(trained.runs, tmp_path / "copy")
    with pytest.raises(InputError, match=r"member lstm_small: is in .*: pass only one of them with --runs"):
        call(transcribe, monkeypatch, recording.path, "--runs", trained.runs, tmp_path / "copy", "--data", trained.data,
             "--submission", trained.submission, *FRONT_END)  # fmt: skip


def test_features_of_another_width_or_samples_in_npy_are_refused(trained, tmp_path, monkeypatch):
    np.save(tmp_path / "wide.npy", np.zeros((50, 28), np.float32))
    np.save(tmp_path / "samples.npy", np.zeros(16_000, np.float32))
    with pytest.raises(InputError, match="wide.npy: 28 features per frame; .* was trained on 13"):
        call(transcribe, monkeypatch, tmp_path / "wide.npy", "--runs", trained.runs)
    with pytest.raises(InputError, match="samples are read from wav or flac"):
        call(transcribe, monkeypatch, tmp_path / "samples.npy", "--runs", trained.runs)


def test_a_faulty_file_of_features_is_found_before_the_first_transcript(trained, tmp_path, monkeypatch, capsys):
    """Although more files than are recognised together come before it."""
    good = np.load(next((trained.data / "test-clean" / "mfcc").iterdir()))
    for number in range(33):
        np.save(tmp_path / f"{number:02}.npy", good)
    np.save(tmp_path / "zz.npy", np.full_like(good, np.nan))
    with pytest.raises(InputError, match="zz.npy: nan"):
        call(transcribe, monkeypatch, tmp_path, "--runs", trained.runs)
    assert not capsys.readouterr().out


def test_names_that_would_overwrite_each_other_and_empty_folders_are_refused(trained, recording, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no recording in this folder"):
        call(transcribe, monkeypatch, tmp_path / "empty", "--runs", trained.runs)
    soundfile.write(tmp_path / "talk.flac", np.ones(SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(InputError, match="both transcripts would be named talk"):
        call(transcribe, monkeypatch, recording.path, tmp_path / "talk.flac", "--runs", trained.runs)
