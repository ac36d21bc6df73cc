"""The card of a published data set: what the Hub and `datasets` need to load it, and what people must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

from huggingface_hub import DatasetCardData

from hub.cards import render_card
from hub.photos.audit import Audit
from timm_gam.core import markdown_code

THUMBNAILS_NAME = ".thumbnails.webp"  # hidden: `datasets`, and whoever reads a folder, takes it for no image of the set
_SHOWN = 20  # duplicates listed in the card; audit.json has all


def render_dataset_card(audit: Audit, features: Any, sizes: Mapping[str, int], repo_id: str, license: str) -> str:
    """The README.md of a data set repository.

    Args:
        audit: Facts about the photographs.
        features: `datasets.Features` of the parquet files.
        sizes: Split -> bytes of its parquet files.
        repo_id: Where it is published.
        license: Hub identifier; "unknown" where none was given, which the card says.
    """
    ids, names = audit.images.ids, audit.images.class_names
    classes = Counter(names[label] for label in audit.images.labels[audit.rows].tolist()).values()
    crossing = [pair for pair in audit.near if audit.crossing(pair[:2])]
    shown = [", ".join(markdown_code(ids[row]) for row in group) + " (same bytes)" for group in audit.exact]
    shown += [
        f"{markdown_code(ids[i])}, {markdown_code(ids[j])} ({alike:.2f})" for i, j, alike in crossing or audit.near
    ]
    return render_card(
        "dataset",
        _metadata(audit, features, sizes, license),
        audit=audit,
        repo_id=repo_id,
        license=license,
        thumbnails=THUMBNAILS_NAME,
        classes=classes,
        median=median(classes),
        splits=sorted(Counter(audit.splits).items(), reverse=True),
        same=sum(audit.crossing(group) for group in audit.exact),
        crossing=crossing,
        shown=shown[:_SHOWN],
    )


def _metadata(audit: Audit, features: Any, sizes: Mapping[str, int], license: str) -> DatasetCardData:
    import datasets
    from datasets.info import DatasetInfosDict

    counts = Counter(audit.splits)
    splits = datasets.SplitDict()
    for split in sizes:
        splits[split] = datasets.SplitInfo(split, num_bytes=sizes[split], num_examples=counts[split])
    info = datasets.DatasetInfo(
        features=features, splits=splits, download_size=sum(sizes.values()), dataset_size=sum(sizes.values())
    )
    card = DatasetCardData(
        license=license,
        task_categories=["image-feature-extraction", "image-classification"],
        tags=["image-retrieval", "timm"],
        size_categories=_size_category(len(audit.rows)),
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in sizes],
            }
        ],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    return card


def _size_category(images: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if images < bound), "1M<n<10M")
