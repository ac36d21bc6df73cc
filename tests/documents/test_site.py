"""The site of docs/ builds without a warning or a dead link, and the notebook runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.documents.test_documents import ROOT

_ADDRESS = re.compile(r'<(\w+)\s[^>]*?\b(?:href|src)="([^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True, timeout=120,
    )  # fmt: skip
    return folder


def test_every_document_is_a_page_and_no_link_is_dead(site: Path) -> None:
    pages = {page.stem for page in site.glob("*.html")}
    assert {page.stem for page in ROOT.glob("docs/*.md")} | {"index", "MODEL_CARD", "CHANGELOG"} <= pages
    dead = []
    for page in site.glob("[!4]*.html"):  # 404.html has the addresses of a server's root
        for _, address in _ADDRESS.findall(page.read_text(encoding="utf-8")):
            path, anchor = urldefrag(address)
            if ":" in path:
                continue
            found = page.parent / unquote(path) if path else page
            ids = found.read_text(encoding="utf-8") if anchor and found.suffix == ".html" else ""
            if not found.exists() or (ids and f'id="{unquote(anchor)}"' not in ids):
                dead.append(f"{page.name}: {address}")
    assert dead == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = [
        address
        for page in site.glob("*.html")
        for tag, address in _ADDRESS.findall(page.read_text(encoding="utf-8"))
        if tag in ("script", "link", "img") and address.startswith(("http", "//"))
    ]
    assert loaded == []


def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="the extra docs is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")
    notebook = nbformat.read(ROOT / "docs/first_look.ipynb", 4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are made, not kept"
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    outputs = {cell.id: str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"}
    assert "hit@1" in outputs["score"] and "points" in outputs["compare"]
    assert (tmp_path / "report.html").stat().st_size > 100_000
