"""Re-ranked queries, and indexes whose embeddings are of views or pass a head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.timm_gam.rerank import naive
from timm_gam.embed import Embedder, EmbedSettings
from timm_gam.models import load_model
from timm_gam.search.__main__ import main
from timm_gam.search.photos.photo_index import PhotoIndex
from timm_gam.train import HeadRecipe, train_head

MODEL = "test_resnet_gam.corel"


def test_a_query_is_ranked_as_by_the_full_matrices(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = PhotoIndex.open(indexed)
    digests = made.catalogue.digests()
    vectors = naive.unit(made.embeddings(made.collection()).read(digests).astype(np.float64))
    photo = made.catalogue.file("class1/2.jpg")
    sought = vectors[list(digests).index(photo.digest)]
    command = ["query", str(indexed / "class1/2.jpg"), "--in", str(indexed), "--json", "-k", "5"]
    assert main([*command, "--rerank", "dba:neighbours=3,alpha=2"]) == 0
    found = json.loads(capsys.readouterr().out)["matches"]
    scores = naive.database_augmentation(sought, vectors, 3, 2.0)
    expected = [made.catalogue.photos(digests[row])[0].path for row in np.argsort(-scores)[:5]]
    assert [match["path"] for match in found] == expected
    assert found[0]["score"] <= 1 + 1e-6, "cosines, whatever they are ordered by"
    assert main([*command, "--folder", "class0", "--rerank", "qe:neighbours=3"]) == 0
    assert all(m["path"].startswith("class0/") for m in json.loads(capsys.readouterr().out)["matches"])
    assert main([*command, "--rerank", "dba:neighbours=500"]) == 2
    assert "1 to 12 are legal in a gallery of 13 images" in capsys.readouterr().err


def test_views_and_a_head_are_kept_with_the_index(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model(MODEL)
    facts = {"weights": loaded.info.weights.sha256, "layer": "pooled", "views": {"flip": True}, "trained_on": "noise"}
    points = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    head = tmp_path / "head.safetensors"
    train_head(points, torch.arange(64) % 4, HeadRecipe(hidden=8, dim=5, epochs=1), **facts).save(head)
    command = ["index", str(folder), "--model", MODEL, "-j", "0", "--json"]
    assert main([*command, "--head", str(head)]) == 0
    collection = PhotoIndex.open(folder).collection()
    assert (collection.head, collection.views) == (str(head), {"flip": True})
    assert "head" in collection.key and "head" not in Embedder(loaded, settings=EmbedSettings(flip=True)).key
    capsys.readouterr()
    assert main(["query", str(folder / "class0/1.jpg"), "--in", str(folder), "--json", "-k", "3"]) == 0
    first = json.loads(capsys.readouterr().out)["matches"][0]
    assert first["path"] == "class0/1.jpg" and first["score"] == pytest.approx(1, abs=1e-5)
    assert main(["index", str(folder), "-j", "0", "--json"]) == 0, "as the last time"
    assert json.loads(capsys.readouterr().out)["embedded"] == 0
    assert main([*command, "--pool", "gem"]) == 0
    assert PhotoIndex.open(folder).collection().views == {"pool": "gem"}
