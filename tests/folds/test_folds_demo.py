"""The demo competition: exact labels, the competition's layout, the same bytes every time, and never half a folder."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from folds import demo
from folds.competition.alphabets import F22
from folds.competition.detect import open_competition
from folds.demo import DemoOptions
from folds.frontends.base import SAMPLE_RATE
from folds.frontends.kaldi import demo as demo_features
from folds.store.lease import Held, hold
from folds.synthesis import lexicon, speech, speech_competition
from registry.errors import InputError

TINY = {"speakers": 4, "utterances": 2}
VOWELS = {phoneme.rstrip("012") for word in lexicon.LEXICON.values() for phoneme in word if phoneme[-1].isdigit()}


def digest(root: Path) -> dict[str, str]:
    """Every file's path and content."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "competition"
    assert demo.make(DemoOptions(out=root, **TINY))
    return root


@pytest.fixture(scope="module")
def synthesiser():
    with speech.Speech() as synthesiser:
        yield synthesiser


# Labels


def test_the_vocabulary_has_every_phoneme_of_the_alphabet():
    spoken = {phoneme.rstrip("012") for word in lexicon.LEXICON.values() for phoneme in word}
    assert spoken == set(F22.phonemes) - {"", "[SIL]"}
    assert set(speech.MNEMONICS) == spoken
    assert len(set(speech.MNEMONICS.values())) == len(spoken)


def test_each_word_marks_stress_on_vowels_and_at_most_one_primary():
    for word, phonemes in lexicon.LEXICON.items():
        assert all(phoneme[-1] in "012" for phoneme in phonemes if phoneme.rstrip("012") in VOWELS), word
        assert sum(phoneme.endswith("1") for phoneme in phonemes) <= 1, word


def test_each_phoneme_has_a_sound_of_its_own(synthesiser):
    def sound(phoneme: str) -> np.ndarray:
        word = ["B", phoneme + "1", "T"] if phoneme in VOWELS else ["AA1", phoneme, "AA0"]
        return synthesiser.speak([word], speech.Voice("m3"))

    sounds = {phoneme: sound(phoneme) for phoneme in speech.MNEMONICS}
    assert all(np.sqrt(np.mean(samples**2)) > 0.01 for samples in sounds.values())
    for one, other in itertools.combinations(sounds, 2):
        length = max(len(sounds[one]), len(sounds[other]))
        padded = [np.pad(sounds[phoneme], (0, length - len(sounds[phoneme]))) for phoneme in (one, other)]
        assert np.sqrt(np.mean((padded[0] - padded[1]) ** 2)) > 0.01, (one, other)


def test_every_word_is_spoken_as_written(synthesiser):
    # speak() compares what eSpeak reports with what was requested, and raises where they differ.
    for word in lexicon.LEXICON.values():
        assert len(synthesiser.speak([word], speech.Voice())) > 0.05 * SAMPLE_RATE


@pytest.mark.parametrize("variant", speech.VOICES)
def test_every_voice_speaks_a_sentence_with_links_and_flaps(synthesiser, variant):
    sentence = ["her", "early", "answer", "visited", "a", "dirty", "lion", "beyond", "the", "ring"]
    words = [lexicon.LEXICON[word] for word in sentence]
    samples = synthesiser.speak(words, speech.Voice(variant))
    # Band-limiting overshoots full scale a little where a voice reaches it.
    assert len(samples) > SAMPLE_RATE and 0.05 < np.abs(samples).max() < 1.1


def test_phonemes_that_would_fuse_stay_two(synthesiser):
    affricate = synthesiser.speak([["AE1", "CH", "AE0"]], speech.Voice())
    cluster = synthesiser.speak([["AE1", "T", "SH", "AE0"]], speech.Voice())
    assert len(cluster) > 1.1 * len(affricate)


def test_speech_that_differs_from_the_labels_is_an_error(synthesiser, monkeypatch):
    monkeypatch.setattr(speech, "mnemonics", lambda word: "k|'a|t")
    with pytest.raises(RuntimeError, match="spoke K AE T, not D AO G"):
        synthesiser.speak([["D", "AO1", "G"]], speech.Voice())


