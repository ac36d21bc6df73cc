"""Tables that were made at test time, as image sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm_gam.data import ImageSet
from timm_gam.data.table.columns import ColumnNames
from timm_gam.data.table.parts import image_set_from_parts


def image_set_from_splits(
    name: str,
    splits: Mapping[str, Any],
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    *,
    streaming: bool = False,
) -> ImageSet:
    """An image set over loaded `datasets` splits; images that they name by their path are read wherever they are."""
    asked = ColumnNames(image_column, label_column, id_column)
    return image_set_from_parts(name, list(splits.items()), asked, streaming=streaming, roots=("hf://", "/"))
