"""Runs in object storage that speaks S3, on 127.0.0.1, with the upload cut at every request: `make test-cluster`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.blend import BlendOptions
from ensemble.members.finished import find_members
from folds import train
from folds.store.remote import RemoteStore, local_copy
from folds.store.run_folder import RunFolder
from registry import InputError

pytestmark = pytest.mark.skipif(
    "HW3P2_TEST_CLUSTER" not in os.environ, reason="needs an S3 server: make test-cluster installs and runs it"
)
SMALL = ["--hidden", "24", "--channels", "16", "16", "--strides", "2", "1", "--layers", "1"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket of a server on 127.0.0.1."""
    pytest.importorskip("s3fs", reason="no s3fs: pip install -e '.[cluster-test]'")
    server = pytest.importorskip("moto.server", reason="no moto: pip install -e '.[cluster-test]'")
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    host, port = s3.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="members")
        yield "s3://members/runs"
    s3.stop()


@pytest.fixture(scope="module")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fold models of one member."""
    runs = tmp_path_factory.mktemp("trained")
    options = ["--model", "lstm_small", *SMALL, "--fold", "all", "--folds", "2", "--epochs", "1", "--threads", "1"]
    train.main(["--data", str(tiny), "--runs", str(runs), *options, "--batch-frames", "400"])
    return runs


class Cut(Exception):
    """The connection was lost, or the process killed, before this request."""


def cut_before(monkeypatch: pytest.MonkeyPatch, request: int | None) -> list[str]:
    """Raise Cut before the request of that number, counted from 0, of any kind; returns those that were sent."""
    from aiobotocore.httpsession import AIOHTTPSession

    sent: list[str] = []
    send = AIOHTTPSession.send

    async def counted(self, prepared):
        if len(sent) == request:
            raise Cut
        sent.append(f"{prepared.method} {prepared.url.partition('?')[0].rpartition('/')[2]}")
        return await send(self, prepared)

    monkeypatch.setattr(AIOHTTPSession, "send", counted)
    return sent


def test_an_upload_cut_at_every_request_is_never_blended_by_half(bucket, runs, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    whole, cut = (RunFolder(runs / "lstm_small" / fold) for fold in ("fold0", "fold1"))
    RemoteStore(bucket).upload(whole)
    with pytest.MonkeyPatch.context() as patch:
        requests = cut_before(patch, None)
        RemoteStore(bucket + "-counted").upload(cut)
    print("\nrequests of an upload:", ", ".join(requests))
    for number in range(len(requests)):
        with pytest.MonkeyPatch.context() as patch:
            sent = cut_before(patch, number)
            with pytest.raises(InputError, match="Cut"):
                RemoteStore(bucket).upload(cut)
        assert len(sent) == number
        options = BlendOptions(data=tiny, runs=(Path(bucket),))
        (member,) = find_members(options, options.members)
        assert member.folds == (0,), f"after request {number}"
    RemoteStore(bucket).upload(cut)
    (member,) = find_members(BlendOptions(data=tiny, runs=(Path(bucket),)), ["*"])
    assert member.folds == (0, 1)
    for model in member.fold_models:
        for split in ("oof", "dev", "test"):
            copied, trained = (path / f"{split}.safetensors" for path in (model.path, runs / model.folder.name))
            assert copied.read_bytes() == trained.read_bytes()


def test_a_launch_trains_uploads_and_skips_what_is_uploaded(bucket, tiny, tmp_path, monkeypatch, capsys):
    from folds import launch

    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(launch.__file__).parents[1]))
    options = ["--models", "lstm_small", *SMALL, "--fold-count", "2", "--epochs", "1", "--batch-frames", "400"]
    command = ["launch", "--data", str(tiny), "--runs", f"{bucket}-launched", *options]
    monkeypatch.setattr(sys, "argv", command)
    assert launch.main() == 0 and "2 finished" in capsys.readouterr().out
    assert RemoteStore(f"{bucket}-launched").finished() == {"lstm_small/fold0", "lstm_small/fold1"}
    # On another machine, which has nothing in its cache, nothing is trained again.
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("folds.launching.executor.EXECUTORS.get", pytest.fail)
    assert launch.main() == 0 and "2 finished" in capsys.readouterr().out
    copy = local_copy(Path(f"{bucket}-launched"), tmp_path / "copy")
    assert len(list(copy.glob("*/fold*/test.safetensors"))) == 2


def test_a_bucket_that_does_not_exist_is_one_line(bucket):
    with pytest.raises(InputError, match="^s3://nowhere/runs: [^\n]*check the URL and the credentials$"):
        RemoteStore("s3://nowhere/runs").upload(RunFolder(Path("missing/fold0")))
