"""Embeddings to averages: a brute-force loop is the oracle for whole runs; intervals and splits on known cases."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import pytest
import torch

from eval import Settings, average, choose_protocol, class_means, score, score_rankings, score_retrieval
from eval.scoring.labels import class_codes
from tests.eval.scoring.test_metrics import plain_metrics
from timm_gam.core import DataError, TimmGamError
from timm_gam.data import ImageSet, published_class_split, published_split
from timm_gam.search import ExactScorer, fixed_point


class NoImages:
    parallel = True

    def read(self, indices):
        raise AssertionError("protocols must not read images")


def image_set(labels: list[int], splits: tuple[str, ...] | None = None) -> ImageSet:
    names = tuple(f"class{i}" for i in range(max(labels) + 1))
    ids = tuple(f"{names[label]}/{i}.jpg" for i, label in enumerate(labels))
    return ImageSet("test", ids, np.array(labels, dtype=np.int64), names, NoImages(), splits)


def brute_force(vectors: np.ndarray, labels: np.ndarray, query: list[int], gallery: list[int]) -> dict[str, np.ndarray]:
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    rows = []
    for q in query:
        others = [g for g in gallery if g != q]
        order = sorted(others, key=lambda g: -float(unit[q] @ unit[g]))
        rows.append(plain_metrics([int(labels[g] == labels[q]) for g in order], (1, 5, 10, 12, 20)))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("split", ["leave-one-out", "query-gallery"])
def test_whole_run_equals_brute_force(split: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 12)
    vectors = (rng.normal(size=(8, 20))[labels] + 2 * rng.normal(size=(96, 20))).astype(np.float32)
    query = list(range(96)) if split == "leave-one-out" else list(range(0, 96, 5))
    gallery = list(range(96)) if split == "leave-one-out" else [i for i in range(96) if i % 5]
    expected = brute_force(vectors, labels, query, gallery)
    got = score_retrieval(vectors, labels, query=np.array(query), gallery=np.array(gallery))
    for name, values in expected.items():
        np.testing.assert_allclose(got.per_query[name], values, atol=1e-12, err_msg=name)
        assert got.averages[name].micro == pytest.approx(values.mean())
        per_class = [values[labels[query] == label].mean() for label in range(8)]
        assert got.averages[name].macro == pytest.approx(np.mean(per_class))


def test_gallery_in_any_order_still_leaves_the_query_out() -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    got = score_retrieval(vectors, labels, gallery=np.array([3, 1, 0, 2]), intervals="none")
    np.testing.assert_array_equal(got.per_query["precision@1"], 1.0)
    np.testing.assert_array_equal(got.per_query["recall@1"], 1.0)


def test_single_image_classes_are_counted_not_averaged() -> None:
    got = score_retrieval(np.eye(3, dtype=np.float32) + 1, np.array([0, 0, 1]))
    assert got.scored.tolist() == [True, True, False]
    assert np.isnan(got.per_query["map"][2])
    assert np.isfinite(got.averages["map"].micro)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match="two images"):
        score_retrieval(np.eye(3, dtype=np.float32), np.array([0, 1, 2]))
    with pytest.raises(DataError, match="labels"):
        score_retrieval(np.eye(3, dtype=np.float32), np.array([0, 1]))
    with pytest.raises(DataError, match="from 1 to 10,000,000"):
        score_retrieval(np.eye(3, dtype=np.float32), np.array([0, 0, 1]), ks=(0, 1))


def test_large_label_ids_stay_apart() -> None:
    # float32 merges integers above 2^24.
    labels = np.array([2**24, 2**24 + 1, 2**24, 2**24 + 1])
    vectors = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1]], dtype=np.float32)
    assert score_retrieval(vectors, labels, intervals="none").averages["precision@1"].micro == 1.0


def test_macro_weighs_classes_alike() -> None:
    values = {"m": np.array([1.0, 1.0, 1.0, 0.0])}
    got = average(values, np.array([0, 0, 0, 1]))["m"]
    assert got.micro == 0.75
    assert got.macro == 0.5
    assert [(label, count) for label, count, _ in class_means(values, np.array([0, 0, 0, 1]))] == [(0, 3), (1, 1)]


def test_published_split_follows_its_text() -> None:
    labels = np.array([0] * 15 + [1] * 4 + [2])
    ids = [f"id{i}" for i in range(20)]
    is_test = published_split(ids, labels)
    for label, count in ((0, 3), (1, 1), (2, 0)):
        members = [i for i in range(20) if labels[i] == label]
        by_hash = sorted(members, key=lambda i: hashlib.sha256(ids[i].encode()).hexdigest())
        assert [i for i in members if is_test[i]] == sorted(by_hash[:count])
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(published_split([ids[i] for i in order], labels[order]), is_test[order])


def test_published_class_split_holds_out_half() -> None:
    names = [f"class{i}" for i in range(7)]
    held_out = published_class_split(names)
    assert held_out.sum() == 3
    assert [n for n, h in zip(names, held_out, strict=True) if h] == sorted(
        sorted(names, key=lambda n: hashlib.sha256(n.encode()).hexdigest())[:3]
    )


def test_protocols_choose_the_rows_they_say() -> None:
    images = image_set([0] * 10 + [1] * 10)
    everything = choose_protocol(images)
    assert len(everything.query) == len(everything.gallery) == 20
    assert everything.split_rule == "none"
    crossed = choose_protocol(images, "query-gallery")
    assert len(crossed.query) == 4
    assert len(crossed.gallery) == 16
    assert not np.intersect1d(crossed.query, crossed.gallery).size
    assert "SHA-256" in crossed.split_rule
    open_set = choose_protocol(images, "class-disjoint")
    assert len(set(images.labels[open_set.query])) == 1
    np.testing.assert_array_equal(open_set.query, open_set.gallery)


def test_splits_of_the_data_come_before_the_rule() -> None:
    images = image_set([0, 0, 0, 0, 1, 1, 1, 1], splits=("train", "train", "test", "test") * 2)
    crossed = choose_protocol(images, "query-gallery")
    assert crossed.query.tolist() == [2, 3, 6, 7]
    assert crossed.split_rule == "published with the data"
    single = image_set([0] * 5 + [1] * 5, splits=("train",) * 10)
    assert len(choose_protocol(single, split="test").query) == 2, "a lone split is divided by the rule"


@pytest.mark.parametrize("split", ["validation", "tset", ""])
def test_unknown_split_lists_the_legal_ones(split: str) -> None:
    with pytest.raises(DataError, match="legal: all, test, train"):
        choose_protocol(image_set([0, 0, 1, 1]), split=split)


def test_ids_must_be_unique_and_complete() -> None:
    with pytest.raises(DataError, match="'a' occurs twice"):
        ImageSet("x", ("a", "a"), np.zeros(2, dtype=np.int64), ("c",), NoImages())
    with pytest.raises(DataError, match="no images"):
        ImageSet("x", (), np.zeros(0, dtype=np.int64), (), NoImages())


def test_labels_of_any_kind_and_vectors_of_any_kind_give_the_same() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 60)
    vectors = rng.normal(size=(60, 7)).astype(np.float32)
    expected = score_retrieval(vectors, labels, intervals="none").per_query
    names = np.array(["ash", "birch", "oak", "elm", "fir"])
    kinds: list[object] = [
        labels.tolist(),
        tuple(labels.tolist()),
        names[labels],
        names[labels].tolist(),
        labels / 10 + 0.1,
        (labels / 10 + 0.1).tolist(),
        torch.from_numpy(labels),
        torch.from_numpy(labels / 8).to(torch.bfloat16),
        list(torch.from_numpy(labels)),
        labels.astype(np.uint8),
        (labels + 2**62).astype(np.uint64) + 2**62,
        [2**70 + int(label) for label in labels],
        names[labels].astype(object),
        labels.astype("datetime64[D]"),
    ]
    for kind in kinds:
        got = score_retrieval(vectors, kind, intervals="none").per_query  # type: ignore[arg-type]
        for name, values in expected.items():
            np.testing.assert_array_equal(got[name], values, err_msg=f"{name} {type(kind)}")
    for embeddings in (torch.from_numpy(vectors), torch.from_numpy(vectors).requires_grad_(), vectors.tolist()):
        got = score_retrieval(embeddings, labels, intervals="none").per_query
        np.testing.assert_array_equal(got["map"], expected["map"])


@pytest.mark.parametrize(
    ("labels", "phrase"),
    [
        ([0.1, np.nan, 0.9], "label 1 is missing"),
        (np.array([0.1, np.nan, 0.9]), "label 1 is missing"),
        (torch.tensor([0.1, 0.2, torch.nan]), "label 2 is missing"),
        (["a", None, "b"], "label 1 is missing"),
        (["a", 1, "b"], "several kinds"),
        ([[1], [2], [3]], "label 0 is a list"),
        (np.eye(3), "shape \\(3, 3\\)"),
        (np.zeros(3, dtype=complex), "complex"),
        ([1j, 1j, 2j], "labels of type complex have no order"),
        (np.ma.masked_array([0, 1, 1], [False, True, False]), "label 1 is missing \\(masked\\)"),
    ],
    ids=str,
)
def test_labels_that_are_refused(labels: object, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        score_retrieval(np.eye(3), labels)  # type: ignore[arg-type]


def test_numbers_that_only_a_conversion_would_merge_stay_apart() -> None:
    assert class_codes([2**53, 2**53 + 1, 0.5])[1].tolist() == [1, 2, 0]
    assert class_codes([2**63, -1, 2**63 + 1])[1].tolist() == [1, 0, 2]
    assert class_codes([True, 1, 1.0, 2])[1].tolist() == [0, 0, 0, 1], "equal numbers are one class"


@pytest.mark.parametrize(
    ("vectors", "labels", "said"),
    [
        ([[1.0], [2.0]], ["a", None], r"label 1 is missing \(None\)"),
        ([[1.0], [2.0]], [0.0, float("nan")], r"label 1 is missing \(nan\)"),
        ([[1.0], [2.0]], [1, "1"], r"labels are of several kinds \(number, str\)"),
        ([[1.0, 2.0], [3.0]], ["a", "a"], "vectors are no regular array"),
        ([1.0, 2.0], ["a", "a"], r"vectors have shape \(2,\); a matrix"),
        ("ab", "ab", r"vectors have shape \(\)"),
        ([], [], r"vectors have shape \(0,\)"),
    ],
)
def test_what_is_no_matrix_or_no_label_is_refused_in_one_line(vectors, labels, said: str) -> None:
    with pytest.raises(TimmGamError, match=said) as raised:
        score(vectors, labels)
    assert "\n" not in str(raised.value)


def test_embeddings_made_in_inference_mode_are_scored_there() -> None:
    vectors, labels = torch.from_numpy(np.random.default_rng(0).normal(size=(1500, 8))), np.arange(1500) % 10
    outside = score_retrieval(vectors, labels, intervals="none")
    with torch.inference_mode():
        inside = score_retrieval(vectors * 1.0, labels, intervals="none")
    assert inside.averages == outside.averages


def test_chosen_rows_may_be_numbers_or_a_mask_of_any_kind() -> None:
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(40, 5)), rng.integers(0, 4, 40)
    mask = np.arange(40) % 3 == 0
    rows, others = np.flatnonzero(mask), np.flatnonzero(~mask)
    expected = brute_force(vectors, labels, rows.tolist(), others.tolist())["map"]
    kinds: list[tuple[Any, Any]] = [
        (rows, others),
        (mask, ~mask),
        (mask.tolist(), torch.from_numpy(~mask)),
        (torch.from_numpy(rows), others.tolist()),
    ]
    for query, gallery in kinds:
        for scored in (score_retrieval, score):
            got = scored(vectors, labels, query=query, gallery=gallery)
            np.testing.assert_allclose(got.per_query["map"], expected)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"query": [-1]}, "query rows are from -1 to -1; legal: at least one whole number from 0 to 4, or a mask of 5"),
        ({"query": [0.5, 1.5]}, "query rows are float64 of shape"),
        ({"query": [True, False]}, "query rows are bool of shape"),
        ({"query": []}, "legal: at least one"),
        ({"gallery": [5]}, "gallery rows are from 5 to 5"),
        ({"gallery": [0, 1, 3, 1]}, "gallery row 1 came more than once"),
        ({"ks": (1.5,)}, "each must be a whole number"),
        ({"ks": (True,)}, "each must be a whole number"),
        ({"distance": "dot"}, "distance is 'dot'; legal: cosine, euclidean"),
        ({"intervals": "bogus"}, "intervals are for 'bogus'; legal: auto, queries"),
    ],
    ids=str,
)
def test_choices_that_are_none_are_refused(chosen: dict[str, Any], said: str) -> None:
    vectors, labels = np.random.default_rng(0).normal(size=(5, 3)), [0, 0, 1, 1, 1]
    rows = {name: chosen[name] for name in ("query", "gallery") if name in chosen}
    settings = Settings(**{name: value for name, value in chosen.items() if name not in rows})
    with pytest.raises(DataError, match=re.escape(said)):
        score_retrieval(vectors, labels, **chosen)
    with pytest.raises(DataError, match=re.escape(said)):
        score(vectors, labels, **rows, settings=settings)


def test_labels_of_queries_and_gallery_are_compared_as_they_are() -> None:
    points = fixed_point(np.eye(4))
    for mine, theirs in ((["1", "1", "2", "2"], [1, 1, 2, 2]), ([1, 1, 2, 2], ["1", "1", "2", "2"])):
        with pytest.raises(DataError, match="several kinds"):
            score_rankings(ExactScorer(points, points), mine, theirs)
    apart = np.array([2**53, 2**53 + 1] * 2)
    scores = score_rankings(ExactScorer(points, points), apart, np.array([2.0**53] * 4))
    assert scores.scored.tolist() == [True, False] * 2
