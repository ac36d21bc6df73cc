"""The page over HTTP: each address is one question of `Answers`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from timm_gam.core import TimmGamError
from timm_gam.images import DecodeLimits, page_environment
from timm_gam.search.page.access import Guard
from timm_gam.search.page.answers import Answers, NotFoundError
from timm_gam.search.photos.catalogue import PhotoFilter
from timm_gam.search.photos.photo_index import Collection, PhotoIndex

MOST_BYTES = 100 * 2**20
_TEMPLATES = Path(__file__).parent / "templates"
_IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}  # a digest's bytes never change


def search_app(
    index: PhotoIndex,
    collection: Collection | None = None,
    *,
    token: str = "",
    public: bool = False,
    device: str = "cpu",
    limits: DecodeLimits = DecodeLimits(),
) -> Starlette:
    """The search page as an ASGI application, for uvicorn or any other server.

    Args:
        index: To be searched.
        collection: Of it; default the one that was updated last.
        token: What a visitor must bring once, as `/?token=...`; "" for none.
        public: Whether anyone may ask under any name of the host, and other pages may frame it. Else without a token
            only addresses of this machine are answered.
        device: Where dropped photographs are embedded.
        limits: What a photograph may take to decode.
    """
    answers = Answers(index, collection or index.collection(), device, limits)
    page = page_environment(_TEMPLATES).get_template("search.html")

    async def drop(request: Request) -> Response:
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > MOST_BYTES:
                return _error(413, f"a photograph of more than {MOST_BYTES // 2**20} MiB is refused; make it smaller")
        return JSONResponse(await run_in_threadpool(answers.drop, bytes(data)))

    def photos(request: Request) -> Response:
        start, count = _number(request, "start", 0), _number(request, "count", 60)
        return JSONResponse(answers.photos(_filter(request), start, count))

    def search(request: Request) -> Response:
        names = request.query_params.getlist("like")[:20]
        if not names:
            return _error(400, "name a photograph: like=...")
        return JSONResponse(answers.search(names, _filter(request), _number(request, "count", 60)))

    def why(request: Request) -> Response:
        return JSONResponse(answers.why(request.query_params.get("query", ""), request.query_params.get("match", "")))

    def original(request: Request) -> Response:
        name, data = answers.original(request.path_params["name"])
        kind = Image.MIME[Image.registered_extensions().get(Path(name).suffix.lower(), "JPEG")]
        shown = {"Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}"}
        return Response(data, media_type=kind, headers={**_IMMUTABLE, **shown})

    def small(request: Request) -> Response:
        return Response(answers.thumbnail(request.path_params["name"]), media_type="image/jpeg", headers=_IMMUTABLE)

    routes = [  # what is not async runs in a thread
        Route("/", lambda request: HTMLResponse(page.render(about=answers.about()))),
        Route("/photos", photos, methods=["GET"]),
        Route("/photos", drop, methods=["POST"]),
        Route("/search", search),
        Route("/why", why),
        Route("/thumbnails/{name}", small),
        Route("/originals/{name}", original),
    ]
    app = Starlette(routes=routes, exception_handlers={TimmGamError: _refuse})
    app.add_middleware(Guard, token=token, public=public)
    app.state.answers = answers
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    return _error(404 if isinstance(error, NotFoundError) else 400, str(error))


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status, headers={"Cache-Control": "no-store"})


def _filter(request: Request) -> PhotoFilter:
    given = request.query_params
    return PhotoFilter.read(*(given.get(name, "") for name in ("folder", "since", "until", "size")))


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default
