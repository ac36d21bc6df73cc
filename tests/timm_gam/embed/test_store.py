"""Embeddings kept by digest, and files that nothing can make lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from timm_gam.core import OutputError
from timm_gam.embed import EmbeddedBatch, FileStore, buffered
from timm_gam.images import Digests

DIGESTS = Digests.of(bytes([i]) * 31 + b"\0" for i in range(1, 6))
VECTORS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
SIGNATURES = np.random.default_rng(1).integers(-127, 128, (5, 256)).astype(np.int8)


def test_what_is_added_is_read_in_any_order(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "new" / "store", {"model": "a"})
    assert store.missing(DIGESTS).all()
    store.add(DIGESTS[:2], VECTORS[:2], SIGNATURES[:2])
    more = Digests.of([DIGESTS[4], b"", DIGESTS[1]])
    store.add(more, np.stack([VECTORS[4], VECTORS[0], -VECTORS[1]]), SIGNATURES[[4, 0, 2]])
    assert store.missing(Digests.of([*DIGESTS, b""])).tolist() == [False, False, True, True, False, True]
    order = np.array([4, 1, 0, 1])
    np.testing.assert_array_equal(store.read(DIGESTS.take(order)), VECTORS[order], "the first that came is kept")
    np.testing.assert_array_equal(store.signatures(DIGESTS.take(order)), SIGNATURES[order])
    with pytest.raises(LookupError):
        store.read(DIGESTS)


def test_compact_makes_one_mapped_safetensors_file(tmp_path: Path) -> None:
    store, other = FileStore(tmp_path, {"model": "a"}), FileStore(tmp_path, {"model": "b"})
    other.add(DIGESTS, -VECTORS, SIGNATURES)
    for i in (3, 0, 1, 2, 4):
        store.add(DIGESTS[i : i + 1], VECTORS[i : i + 1], SIGNATURES[i : i + 1])
    store.compact(DIGESTS[:4])
    assert sorted(len(part.digests) for part in store.parts()) == [1, 4]
    vectors = store.read(DIGESTS[:4])
    assert isinstance(vectors, np.memmap)
    np.testing.assert_array_equal(vectors, VECTORS[:4])
    (part,) = [part for part in store.parts() if len(part.digests) == 4]
    np.testing.assert_array_equal(load_file(part.path)["vectors"], VECTORS[:4])
    np.testing.assert_array_equal(load_file(part.path)["signatures"], SIGNATURES[:4])
    assert load_file(part.path)["digests"].tobytes() == b"".join(DIGESTS[:4])
    store.compact(DIGESTS[1:3], keep_others=False)
    assert FileStore(tmp_path, {"model": "a"}).missing(DIGESTS).tolist() == [True, False, False, True, True]
    np.testing.assert_array_equal(other.read(DIGESTS), -VECTORS, "of another key")


def test_a_process_sees_what_another_added(tmp_path: Path) -> None:
    one, two = (FileStore(tmp_path, {"model": "a"}) for _ in range(2))
    assert two.missing(DIGESTS).all()
    one.add(DIGESTS, VECTORS, SIGNATURES)
    assert not two.missing(DIGESTS).any()
    one.compact(DIGESTS[::-1])
    np.testing.assert_array_equal(two.read(DIGESTS), VECTORS)


def test_batches_are_kept_whatever_ends_the_pass(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("timm_gam.embed.embedding_cache.PART_IMAGES", 2)
    store = FileStore(tmp_path, {"model": "a"})
    with pytest.raises(KeyboardInterrupt), buffered(store) as take:
        for i in range(5):
            take(EmbeddedBatch(np.array([i]), VECTORS[i : i + 1], (DIGESTS[i],), {}, SIGNATURES[:1]))
            take(
                EmbeddedBatch(np.empty(0, np.int64), np.empty((0, 0), np.float32), (), {"x": "broken"}, SIGNATURES[:0])
            )
        raise KeyboardInterrupt
    assert sorted(len(part.digests) for part in store.parts()) == [1, 2, 2]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other key", "pickle", "shape"])
def test_damaged_file_is_no_source_of_embeddings_and_is_replaced(damage: str, tmp_path: Path) -> None:
    store = FileStore(tmp_path, {"model": "a"})
    store.add(DIGESTS, VECTORS, SIGNATURES)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-40] ^= 1
    elif damage == "cut":
        data = data[:-10]
    elif damage == "empty":
        data = bytearray()
    elif damage == "pickle":
        data = bytearray(b"\x80\x04K\x01.")
    elif damage == "shape":
        data = data.replace(b'"shape": [5, 3]', b'"shape": [3, 5]')
    else:  # a valid file under a name of this key
        FileStore(tmp_path / "other", {"model": "b"}).add(DIGESTS, VECTORS, SIGNATURES)
        data = bytearray(next((tmp_path / "other").iterdir()).read_bytes())
    path.write_bytes(bytes(data))
    again = FileStore(tmp_path, {"model": "a"})
    assert again.missing(DIGESTS).all()
    again.add(DIGESTS, VECTORS, SIGNATURES)
    np.testing.assert_array_equal(again.read(DIGESTS), VECTORS)


def test_no_space_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    store = FileStore(tmp_path, {"model": "a"})
    store.add(DIGESTS[:2], VECTORS[:2], SIGNATURES[:2])
    store.add(DIGESTS[2:], VECTORS[2:], SIGNATURES[2:])
    before = sorted(tmp_path.iterdir())
    gathered = store._gathered

    def full(column, rows):
        if column == "signatures":
            return gathered(column, rows)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_gathered", full)
    with pytest.raises(OutputError, match="No space left"):
        store.compact(DIGESTS)
    assert sorted(tmp_path.iterdir()) == before


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot make the folder"):
        FileStore(tmp_path / "file" / "cache", {})