def test_mfcc_frames_are_25_ms_every_10_ms():
    samples = np.sin(np.arange(SAMPLE_RATE, dtype=np.float32))
    features = demo_features(samples)
    assert features.shape == (1 + (16_000 - 400) // 160, 28) and features.dtype == np.float32
    np.testing.assert_array_equal(features, demo_features(samples))


# The folder


def test_layout_is_the_competitions(tiny):
    competition = open_competition(tiny)
    assert competition.alphabet == F22 and competition.header == ("index", "label")
    assert [len(split.ids) for split in competition.splits] == [4, 2, 2]
    for split in competition.splits:
        for index in range(len(split.ids)):
            features = split.features(index)
            assert features.shape[1] == 28 and features.dtype == np.float32 and np.isfinite(features).all()
            if split.labels is not None:
                assert len(features) > 4 * len(split.labels(index))


def test_transcripts_have_marks_and_silence_at_both_ends(tiny):
    paths = list(tiny.glob("*/transcript/*.npy"))
    assert len(paths) == 6
    for path in paths:
        transcript = np.load(path)
        assert transcript.dtype.kind == "U" and transcript.ndim == 1
        assert list(transcript[:2]) == ["[SOS]", "[SIL]"] and list(transcript[-2:]) == ["[SIL]", "[EOS]"]
        inner = list(transcript[1:-1])
        assert not any(one == other == "[SIL]" for one, other in itertools.pairwise(inner))


def test_no_speaker_is_in_two_splits(tiny):
    folders = [tiny / split / "mfcc" for split in speech_competition.SPLITS]
    speakers = [{path.name.split("-")[0] for path in folder.iterdir()} for folder in folders]
    assert [len(of_split) for of_split in speakers] == [2, 1, 1]
    assert len(set.union(*speakers)) == 4


def test_sample_and_answers_have_the_same_header_and_rows(tiny):
    sample = (tiny / "test-clean" / "random_submission.csv").read_text().splitlines()
    answers = (tiny / speech_competition.ANSWERS).read_text().splitlines()
    assert [line.split(",")[0] for line in sample] == [line.split(",")[0] for line in answers] == ["index", "0", "1"]
    assert all(line.split(",")[1][0] == line[-1] == "-" for line in answers[1:])


def test_answers_belong_to_the_utterances_in_sorted_order(tiny, monkeypatch, tmp_path):
    # With the test speaker's transcripts written out, the answers must be theirs, in the order of the file names.
    settings = DemoOptions(out=tmp_path, **TINY).settings
    (speaker,) = speech_competition.draw_speakers(settings)[2]
    with speech.Speech() as synthesiser:
        labels = [
            (name, F22.to_string(F22.encode(transcript)))
            for name, _, transcript in speech_competition._utterances(synthesiser, (speaker,), settings)
        ]
    answers = (tiny / speech_competition.ANSWERS).read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in answers] == [label for _, label in sorted(labels)]


def test_same_settings_give_the_same_bytes_and_another_seed_others(tiny, tmp_path):
    # In another process, and in this one after it has spoken: eSpeak's state must not leak into the files.
    command = [sys.executable, "-m", "folds.demo", "--out", "again", "--speakers", "4", "--utterances", "2"]
    run = subprocess.run(
        command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    assert "wrote again: 4 train, 2 dev and 2 test utterances of 4 speakers" in run.stdout
    assert run.stdout.rstrip().splitlines()[-1].startswith("next: python -m folds.train --data again")
    assert run.stderr == ""
    assert digest(tmp_path / "again") == digest(tiny)
    demo.make(DemoOptions(out=tmp_path / "here", **TINY))
    assert digest(tmp_path / "here") == digest(tiny)
    demo.make(DemoOptions(out=tmp_path / "other", seed=1, **TINY))
    assert not set(digest(tmp_path / "other").values()) & set(digest(tiny).values())


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(demo.__file__).parents[1])}


def test_made_again_only_when_the_settings_differ(tmp_path):
    out = tmp_path / "competition"
    assert demo.make(DemoOptions(out=out, speakers=4, utterances=1))
    before = digest(out)
    (out / "train-clean-100" / "note").write_text("still the same folder")
    assert not demo.make(DemoOptions(out=out, speakers=4, utterances=1))
    assert (out / "train-clean-100" / "note").exists()
    assert demo.make(DemoOptions(out=out, speakers=4, utterances=1, seed=3))
    assert digest(out).keys() != before.keys() and not (out / "train-clean-100" / "note").exists()
    assert list(tmp_path.iterdir()) == [out]


# Bad input, and being stopped


