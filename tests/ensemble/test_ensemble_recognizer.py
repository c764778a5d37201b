"""Recognizers and what they recognise, without a trained network: which are opened, times, formats and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simulated_members as simulated
import soundfile
import torch

from ensemble.members.member import group_by_member
from ensemble.members.stores import StoresOptions
from ensemble.transcription import fitted_blend, recognizer
from ensemble.transcription.fitted_blend import open_fitted_blend, recorded_members
from ensemble.transcription.formats import to_ctm, to_json, to_text
from ensemble.transcription.plot import plot
from ensemble.transcription.recognizer import RecognitionBatch, Recognizer, open_network
from ensemble.transcription.sources import Source
from ensemble.transcription.timing import TimedPhoneme
from ensemble.transcription.transcripts import Recognized, Transcript, Utterance, transcribe
from folds.frontends.base import FRAME_SHIFT, SAMPLE_RATE, WINDOW
from folds.store.fold_model import find_fold_models
from folds.store.log_probs import LogProbs
from folds.store.ragged import offsets_of
from folds.store.run_folder import RunFolder
from registry.errors import InputError

NAMES, CHARACTERS = ("", "[SIL]", "AH", "B"), ("", "_", "a", "b")
STRIDE, DELAY = 2, 3


def add_run(runs: Path, name: str, fold: int, dev: float | None = None, **config) -> None:
    log_probs = simulated.log_probs([[1, 2]])
    run = simulated.write_run(runs, name, fold, dict.fromkeys(("oof", "dev", "test"), log_probs), **config)
    RunFolder(run).summary.write_text(json.dumps({"cpu_minutes": 1.0, "greedy_distance": {"oof": 1.0, "dev": dev}}))


def test_the_network_with_the_lowest_distance_on_dev_is_opened(tmp_path, monkeypatch):
    for name, fold, dev in (("a", 0, 9.0), ("a", 1, 7.0), ("b", 0, 8.0), ("b", 1, 8.5), ("c", 0, None)):
        add_run(tmp_path, name, fold, dev)
    add_run(tmp_path, "d", 0, 1.0, with_dev=True)
    monkeypatch.setattr(recognizer, "recognizer_of", lambda name, networks, *_: [network.path for network in networks])
    options = StoresOptions(runs=(tmp_path,))
    assert open_network(options, None) == [tmp_path / "a" / "fold1"]
    for member, fold in (("b", 0), ("c", 0), ("d", 0)):
        (path,) = open_network(options, member)
        assert path.name == f"fold{fold}" and path.parent.name.startswith(member)


@pytest.fixture
def blended(tmp_path, monkeypatch):
    """A blend of two fold models of `a`, and of a fold model and the refit of `b`; what it opens, and its sidecar."""
    for name, fold, folds in (("a", 0, 2), ("a", 1, 2), ("b", 0, 2), ("b", 0, 1)):
        add_run(tmp_path / "runs", name, fold, folds=folds)
    members = {"a": ["r/a/fold0", "r/a/fold1"], "b": ["r/b/fold0", "r/b.all/fold0"]}
    recipe = {"method": "mbr", "weights": {"a": 0.5, "b": 0.25, "gone": 0.25}, "members": members}
    search = {"lm_weight": 0.0, "length_bonus": 0.0, "prior_weight": 0.0, "label_bonus": []}
    content = {"recipe": recipe, "parameters": 4000, "tags": [], "data": "h", "fusion": {"a": search, "b": search}}
    (tmp_path / "s.csv.json").write_text(json.dumps(content))
    monkeypatch.setattr(fitted_blend, "_decision", lambda *arguments: None)
    monkeypatch.setattr(fitted_blend, "recognizer_of", lambda *arguments: SimpleNamespace(arguments=arguments))
    monkeypatch.setattr(StoresOptions, "open_dataset", lambda self: SimpleNamespace(hash="h"))
    return SimpleNamespace(submission=tmp_path / "s.csv", options=StoresOptions(runs=(tmp_path / "runs",)))


def test_a_members_weight_is_shared_by_its_networks(blended):
    """Of members that the blend does not use, the weight goes to the others."""
    name, networks, weights, _ = open_fitted_blend(blended.submission, blended.options).arguments
    assert name == "s.csv (mbr)"
    assert [f"{network.name}/{network.path.name}" for network in networks] == [
        "a/fold0", "a/fold1", "b/fold0", "b.all/fold0",
    ]  # fmt: skip
    assert weights == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])
    _, b = recorded_members(fitted_blend.read_sidecar(blended.submission), blended.options, "s.csv.json")
    assert b.folds == (0,) and b.refit is not None and b.refit.path == networks[3].path


def test_a_member_without_weight_is_refused(blended):
    path = Path(f"{blended.submission}.json")
    path.write_text(path.read_text().replace('"b": 0.25', '"b": null'))
    with pytest.raises(InputError, match=r"s.csv.json: member b has no weight: blend again"):
        open_fitted_blend(blended.submission, blended.options)


def test_a_blend_of_refits_needs_its_search_settings(blended):
    path = Path(f"{blended.submission}.json")
    content = json.loads(path.read_text()) | {"fusion": {}}
    content["recipe"]["members"] = {"b": ["r/b.all/fold0"]}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="s.csv.json: a blend of refits without recorded search settings: blend again"):
        open_fitted_blend(blended.submission, blended.options)


def test_predictions_are_per_network_or_the_mean_of_a_members_frames(blended):
    members = recorded_members(fitted_blend.read_sidecar(blended.submission), blended.options, "s.csv.json")
    loaded = [simulated.log_probs([[1, 2], [3]], seed=seed) for seed in range(4)]
    batch = RecognitionBatch([np.zeros((8, 13))] * 2, loaded)
    each = fitted_blend._predictions(members, batch, averages_frames=False)
    assert [it.load() for it in each] == loaded and [it.member for it in each] == [0, 0, 1, 1]
    means = fitted_blend._predictions(members, batch, averages_frames=True)
    assert [it.member for it in means] == [0, 1]
    for it, pair in zip(means, (loaded[:2], loaded[2:]), strict=True):
        expected = np.mean([np.exp(log_probs.values.astype(np.float32)) for log_probs in pair], axis=0)
        np.testing.assert_allclose(np.exp(it.load().values.astype(np.float32)), expected, atol=2e-3)


def test_predictions_of_a_delayed_member_have_its_delay(tmp_path):
    add_run(tmp_path, "a.delay2", 0, delay={"frames": 2, "of": "x"})
    members = group_by_member(find_fold_models(tmp_path))
    batch = RecognitionBatch([np.zeros((8, 13))], [simulated.log_probs([[1, 2]])])
    for frames in (False, True):
        (predictions,) = fitted_blend._predictions(members, batch, frames)
        assert predictions.delay == 2


def test_attention_scores_are_the_mean_of_the_networks_for_the_right_features(monkeypatch):
    """The networks of this test add up the features, and multiply by the length of the hypothesis and a factor."""

    def load(network):
        return SimpleNamespace(
            attention_scores=lambda frames, hypotheses: torch.tensor(
                [network.factor * float(frames.sum()) * len(hypothesis) for hypothesis in hypotheses]
            )
        )

    monkeypatch.setattr(fitted_blend, "load_model", load)
    doubled = SimpleNamespace(apply=lambda features: [2 * of_utterance for of_utterance in features])
    networks = [SimpleNamespace(has_attention_scores=True, transform=doubled, factor=factor) for factor in (1, 3)]
    features = [np.full((1, 1), 5.0, np.float32), np.full((1, 1), 7.0, np.float32)]
    scores = fitted_blend._attention_scorer(networks, features)(("1", "0"), [[b"\x01", b"\x01\x02"], [b"\x01"]])
    assert [of_utterance.tolist() for of_utterance in scores] == [[28.0, 56.0], [20.0]]
    networks[0].has_attention_scores = False
    assert fitted_blend._attention_scorer(networks, features) is None


def trained_on(front_end: str | None, features: int = 13, path: str = "run") -> SimpleNamespace:
    """A network whose data have this front end."""
    config = SimpleNamespace(front_end=front_end, data=SimpleNamespace(hash=None, format=None))
    facts = SimpleNamespace(model_config={"features": features})
    return SimpleNamespace(path=path, config=config, delay=DELAY, check_trained=lambda: facts)


def recognizer_with(*networks: SimpleNamespace, decide=None, weights=(1.0,)) -> Recognizer:
    return Recognizer("r", networks, weights, NAMES, CHARACTERS, decide)


def test_the_front_end_is_the_recorded_one_or_the_given_one():
    known, unknown = trained_on("kaldi-mfcc-13"), trained_on(None)
    assert recognizer_with(known).front_end(None) == recognizer_with(unknown, known).front_end(None) == "kaldi-mfcc-13"
    assert recognizer_with(known).front_end("kaldi-mfcc-13") == "kaldi-mfcc-13"
    assert recognizer_with(unknown).front_end("hw3p2-mini") == "hw3p2-mini"
    assert recognizer_with(unknown).front_end(None) is None


def test_networks_of_two_front_ends_are_refused_and_both_named():
    both = recognizer_with(trained_on("hw3p2-mini", path="a"), trained_on("kaldi-mfcc-13", path="b"))
    message = "^a: was trained on features of the front end hw3p2-mini, not b, of kaldi-mfcc-13: choose members of the"
    with pytest.raises(InputError, match=message):
        both.front_end(None)
    with pytest.raises(InputError, match="^wide: was trained on 28 features per frame; the front end kaldi-mfcc-13 ma"):
        recognizer_with(trained_on("kaldi-mfcc-13"), trained_on(None, 28, "wide")).front_end(None)


class Silences(Recognizer):
    """Hears a silence, AH and a silence in every utterance, in the output frames 10, 50 and 90."""

    def predict(self, features):
        values = np.full((len(features), 100, 4), np.log(0.01))
        values[:, :, 0] = np.log(0.97)
        for frame, token in ((10, 1), (50, 2), (90, 1)):
            values[:, frame, [0, token]] = np.log([0.01, 0.97])
        offsets = offsets_of([100] * len(features))
        ids = tuple(map(str, range(len(features))))
        return RecognitionBatch(list(features), [LogProbs(values.reshape(-1, 4), offsets, ids, "", 0, STRIDE)])


def test_times_are_those_of_the_recording_and_silences_at_a_cut_are_one(tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, 7 * SAMPLE_RATE).astype(np.float32)
    samples[int(3.3 * SAMPLE_RATE) : int(3.7 * SAMPLE_RATE)] = 0
    soundfile.write(tmp_path / "talk.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    np.save(tmp_path / "short.npy", np.zeros((200, 13), np.float32))
    sources = [Source(path.stem, path, path.name, path.suffix == ".npy") for path in sorted(tmp_path.iterdir())]
    silences = Silences("r", (trained_on(None),), (1.0,), NAMES, CHARACTERS, lambda batch: [[1, 2, 1]] * len(batch))
    parts = []
    short, talk = transcribe(sources, silences, "kaldi-mfcc-13", 4.0, lambda *part: parts.append(part))
    assert [(source.name, part.utterance.start > 0) for source, part in parts] == [
        ("short", False), ("talk", False), ("talk", True),
    ]  # fmt: skip
    assert (short.name, short.characters, short.seconds) == ("short", "_a_", pytest.approx(0.01 * 199 + 0.025))
    cut = parts[2][1].utterance.start
    assert cut == pytest.approx(3.5, abs=0.06) and talk.seconds == pytest.approx(7.0)
    assert [timed.phoneme for timed in talk.phonemes] == ["[SIL]", "AH", "[SIL]", "AH", "[SIL]"]
    assert talk.characters == "_a_a_" and talk.source == "talk.wav"
    centre = WINDOW / 2 + FRAME_SHIFT * (STRIDE * 50 + (STRIDE - 1) / 2 - DELAY)
    vowels = [(timed.start + timed.end) / 2 for timed in talk.phonemes if timed.phoneme == "AH"]
    assert vowels == pytest.approx([centre, cut + centre])
    merged = talk.phonemes[2]
    assert (merged.start, merged.end) == (talk.phonemes[1].end, talk.phonemes[3].start)
    assert merged.confidence == pytest.approx(0.97) and talk.phonemes[4].end == pytest.approx(7.0)


TIMED = (TimedPhoneme("[SIL]", 0.0, 0.123456, 0.98765), TimedPhoneme("AH", 0.123456, 0.3, 0.5))


def test_formats_hold_names_times_and_confidences():
    transcript = Transcript("my talk", "my talk.wav", 0.5, "gru", TIMED, "_a")
    assert to_text(transcript) == "my talk: [SIL] AH\n"
    assert to_ctm(transcript) == "my_talk 1 0.000 0.123 [SIL] 0.988\nmy_talk 1 0.123 0.177 AH 0.500\n"
    content = json.loads(to_json(transcript))
    silence = {"phoneme": "[SIL]", "start": 0.0, "end": 0.1235, "confidence": 0.9877}
    assert content.pop("phonemes") == [silence, {"phoneme": "AH", "start": 0.1235, "end": 0.3, "confidence": 0.5}]
    rest = {"name": "my talk", "source": "my talk.wav", "seconds": 0.5, "recognizer": "gru", "characters": "_a"}
    assert content == rest


@pytest.mark.parametrize("of_audio", [False, True])
def test_a_picture_has_the_times_of_the_recording(tmp_path, monkeypatch, of_audio):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **options: drawn.append(figure))
    rng = np.random.default_rng(0)
    samples = rng.normal(size=8000).astype(np.float32) if of_audio else None
    posteriors = rng.dirichlet(np.ones(4), 25)
    phonemes = [TimedPhoneme("B", 3.0, 3.2, 1.0), TimedPhoneme("AH", 3.2, 3.4, 1.0)]
    utterance = Utterance(0, 3.0, 0.5, rng.normal(size=(48, 13)), samples)
    plot(Recognized(utterance, phonemes, posteriors), NAMES, "talk", tmp_path / "talk.png")
    signal, below, _ = drawn[0].axes
    of_signal, of_posteriors = signal.get_images()[0], below.get_images()[0]
    assert of_signal.get_extent()[:2] == pytest.approx((3.0, 3.5)) and of_posteriors.get_extent()[:2] == [3.0, 3.5]
    assert [label.get_text() for label in below.get_yticklabels()] == ["blank", "B", "AH"]
    np.testing.assert_array_equal(of_posteriors.get_array(), posteriors[:, [0, 3, 2]].T)
    assert [(text.get_text(), text.xy[0]) for text in signal.texts] == [("B", 3.1), ("AH", pytest.approx(3.3))]
    assert [line.get_xdata()[0] for line in signal.lines] == [3.0, 3.2]
    if not of_audio:
        np.testing.assert_array_equal(of_signal.get_array(), utterance.features.T)
