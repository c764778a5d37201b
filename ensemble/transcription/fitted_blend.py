"""A fitted blend as a recognizer, with the recipe, members and settings recorded in `<submission>.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ensemble.blenders.base import BLENDERS, BlendRecipe, predict_with
from ensemble.decoding.language_models import estimate_language_model
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.fusion import Fusion, RecordedFusion
from ensemble.hypotheses.open_inputs import InputOptions, open_inputs
from ensemble.hypotheses.recorded_options import recorded_options
from ensemble.hypotheses.split_predictions import SplitPredictions
from ensemble.members.finished import without_outdated
from ensemble.members.frame_mean import mean_log_probs
from ensemble.members.member import Member
from ensemble.members.predictions import AttentionScorer, PackedHypothesis, Predictions
from ensemble.members.sidecar import AGAIN, WORDS, Sidecar, read_sidecar, sidecar_path
from ensemble.members.stores import StoresOptions
from ensemble.transcription.recognizer import RecognitionBatch, Recognizer, recognizer_of
from folds.data.dataset import Dataset
from folds.store.fold_model import FoldModel, load_model
from folds.store.log_probs import LogProbs
from registry.errors import InputError


def open_fitted_blend(submission: Path, options: StoresOptions) -> Recognizer:
    """The blend that wrote `submission`, with its networks from the runs folders and the transcripts of its data.

    Raises InputError for a file without a blend's description, for missing networks, and for data that it was not
    blended on.
    """
    sidecar = read_sidecar(submission)
    where = str(sidecar_path(submission))
    if sidecar.recipe.method == WORDS:
        raise InputError(f"{where}: a blend in words, which cannot transcribe recordings: pass --member with one model")
    if sidecar.recipe.method not in BLENDERS:
        raise InputError(
            f"{where}: was made by the method {sidecar.recipe.method}, which is not a blender; expected a submission "
            "of python -m ensemble.blend; to transcribe with one model, pass --member instead of --submission"
        )
    members = recorded_members(sidecar, options, where)
    dataset = options.open_dataset()
    if sidecar.data != dataset.hash:
        raise InputError(
            f"{where}: was blended on data {sidecar.data or 'of an earlier version'}; {dataset.root} is "
            f"{dataset.hash}: pass the --data that it was blended on"
        )
    recipe = BlendRecipe(sidecar.recipe.method, _weights(sidecar, where), dict(sidecar.recipe.settings))
    settings = recorded_options(sidecar, where)
    decide = _decision(members, recipe, dataset, settings, _fusion(sidecar, members, dataset, settings, where))
    networks: list[FoldModel] = []
    weights: list[float] = []
    total = sum(recipe.weights[member.name] for member in members)
    for member in members:
        networks += member.networks
        weights += [recipe.weights[member.name] / total / len(member.networks)] * len(member.networks)
    return recognizer_of(f"{submission.name} ({recipe.method})", networks, weights, decide)


def recorded_members(sidecar: Sidecar, options: StoresOptions, where: str) -> list[Member]:
    """The blend's members, each with the networks that the blend used, from the runs folders of the options.

    A run is found by the names of its own folder and its member's, so the runs folder may have been moved.
    """
    # Networks derived from an earlier version of a run, or from another run of the same name, are not the blend's.
    current, _ = without_outdated(options.find_fold_models())
    available: dict[tuple[str, str], FoldModel] = {}
    for own in current:
        key = (own.name, own.path.name)
        if key in available:
            both = f"{available[key].path} and in {own.path}"
            raise InputError(f"member {own.name}: is in {both}: pass only one of them with --runs")
        available[key] = own
    members = []
    for name, paths in sorted(sidecar.recipe.members.items()):
        found = []
        for path in map(Path, paths):
            network = available.get((path.parent.name, path.name))
            if network is None:
                raise InputError(
                    f"{where}: needs the run {path.parent.name}/{path.name}, which is not finished or not in "
                    f"{options.describe_runs()}: pass its --runs, or {AGAIN}"
                )
            if sidecar.weights.get(str(path), network.weights_hash) != network.weights_hash:
                raise InputError(f"{where}: {network.path} was trained again since it was blended: {AGAIN}")
            found.append(network)
        fold_models = tuple(network for network in found if network.folds > 1)
        refit = next((network for network in found if network.folds == 1), None)
        members.append(Member(name, fold_models, refit))
    if not members:
        raise InputError(f"{where}: names no members: {AGAIN}")
    return members


def _weights(sidecar: Sidecar, where: str) -> dict[str, float]:
    weights = {name: weight for name, weight in sidecar.recipe.weights.items() if weight is not None}
    if missing := sorted(set(sidecar.recipe.members) - set(weights)):
        raise InputError(f"{where}: member {missing[0]} has no weight: {AGAIN}")
    return weights


def _fusion(
    sidecar: Sidecar, members: Sequence[Member], dataset: Dataset, settings: InputOptions, where: str
) -> Fusion | RecordedFusion:
    """The members' search settings: as recorded, or fitted again for a blend that did not record them."""
    names = [member.name for member in members]
    if all(name in sidecar.fusion for name in names):
        return RecordedFusion([sidecar.fusion[name] for name in names])
    held_out = [member for member in members if member.fold_models]
    if len(held_out) < len(members):
        raise InputError(f"{where}: a blend of refits without recorded search settings: {AGAIN}")
    return open_inputs(members, dataset, replace(settings, networks="both")).fusion


