"""Images to embeddings: order, loader processes, failures, and embeddings kept on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from eval import Settings, choose_protocol, evaluate
from tests.helpers import write_class_folders
from timm_gam.core import EmbeddingError, UnreadableImageError, versions
from timm_gam.data import read_folder
from timm_gam.embed import EmbedSettings, embed_images, embedding_network
from timm_gam.images import content_digest, data_fingerprint, digest_images, resolve_preprocessing
from timm_gam.models import load_model


class MeanColour(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class NotFinite(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).where(x.mean((1, 2, 3))[:, None] < 0.3, torch.nan)


def to_tensor(image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.resize((16, 16)), dtype=np.float32) / 255).permute(2, 0, 1)


@pytest.fixture
def photos(tmp_path: Path):
    return read_folder(write_class_folders(tmp_path / "photos", classes=3, images=5))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_rows_meet_their_images_whatever_the_batches(photos, workers: int, batch_size: int) -> None:
    seen: list[int] = []
    got = embed_images(
        MeanColour(), photos, to_tensor, EmbedSettings(batch_size=batch_size, workers=workers), on_progress=seen.append
    )
    expected = np.stack([to_tensor(load).mean((1, 2)).numpy() for load in decoded(photos)])
    np.testing.assert_allclose(got.vectors, expected, atol=1e-6)
    assert got.vectors.dtype == np.float32
    assert sum(seen) == 15
    assert got.digests == digest_images(photos, np.arange(15))


def decoded(images):
    from timm_gam.images import load_image

    return [load_image(source, "x")[0] for _, source in images.reader.read(range(len(images)))]


def test_only_the_rows_asked_for(photos) -> None:
    rows = np.array([1, 7, 14])
    got = embed_images(MeanColour(), photos, to_tensor, EmbedSettings(workers=0), rows=rows)
    whole = embed_images(MeanColour(), photos, to_tensor, EmbedSettings(workers=0))
    np.testing.assert_array_equal(got.vectors, whole.vectors[rows])
    np.testing.assert_array_equal(got.rows, rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_stop_the_run_or_are_counted(photos, tmp_path: Path, workers: int) -> None:
    (tmp_path / "photos" / "class1" / "2.jpg").write_bytes(b"broken")
    with pytest.raises(UnreadableImageError, match="'class1/2.jpg': not an image"):
        embed_images(MeanColour(), photos, to_tensor, EmbedSettings(batch_size=4, workers=workers))
    got = embed_images(
        MeanColour(), photos, to_tensor, EmbedSettings(batch_size=4, workers=workers, on_unreadable="skip")
    )
    assert got.unreadable == {"class1/2.jpg": "not an image"}
    assert len(got.vectors) == len(got.rows) == len(got.digests) == 14
    assert 7 not in got.rows
    whole = np.stack([to_tensor(i).mean((1, 2)).numpy() for i in decoded_except(photos, 7)])
    np.testing.assert_allclose(got.vectors, whole, atol=1e-6)


def decoded_except(images, skipped: int):
    from timm_gam.images import load_image

    rows = [i for i in range(len(images)) if i != skipped]
    return [load_image(source, "x")[0] for _, source in images.reader.read(rows)]


def test_nothing_readable(photos, tmp_path: Path) -> None:
    for path in (tmp_path / "photos").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(EmbeddingError, match="none of 15 images"):
        embed_images(MeanColour(), photos, to_tensor, EmbedSettings(workers=0, on_unreadable="skip"))


def test_embeddings_that_are_not_finite_name_the_image(photos) -> None:
    with pytest.raises(EmbeddingError, match=r"image 'class\d/\d.jpg' holds NaN"):
        embed_images(NotFinite(), photos, to_tensor, EmbedSettings(workers=0))
    with pytest.raises(EmbeddingError, match="shape"):
        embed_images(nn.Identity(), photos, to_tensor, EmbedSettings(workers=0))


def test_fingerprint_depends_on_content_ids_and_classes_only(photos, tmp_path: Path) -> None:
    rows = np.arange(15)
    digests = digest_images(photos, rows)
    first = data_fingerprint(photos, rows, digests)
    lines = sorted(
        (photos.ids[i], photos.class_names[photos.labels[i]], content_digest(encoded, "").hex())
        for i, encoded in photos.reader.read(range(15))
    )
    assert first == hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    moved = read_folder(write_class_folders(tmp_path / "elsewhere", classes=3, images=5))
    assert data_fingerprint(moved, rows, digest_images(moved, rows)) == first
    order = np.random.default_rng(0).permutation(15)
    assert data_fingerprint(photos, order, [digests[i] for i in order]) == first
    (tmp_path / "photos" / "class0" / "0.jpg").write_bytes(b"x")
    assert data_fingerprint(photos, rows, digest_images(photos, rows)) != first


def test_evaluation_reuses_only_what_is_still_true(photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = choose_protocol(photos)
    loaded = load_model("test_resnet", pretrained=False)
    settings = Settings(EmbedSettings(workers=0), cache_folder=tmp_path / "cache", intervals="none")
    preprocessing = resolve_preprocessing(loaded.model, img_size=32)

    def run(**changes: object):
        values = {
            "loaded": loaded,
            "protocol": protocol,
            "preprocessing": preprocessing,
            "settings": settings,
            **changes,
        }
        return evaluate(values.pop("loaded"), photos, values.pop("protocol"), **values)

    first = run()
    assert not first.facts.timings.embedding_from_cache
    again = run()
    assert again.facts.timings.embedding_from_cache
    assert again.averages == first.averages
    assert again.facts.data.fingerprint == first.facts.data.fingerprint
    assert not run(loaded=load_model("test_resnet", pretrained=False, seed=1)).facts.timings.embedding_from_cache
    assert not run(preprocessing=resolve_preprocessing(loaded.model, img_size=64)).facts.timings.embedding_from_cache
    shrinking = replace(preprocessing, shrink_on_load=True)
    assert not run(preprocessing=shrinking).facts.timings.embedding_from_cache
    assert run(preprocessing=shrinking).facts.timings.embedding_from_cache
    with monkeypatch.context() as patch:
        patch.setattr("timm_gam.embed.embedder.SHRINK_MARGIN", 3)
        assert not run(preprocessing=shrinking).facts.timings.embedding_from_cache, "shrunk by another rule"
    first_photo = tmp_path / "photos" / "class0" / "0.jpg"
    before = first_photo.read_bytes()
    first_photo.write_bytes(before + b"x")
    assert run().facts.timings.images_embedded == 1, "another photo under the same name"
    assert run().facts.timings.embedding_from_cache
    first_photo.write_bytes((tmp_path / "photos" / "class1" / "0.jpg").read_bytes())
    copied = run()
    assert copied.facts.timings.embedding_from_cache, "a photo that was embedded under another name"
    assert copied.facts.data.queries_with_duplicate == 2
    assert copied.averages == run(settings=replace(settings, cache_folder=None)).averages
    first_photo.write_bytes(before)
    part = run(protocol=choose_protocol(photos, split="train"))
    assert part.facts.timings.embedding_from_cache, "another protocol"
    assert len(part.query) == 12
    monkeypatch.setattr("timm_gam.embed.embedder.versions", lambda: {**versions(), "pillow": "0.0"})
    assert not run().facts.timings.embedding_from_cache, "decoded by another release"


def test_the_same_weights_built_otherwise_are_another_model(photos, tmp_path: Path) -> None:
    found = []
    for pool in ("avg", "max"):
        folder = tmp_path / pool
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=3, global_pool=pool)
        timm.models.save_for_hf(model, folder, model_args={"global_pool": pool}, safe_serialization=True)
        loaded = load_model(f"local-dir:{folder}")
        settings = Settings(EmbedSettings(workers=0), cache_folder=tmp_path / "cache", intervals="none")
        preprocessing = resolve_preprocessing(loaded.model, img_size=64)
        result = evaluate(loaded, photos, choose_protocol(photos), preprocessing=preprocessing, settings=settings)
        assert not result.facts.timings.embedding_from_cache
        found.append(result.facts)
    assert found[0].weights.sha256 == found[1].weights.sha256
    assert found[1].model.model_args["global_pool"] == "max"


def test_batch_size_moves_no_metric(photos) -> None:
    loaded = load_model("test_resnet_gam", pretrained=False)
    network = embedding_network(loaded.model)
    transform = resolve_preprocessing(loaded.model, img_size=64).transform()
    runs = [
        embed_images(network, photos, transform, EmbedSettings(batch_size=size, workers=0)).vectors
        for size in (1, 4, 15)
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run, runs[0], atol=1e-5)
