"""What is refused before it is published, and what is left where publishing fails or is interrupted."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub.publish import main
from tests.hub.runs import write_checkpoint
from tests.loopback_hub import LoopbackHub
from tests.processes import start_command

REPO = "timm-gam/test_resnet_gam.corel"


def publish(checkpoint: Path, *arguments: str, model: str = "test_resnet_gam.corel") -> int:
    return main([model, "--checkpoint", str(checkpoint), *arguments])


def names(hub: LoopbackHub, repo: str = REPO) -> set[str]:
    return set(hub.head("models", repo).files)


def spoil(path: Path, kind: str) -> None:
    tensors = load_file(path)
    name = "layer1.0.se.channel.fc1.weight"
    if kind == "nan":
        tensors[name][0, 0] = torch.nan
    elif kind == "missing":
        del tensors[name]
    elif kind == "unexpected":
        tensors["extra.weight"] = torch.zeros(1)
    elif kind == "headless":
        del tensors["fc.weight"], tensors["fc.bias"]
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "1 tensors hold NaN or infinity (layer1.0.se.channel.fc1.weight)"),
        ("missing", "1 tensors missing (layer1.0.se.channel.fc1.weight)"),
        ("unexpected", "1 tensors unexpected (extra.weight)"),
        ("headless", "the checkpoint has no classifier 'fc.weight'"),
    ],
)
def test_refuses_weights_that_do_not_fit(
    kind: str, message: str, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "model.safetensors")
    spoil(checkpoint, kind)
    assert publish(checkpoint) == 2
    assert message in capsys.readouterr().err
    assert hub.requests == [], "refused before anything is sent"


def test_refuses_what_does_not_belong_together(
    run: Path, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(checkpoint: Path, message: str, *arguments: str, model: str = "test_resnet_gam.corel") -> None:
        assert publish(checkpoint, *arguments, model=model) == 2
        said = capsys.readouterr().err
        assert message in said, said
        assert said.count("\n") == 1, "one line"

    other = write_checkpoint(tmp_path / "other.safetensors", seed=1)
    refused(other, "scores other weights", "--record", str(run / "evaluation.json"))
    many = write_checkpoint(tmp_path / "many.safetensors", classes=5)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "evaluation.json").unlink()
    shutil.copy(many, copy / "best.safetensors")
    refused(copy, "the classifier has 5 classes and data.json 80", model="test_resnet_gam.mine")
    (copy / "metrics.csv").write_text("epoch,lr\n1,0.01\n")
    refused(copy, "is unfinished, after 1 of 2 epochs; finish it with --resume")
    corel = write_checkpoint(tmp_path / "corel.safetensors", "resnet18_se", classes=5)
    refused(corel, "the classifier has 5 classes and the tag resnet18_se.corel 80", model="resnet18_se.corel")
    plain = write_checkpoint(tmp_path / "plain.safetensors", "test_resnet")
    refused(plain, "no licence is known for test_resnet.corel", model="test_resnet.corel")
    (tmp_path / "model.pth").write_bytes(pickle.dumps({}))
    refused(tmp_path / "model.pth", "a pickled PyTorch checkpoint; only safetensors")
    refused(tmp_path / "none.safetensors", "no file")
    refused(run, "no model 'resnet50_gma'; near: ", model="resnet50_gma")
    (tmp_path / "bad.json").write_text("[]")
    refused(other, "name a record of python -m eval.retrieval", "--record", str(tmp_path / "bad.json"))
    refused(other, "is no Hub id", "--namespace", "a/b")
    assert not any(request.startswith("POST") for request in hub.requests)


def test_a_lost_race_overwrites_nothing(
    run: Path, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(run) == 0
    files = dict(hub.head("models", REPO).files)
    hub.faults.add("conflict", "POST .*/commit/main")
    assert publish(write_checkpoint(tmp_path / "other.safetensors", seed=1)) == 2
    assert "somebody else committed" in capsys.readouterr().err
    assert hub.head("models", REPO).message == "somebody else's"
    assert dict(hub.head("models", REPO).files) == files


@pytest.mark.parametrize(
    ("fault", "where"),
    [("500", "PUT /objects/"), ("drop", "PUT /objects/"), ("500", "objects/verify")],
    ids=["store fails", "connection drops", "verify fails"],
)
def test_uploads_are_tried_again(fault: str, where: str, run: Path, hub: LoopbackHub, token: str) -> None:
    hub.faults.add(fault, where)  # type: ignore[arg-type]
    assert publish(run) == 0
    assert len(hub.faults.happened) == 1
    assert "model.safetensors" in names(hub)


@pytest.mark.parametrize("fault", ["500", "drop"], ids=["commit fails", "answer lost"])
def test_a_commit_that_fails_leaves_all_or_nothing(
    fault: str, run: Path, hub: LoopbackHub, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.add(fault, "POST .*/commit/main")  # type: ignore[arg-type]
    assert publish(run) == 2
    said = capsys.readouterr().err
    assert "publish again" in said
    assert said.count("\n") == 1
    assert len(names(hub)) in (0, 9), "all files or none"
    assert publish(run) == 0, "the same command goes on"
    assert len(names(hub)) == 9
    assert len(hub.repository("models", REPO).commits) == 2


@pytest.mark.parametrize("where", ["POST .*/info/lfs/objects/batch", "POST .*/commit/main"])
def test_the_hubs_reason_for_a_refusal_is_said(
    where: str, run: Path, hub: LoopbackHub, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.add("full", where)
    assert publish(run) == 2
    assert "(403: Private repository storage limit reached): it needs write access" in capsys.readouterr().err
    assert names(hub) == set()


def test_without_a_hub(run: Path, token: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(run) == 2
    assert "no answer from http://127.0.0.1" in capsys.readouterr().err
    assert publish(run, "--dry-run") == 0
    assert "not compared with the Hub: " in capsys.readouterr().out


def test_interrupted_while_sending(run: Path, hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    hub.faults.add("stall", "PUT /objects/", times=9)
    said = tmp_path / "said"
    with start_command("hub.publish", ["test_resnet_gam", "--checkpoint", str(run)], said) as process:
        while not hub.faults.happened and process.is_alive():
            time.sleep(0.05)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130, said.read_text()
    assert "interrupted" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert names(hub) == set()
