"""Exact neighbours and recall against float64 brute force; indexes kept, damaged and refused; the command line."""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from eval.approximate import main
from timm_gam.core import DataError, EmbeddingError
from timm_gam.search import (
    build_index,
    default_factories,
    fixed_point,
    load_index,
    nearest,
    on_one_scale,
    recall_against_exact,
    sample_queries,
)


def clustered(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(40, dim))
    return (centres[rng.integers(0, 40, count)] + 0.5 * rng.normal(size=(count, dim))).astype(np.float32)


def brute_force(queries: np.ndarray, gallery: np.ndarray, distance: str) -> np.ndarray:
    a, b = queries.astype(np.float64), gallery.astype(np.float64)
    if distance == "cosine":
        return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    return -((a[:, None] - b) ** 2).sum(axis=2)


def test_a_neighbour_that_ties_at_the_last_rank_counts() -> None:
    gallery = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [-1, 0]], dtype=np.float32)
    points = fixed_point(gallery)
    query = points.take(np.array([0]))
    exact = nearest(query, points, 2)
    assert exact.rows.tolist() == [[0, 1]]

    def recall(*rows: int, **options: object) -> float:
        return float(recall_against_exact(np.array([rows]), exact, query, points, **options)[0])

    assert recall(0, 1) == recall(0, 3) == recall(3, 2) == 1.0
    assert recall(0, 4) == recall(0, 0) == recall(0, -1) == recall(0) == 0.5
    assert recall(0, 3, self_index=np.array([0])) == 0.5
    assert recall(4, 0, 1, 2) == 0.5  # only the first two count


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF4,Flat"])
def test_vectors_of_zeros_score_0_in_both(factory: str, tmp_path: Path) -> None:
    gallery = clustered(400, dim=4) - 0.5
    gallery[::7] = 0.0
    index = build_index(gallery, factory)
    points, rows = fixed_point(gallery), np.arange(400)
    exact = nearest(points, points, 300, self_index=rows)
    index.set_parameters({"Flat": "", "HNSW16": "efSearch=400", "IVF4,Flat": "nprobe=4"}[factory])
    index.save(tmp_path / "a.faiss")
    found = load_index(tmp_path / "a.faiss", gallery).search(gallery, 300, self_index=rows)
    recall = recall_against_exact(found, exact, points, points, self_index=rows)
    assert recall.mean() > (0.98 if factory == "HNSW16" else 1 - 1e-3)


def test_another_distance_scale_and_length() -> None:
    small, large = clustered(50), 1000 * clustered(60, seed=1)
    q, g = on_one_scale(fixed_point(small, "euclidean"), fixed_point(large, "euclidean"))
    assert q.factor[0] == g.factor[0]
    with pytest.raises(DataError, match=r"differ 1.4e\+14 times in length; use cosine"):
        on_one_scale(fixed_point(small, "euclidean"), fixed_point(1e14 * small, "euclidean"))
    with pytest.raises(DataError, match="16 dimensions for cosine distance, the gallery 8"):
        on_one_scale(fixed_point(small), fixed_point(small[:, :8]))
    with pytest.raises(DataError, match="1 to 60"):
        nearest(q, g, 61)


def test_a_query_of_zeros_rounds_no_gallery_away() -> None:
    gallery = np.array([[0.3], [0.2], [0.1]])
    points = on_one_scale(fixed_point(np.zeros((1, 1)), "euclidean"), fixed_point(gallery, "euclidean"))
    found = nearest(*points, 3)
    assert found.rows.tolist() == [[2, 1, 0]]
    np.testing.assert_allclose(points[0].in_units(found.scores), [[0.1, 0.2, 0.3]], rtol=1e-7)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF16,Flat", "IVF16,PQ8x4fs,RFlat"])
def test_an_index_is_tuned_saved_and_found_again(factory: str, distance: str, tmp_path: Path) -> None:
    gallery, queries = clustered(3_000), clustered(200, seed=1)
    index = build_index(gallery, factory, distance=distance)
    sample = sample_queries(gallery, queries, distance=distance)
    assert index.tune(0.95, sample)
    found = index.search(queries)
    ranked = np.sort(-brute_force(queries, gallery, distance), axis=1)[:, 9]
    scores = np.take_along_axis(brute_force(queries, gallery, distance), found, axis=1)
    expected = (scores >= -ranked[:, None] - 1e-6).mean()
    assert sample.recall(found).mean() == pytest.approx(expected, abs=1e-3)
    assert expected >= 0.95
    index.save(tmp_path / "a.faiss")
    assert (tmp_path / "a.faiss").stat().st_size == index.facts.bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.faiss", "a.faiss.json"]
    again = load_index(tmp_path / "a.faiss", gallery)
    assert again.facts == index.facts
    np.testing.assert_array_equal(again.search(queries), found)


