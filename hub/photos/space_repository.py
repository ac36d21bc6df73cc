"""An index of photographs -> the files of a Hub Space that shows its search page: Docker, as the page is a server."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import SpaceCardData
from PIL import Image

from hub.cards import render_card
from timm_gam.core import DataError, RefusedError, write_text
from timm_gam.embed import EmbedSettings
from timm_gam.images import DecodeLimits, Digests
from timm_gam.search import INDEX_NAME, PhotoFilter, PhotoIndex, load_collection, update_index

PORT = 7860  # where a Docker Space is expected to answer
_GPS = 0x8825
_ALL = 2**31

_APP = '''"""The search page of the photographs in `photos`, by the index in it. PORT names another port."""

import os
from pathlib import Path

import uvicorn

from timm_gam.search import PhotoIndex
from timm_gam.search.page.app import search_app

index = PhotoIndex.open(Path(__file__).resolve().parent / "photos")
host, port = os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", {port}))
uvicorn.run(search_app(index, public=True), host=host, port=port)
'''

_DOCKERFILE = """\
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user . .
CMD ["python", "app.py"]
"""


def write_space_repository(
    folder: Path,
    index: PhotoIndex,
    repo_id: str,
    *,
    license: str,
    package: str | None = None,
    with_places: bool = False,
    limits: DecodeLimits = DecodeLimits(),
    on_progress: Callable[[int], None] = lambda photographs: None,
) -> int:
    """Write README.md, Dockerfile, requirements.txt, app.py, and the photographs with an index of their own.

    The same index gives the same bytes. Of the index, brought up to date before, the first collection is shown; the
    rest is as `hub.space.publish_space` takes it.

    Returns:
        How many photographs it has.

    Raises:
        RefusedError: the model is not to be had elsewhere, a photograph has changed, or tells where it was taken.
        ModelError: the model cannot be had.
        OutputError: the folder cannot be written.
    """
    collection = index.collection()
    if collection.checkpoint or collection.head not in (None, "none") or collection.model.startswith("local-dir:"):
        raise RefusedError(
            f"'{collection.model}' of this index is a file here, which a Space cannot load; publish the model "
            "(python -m hub.publish), then index with --model hf-hub:owner/name"
        )
    photos = folder / "photos"
    count = _copy(index, photos, with_places, on_progress)
    settings = EmbedSettings(on_unreadable="skip", workers=0, limits=limits, **collection.views)
    shown, embedder = load_collection(collection.model, head=collection.head, settings=settings)
    own = photos / INDEX_NAME
    own.mkdir()
    made = PhotoIndex(own, photos, name=index.name)
    digests = index.catalogue.digests()
    if shown.key == collection.key:  # else it is embedded anew
        digests = digests.take(~index.embeddings(collection).missing(digests))
        kept = index.embeddings(collection)
        made.embeddings(shown).add(digests, kept.read(digests), kept.signatures(digests))
    update_index(made, shown, embedder)
    write_text(folder / "app.py", _APP.format(port=PORT))
    write_text(folder / "Dockerfile", _DOCKERFILE)
    write_text(folder / "requirements.txt", f"{package or 'timm-gam[search]==' + version('timm-gam')}\n")
    write_text(folder / "README.md", _card(collection.model, repo_id, license, count, index.catalogue.digests()))
    return count


def _copy(index: PhotoIndex, photos: Path, with_places: bool, on_progress: Callable[[int], None]) -> int:
    inside = index.root.resolve()
    found = index.catalogue.page(PhotoFilter(), 0, _ALL)
    if not found:
        raise DataError(f"'{index.folder}' has no photographs; index a folder that has")
    with_gps = []
    for photo in found:
        path = (inside / photo.path).resolve()
        data = path.read_bytes() if path.is_relative_to(inside) and path.is_file() else b""
        if hashlib.sha256(data).digest() != photo.digest:
            raise RefusedError(f"'{photo.path}' is not what was indexed; bring the index up to date first")
        with Image.open(path) as image:
            if image.getexif().get_ifd(_GPS):
                with_gps.append(photo.path)
        target = photos / photo.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        on_progress(1)
    if with_gps and not with_places:
        raise RefusedError(
            f"{len(with_gps)} photographs tell where they were taken (EXIF GPS), the first is '{with_gps[0]}'; remove "
            "that from them and index again, or publish it with --with-places"
        )
    return len(found)


def _card(model: str, repo_id: str, license: str, count: int, digests: Digests) -> str:
    published = model.removeprefix("hf-hub:") if model.startswith("hf-hub:") else None
    data = SpaceCardData(
        title=repo_id.partition("/")[2],
        sdk="docker",
        app_port=PORT,
        license=license,
        models=[published.partition("@")[0]] if published else None,
        tags=["image-retrieval", "timm"],
    )
    content = hashlib.sha256(b"".join(digests)).hexdigest()
    return render_card("space", data, title=data.title, count=count, model=model, license=license, content=content)
