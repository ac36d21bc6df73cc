"""Several models in one call: how they are named, checked, ranked, and written."""

from __future__ import annotations

import csv
import json
import re
import resource
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import timm
from safetensors.torch import save_file

import eval as evaluation
from eval.retrieval import main
from eval.scoring.statistics.significance import p_of_pairs, p_over_queries
from eval.tables.metric_tables import model_table
from eval.tables.standings import standings
from tests.helpers import write_class_folders
from timm_gam.images import resolve_preprocessing
from timm_gam.models import save_tensors

QUICK = ["--img-size", "32", "-j", "0", "--interval", "none"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("choices") / "photos", classes=3, images=6)


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_names_files_and_runs_mix_and_a_run_brings_its_image_size(photos: Path, tmp_path: Path, capsys) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet_se", num_classes=3).state_dict(), weights)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("model: test_resnet_gam\nimg_size: 48\n")
    trained = timm.create_model("test_resnet_gam", num_classes=3)
    prepared = resolve_preprocessing(trained, img_size=48).of_weights()
    save_tensors(folder / "best.safetensors", trained.state_dict(), {"preprocessing": prepared})
    out = tmp_path / "r.json"
    models = ["test_resnet.corel", f"test_resnet_se={weights}", folder]
    assert run("--model", *models, "--data-dir", photos, "-j", "0", "--interval", "none", "--results-file", out) == 0
    entries = json.loads(out.read_text())["results"]
    assert [entry["weights"]["kind"] for entry in entries] == ["pretrained", "checkpoint", "checkpoint"]
    names = ["test_resnet.corel", "test_resnet_se=w.safetensors", "run"]  # nothing of where they lie
    assert [entry["model"]["name"] for entry in entries] == names
    assert str(tmp_path) not in out.read_text()
    assert entries[2]["preprocessing"]["input_size"] == [3, 48, 48]
    text = capsys.readouterr().out
    assert "rank" in text
    assert "ndcg@5" not in text


def test_patterns_leave_out_what_has_no_weights(photos: Path, capsys) -> None:
    assert run("--model", "test_resnet_[sg]*", "resnet18_g*", "--data-dir", photos, *QUICK) == 2
    assert "none of the 1 models that match 'resnet18_g*' has weights" in capsys.readouterr().err
    assert run("--model", "*resnet*_[sg]?", "*test_resnet_gam", "--data-dir", photos, *QUICK) == 0
    captured = capsys.readouterr()
    assert "left out, as they have no weights that can be had: " in captured.err
    assert "resnet18_se" in captured.err
    assert "test_resnet_se" in captured.out


def test_everything_is_checked_before_an_image_is_read(tmp_path: Path, capsys) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=2, images=2)
    (photos / "class0" / "0.jpg").write_bytes(b"would be found broken")
    good = ["--model", "test_resnet.corel", "--data-dir", photos, *QUICK]
    for arguments, says in (
        ([*good[:2], "no_such_model", *good[2:]], "no model"),
        ([*good[:2], "test_resnet=missing.safetensors", *good[2:]], "no file"),
        ([*good[:2], "test_resnet.corel", *good[2:]], "named twice"),
        ([*good, "--results-file", tmp_path / "r.xlsx"], ".json, .csv, .md, .parquet"),
        ([*good, "--per-query", tmp_path / "q.json"], ".csv, .parquet"),
        ([*good, "--save", tmp_path / "r.pt"], "legal: .safetensors"),
        ([*good, "--rank-by", "hit@3"], "legal with these cutoffs"),
        ([*good, "--report", tmp_path / "no" / "r.html"], "cannot write"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert says in error
        assert "class0/0.jpg" not in error


def test_files_by_suffix(photos: Path, tmp_path: Path, capsys) -> None:
    models = ["--model", "test_resnet.corel", "test_resnet_se.corel", "--data-dir", photos, *QUICK]
    numbers = {}
    for suffix in ("json", "csv", "md", "parquet"):
        out, queries = tmp_path / f"r.{suffix}", tmp_path / ("q.parquet" if suffix == "parquet" else "q.csv")
        assert run(*models, "--results-file", out, "--per-query", queries) == 0
        numbers[suffix] = out
    document = json.loads(numbers["json"].read_text())["results"][0]["metrics"]["map"]["micro"]
    rows = list(csv.DictReader(numbers["csv"].read_text().splitlines()))
    assert float(rows[0]["map"]) == document
    assert pyarrow.parquet.read_table(numbers["parquet"])["map"][0].as_py() == document
    assert f"{100 * document:.2f}" in numbers["md"].read_text()
    assert "95 % interval" not in numbers["md"].read_text(), "none was asked for"
    table = pyarrow.parquet.read_table(tmp_path / "q.parquet").to_pylist()
    assert len(table) == 2 * 18
    assert np.mean([row["map"] for row in table if row["model"] == "test_resnet.corel"]) == pytest.approx(document)
    assert len(list(csv.DictReader((tmp_path / "q.csv").read_text().splitlines()))) == 36


def test_models_that_queries_cannot_tell_apart_share_a_rank() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 12)
    centres = rng.normal(size=(10, 12))[labels]
    noise = rng.normal(size=centres.shape)
    make = lambda scale, more: evaluation.score(  # noqa: E731
        (centres + scale * noise + more * rng.normal(size=centres.shape)).astype(np.float32), labels
    )
    good, same, bad = make(0.9, 0.01), make(0.9, 0.01), make(3.0, 0.0)
    placed = standings([bad, good, same])
    assert [standing.rank for standing in placed] == [1, 1, 3]
    assert [standing.tied for standing in placed] == [True, True, False]
    assert placed[2].result is bad
    assert "[95 % interval]; models of one rank are tied" in model_table([bad, good, same])


def test_all_pairs_at_once_are_each_pair_alone() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, size=(60, 4))
    together = p_of_pairs(differences, permutations=999)
    assert together == [p_over_queries(column, permutations=999) for column in differences.T]


def test_a_disk_that_fills_costs_the_page_and_not_the_numbers(photos: Path, tmp_path: Path, capsys) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        code = main(
            ["--model", "test_resnet.corel", "--data-dir", str(photos), "--report", str(tmp_path / "r.html"), *QUICK]
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out, error = capsys.readouterr()
    assert code == 2 and error.splitlines()[-1].startswith("error: cannot write")
    assert re.search("^map +[0-9.]+", out, re.M) and not list(tmp_path.glob("*.html"))