def test_a_foreign_folder_or_file_is_refused_and_kept(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("draft")
    (tmp_path / "mine" / speech_competition.SETTINGS).write_text('{"demo": true}')
    (tmp_path / "file").write_text("text")
    for name in ("mine", "file"):
        with pytest.raises(InputError, match=f"{name} holds something that is not part of a demo competition"):
            demo.make(DemoOptions(out=tmp_path / name, **TINY))
    with pytest.raises(InputError, match="a part of the path is not a folder"):
        demo.make(DemoOptions(out=tmp_path / "file" / "below", **TINY))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "draft" and (tmp_path / "file").read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_demo_with_the_user_s_files_in_it_is_not_replaced(tmp_path):
    out = tmp_path / "demo"
    demo.make(DemoOptions(out=out, speakers=4, utterances=1))
    (out / "runs").mkdir()
    with pytest.raises(InputError, match="holds something that is not part of a demo competition"):
        demo.make(DemoOptions(out=out, speakers=4, utterances=1, seed=3))
    assert (out / "runs").is_dir() and (out / speech_competition.SETTINGS).exists()


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    assert demo.make(DemoOptions(out=tmp_path / "empty", speakers=4, utterances=1))
    assert (tmp_path / "empty" / speech_competition.SETTINGS).exists()


def test_one_process_at_a_time_makes_a_demo(tmp_path):
    options = DemoOptions(out=tmp_path / "competition", speakers=4, utterances=1)
    with hold(tmp_path / ".competition.unfinished", "another"):
        with pytest.raises(Held, match=r"the demo competition .*competition is being worked on by process \d+ on "):
            demo.make(options)
        assert not options.out.exists()
    assert demo.make(options) and [path.name for path in tmp_path.iterdir()] == ["competition"]


def test_a_demo_killed_while_it_replaced_another_is_completed(tmp_path):
    out, unfinished = tmp_path / "competition", tmp_path / ".competition.unfinished"
    demo.make(DemoOptions(out=out, speakers=4, utterances=1))
    whole = digest(out)
    (unfinished / "new" / "dev-clean").mkdir(parents=True)
    out.rename(unfinished / "replaced")  # killed here
    demo.make(DemoOptions(out=out, speakers=4, utterances=1))
    assert digest(out) == whole and [path.name for path in tmp_path.iterdir()] == ["competition"]


def test_stopped_half_way_nothing_changes(tmp_path, monkeypatch):
    out = tmp_path / "competition"
    demo.make(DemoOptions(out=out, speakers=4, utterances=1))
    before = digest(out)
    spoken = []

    def interrupted(*arguments):
        spoken.append(arguments)
        if len(spoken) == 3:
            raise KeyboardInterrupt
        return np.zeros((9, 28), np.float32), ["[SOS]", "[SIL]", "[EOS]"]

    monkeypatch.setattr(speech_competition, "synthesise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.make(DemoOptions(out=out, speakers=4, utterances=1, seed=1))
    assert digest(out) == before and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speakers": 3}, "--speakers 3: expected at least 4"),
        ({"speakers": 1001}, "--speakers 1001: expected at most 1,000"),
        ({"utterances": 0}, "--utterances 0: expected at least 1"),
        ({"seed": -1}, "--seed -1: expected 0 or more"),
    ],
)
def test_sizes_that_make_no_competition(settings, message):
    with pytest.raises(InputError, match=message):
        DemoOptions(**settings)


# Scoring


def test_score_of_the_answers_of_nothing_and_of_one_edit(tiny, tmp_path):
    header, *lines = (tiny / speech_competition.ANSWERS).read_text().splitlines()
    lengths = [len(line.split(",")[1]) for line in lines]
    measured = speech_competition.mean_distance_and_length
    assert measured(tiny, tiny / speech_competition.ANSWERS) == (0.0, np.mean(lengths))

    def written(rows: list[str]) -> Path:
        path = tmp_path / "submission.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    assert measured(tiny, written(["0,", "1,"]))[0] == np.mean(lengths)
    one_edit = written([lines[0][:-1], lines[1]])
    assert measured(tiny, one_edit)[0] == 1 / 2
    assert demo.score(tiny, one_edit).startswith(f"{one_edit}: mean distance 0.500 on the demo's test set, mean ")


def test_score_refuses_what_a_competition_would_refuse(tiny, tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("id,label\n0,-a-\n1,-a-\n")
    with pytest.raises(InputError, match="header"):
        demo.score(tiny, path)
    with pytest.raises(InputError, match="is not a demo competition and has no answers"):
        demo.score(tmp_path, path)


def test_settings_are_stored_in_the_folder(tiny):
    stored = json.loads((tiny / speech_competition.SETTINGS).read_text())
    assert stored == {"demo": speech_competition.VERSION, "seed": 0, **TINY}
