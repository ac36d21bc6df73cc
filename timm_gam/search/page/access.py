"""Who may ask: this machine, or who brings the token; and what browsers may do with the answers."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_COOKIE = "timm-gam-search"


class Guard:
    """Lets requests through to an ASGI application, or not.

    Without a token, one that names another host than this machine is refused: a page of the Internet can point its own
    name at 127.0.0.1 and read what is served there (DNS rebinding). What is posted must come from the page itself.

    Args:
        app: Behind it.
        token: Required once as `?token=...`, then as a cookie; "" for none.
        public: Whether to answer under any host name, and within other pages' frames.
    """

    def __init__(self, app: ASGIApp, token: str, public: bool) -> None:
        self.app, self._token, self._public = app, token, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._welcome(scope, Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                out["X-Content-Type-Options"] = "nosniff"
                out["Referrer-Policy"] = "no-referrer"
                out["Cross-Origin-Resource-Policy"] = "same-origin"
                if not self._public:
                    out["X-Frame-Options"] = "DENY"
            await send(message)

        await self.app(scope, receive, guarded)

    def _welcome(self, scope: Scope, headers: Headers) -> Response | None:
        """None, or what is answered instead."""
        given = parse_qs(scope["query_string"].decode("latin-1"))
        brought = given.pop("token", [""])[0]
        if self._token and self._is_token(brought):
            query = f"?{urlencode(given, doseq=True)}" if given else ""
            answer = RedirectResponse("/" + scope["path"].lstrip("/") + query, 303)
            answer.set_cookie(_COOKIE, brought, httponly=True, samesite="strict")
            return answer
        if self._token and not self._is_token(_cookie(headers.get("cookie", ""))):
            return PlainTextResponse("open the address with ?token=... that the server printed\n", 403)
        if not (self._token or self._public) and _host(headers.get("host", "")) not in LOOPBACK:
            return PlainTextResponse("only addresses of this machine are answered\n", 403)
        if scope["method"] == "POST" and headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("only from the page itself\n", 403)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(_COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