def _decision(
    members: Sequence[Member],
    recipe: BlendRecipe,
    dataset: Dataset,
    settings: InputOptions,
    fusion: Fusion | RecordedFusion,
) -> Callable[[RecognitionBatch], list[list[int]]]:
    language_model = estimate_language_model(dataset, settings.lm_order)

    def decide(batch: RecognitionBatch) -> list[list[int]]:
        split = SplitPredictions(
            name="audio",
            names=tuple(member.name for member in members),
            predictions=tuple(_predictions(members, batch, settings.averages_frames)),
            ids=batch.log_probs[0].ids,
            classes=dataset.alphabet.classes,
            outer_folds=np.zeros(len(batch), np.int64),
            language_models=(language_model,),
        )
        inputs = BlendInputs(split, min(settings.nbest, settings.pool), settings.pool, fusion)
        return predict_with(inputs, recipe, members)

    return decide


def _predictions(members: Sequence[Member], batch: RecognitionBatch, averages_frames: bool) -> list[Predictions]:
    """One entry per network, or one per member if frames are averaged, as in `open_inputs` for test."""
    predictions, log_probs = [], iter(batch.log_probs)
    for index, member in enumerate(members):
        loaded = [next(log_probs) for _ in member.networks]
        if averages_frames:
            scorer = _attention_scorer(member.networks, batch.features)
            name, delay = f"{member.name} mean", member.networks[0].delay
            predictions.append(Predictions(name, index, _loader(mean_log_probs(loaded)), scorer, delay=delay))
            continue
        for network, of_network in zip(member.networks, loaded, strict=True):
            scorer = _attention_scorer([network], batch.features)
            name = network.folder.title
            predictions.append(Predictions(name, index, _loader(of_network), scorer, network, network.delay))
    return predictions


def _loader(log_probs: LogProbs) -> Callable[[], LogProbs]:
    return lambda: log_probs


def _attention_scorer(networks: Sequence[FoldModel], features: Sequence[np.ndarray]) -> AttentionScorer | None:
    """Mean log-likelihood of hypotheses under the networks' attention decoders; None unless all have one."""
    if not all(network.has_attention_scores for network in networks):
        return None

    def scorer(ids: Sequence[str], hypotheses: Sequence[Sequence[PackedHypothesis]]) -> list[np.ndarray]:
        totals = [np.zeros(len(candidates)) for candidates in hypotheses]
        for network in networks:
            model = load_model(network)
            for total, utterance, candidates in zip(totals, ids, hypotheses, strict=True):
                (read,) = network.transform.apply([features[int(utterance)]])
                frames = torch.from_numpy(read)
                scores = model.attention_scores(frames, [list(candidate) for candidate in candidates])
                total += np.asarray(scores.tolist()) / len(networks)
        return totals

    return scorer
