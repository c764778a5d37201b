"""The training command end to end on a tiny competition: the store it writes, resumption, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from folds import train
from folds.data.batches import plan
from folds.data.cache import load_dataset
from folds.data.speaker_folds import speaker_folds
from folds.store.fold_model import find_fold_models
from folds.store.log_probs import read_log_probs
from folds.training import loop as fit
from folds.training.precision import autocast_dtype
from folds.training.predict import greedy_distances
from folds.training.state import State
from registry import InputError, command, model_config

MODEL = ["--model", "lstm_small", "--hidden", "24", "--channels", "16", "16", "--strides", "2", "1", "--layers", "1"]
QUICK = [*MODEL, "--folds", "2", "--threads", "1", "--batch-frames", "400", "--lr", "0.01", "--time-mask", "4"]
QUICK += ["--feature-mask", "1"]


def run(monkeypatch, data: Path, runs: Path, *more: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--data", str(data), "--runs", str(runs), *QUICK, *more])
    train.main()


def metrics(folder: Path) -> str:
    return (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """A run of six epochs, never stopped."""
    runs = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, tiny, runs, "--epochs", "6")
    return runs / "lstm_small" / "fold0"


def test_a_member_predicts_its_own_fold_dev_and_test(undisturbed, tiny):
    (member,) = find_fold_models(undisturbed.parents[1])
    dataset = load_dataset(tiny)
    held_out = np.flatnonzero(speaker_folds(dataset.train, 2) == 0)
    oof = member.load("oof")
    assert oof.ids == tuple(dataset.train.ids[i] for i in held_out) and oof.alphabet == dataset.alphabet.hash
    assert member.load("dev").ids == dataset.dev.ids and member.load("test").ids == dataset.test.ids
    assert oof.lengths.tolist() == (-(-dataset.train.lengths[held_out] // 2)).tolist() and member.stride == 2
    summary = json.loads((undisturbed / "summary.json").read_text())
    expected = greedy_distances(oof, dataset.train, held_out).mean()
    assert summary["greedy_distance"]["oof"] == pytest.approx(expected, abs=1e-4)
    rows = [json.loads(line) for line in metrics(undisturbed).splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6] and rows[-1]["loss"] < rows[0]["loss"]


def test_it_learns(tiny, tmp_path, monkeypatch):
    """Patterns that plain are learned: far below the 6 edits an empty answer costs."""
    run(monkeypatch, tiny, tmp_path, "--epochs", "60")
    summary = json.loads((tmp_path / "lstm_small" / "fold0" / "summary.json").read_text())
    assert max(summary["greedy_distance"].values()) < 1.5


def test_a_run_killed_at_any_moment_ends_in_the_same_metrics(undisturbed, tiny, tmp_path):
    arguments = [sys.executable, "-m", "folds.train", "--data", str(tiny), "--runs", str(tmp_path), *QUICK]
    arguments += ["--epochs", "6", "--resume"]
    folder = tmp_path / "lstm_small" / "fold0"
    for epochs in (1, 3):  # killed as soon as so many epochs are measured: before, while or after they are saved
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            path = folder / "metrics.jsonl"
            if path.exists() and len(path.read_text().splitlines()) >= epochs:
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "test.safetensors").exists()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    assert metrics(folder) == metrics(undisturbed)
    for split in ("oof", "dev", "test"):
        one, other = (read_log_probs(path / f"{split}.safetensors") for path in (folder, undisturbed))
        assert np.array_equal(one.values, other.values) and one.ids == other.ids


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_told_to_stop_saves_and_goes_on(undisturbed, tiny, tmp_path, monkeypatch, number, status):
    """The signal comes in the middle of the third epoch; the rest of it repeats every bit."""
    run_step, seen = fit._step, []

    def stopping(*arguments):
        seen.append(1)
        if len(seen) == 11:  # epochs have four batches
            os.kill(os.getpid(), number)
        return run_step(*arguments)

    monkeypatch.setattr(fit, "_step", stopping)
    arguments = ["train", "--data", str(tiny), "--runs", str(tmp_path), *QUICK, "--epochs", "6"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert train.main() == status
    folder = tmp_path / "lstm_small" / "fold0"
    assert len(metrics(folder).splitlines()) == 2 and len(seen) == 11
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")
    assert len(seen) == batches_of_six_epochs(tiny) and metrics(folder) == metrics(undisturbed)


def batches_of_six_epochs(tiny) -> int:
    dataset = load_dataset(tiny)
    lengths = dataset.train.lengths[speaker_folds(dataset.train, 2) != 0]
    return sum(len(plan(lengths, frames=400, seed=0, epoch=epoch)) for epoch in range(1, 7))


def test_a_budget_of_minutes_is_kept_and_ends_at_rate_zero(tiny, tmp_path, monkeypatch):
    before = time.process_time()
    run(monkeypatch, tiny, tmp_path, "--minutes", "0.05", "--clock", "cpu", "--average", "0.1")
    assert 3.0 <= time.process_time() - before < 8.0
    rows = [json.loads(line) for line in metrics(tmp_path / "lstm_small" / "fold0").splitlines()]
    assert len(rows) > 3 and rows[-1]["loss"] < rows[0]["loss"]


def test_averaged_weights_predict_and_survive_a_stop(tiny, tmp_path, monkeypatch):
    options = ["--epochs", "4", "--average", "0.3"]
    run(monkeypatch, tiny, tmp_path / "whole", *options)
    whole = tmp_path / "whole" / "lstm_small" / "fold0"
    save, saved = State.save, []

    def save_twice(state, folder):
        save(state, folder)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "save", save_twice)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tiny, tmp_path, *options)
    run(monkeypatch, tiny, tmp_path, *options, "--resume")
    assert metrics(tmp_path / "lstm_small" / "fold0") == metrics(whole)
    run(monkeypatch, tiny, tmp_path / "plain", "--epochs", "4")
    plain = tmp_path / "plain" / "lstm_small" / "fold0"
    one, other = (read_log_probs(folder / "dev.safetensors").values for folder in (whole, plain))
    assert not np.array_equal(one, other)


def test_a_finished_run_is_left_alone(undisturbed, tiny, monkeypatch, capsys):
    before = metrics(undisturbed)
    run(monkeypatch, tiny, undisturbed.parents[1], "--epochs", "6")
    assert "finished before" in capsys.readouterr().out and metrics(undisturbed) == before


def test_other_settings_for_a_run_begun_before_are_refused(undisturbed, tiny, monkeypatch):
    with pytest.raises(InputError, match=r"begun with other settings \(epochs was 6, now 7\)"):
        run(monkeypatch, tiny, undisturbed.parents[1], "--epochs", "7", "--resume")
    with pytest.raises(InputError, match=r"begun with other settings \(model was"):
        run(monkeypatch, tiny, undisturbed.parents[1], "--epochs", "6", "--dropout", "0.5")


def test_an_unfinished_run_wants_to_be_resumed(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    (tmp_path / "lstm_small" / "fold0" / "test.safetensors").unlink()
    with pytest.raises(InputError, match="begun before and not finished: add --resume"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--resume")
    assert len(find_fold_models(tmp_path)) == 1


def test_the_best_epoch_may_predict_and_the_member_says_so(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--select", "best")
    (member,) = find_fold_models(tmp_path)
    best = min(json.loads(line)["held_out"] for line in metrics(member.path).splitlines())
    assert member.config["select"] == "best"
    summary = json.loads((member.path / "summary.json").read_text())
    assert summary["greedy_distance"]["oof"] == pytest.approx(best, abs=1e-3)


def test_several_models_folds_and_seeds(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--model", "lstm_small,gru_small", "--fold", "all", "--seed", "4")
    found = [(member.name, member.fold) for member in find_fold_models(tmp_path)]
    assert found == [(f"{name}.seed4", fold) for name in ("gru_small", "lstm_small") for fold in (0, 1)]


def test_one_fold_fits_everything_and_is_a_member_of_its_own(tiny, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--folds", "1")
    (member,) = find_fold_models(tmp_path)
    dataset = load_dataset(tiny)
    assert (member.name, member.folds, member.path.parent.name) == ("lstm_small.all", 1, "lstm_small.all")
    assert (len(member.load("oof")), len(member.load("dev"))) == (0, len(dataset.dev))
    assert f"{len(dataset.train)} utterances to fit, 0 held out" in capsys.readouterr().out
    # What is shown while training is then the distance on dev.
    assert json.loads(metrics(member.path))["held_out"] == pytest.approx(
        greedy_distances(member.load("dev"), dataset.dev, np.arange(len(dataset.dev))).mean(), abs=1e-4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1", "--select", "best"], "nothing is held out to select by"),
        (["--model", "pbltsm"], "there is no 'pbltsm'; did you mean pblstm"),
        (["--fold", "2"], "--fold 2: out of range, with --folds 2 it is 0 to 1"),
        (["--fold", "x"], "--fold x: expected a number"),
        (["--folds", "99"], "--folds 99: expected 1 to 6, the number of speakers"),
        (["--epochs", "0"], "--epochs 0: expected at least 1"),
        (["--device", "nonsense"], "--device nonsense: not on this machine"),
        (["--data", "/no/such/folder"], "no folder /no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tiny, tmp_path, monkeypatch, capsys, options, message):
    base = ["train", "--data", str(tiny), "--runs", str(tmp_path / "runs"), "--folds", "2"]
    monkeypatch.setattr(sys, "argv", [*base, "--model", "lstm_small", "--epochs", "1", *options])
    with pytest.raises(SystemExit) as exit:
        command(train.main)
    assert exit.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ") and message in complaint
    assert len(complaint.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_utterances_too_short_for_their_labels_are_listed(tiny, tmp_path, monkeypatch):
    short = ["--epochs", "1", "--strides", "4", "4"]
    with pytest.raises(InputError, match=r"training utterances have fewer output frames at stride 16 .*: 1-1-0000"):
        run(monkeypatch, tiny, tmp_path, *short, "--fold", "1")
    assert not (tmp_path / "lstm_small").exists()
    with pytest.raises(InputError, match="nothing is left to fit"):
        run(monkeypatch, tiny, tmp_path, *short, "--fold", "1", "--skip-bad")


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tiny, tmp_path):
    """The limit on a file's size stands in for a full disk: the checkpoint does not fit."""
    code = (
        "import resource, signal; from registry import command; from folds import train;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000));"
        "command(train.main)"
    )
    arguments = ["--data", str(tiny), "--runs", str(tmp_path), *QUICK, "--epochs", "2", "--resume"]
    load_dataset(tiny)  # the cache is larger than the limit, and not what is tested
    full = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert full.returncode == 2 and "error: the disk or a quota is full" in full.stderr, full.stderr
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("checkpoint/*.safetensors"))
    subprocess.run([sys.executable, "-m", "folds.train", *arguments], check=True, stdout=subprocess.DEVNULL)
    (member,) = find_fold_models(tmp_path)
    assert [json.loads(line)["epoch"] for line in metrics(member.path).splitlines()] == [1, 2]


