"""The page served from this machine until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
import threading
from contextlib import suppress

from timm_gam.core import MachineError, TimmGamError, print_line, printable
from timm_gam.images import DecodeLimits
from timm_gam.search.page.access import LOOPBACK
from timm_gam.search.photos.photo_index import Collection, PhotoIndex


def serve(
    index: PhotoIndex,
    collection: Collection,
    *,
    host: str,
    port: int,
    device: str = "cpu",
    limits: DecodeLimits = DecodeLimits(),
) -> None:
    """Serve `search_app` until interrupted; prints the address.

    Args:
        host: Address of this machine; any but the loopback one asks visitors for a token, which is printed.
        port: 0 takes a free one.

    Raises:
        MachineError: the address cannot be taken.
        TimmGamError: the web server is not installed.
    """
    try:
        import uvicorn

        from timm_gam.search.page.app import search_app
    except ImportError as error:
        raise TimmGamError(f"the page needs {error.name}: pip install 'timm-gam[search]'") from error
    token = "" if host in LOOPBACK else secrets.token_urlsafe(16)
    listening = _listen(host, port)
    app = search_app(index, collection, token=token, device=device, limits=limits)
    threading.Thread(target=app.state.answers.warm_up).start()  # a daemon would crash an exit while it loads
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    print_line(f"{index.catalogue.count():,} photographs of '{printable(str(index.root))}' at {address}  (Ctrl-C ends)")
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MachineError(
            f"cannot listen at {host} port {port}: {reason}; name another --port (0: any free one) or --host"
        ) from error
