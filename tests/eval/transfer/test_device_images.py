"""Images on a device: crops against torch's and timm's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation

from eval.transfer.device_images import DeviceImages
from timm_gam.data import read_images
from timm_gam.images import Preprocessing

PREPROCESSING = Preprocessing((3, 32, 32), 1.0, "center", "bilinear", (0.5,) * 3, (0.5,) * 3)
SIZES = ((60, 40), (40, 60), (50, 50))  # width, height


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sizes")
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        path = root / f"class{number}" / "0.png"
        path.parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def images(folder: Path) -> DeviceImages:
    return DeviceImages.load(read_images(str(folder), None), PREPROCESSING, torch.device("cpu"))


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_a_bilinear_resize_of_its_box(images: DeviceImages, folder: Path, flip: bool) -> None:
    boxes = np.array([[0, 0, 40, 60], [3, 5, 30, 20], [10, 18, 40, 32]], dtype=np.float32)
    crops = images.crop(np.arange(3), boxes, np.full(3, flip))
    for number, (top, left, height, width) in enumerate(boxes.astype(int).tolist()):
        whole = torch.from_numpy(np.array(Image.open(folder / f"class{number}" / "0.png"))).permute(2, 0, 1).float()
        box = whole[None, :, top : top + height, left : left + width]
        if (height, width) == tuple(whole.shape[1:]):  # inside an image its neighbours join in: only whole ones agree
            expected = F.interpolate(box, (32, 32), mode="bilinear")[0].round()
            expected = expected.flip(-1) if flip else expected
            assert (crops[number].float() - expected).abs().max() <= 1
        inner = F.interpolate(box, (32, 32), mode="bilinear")[0].round()[:, 2:-2, 2:-2]
        inner = inner.flip(-1) if flip else inner
        assert (crops[number, :, 2:-2, 2:-2].float() - inner).abs().max() <= 1


def test_crops_are_drawn_as_timm_draws_them(images: DeviceImages) -> None:
    rows = np.repeat(np.arange(3), 3000)
    boxes, flips = images.random_crops(rows, (0.35, 1.0), 0.5, np.random.default_rng(0))
    assert 0.45 < flips.mean() < 0.55
    torch.manual_seed(0)
    for row, (width, height) in enumerate(SIZES):
        ours = boxes[rows == row]
        image = Image.new("RGB", (width, height))
        drawn = [RandomResizedCropAndInterpolation.get_params(image, (0.35, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)]
        theirs = np.array(drawn, dtype=np.float64)
        assert (ours[:, :2] >= 0).all()
        assert (ours[:, :2] + ours[:, 2:] <= [height, width]).all()
        np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.6)
        np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.6)


def test_evaluation_sees_what_timm_gives(images: DeviceImages, folder: Path) -> None:
    transform = PREPROCESSING.pixels()
    for number in range(3):
        expected = torch.as_tensor(transform(Image.open(folder / f"class{number}" / "0.png")))
        assert torch.equal(images.seen[number], expected)


def test_large_images_are_reduced(tmp_path: Path) -> None:
    (tmp_path / "class0").mkdir()
    Image.new("RGB", (400, 200), "red").save(tmp_path / "class0" / "0.png")
    images = DeviceImages.load(read_images(str(tmp_path), None), PREPROCESSING, torch.device("cpu"))
    assert images.canvas.shape == (1, 3, 64, 64)
    assert images.sizes.tolist() == [[32, 64]]
