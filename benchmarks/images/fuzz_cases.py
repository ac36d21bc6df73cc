"""Every kind of file that is read, and what reads a mutation of it; for benchmarks/images/fuzz.py."""

from __future__ import annotations

import io
import itertools
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fuzz_images import encoded_images
from PIL import Image

from timm_gam.core import (
    silent_libraries,
)

TEXTS = ["", "cat", "\0", "\ud800", "\x1b[2J", "a\nb", "\u202e", "9" * 400, "é", "nan", "-1", "None"]
NUMBERS = [0, 1, -1, 2**31, 2**62, 2**63, -(2**63), 10**400, 0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 1e308]
VALUES = [None, True, False, b"\xff", [], [1], {}, {"a": [{}]}, *TEXTS, *NUMBERS]


class WrongError(Exception):
    """A value was read that an independent reading contradicts."""


Case = Callable[[np.random.Generator], None]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut, repeated, removed or filled, one to eight times."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not out:
            break
        place, length = int(rng.integers(len(out))), int(rng.integers(1, 33))
        match int(rng.integers(7)):
            case 0 | 1 | 2:
                out[place] = int(rng.integers(256))
            case 3:
                out[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
            case 4:
                out[place:place] = out[place : place + length]
            case 5:
                del out[place : place + length]
            case _:
                del out[max(place, 1) :]
    return bytes(out)


def image_case() -> Case:
    """Images of every format: decoded as Pillow by itself decodes them, or unreadable."""
    from timm_gam.core import UnreadableImageError
    from timm_gam.data import FORMATS
    from timm_gam.images import DecodeLimits, load_image

    whole = encoded_images()
    limits = DecodeLimits(megabytes=256, seconds=5)

    def case(rng: np.random.Generator) -> None:
        data = mutated(whole[int(rng.integers(len(whole)))], rng)
        try:
            rgb, _ = load_image(data, "x", limits=limits)
        except UnreadableImageError as error:
            if len(str(error).splitlines()) != 1:
                raise WrongError("an error of several lines") from error
            return
        if rgb.mode != "RGB":
            raise WrongError(f"mode {rgb.mode}")
        with silent_libraries(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.mode in ("RGB", "L", "P") and image.getexif().get(0x0112, 1) == 1:
                other = image.convert("RGB")
                if other.size != rgb.size or other.tobytes() != rgb.tobytes():
                    raise WrongError("other pixels than Pillow's")

    return case


def label_case() -> Case:
    """Label columns: rows have one class exactly where their values are the same."""
    from timm_gam.data.table.labels import LabelPart, join_labels

    class Named:
        def __init__(self, names: list[str]) -> None:
            self.names = names

    def part(rng: np.random.Generator, pool: list[Any]) -> LabelPart:
        values = [pool[int(rng.integers(len(pool)))] for _ in range(int(rng.integers(0, 9)))]
        names = ["cat", "dog", "emu", *TEXTS[: int(rng.integers(4))]]
        feature = Named(list(rng.permutation(names))) if rng.random() < 0.5 else None
        return LabelPart("train", feature, values, int(rng.integers(100)))

    def case(rng: np.random.Generator) -> None:
        pool = [list(range(4)), ["cat", "dog", "emu"], VALUES][int(rng.integers(3))]
        parts = [part(rng, pool) for _ in range(int(rng.integers(1, 4)))]
        names, labels = join_labels("x", "label", parts)
        texts = [
            p.feature.names[int(v)] if p.feature is not None else str(v) for p in parts for v in p.values
        ]  # fmt: skip
        if [names[label] for label in labels.tolist()] != texts:
            raise WrongError(f"{[names[label] for label in labels.tolist()]} for {texts}")

    return case


def recipe_case(folder: Path) -> Case:
    """config.yaml of a training run, broken as text or with values of another kind."""
    from timm_gam.train import Recipe, read_recipe, recipe_from

    whole = yaml.safe_load(Recipe().as_yaml())
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")
    )

    def case(rng: np.random.Generator) -> None:
        content = {**whole, list(whole)[int(rng.integers(len(whole)))]: VALUES[int(rng.integers(len(VALUES)))]}
        text = bomb.replace("i: &i", f"{rng.choice(list(whole))}: &i") if rng.random() < 0.02 else _yaml(content)
        data = text.encode("utf-8", "surrogatepass")
        file = folder / "config.yaml"
        file.write_bytes(mutated(data, rng) if rng.random() < 0.5 else data)
        recipe = recipe_from(read_recipe(file), "config.yaml")
        if recipe_from(yaml.safe_load(recipe.as_yaml()), "x") != recipe:
            raise WrongError("its YAML is another recipe")

    return case


def json_case(folder: Path, whole: str, read: Callable[[Path], object]) -> Case:
    """A JSON document, broken as text or with a value of another kind somewhere within."""

    def case(rng: np.random.Generator) -> None:
        content = json.loads(whole)
        place = content
        while isinstance(place, (dict, list)) and place:
            key = (
                list(place)[int(rng.integers(len(place)))] if isinstance(place, dict) else int(rng.integers(len(place)))
            )
            if not isinstance(place[key], (dict, list)) or rng.random() < 0.15:
                place[key] = VALUES[int(rng.integers(len(VALUES)))]
                break
            place = place[key]
        data = json.dumps(content, default=repr).encode()
        file = folder / "config.json"
        file.write_bytes(mutated(data, rng) if rng.random() < 0.5 else data)
        read(file)

    return case


def tensors_case(folder: Path, whole: bytes, read: Callable[[Path], object]) -> Case:
    """A safetensors file: its header broken as text or in one value, or its bytes."""
    length = struct.unpack("<Q", whole[:8])[0]
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def case(rng: np.random.Generator) -> None:
        changed = json.loads(json.dumps(header))
        entry = changed[list(changed)[int(rng.integers(len(changed)))]]
        entry[list(entry)[int(rng.integers(len(entry)))]] = VALUES[int(rng.integers(len(VALUES)))]
        text = json.dumps(changed, default=repr).encode()
        if rng.random() < 0.4:
            text = mutated(text, rng)
        size = int(rng.choice([len(text), 0, 2**40, 2**63])) if rng.random() < 0.1 else len(text)
        data = struct.pack("<Q", size) + text + (mutated(body[:4096], rng) if rng.random() < 0.2 else body)
        file = folder / "model.safetensors"
        file.write_bytes(data)
        read(file)

    return case


def bytes_case(file: Path, wholes: list[bytes], read: Callable[[Path], object]) -> Case:
    """A file of some format, its bytes broken."""

    def case(rng: np.random.Generator) -> None:
        file.write_bytes(mutated(wholes[int(rng.integers(len(wholes)))], rng))
        read(file)

    return case


def parquet_case(folder: Path) -> Case:
    """A parquet file of a label column and images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from timm_gam.data import read_parquet

    images = [{"bytes": data, "path": None} for data in encoded_images()[:4]]
    file = folder / "train.parquet"
    pq.write_table(pa.table({"image": images, "label": ["cat", "cat", "dog", "dog"]}), file)
    whole = file.read_bytes()

    def case(rng: np.random.Generator) -> None:
        file.write_bytes(mutated(whole, rng))
        images = read_parquet(file)
        for row, encoded in images.reader.read(range(len(images))):
            if not isinstance(encoded, (bytes, Path, Image.Image)):
                raise WrongError(f"row {row} is a {type(encoded).__name__}")

    return case


def cases(folder: Path) -> dict[str, tuple[float, Case]]:
    """Name -> share of all mutations, and what reads one."""
    import eval as evaluation
    from eval.approximate import read_vectors
    from eval.audit.formats import read_qrels, read_ranking
    from timm_gam.embed import read_head
    from timm_gam.models import (
        find_pretrained,
        find_shipped,
        read_releases,
        read_safetensors,
        read_training_record,
    )
    from timm_gam.rerank import load_whitening

    record = _write_samples(folder)
    shipped = find_shipped("test_resnet.corel")
    assert shipped is not None
    config, weights = (shipped / "config.json").read_text(), (shipped / "model.safetensors").read_bytes()
    release = {"me/x": {"revision": "a" * 40, "sha256": "b" * 64}}

    runs = [
        b"q1 Q0 d1 1 0.9 a\nq1 Q0 d2 2 0.5 a\nq2 Q0 d1 1 -1e3 a\n",
        b'{"q1": {"d1": 0.9, "d2": 1}, "q2": {"d1": 0}}',
    ]
    qrels = [
        b"q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 2\n",
        b'{"q1": {"d1": 1}, "q2": {"d1": 0}}',
        b"query-id\tcorpus-id\tscore\nq1\td1\t1\n",
    ]

    def read_weights(file: Path) -> None:
        read_safetensors(file)
        read_training_record(file)

    def sample(name: str) -> bytes:
        return (folder / name).read_bytes()

    models = folder / "model"
    models.mkdir()
    (models / "model.safetensors").write_bytes(weights)
    return {
        "images": (0.55, image_case()),
        "labels": (0.16, label_case()),
        "recipes": (0.06, recipe_case(folder)),
        "records": (0.05, json_case(folder, record, evaluation.read_document)),
        "configs": (0.05, json_case(models, config, lambda file: find_pretrained(f"local-dir:{file.parent}"))),
        "releases": (0.02, json_case(folder, json.dumps(release), read_releases)),
        "weights": (0.0385, tensors_case(folder, weights, read_weights)),
        "results": (0.02, tensors_case(folder, sample("result.safetensors"), evaluation.RetrievalResult.load)),
        "heads": (0.01, tensors_case(folder, sample("head.safetensors"), read_head)),
        "whitenings": (0.01, tensors_case(folder, sample("whitening.safetensors"), load_whitening)),
        "vectors": (0.01, bytes_case(folder / "v.npy", [sample("vectors.npy")], read_vectors)),
        "neighbours": (0.004, bytes_case(folder / "n.npy", [sample("neighbours.npy")], read_ranking)),
        "rankings": (0.008, bytes_case(folder / "run.trec", runs, read_ranking)),
        "judgements": (0.008, bytes_case(folder / "qrels.txt", qrels, read_qrels)),
        "parquet": (0.0015, parquet_case(folder)),
    }


def _write_samples(folder: Path) -> str:
    """Whole files of the project's own kinds -> the record of a result."""
    import torch

    import eval as evaluation
    from eval.results.record import document
    from timm_gam.embed import Head
    from timm_gam.embed.network.head import HeadFacts
    from timm_gam.rerank import fit_whitening

    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    result = evaluation.score(vectors, [0, 1, 2, 3] * 3, settings=evaluation.Settings(intervals="none"))
    result.save(folder / "result.safetensors")
    head = Head(HeadFacts("a" * 64, "pooled", "whitening", "x"), torch.zeros(4), [torch.eye(4)], [torch.zeros(4)])
    head.save(folder / "head.safetensors")
    fit_whitening(torch.from_numpy(vectors)).save(folder / "whitening.safetensors")
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "neighbours.npy", np.arange(20).reshape(4, 5))
    return json.dumps(document([result]))


def _yaml(content: object) -> str:
    try:
        return yaml.safe_dump(content)
    except (yaml.YAMLError, ValueError):
        return repr(content)
