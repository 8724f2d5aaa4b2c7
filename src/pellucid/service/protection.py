"""What stands before every request: host, origin, token; request ids, security headers, log and counters."""

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Iterator, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.errors import PellucidError, UnauthorizedError
from pellucid.service import problems
from pellucid.service.logs import log
from pellucid.service.metrics import Metrics
from pellucid.service.replies import EVENTS, PIECE
from pellucid.service.settings import Settings

READ_RATE = 512 * 1024  # bytes of a large reply that are read in a second by whoever reads at all
_OPEN = ("/healthz", "/readyz")  # a load balancer has no token
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = {"GET", "POST", "DELETE", "HEAD", "OPTIONS"}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CORS = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, X-Request-ID",
    "Access-Control-Expose-Headers": "Retry-After, X-Request-ID, Location",
    "Access-Control-Max-Age": "600",
}


class Protection:
    """ASGI middleware around the whole service."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, start = Headers(scope=scope), time.perf_counter()
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"], scope["log"] = request_id, {}
        status, sent, clock, latest, follows = 0, 0, asyncio.get_running_loop().time, 0.0, False

        async def send_on(message: Message) -> None:
            nonlocal status, sent, latest, follows
            if message["type"] == "http.response.start":
                status, follows = message["status"], self._complete(message, headers, request_id) == EVENTS
                latest = clock() + self.settings.send_seconds
                await send(message)
                return
            if follows:  # it has no end that could be expected
                latest = clock() + self.settings.send_seconds
            try:
                for piece in _pieces(message):
                    async with asyncio.timeout_at(latest):
                        await send(piece)  # waits while the client has not read what came before
                    sent += len(piece["body"])
                    latest += len(piece["body"]) / READ_RATE
            except TimeoutError as error:
                scope["log"]["unread"] = True
                raise ClientDisconnect from error

        try:
            with contextlib.ExitStack() as held:  # places, until the reply is sent
                scope["held"] = held
                answer = self._refusal(scope, headers, request_id)
                await (answer or self.app)(scope, receive, send_on)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            log("fault", level=logging.ERROR, error=error, request_id=request_id)
            if not status:
                with contextlib.suppress(OSError):
                    await problems.unforeseen(request_id)(scope, receive, send_on)
        finally:
            self._record(scope, status or 499, time.perf_counter() - start, sent)

    def _refusal(self, scope: Scope, headers: Headers, request_id: str) -> Response | None:
        """The reply to a request that is not let in, or to a preflight."""
        try:
            self.settings.check_host(headers.get("host", ""))
            self.settings.check_origin(
                headers.get("origin"), f"{scope['scheme']}://{headers.get('host', '')}"
            )
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                return Response(status_code=204)
            if scope["path"] not in _OPEN:
                self._check_token(headers)
        except PellucidError as error:
            return problems.reply_to(error, request_id)
        return None

    def _check_token(self, headers: Headers) -> None:
        if not self.settings.tokens:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self.settings.tokens.allow(token.strip().encode("latin-1")):
            found = "A wrong token came" if token else "No token came"
            raise UnauthorizedError(f"{found}; expected the header 'Authorization: Bearer TOKEN'.")

    def _complete(self, message: MutableMapping[str, Any], headers: Headers, request_id: str) -> str:
        """Add the headers that every reply has; its media type."""
        reply = MutableHeaders(raw=message["headers"])
        reply["X-Request-ID"] = request_id
        for name, value in _HEADERS.items():
            reply.setdefault(name, value)
        if (origin := headers.get("origin")) in self.settings.origins:
            reply["Access-Control-Allow-Origin"] = str(origin)
            reply["Vary"] = "Origin"
            reply["Cross-Origin-Resource-Policy"] = "cross-origin"
            if "access-control-request-method" in headers:
                for name, value in _CORS.items():
                    reply[name] = value
            else:
                reply["Access-Control-Expose-Headers"] = _CORS["Access-Control-Expose-Headers"]
        return reply.get("content-type", "").partition(";")[0]

    def _record(self, scope: Scope, status: int, seconds: float, sent: int) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if route in (*_OPEN, "/metrics") and status == 200:
            return  # asked every few seconds; nobody reads these lines
        client = scope.get("client")
        log(
            "request",
            request_id=scope["request_id"],
            client=client[0] if client else None,
            method=method,
            path=scope["path"][:200],
            status=status,
            seconds=round(seconds, 4),
            bytes_sent=sent,
            **scope["log"],
        )


def _pieces(message: Message) -> Iterator[Message]:
    """A part of a body as small parts: the server keeps what it is given until the client has read it."""
    body, more = message.get("body", b""), message.get("more_body", False)
    for start in range(0, max(len(body), 1), PIECE):
        end = start + PIECE
        yield {**message, "body": body[start:end], "more_body": more or end < len(body)}
