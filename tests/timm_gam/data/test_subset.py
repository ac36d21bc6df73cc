"""Some classes of an image set are an image set of their own."""

from __future__ import annotations

import numpy as np
import pytest

from timm_gam.core import DataError
from timm_gam.data import draw_synthetic, published_class_split, take_classes


def test_halves_hold_every_image_once_with_its_pixels() -> None:
    images = draw_synthetic(images_per_class=3)
    held_out = published_class_split(images.class_names)
    parts = [take_classes(images, chosen, "half") for chosen in (held_out, ~held_out)]
    assert sorted(i for part in parts for i in part.ids) == sorted(images.ids)
    for part in parts:
        assert [part.class_names[label] for label in part.labels] == [i.partition("/")[0] for i in part.ids]
        assert set(part.labels.tolist()) == set(range(len(part.class_names)))
        row = len(part) - 2
        ((index, pixels),) = part.reader.read([row])
        ((_, original),) = images.reader.read([images.ids.index(part.ids[row])])
        assert index == row
        assert np.array_equal(np.asarray(pixels), np.asarray(original))


def test_no_class_left() -> None:
    images = draw_synthetic(images_per_class=2)
    with pytest.raises(DataError, match="none of the 30 classes"):
        take_classes(images, np.zeros(len(images.class_names), dtype=np.bool_), "nothing")
