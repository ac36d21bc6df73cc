"""Pooling, stages and views against plain arithmetic, over every kind of feature map that timm has."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_gam.core import ModelError
from timm_gam.embed import POOLINGS, Embedder, EmbedSettings, embedding_network, gem, recorded_views, rmac
from timm_gam.embed.network.embedding_network import Views
from timm_gam.models import load_model

KINDS = ["test_resnet", "test_efficientnet", "test_vit", "test_mambaout", "test_convnext"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_network(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    pixels = torch.randn(2, *model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        last, maps = model.forward_intermediates(pixels, indices=[0, 1])
        average = embedding_network(model, pool="avg")(pixels)
        by_places = model.forward_features(pixels)
        if by_places.ndim == 3:
            expected = by_places[:, model.num_prefix_tokens :].mean(dim=1)
        else:
            expected = (
                by_places.mean(dim=(1, 2) if model.output_fmt == "NHWC" else (2, 3))
                if hasattr(model, "output_fmt")
                else by_places.mean(dim=(2, 3))
            )
        torch.testing.assert_close(average, expected)
        both = embedding_network(model, stages=[0, 1])(pixels)
        parts = [F.normalize(each, dim=1) for each in (*(m.mean(dim=(2, 3)) for m in maps), average)]
        torch.testing.assert_close(both, torch.cat(parts, dim=1))
        for pool in POOLINGS:
            vectors = embedding_network(model, pool=pool)(pixels)
            assert vectors.shape == average.shape and bool(vectors.isfinite().all())


def test_pooling_is_the_models_own_average() -> None:
    model = timm.create_model("test_resnet").eval()
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(embedding_network(model, pool="avg")(pixels), embedding_network(model)(pixels))


def test_gem_lies_between_average_and_maximum() -> None:
    maps = torch.rand(2, 5, 7, 4, dtype=torch.float64)
    expected = np.cbrt((maps.float().numpy().astype(float) ** 3).mean(axis=(2, 3)))
    np.testing.assert_allclose(gem(maps), expected, rtol=1e-5)
    torch.testing.assert_close(gem(maps, 1.0), maps.mean(dim=(2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(gem(maps, 200.0), maps.amax(dim=(2, 3)), atol=0.03, rtol=0)


def _regions(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int]]:
    """Top, left and side of each square, as the reference implementation of the R-MAC authors lays them out."""
    steps = np.arange(2, 8)
    short = min(height, width)
    b = (max(height, width) - short) / (steps - 1)
    idx = int(np.argmin(np.abs((short**2 - short * b) / short**2 - 0.4)))
    wide, tall = (idx + 1 if width > height else 0), (idx + 1 if height > width else 0)
    found = []
    for level in range(1, levels + 1):
        side = int(np.floor(2 * short / (level + 1)))
        half = np.floor(side / 2 - 1)
        b = 0 if level + wide == 1 else (width - side) / (level + wide - 1)
        across = np.floor(half + np.arange(level + wide) * b) - half
        b = 0 if level + tall == 1 else (height - side) / (level + tall - 1)
        down = np.floor(half + np.arange(level + tall) * b) - half
        found += [(int(i), int(j), side) for i in down for j in across]
    return found


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(7, 7), (10, 7), (5, 12)])
def test_rmac_is_that_of_its_authors(shape: tuple[int, int], levels: int) -> None:
    maps = torch.rand(3, 6, *shape)
    expected = F.normalize(maps.amax(dim=(2, 3)), dim=1)
    for top, left, side in _regions(*shape, levels):
        expected = expected + F.normalize(maps[:, :, top : top + side, left : left + side].amax(dim=(2, 3)), dim=1)
    torch.testing.assert_close(rmac(maps, levels), expected)


class _Record(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.mean(dim=(2, 3)) + len(self.seen)


def test_views_are_the_mean_of_flips_and_scales() -> None:
    network, pixels = _Record(), torch.rand(2, 3, 8, 8)
    vectors = Views(network, flip=True, scales=(1.0, 0.5))(pixels)
    assert [tuple(view.shape[2:]) for view in network.seen] == [(8, 8), (8, 8), (4, 4), (4, 4)]
    torch.testing.assert_close(network.seen[1], pixels.flip(3))
    expected = sum(view.mean(dim=(2, 3)) + place + 1 for place, view in enumerate(network.seen)) / 4
    torch.testing.assert_close(vectors, expected)


def test_the_key_knows_views_and_only_those_chosen() -> None:
    loaded = load_model("test_resnet", pretrained=False)
    chosen = EmbedSettings(pool="gem", stages=(2, 3), flip=True, scales=(1.0, 0.7))
    assert "views" not in Embedder(loaded).key  # embeddings that were kept before stay good
    assert Embedder(loaded, settings=chosen).key["views"] == chosen.views
    assert EmbedSettings(**recorded_views(chosen.views)) == chosen


def test_the_whole_network_is_that_of_embedding() -> None:
    loaded = load_model("test_resnet", pretrained=False)
    pixels = torch.randn(2, 3, 64, 64)
    network = Embedder(loaded, settings=EmbedSettings(pool="max", flip=True)).network()
    plain = embedding_network(loaded.model, pool="max")
    torch.testing.assert_close(network(pixels), (plain(pixels) + plain(pixels.flip(3))) / 2)
    with pytest.raises(ModelError, match="one size of input"):
        Embedder(loaded, settings=EmbedSettings(scales=(1.0, 0.5), optimize=True))


def test_what_a_network_cannot_do_is_said() -> None:
    model = timm.create_model("test_vit", dynamic_img_size=False).eval()
    with pytest.raises(ModelError, match="one size of input"):
        Views(embedding_network(model), scales=(0.5,))(torch.zeros(1, 3, 160, 160))
    with pytest.raises(ModelError, match="no stages"):
        embedding_network(model, stages=[40])(torch.zeros(1, 3, 160, 160))