def test_two_views_at_changed_speeds_train(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--consistency", "0.2", "--speed", "0.1")
    rows = [json.loads(line) for line in metrics(tmp_path / "lstm_small" / "fold0").splitlines()]
    assert rows[2]["loss"] < rows[0]["loss"] and rows[2]["skipped"] == 0


def test_reduced_precision_trains(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "2", "--precision", "bf16")
    rows = [json.loads(line) for line in metrics(tmp_path / "lstm_small" / "fold0").splitlines()]
    assert rows[1]["loss"] < rows[0]["loss"] and rows[1]["skipped"] == 0


def test_bf16_is_chosen_where_a_cpu_has_matrix_units_for_it(monkeypatch):
    cpu = torch.device("cpu")
    for amx, dtype in ((True, torch.bfloat16), (False, None)):
        found = {"amx_bf16": amx, "avx512_bf16": True}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert autocast_dtype("auto", cpu) is dtype
    assert autocast_dtype("fp32", cpu) is None and autocast_dtype("fp16", cpu) is torch.float16
    assert autocast_dtype("auto", torch.device("mps")) is None


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_is_no_number_stops_the_run_and_names_utterances(precision, tiny, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"loss or gradient was no number 20 times in a row, last with \d-1-"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "60", "--lr", "1e30", "--clip", "1e30", "--precision", precision)
    assert "NaN" not in metrics(tmp_path / "lstm_small" / "fold0")


def test_fp16_finds_its_scale(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--precision", "fp16")
    rows = [json.loads(line) for line in metrics(tmp_path / "lstm_small" / "fold0").splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["skipped"] == 0


def test_each_model_named_has_its_own_defaults_and_what_is_given():
    options, configs = train.parse(["--model", "gru_small,gru", "--hidden", "176", "--folds", "3"])
    defaults = {name: model_config(name, features=1, classes=2) for name in configs}
    assert options.folds == 3 and list(configs) == ["gru_small", "gru"]
    for name, config in configs.items():
        assert config["hidden"] == 176
        assert config["channels"] == defaults[name].channels and config["dropout"] == defaults[name].dropout
    assert train.parse(["--model", "gru_small,conformer_small"])[1] == {"gru_small": {}, "conformer_small": {}}


def test_a_run_begun_before_an_option_existed_goes_on(tiny, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    path = tmp_path / "lstm_small" / "fold0" / "config.json"
    config = json.loads(path.read_text())
    del config["options"]["recipe"]["keep"]
    path.write_text(json.dumps(config))
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--resume")
    assert "finished before" in capsys.readouterr().out


@pytest.fixture(scope="module")
def restarted(undisturbed, tiny, tmp_path_factory):
    """A late restart of two epochs, never stopped, and the weights it began with."""
    runs, began = tmp_path_factory.mktemp("restarted"), []

    class Watched(State):
        def __init__(self, model, *more):
            began.append({name: value.clone() for name, value in model.state_dict().items()})
            super().__init__(model, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "State", Watched)
        run(patch, tiny, runs, "--epochs", "2", "--restart-from", str(undisturbed.parents[1]))
    return runs / "lstm_small" / "fold0", began[0]


def test_a_restart_begins_from_the_weights_of_the_run_before(undisturbed, restarted):
    """To the last bit; its minutes are those of both runs."""
    folder, began = restarted
    before = load_file(undisturbed / "checkpoint" / "weights.safetensors")
    assert before.keys() == began.keys() and all(torch.equal(began[name], before[name]) for name in before)
    minutes = [json.loads((path / "summary.json").read_text())["cpu_minutes"] for path in (undisturbed, folder)]
    assert minutes[1] >= minutes[0] and len(metrics(folder).splitlines()) == 2


def test_a_restart_that_was_stopped_goes_on_without_its_source(restarted, undisturbed, tiny, tmp_path, monkeypatch):
    folder, source, steps = tmp_path / "on" / "lstm_small" / "fold0", tmp_path / "source", []
    shutil.copytree(undisturbed.parents[1], source)
    run_step = fit._step

    def stopping(*arguments):
        steps.append(1)
        if len(steps) == 6:  # in the second epoch of four batches
            os.kill(os.getpid(), signal.SIGTERM)
        return run_step(*arguments)

    monkeypatch.setattr(fit, "_step", stopping)
    run(monkeypatch, tiny, tmp_path / "on", "--epochs", "2", "--restart-from", str(source))
    shutil.rmtree(source)
    with pytest.raises(InputError, match="begun with other settings .restart_from was given, now not given"):
        run(monkeypatch, tiny, tmp_path / "on", "--epochs", "2", "--resume")
    run(monkeypatch, tiny, tmp_path / "on", "--epochs", "2", "--resume", "--restart-from", "moved")
    assert len(steps) == 8 and metrics(folder) == metrics(restarted[0])
    one, other = (read_log_probs(path / "test.safetensors").values for path in (folder, restarted[0]))
    assert np.array_equal(one, other)


def test_a_restart_without_a_whole_checkpoint_does_not_begin_at_random(restarted, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "lstm_small" / "fold0"
    shutil.copytree(restarted[0], folder)
    (folder / "test.safetensors").unlink()
    for path in folder.glob("checkpoint/step*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="no whole checkpoint is left"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "2", "--resume", "--restart-from", "gone")


def test_a_restart_from_a_flattered_run_is_flattered(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path / "best", "--epochs", "2", "--select", "best")
    run(monkeypatch, tiny, tmp_path / "on", "--epochs", "1", "--restart-from", str(tmp_path / "best"))
    (member,) = find_fold_models(tmp_path / "on")
    assert member.config["select"] == "best"


def test_a_run_begun_without_a_restart_is_not_taken_for_one(undisturbed, tiny, tmp_path, monkeypatch):
    """Nor one that is older than the option."""
    shutil.copytree(undisturbed, tmp_path / "lstm_small" / "fold0")
    path = tmp_path / "lstm_small" / "fold0" / "config.json"
    config = json.loads(path.read_text())
    del config["options"]["restart_from"], config["options"]["recipe"]["prior"]
    path.write_text(json.dumps(config))
    run(monkeypatch, tiny, tmp_path, "--epochs", "6")
    for more in (["--restart-from", str(undisturbed.parents[1])], ["--no-prior"]):
        with pytest.raises(InputError, match="begun with other settings"):
            run(monkeypatch, tiny, tmp_path, "--epochs", "6", *more)


def test_a_restart_wants_the_same_model_finished_elsewhere(undisturbed, tiny, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(undisturbed.parents[1], source)
    shutil.copytree(undisturbed, source / "lstm_small" / "fold1")  # under a false name
    shutil.copytree(undisturbed, source / "lstm_small.seed1" / "fold0")
    (source / "lstm_small.seed1" / "fold0" / "checkpoint" / "weights.safetensors").write_bytes(b"torn")
    shutil.copytree(undisturbed, source / "lstm_small.seed2" / "fold0")
    (source / "lstm_small.seed2" / "fold0" / "summary.json").unlink()
    for options, message in (
        (["--fold", "all", "--seed", "1"], "lstm_small.seed1/fold1 is no finished run"),
        (["--dropout", "0.5"], "trained with other model options"),
        (["--folds", "3"], "held out other utterances"),
        (["--fold", "1"], "held out other utterances"),
        (["--seed", "1"], "not these weights"),
        (["--seed", "2"], "summary.json: no such file"),
        (["--restart-from", str(tmp_path / "nowhere")], "nowhere/lstm_small/fold0 is no finished run"),
    ):
        with pytest.raises(InputError, match=message):
            run(monkeypatch, tiny, tmp_path / "on", "--restart-from", str(source), *options)
    assert not (tmp_path / "on").exists()


def test_without_the_prior_biases_begin_at_random(tiny, tmp_path, monkeypatch):
    """The first epoch's loss tells: with the prior, that most frames are blank need not be learned."""
    losses = {}
    for name, more in (("with", []), ("without", ["--no-prior"])):
        run(monkeypatch, tiny, tmp_path / name, "--epochs", "1", "--lr", "1e-12", *more)
        losses[name] = json.loads(metrics(tmp_path / name / "lstm_small" / "fold0").splitlines()[0])["loss"]
    assert losses["with"] < losses["without"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--kernel", "4"], "--kernel 4: expected an odd number"),
        (["--layers", "0"], "--layers 0: expected at least 1"),
        (["--strides", "0", "2"], r"--strides \(0, 2\): expected at least 1"),
        (["--dropout", "1"], "--dropout 1.0: expected a share"),
        (["--folds", "0"], "--folds 0: expected 1 or more"),
    ],
)
def test_options_no_model_can_have_are_one_line(option, message, tiny, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=message):
        run(monkeypatch, tiny, tmp_path, *option)
