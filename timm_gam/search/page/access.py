"""Who may ask: this machine, or who brings the token; and what browsers may do with the answers."""

from __future__ import annotations

import hmac
from urllib.parse import urlencode, urlsplit

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_COOKIE = "timm-gam-search"


class Guard(BaseHTTPMiddleware):
    """Lets requests through to an ASGI application, or not.

    Without a token, one that names another host than this machine is refused: a page of the Internet can point its own
    name at 127.0.0.1 and read what is served there (DNS rebinding). What is posted must come from the page itself.

    Args:
        app: Behind it.
        token: Required once as `?token=...`, then as a cookie; "" for none.
        public: Whether to answer under any host name, and within other pages' frames.
    """

    def __init__(self, app: ASGIApp, token: str, public: bool) -> None:
        super().__init__(app)
        self._token, self._public = token, public

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """See Starlette."""
        if (refusal := self._authorize(request)) is not None:
            return refusal
        response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if not self._public:
            response.headers["X-Frame-Options"] = "DENY"
        return response

    def _authorize(self, request: Request) -> Response | None:
        """None, or what is answered instead."""
        headers, brought = request.headers, request.query_params.get("token", "")
        if self._token and self._is_token(brought):
            given = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
            query = f"?{urlencode(given)}" if given else ""
            answer = RedirectResponse("/" + request.scope["path"].lstrip("/") + query, 303)
            answer.set_cookie(_COOKIE, brought, httponly=True, samesite="strict")
            return answer
        if self._token and not self._is_token(request.cookies.get(_COOKIE, "")):
            return PlainTextResponse("open the address with ?token=... that the server printed\n", 403)
        if not (self._token or self._public) and _host(headers.get("host", "")) not in LOOPBACK:
            return PlainTextResponse("only addresses of this machine are answered\n", 403)
        if request.method == "POST" and headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("only from the page itself\n", 403)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
