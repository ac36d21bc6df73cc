"""The card of a published data set: what the Hub and `datasets` need to load it, and what people must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
from huggingface_hub import DatasetCardData

from hub.photos.audit import Audit
from timm_gam.core import markdown_code, markdown_text

THUMBNAILS_NAME = ".thumbnails.webp"  # hidden: `datasets`, and whoever reads a folder, takes it for no image of the set
_SHOWN = 20  # duplicates listed in the card; audit.json has all


def render_dataset_card(audit: Audit, features: Any, sizes: Mapping[str, int], repo_id: str, license: str) -> str:
    """The README.md of a data set repository.

    Args:
        audit: Facts about the photographs.
        features: `datasets.Features` of the parquet files.
        sizes: Split -> bytes of its parquet files.
        repo_id: Where it is published.
        license: Hub identifier; "other" stands for photographs under somebody's copyright.
    """
    sections = [
        f"# {repo_id.partition('/')[2]}",
        _introduction(audit),
        _licence_warning(license),
        _use(repo_id),
        _statistics(audit),
        _duplicates(audit),
    ]
    return f"---\n{_metadata(audit, features, sizes, license).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


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
        license_name="photographs-under-copyright" if license == "other" else None,
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


def _introduction(audit: Audit) -> str:
    classes = len(np.unique(audit.images.labels[audit.rows]))
    return f"""{len(audit.rows):,} photographs of {classes:,} classes, for image retrieval: what should be found for one
are the others of its class. Files are as they were, with a split that is the same for everyone.

![Photographs of the data set, one a class]({THUMBNAILS_NAME})"""


def _licence_warning(license: str) -> str:
    if license != "other":
        return f"Licence: {license}, as stated by the publisher."
    return (
        "> **Licence warning.** These photographs are under the copyright of others. They are here for "
        "research on image retrieval only. You get no licence with them: do not redistribute them or use them in "
        "products, and make sure that your use is permitted where you are."
    )


def _use(repo_id: str) -> str:
    return f"""```python
from datasets import load_dataset

splits = load_dataset("{repo_id}")  # columns: id, image, label
```

`python -m eval.retrieval --model resnet50.a1_in1k --dataset {repo_id}` scores a model on it, with `--streaming` without
storing it. Images are the bytes of the original files, never encoded anew; ids are their paths, CLASS/FILE."""


def _statistics(audit: Audit) -> str:
    of_class = Counter(audit.images.class_names[label] for label in audit.images.labels[audit.rows].tolist())
    counts = sorted(of_class.values())
    sizes = ", ".join(f"{w} x {h} ({n})" for (w, h), n in list(audit.sizes.items())[:4])
    more = f", and {len(audit.sizes) - 4} more" if len(audit.sizes) > 4 else ""
    rows = {
        "images": f"{len(audit.rows):,}, {audit.bytes / 1e6:.1f} MB",
        "splits": ", ".join(
            f"{markdown_text(split)} {count:,}" for split, count in sorted(Counter(audit.splits).items(), reverse=True)
        ),
        "split rule": markdown_text(audit.split_rule),
        "classes": f"{len(of_class)}, of {counts[0]} to {counts[-1]} images (median {median(counts):g})",
        "pixels": sizes + more,
        "fingerprint": f"`{audit.fingerprint}`, over id, class and bytes of every image",
        "unreadable files left out": str(len(audit.unreadable)),
    }
    if audit.warnings:
        rows["warning"] = markdown_text("; ".join(audit.warnings))
    return "## Statistics\n\n| property | value |\n| --- | --- |\n" + "\n".join(
        f"| {name} | {value} |" for name, value in rows.items()
    )


def _duplicates(audit: Audit) -> str:
    ids = audit.images.ids
    crossing = [pair for pair in audit.near if audit.crossing(pair[:2])]
    lines = [
        f"Same bytes: {len(audit.exact)} groups, {sum(audit.crossing(g) for g in audit.exact)} of them across splits. "
        f"Nearly the same picture (their edges correlate): {len(audit.near)} pairs, {len(crossing)} of them "
        "across splits. They were left in, and make retrieval look easier than it is; `audit.json` lists all of them."
    ]
    shown = [", ".join(markdown_code(ids[row]) for row in group) + " (same bytes)" for group in audit.exact]
    shown += [
        f"{markdown_code(ids[i])}, {markdown_code(ids[j])} ({alike:.2f})" for i, j, alike in crossing or audit.near
    ]
    lines += [f"- {line}" for line in shown[:_SHOWN]]
    return "## Duplicates\n\n" + lines[0] + ("\n\n" + "\n".join(lines[1:]) if len(lines) > 1 else "")


def _size_category(images: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if images < bound), "1M<n<10M")