def test_a_query_of_the_gallery_does_not_find_itself() -> None:
    gallery = clustered(500)
    rows = np.arange(0, 500, 7)
    index = build_index(gallery, "Flat")
    found = index.search(gallery[rows], 5, self_index=rows)
    assert found.shape == (len(rows), 5)
    assert not (found == rows[:, None]).any()
    expected = nearest(fixed_point(gallery).take(rows), fixed_point(gallery), 5, self_index=rows)
    np.testing.assert_array_equal(found, expected.rows)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build_index(clustered(300), "IVF4,Flat").save(tmp_path / "a.faiss")
    return tmp_path / "a.faiss"


def test_an_index_that_is_not_what_its_record_says_is_refused(saved: Path) -> None:
    record = saved.with_name("a.faiss.json")
    with pytest.raises(DataError, match="other embeddings of the same shape"):
        load_index(saved, clustered(300, seed=5))
    with pytest.raises(DataError, match="not of \\(299, 16\\)"):
        load_index(saved, clustered(299))
    whole, facts = saved.read_bytes(), json.loads(record.read_text())
    saved.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="SHA-256 differs"):
        load_index(saved)
    saved.write_bytes(whole)
    record.write_text(json.dumps({**facts, "dim": 8}))
    with pytest.raises(DataError, match="holds 300 x 16, not what its .json says"):
        load_index(saved)
    for text in ("{", "[]", "{}", json.dumps({**facts, "format": 1}), json.dumps({**facts, "more": 1})):
        record.write_text(text)
        with pytest.raises(DataError, match="does not describe an index"):
            load_index(saved)
    record.unlink()
    with pytest.raises(DataError, match="an index is FILE and FILE.json"):
        load_index(saved)


def test_what_cannot_be_built_or_searched_is_refused() -> None:
    gallery = clustered(300)
    for factory in ("IVFx", "PQ7", "bogus"):
        with pytest.raises(DataError, match=f"cannot build '{factory}'"):
            build_index(gallery, factory)
    with pytest.raises(DataError, match="'IVF4_HNSW1,Flat' is a graph of fewer than 2 links"):
        build_index(gallery, "IVF4_HNSW1,Flat")
    gallery[200, 3] = np.nan
    with pytest.raises(EmbeddingError, match="NaN"):
        build_index(gallery, "Flat")
    with pytest.raises(EmbeddingError, match="matrix"):
        build_index(gallery[0], "Flat")
    index = build_index(clustered(300), "IVF4,Flat")
    with pytest.raises(EmbeddingError, match="the index holds vectors \\(N, 16\\)"):
        index.search(gallery[:, :5])
    with pytest.raises(DataError, match="it has nprobe"):
        index.set_parameters("efSearch=4")


def test_the_defaults_grow_with_the_gallery() -> None:
    assert default_factories(1_000, 512) == ("Flat",)
    assert default_factories(50_000, 2048) == ("PCAR512,IVF2048,PQ512x4fs,RFlat", "HNSW32")
    assert default_factories(1_000_000, 512) == ("RR512,IVF8192,PQ512x4fs,RFlat", "HNSW32")
    assert default_factories(10_000_000, 512) == ("RR512,IVF8192,PQ512x4fs,RFlat",)
    assert default_factories(100_000_000, 512) == ("RR512,IVF16384,PQ512x4fs,RFlat",)


