"""Every kind of bad input of the command line: one line that says what is legal, exit code 2, and nothing lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from eval.arguments.inputs import choose_inputs
from eval.arguments.retrieval import parse_arguments
from eval.retrieval import main
from tests.helpers import write_class_folders

QUICK = ["--no-pretrained", "--img-size", "32", "-j", "0", "--interval", "queries"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "photos", classes=3, images=6)


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[object], str]]:
    tmp_path = tmp_path_factory.mktemp("bad")
    photos = write_class_folders(tmp_path / "photos", classes=3, images=6)
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "plain.safetensors")
    nan = timm.create_model("test_resnet").state_dict()
    nan["bn1.weight"][0] = float("nan")
    save_file(nan, tmp_path / "nan.safetensors")
    data = ["--data-dir", photos]
    model = ["--model", "test_resnet", *QUICK]
    return {
        "missing folder": ([*model, "--data-dir", tmp_path / "nowhere"], "name a folder"),
        "wrong model": (["--model", "resnet50_gamn", *data], "near: resnet50_gam"),
        "no match": (["--model", "nothing*", *data], "no model matches"),
        "wrong tag": (["--model", "resnet50_se.zzz", *data], "legal: "),
        "no weights": (["--model", "seresnet18", *data], "no pretrained weights"),
        "other architecture": (
            ["--model", "test_resnet_gam", "--checkpoint", tmp_path / "plain.safetensors", *data], "is not for"
        ),
        "pickle": (["--model", "test_resnet", "--checkpoint", tmp_path / "pickle.safetensors", *data], "pickled"),
        "two models, one file": (
            ["--model", "a", "b", "--checkpoint", tmp_path / "plain.safetensors", *data], "1 checkpoints came for 2"
        ),
        "not finite": (
            ["--model", "test_resnet", "--checkpoint", tmp_path / "nan.safetensors", *data, "-j", "0"], "NaN"
        ),
        "unwritable": ([*model, *data, "--results-file", tmp_path / "no" / "such" / "r.json"], "cannot write"),
        "folder as file": ([*model, *data, "--results-file", tmp_path], "is a folder"),
        "unknown split": ([*model, *data, "--split", "validation"], "legal: all, test, train"),
        "two data sets": ([*model, *data, "--dataset", "a/b"], "name one"),
        "columns of a folder": ([*model, *data, "--label-column", "kind"], "--label-column came with the folder"),
        "device": ([*model, *data, "--device", "cuda:77"], "cannot be used"),
        "device name": ([*model, *data, "--device", "quantum"], "cannot be used"),
        "device without values": ([*model, *data, "--device", "meta"], "cannot be used"),
        "checkpoint of the default model": (
            ["--checkpoint", tmp_path / "plain.safetensors", *data], "is not for resnet50_gam"
        ),
        "interpolation": ([*model, *data, "--interpolation", "magic"], "legal: nearest"),
        "compiler": ([*model, *data, "--torchcompile", "nonesuch"], "nonesuch"),
    }  # fmt: skip


@pytest.mark.parametrize("case", [
    "missing folder", "wrong model", "no match", "wrong tag", "no weights", "other architecture", "pickle",
    "two models, one file", "not finite", "unwritable", "folder as file", "unknown split", "two data sets",
    "columns of a folder", "device", "device name", "device without values", "checkpoint of the default model",
    "interpolation", "compiler",
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(case: str, bad_inputs, tmp_path: Path, capsys) -> None:
    arguments, message = bad_inputs[case]
    out = tmp_path / "results.json"
    if "--results-file" not in arguments:
        arguments = [*arguments, "--results-file", out]
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "top"], "choose from"),
        (["-k", "0"], "from 1 to 10,000,000"),
        (["-k", "1000000000"], "from 1 to 10,000,000"),
        (["-b", "x"], "at least 1"),
        (["--seed", str(2**63)], "not a whole number from 0 to 2^63 - 1"),
        (["--nonsense"], "--nonsense"),
        (["--protocol", "x"], "choose from"),
        (["--gallery-dir", "g", "--protocol", "leave-one-out"], "for query-gallery only"),
        (["--gallery-dir", "g", "--query-split", "test"], "--query-split test would do nothing here"),
        (["--query-split", "val"], "name --protocol query-gallery with it"),
        (["--protocol", "query-gallery", "--split", "test"], "two splits: --query-split and --gallery-split"),
        (["--data-dir", "photos", "--streaming"], "for --dataset only"),
        (["--optimize", "--channels-last"], "it chooses and compiles by itself"),
    ],
)
def test_illegal_options_exit_with_2(options: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_results_of_earlier_models_survive_a_later_failure(photos: Path, tmp_path: Path, capsys) -> None:
    out, good, bad = tmp_path / "r.json", tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    tensors = timm.create_model("test_resnet").state_dict()
    save_file(tensors, good)
    tensors["bn1.weight"][0] = float("nan")
    save_file(tensors, bad)
    code = run("--model", f"test_resnet={good}", f"test_resnet={bad}", "--data-dir", photos,
               "--img-size", "32", "-j", "0", "--results-file", out)  # fmt: skip
    assert code == 2
    assert "NaN" in capsys.readouterr().err
    document = json.loads(out.read_text())
    assert len(document["results"]) == 1
    assert any("NaN" in note for note in document["notes"])


def test_weights_of_another_model_are_found_before_the_first_image(photos: Path, tmp_path: Path, capsys) -> None:
    out, path = tmp_path / "r.json", tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet_se").state_dict(), path)
    assert run("--model", f"test_resnet_se={path}", f"test_resnet={path}", "--data-dir", photos, "-j", "0",
               "--results-file", out) == 2  # fmt: skip
    assert "is not for test_resnet: " in capsys.readouterr().err
    assert not out.exists()


def test_a_dead_hub_is_named_where_the_embedded_default_stands_in() -> None:
    inputs = choose_inputs(parse_arguments([]))
    assert inputs.note is not None
    assert f"no answer from {os.environ['HF_ENDPOINT']}" in inputs.note
    assert "not COREL" in inputs.images.name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--dataset", "owner/name", "--model", "test_resnet", "--no-pretrained"], os.environ["HF_ENDPOINT"]),
        (["--split", "test", "--model", "resnet50_gam"], os.environ["HF_ENDPOINT"]),
        (["--model", "resnet50_gam.corel"], "is not released yet: use resnet50_gam.a1_in1k_identity"),
        (["--checkpoint", "mine.safetensors"], "mine.safetensors"),  # files are looked for before the Hub is asked
    ],
    ids=["data set", "model", "not released", "file"],
)
def test_what_is_named_and_cannot_be_had_is_an_error(arguments: list[str], named: str, capsys) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ")
    assert named in said
