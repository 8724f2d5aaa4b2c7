"""The page behind a door: uvicorn, with the checks that stand before every request."""

import base64
import binascii
import signal
import socket
import sys
import webbrowser
from types import FrameType
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.access import Access
from pellucid.app.desk import Desk
from pellucid.app.page import EXAMPLES_FOLDER, Page
from pellucid.errors import ForbiddenError

# A browser that keeps to this sends nothing elsewhere. Gradio's own scripts need the two unsafe words.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_CLOSED = ("/gradio_api/proxy=", "/monitoring")  # Gradio's ways to other servers, and to its figures


class Door:
    """ASGI middleware: who may come in, and what a browser may do with the page."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":

            async def send_on(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(raw=message["headers"]).update(_HEADERS)
                await send(message)

            await (self._refusal(scope) or self.app)(scope, receive, send_on)
        else:  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        try:
            self.access.check_host(host)
            self.access.check_origin(headers.get("origin"), f"{scope['scheme']}://{host}")
        except ForbiddenError as error:
            return PlainTextResponse(str(error), error.http_status)
        if scope["path"].startswith(_CLOSED):
            return PlainTextResponse("There is nothing here.", 404)
        if self.access.tokens and not self.access.tokens.allow(_token(headers.get("authorization", ""))):
            told = "A token is needed: give it as the password; any name will do."
            return PlainTextResponse(
                told, 401, {"WWW-Authenticate": 'Basic realm="pellucid", charset="UTF-8"'}
            )
        return None


def _token(authorization: str) -> bytes:
    """The token of a header: a browser's password (Basic), or a program's (Bearer)."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode("latin-1", "replace")
    try:
        return base64.b64decode(given if scheme.lower() == "basic" else "").partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def create_app(desk: Desk, access: Access, *, max_bytes: int | None = None) -> FastAPI:
    """The page as an ASGI application.

    Args:
        desk: does what the page asks for; its folder is where browsers' files go.
        access: who is let in.
        max_bytes: that one file may have; none: any number.
    """
    page = Page(desk)
    page.blocks.has_launched = True  # mounted, Gradio doesn't say so, and would take any file of this machine
    undocumented: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(**undocumented)
    app.add_middleware(Door, access=access)
    return gr.mount_gradio_app(
        app,
        page.blocks,
        "/",
        app_kwargs=undocumented,
        footer_links=[],
        run_history=False,
        allowed_paths=[str(desk.folder), str(EXAMPLES_FOLDER)],
        show_error=True,
        max_file_size=max_bytes,
        ssr_mode=False,
        i18n=page.i18n,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=page.theme,
        css=page.css,
        js=page.js,
    )


class _Server(uvicorn.Server):
    """uvicorn that says where the page is once it is there."""

    open_browser = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or []:
            host, port = one.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
            print(address, file=sys.stderr, flush=True)
            if self.open_browser:
                webbrowser.open(address)


def _leave(number: int, _frame: FrameType | None) -> None:
    """End the way Ctrl-C does, so that what is under way is removed."""
    sys.exit(128 + number)


def run(app: FastAPI, bound: socket.socket, *, open_browser: bool = False) -> None:
    """Serve until Ctrl-C or a signal.

    Args:
        app: from `create_app`.
        bound: socket to listen on, from `pellucid.access.listen`.
        open_browser: open the page there, once it can be reached.
    """
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    signal.signal(signal.SIGTERM, _leave)  # which uvicorn raises again once it has stopped
    server = _Server(config)
    server.open_browser = open_browser
    server.run(sockets=[bound])