@pytest.mark.parametrize("most_coded", [512, 12])
def test_the_default_finds_the_nearest(most_coded: int, monkeypatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("timm_gam.search.faiss_build._MOST_CODED", most_coded)
    gallery, queries = clustered(20_500), clustered(300, seed=1)
    index = build_index(gallery)
    assert index.facts.factory.startswith("RR16,IVF1024,PQ16x4fs" if most_coded > 16 else "PCAR12,IVF1024,PQ12x4fs")
    sample = sample_queries(gallery, queries)
    assert index.tune(0.9, sample)
    assert sample.recall(index.search(queries)).mean() >= 0.9
    assert capfd.readouterr() == ("", "")


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery, queries, out = tmp_path / "g.safetensors", tmp_path / "q.npy", tmp_path / "r.json"
    save_file({"vectors": clustered(2_000)}, gallery)
    np.save(queries, clustered(300, seed=1))
    assert run(gallery, "--queries", queries, "--index", "IVF8,Flat", "HNSW8", "--results-file", out) == 0
    text = capsys.readouterr().out
    for expected in ("2000 x 16", "IVF8,Flat", "HNSW8", "recall@10", "150 queries measured"):
        assert expected in text
    for entry in json.loads(out.read_text())["results"]:
        low, high = entry["recall@10_ci95"]
        assert low - 1e-12 <= entry["recall@10"] <= high + 1e-12  # means of resampled ones, rounded
        assert entry["recall@10"] > 0.97
    assert run(gallery, "--index", "IVF8,Flat", "--save", tmp_path / "a.faiss", "--sample", 200) == 0
    assert run(gallery, "--load", tmp_path / "a.faiss", "--search-parameters", "nprobe=1", "--sample", 200) == 0
    assert "nprobe=1" in capsys.readouterr().out
    assert run(gallery, "--index", "IVF64,PQ2x4", "--recall", "1", "--sample", 100) == 0
    assert "does not reach a recall of 1" in capsys.readouterr().out


def test_of_several_the_fastest_that_reaches_the_recall_is_kept(tmp_path: Path, capsys) -> None:
    gallery, kept = tmp_path / "g.npy", tmp_path / "a.faiss"
    np.save(gallery, clustered(3000))
    assert run(gallery, "--index", "IVF64,PQ2x4", "Flat", "--recall", "0.99", "--sample", 100, "--save", kept) == 0
    assert load_index(kept).facts.factory == "Flat"
    assert f"wrote {kept} and {kept}.json: Flat" in capsys.readouterr().out
    assert run(gallery, "--index", "IVF64,PQ2x4", "IVF64,PQ4x4", "--recall", "1", "--sample", 100, "--save", kept) == 0
    assert load_index(kept).facts.factory == "IVF64,PQ4x4", "none reaches it, this one comes nearest"


@pytest.mark.filterwarnings("ignore")
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    good, bad = tmp_path / "g.npy", tmp_path / "bad.npy"
    np.save(good, clustered(300))
    bad.write_bytes(b"nothing")
    np.save(tmp_path / "nan.npy", np.where(np.arange(300)[:, None] == 290, np.nan, clustered(300)))
    save_file({"other": clustered(3)}, tmp_path / "o.safetensors")
    np.save(tmp_path / "int.npy", np.arange(6).reshape(2, 3))
    np.save(tmp_path / "narrow.npy", clustered(30, dim=8))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    cases = [
        ([tmp_path / "none.npy"], "cannot read embeddings"),
        ([bad], "holds no embeddings: it is no .npy file"),
        ([tmp_path / "nan.npy", "--sample", "200"], "embedding of image 290 holds NaN"),
        ([tmp_path / "objects.npy"], "holds no embeddings"),
        ([tmp_path / "o.safetensors"], "holds no embeddings"),
        ([tmp_path / "int.npy"], "int64"),
        ([good, "--queries", tmp_path / "narrow.npy"], "8 dimensions"),
        ([good, "--index", "bogus"], "cannot build 'bogus'"),
        ([good, "--load", tmp_path / "none.faiss"], "cannot read index"),
        ([good, "--load", "x", "--save", "y"], "--load came with"),
        ([good, "--index", "IVF4,Flat", "--search-parameters", "nprobe=0"], "'nprobe=0' do not fit IVF4,Flat"),
        ([good, "--results-file", tmp_path / "no" / "r.json"], "cannot write"),
        ([good, "-k", "500"], "1 to 299"),
    ]
    for arguments, phrase in cases:
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert phrase in error
        assert error.count("\n") == 1
    for arguments in (["--recall", "2"], ["-k", "0"], ["--sample", "1"], ["--distance", "l1"]):
        with pytest.raises(SystemExit) as ended:
            run(good, *arguments)
        assert ended.value.code == 2
        capsys.readouterr()
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert run(good) == 2
    assert "timm-gam[approximate]" in capsys.readouterr().err


def test_a_disk_that_fills_costs_the_index_and_not_the_numbers(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "g.npy", clustered(300))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        assert run(tmp_path / "g.npy", "--index", "HNSW16", "--save", tmp_path / "i.faiss") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out, error = capsys.readouterr()
    assert "HNSW16" in out and error.count("\n") == 1 and error.startswith("error: cannot write")
    assert [path.name for path in tmp_path.iterdir()] == ["g.npy"]


def test_too_few_queries_for_an_interval_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "g.npy", clustered(300))
    assert run(tmp_path / "g.npy", "--sample", "2", "--index", "Flat") == 0
    assert re.search(r"^Flat +1\.0000 ", capsys.readouterr().out, re.M)


def test_interruption_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    import faiss

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    np.save(tmp_path / "g.npy", clustered(300))
    monkeypatch.setattr(faiss, "write_index", interrupted, raising=True)
    index = tmp_path / "a.faiss"
    assert run(tmp_path / "g.npy", "--index", "Flat", "--save", index) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["g.npy"]
