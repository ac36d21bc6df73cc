"""Every store, held against all cosines in float64: Milvus in this process, and over its network protocol, alike."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import free_port
from tests.processes import start
from tests.timm_gam.search.photos.conftest import milvus_server
from timm_gam.core import DataError, MachineError, TimmGamError
from timm_gam.embed import FileStore
from timm_gam.images import Digests
from timm_gam.rerank import load_whitening
from timm_gam.search import PhotoFilter, SearchStore, StoreChoice
from timm_gam.search.photos.catalogue import Catalogue
from timm_gam.search.photos.folder import Photo
from timm_gam.search.stores.exact import ExactStore
from timm_gam.search.stores.milvus import MilvusStore

DIM, COMPONENTS = 24, 8


class Photographs:
    """Some that are not there: only their facts and embeddings are."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.catalogue = Catalogue(folder / "photos.sqlite")
        self.embeddings = FileStore(folder / "vectors", {"model": "none"})
        self.rows: dict[str, tuple[bytes, str | None, int, int]] = {}

    def put(self, numbers: range, folder: str = "", taken: str | None = None, size: tuple[int, int] = (40, 30)) -> None:
        for number in numbers:
            self.rows[f"{folder}{number}.jpg"] = (digest(number), taken, *size)
        self.add(numbers, np.stack([vector(number) for number in numbers]))

    def add(self, numbers: range, vectors: np.ndarray) -> None:
        self.embeddings.add(Digests.of(map(digest, numbers)), vectors, np.zeros((len(numbers), 256), dtype=np.int8))

    def look(self) -> None:
        self.catalogue.look(Photo(path, 1, 1) for path in self.rows)
        self.catalogue.keep((Photo(p, 1, 1, r[0], r[2], r[3], r[1]), None) for p, r in self.rows.items())
        self.catalogue.remove_missing()


def digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def vector(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return (rng.standard_normal(DIM) * np.linspace(2, 0.5, DIM) + 1).astype(np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with milvus_server(tmp_path_factory.mktemp("milvus")) as address:
        yield address


Make = Callable[..., tuple[Photographs, SearchStore]]


@pytest.fixture(params=["exact", "milvus", "server"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes photographs and a store of them."""
    stores: list[Any] = []

    def make(components: int = COMPONENTS) -> tuple[Photographs, SearchStore]:
        photographs = Photographs(tmp_path / "index")
        if request.param == "exact":
            return photographs, ExactStore(photographs.catalogue, photographs.embeddings)
        pytest.importorskip("milvus_lite")
        address = request.getfixturevalue("server") if request.param == "server" else str(tmp_path / "index" / "m.db")
        stores.append(milvus(tmp_path, StoreChoice(address, components), photographs))
        return photographs, stores[-1]

    yield make
    for store in stores:
        store.milvus.close()


def milvus(tmp_path: Path, choice: StoreChoice, photographs: Photographs) -> MilvusStore:
    name = "t" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    return MilvusStore(choice, tmp_path / "index", photographs.catalogue, photographs.embeddings, name)


def expected(store: SearchStore, tmp_path: Path, query: int, numbers: list[int], k: int) -> list[tuple[bytes, float]]:
    vectors = np.stack([vector(number) for number in [query, *numbers]]).astype(np.float64)
    whitenings = sorted((tmp_path / "index").glob("whitening-*"), key=lambda p: int(p.stem.rpartition("-")[2]))
    if whitenings:
        whitening = load_whitening(whitenings[-1])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = (vectors - whitening.mean.double().numpy()) @ whitening.projection.double().numpy().T
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors[1:] @ vectors[0]
    return [(digest(numbers[place]), scores[place]) for place in np.argsort(-scores)[:k]]


def check(store: SearchStore, tmp_path: Path, query: int, numbers: list[int], k: int, chosen: Any = None) -> None:
    found = store.nearest(vector(query)[None], k, chosen)[0]
    wanted = expected(store, tmp_path, query, numbers, k)
    assert [one.digest for one in found] == [name for name, _ in wanted]
    np.testing.assert_allclose([one.score for one in found], [score for _, score in wanted], atol=2e-5)


def test_what_is_found_is_what_all_cosines_give(make: Make, tmp_path: Path) -> None:
    photographs, store = make()
    photographs.put(range(COMPONENTS * 10 - 1))  # too few to whiten
    photographs.look()
    store.update()
    check(store, tmp_path, 500, list(range(79)), 10)
    assert not list(tmp_path.rglob("whitening-*"))
    photographs.put(range(79, 600))
    photographs.look()
    store.update()
    assert isinstance(store, ExactStore) or len(list(tmp_path.rglob("whitening-*"))) == 1
    check(store, tmp_path, 7, list(range(600)), 10)
    check(store, tmp_path, 1000, list(range(600)), 50)
    assert len(store.nearest(np.stack([vector(1), vector(2)]), 3)) == 2
    assert [len(row) for row in store.nearest(vector(1)[None], 5000)] == [600]


def test_an_update_adds_moves_and_removes(make: Make, tmp_path: Path) -> None:
    photographs, store = make(COMPONENTS * 10)
    photographs.put(range(20), "a/")
    photographs.put(range(20, 40), "b/")
    photographs.look()
    store.update()
    for number in range(5):
        del photographs.rows[f"a/{number}.jpg"]
    photographs.rows["b/9.jpg"] = photographs.rows.pop("a/9.jpg")
    photographs.rows["b/c/10.jpg"] = photographs.rows["a/10.jpg"]  # a copy
    photographs.put(range(40, 45), "b/")
    photographs.look()
    store.update()
    store.update()
    check(store, tmp_path, 3, list(range(5, 45)), 40)
    check(store, tmp_path, 3, [9, 10, *range(20, 45)], 40, PhotoFilter("b"))
    check(store, tmp_path, 3, [*range(5, 9), *range(10, 20)], 40, PhotoFilter("a"))
    check(store, tmp_path, 3, [10], 40, PhotoFilter("b/c"))


def test_filters(make: Make, tmp_path: Path) -> None:
    photographs, store = make(COMPONENTS * 10)
    photographs.put(range(10), "it's \"odd\\", "2019-06-21T10:00:00", (80, 50))
    photographs.put(range(10, 20), "q\"/it's \\ {odd}/%/", "2019-06-21T10:00:00", (50, 80))
    photographs.put(range(20, 30), "a/", "2020-01-01T00:00:00", (60, 60))
    photographs.put(range(30, 40), "a/b/")
    photographs.put(range(40, 50), "ab/")
    photographs.look()
    store.update()
    for chosen, numbers in (
        (PhotoFilter("q\"/it's \\ {odd}"), range(10, 20)),
        (PhotoFilter("q\"/it's \\ {odd}/%/"), range(10, 20)),
        (PhotoFilter("a"), range(20, 40)),
        (PhotoFilter("A"), range(0)),
        (PhotoFilter('" or true or "'), range(0)),
        (PhotoFilter(since="2019-06-21", until="2019-06-21"), range(20)),
        (PhotoFilter(since="2019-07"), range(20, 30)),
        (PhotoFilter(until="2019"), range(20)),
        (PhotoFilter(until="2019-06-20"), range(0)),
        (PhotoFilter(size=(60, 60)), range(20, 30)),
        (PhotoFilter(size=(80, 50)), range(20)),
        (PhotoFilter("a", since="2020", size=(1, 1)), range(20, 30)),
    ):
        check(store, tmp_path, 3, list(numbers), 60, chosen)


def test_what_is_searched_in_follows_a_gallery_that_grows(make: Make, tmp_path: Path) -> None:
    photographs, store = make()
    for count in (10, 100, 399, 450):
        photographs.put(range(count))
        photographs.look()
        store.update()
        check(store, tmp_path, 1000, list(range(count)), 10)
    fitted = sorted(int(path.stem.rpartition("-")[2]) for path in tmp_path.rglob("whitening-*"))
    if isinstance(store, MilvusStore):
        assert fitted == [100, 450], "again at four times as many"
        assert sum(name.startswith(store._prefix) for name in store.milvus.list_collections()) == 1


def test_index_parameters_are_passed_to_milvus(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    photographs = Photographs(tmp_path / "index")
    photographs.embeddings = FileStore(tmp_path / "index" / "wide", {"model": "wide"})
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4000, 64)).astype(np.float32)
    photographs.rows = {f"{n}.jpg": (digest(n), None, 4, 3) for n in range(4000)}
    photographs.add(range(4000), vectors)
    photographs.look()
    queries = rng.standard_normal((50, 64)).astype(np.float32)
    exact = ExactStore(photographs.catalogue, photographs.embeddings).nearest(queries, 10)
    recalls = {}
    for name, build, search in (
        ("poor", {"M": 4, "efConstruction": 8}, {"ef": 10}),
        ("wide search", {"M": 4, "efConstruction": 8}, {"ef": 2000}),
        ("default", StoreChoice().build, StoreChoice().search),
    ):
        store = milvus(tmp_path, StoreChoice(str(tmp_path / "m.db"), 500, build=build, search=search), photographs)
        store.update()
        found = store.nearest(queries, 10)
        store.milvus.close()
        pairs = [({o.digest for o in a}, {o.digest for o in b}) for a, b in zip(found, exact, strict=True)]
        recalls[name] = np.mean([len(a & b) / 10 for a, b in pairs])
    assert recalls["poor"] < 0.7 < 0.98 <= recalls["default"]
    assert recalls["wide search"] > recalls["poor"] + 0.2


def test_milvus_lite_listens_on_the_loopback_interface_alone(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    if not Path("/proc/net/tcp").exists():
        pytest.skip("needs /proc")
    photographs = Photographs(tmp_path / "index")
    photographs.put(range(3))
    photographs.look()
    before = _listening()
    store = milvus(tmp_path, StoreChoice("milvus"), photographs)
    store.update()
    opened = {address.rpartition(":")[0] for address in _listening() - before}
    assert opened and all(address.endswith("0100007F") for address in opened), "127.0.0.1, or mapped to IPv6"
    store.milvus.close()


def _listening() -> set[str]:
    mine = {
        str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and os.path.lexists(link)
    }
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                found.add(fields[1])
    return found


def test_what_it_takes_is_said_and_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = Photographs(tmp_path / "index")
    lite = milvus(tmp_path, StoreChoice("milvus"), photographs)
    monkeypatch.setattr("timm_gam.search.stores.milvus.available_memory", lambda: 2 * 2**30)
    assert "100,000 vectors of 256 dimensions: Milvus Lite will hold about" in lite.plan(100_000, 2048)
    with pytest.raises(MachineError, match="--store exact"):
        lite.plan(1_000_000, 2048)
    assert "server" not in milvus(tmp_path, StoreChoice("http://a:1"), photographs).plan(10**9, 2048)
    monkeypatch.setattr("timm_gam.search.stores.exact.available_memory", lambda: 2**30)
    exact = ExactStore(photographs.catalogue, photographs.embeddings)
    assert exact.plan(1000, 2048) == "" and "--store milvus" in exact.plan(1_000_000, 2048)


def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("milvus_lite")
    photographs = Photographs(tmp_path / "index")
    photographs.put(range(3))
    photographs.look()
    with pytest.raises(DataError, match="is the server running"):
        milvus(tmp_path, StoreChoice(f"http://127.0.0.1:{free_port()}"), photographs).update()
    with pytest.raises(DataError, match="no store 'nowhere'; legal: exact, milvus"):
        StoreChoice("nowhere")
    script = (
        "import sys, time; from pymilvus import MilvusClient; client = MilvusClient(sys.argv[1]); "
        "print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "m.db")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        with pytest.raises(DataError, match="another process may have it open"):
            milvus(tmp_path, StoreChoice(str(tmp_path / "m.db")), photographs).update()
        other.kill()
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(TimmGamError, match="pip install 'timm-gam\\[search\\]'"):
        milvus(tmp_path, StoreChoice("milvus"), photographs).update()


def test_milvus_lite_searches_beside_a_library_that_replaces_the_search_of_faiss(tmp_path: Path) -> None:
    """In a process of its own, as the replacement holds for the whole process."""
    pytest.importorskip("milvus_lite")
    pytest.importorskip("faiss")
    with start(filters_beside_torch_utils, said=tmp_path / "said") as process:
        process.join(300)
    assert process.exitcode == 0, (tmp_path / "said").read_text()[-2000:]


def filters_beside_torch_utils() -> int:
    importlib.import_module("faiss.contrib.torch_utils")
    return int(pytest.main(["-q", "--assert=plain", "-k", "milvus", f"{Path(__file__)}::test_filters"]))
