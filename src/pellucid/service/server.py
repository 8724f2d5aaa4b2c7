"""uvicorn, set up so that it stops gracefully."""

import asyncio
import gc
import socket
import sys
from collections.abc import Mapping
from types import FrameType

import uvicorn

from pellucid.diagnosis import Recognizer
from pellucid.errors import StoppingError
from pellucid.restorer import TorchRestorer
from pellucid.service import logs
from pellucid.service.app import create_app
from pellucid.service.engine import Elsewhere
from pellucid.service.settings import Settings
from pellucid.service.state import Service

SWITCH_SECONDS = 0.0005  # between threads: requests are answered while the network has Python's lock


class Server(uvicorn.Server):
    """uvicorn that tells the service first when it is asked to stop, so that it can end its streams."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for one in sockets or []:
            host, port = one.getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            logs.log("listening", address=f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._service.begin_stop)
        logs.log("stopping", signal=sig)
        super().handle_exit(sig, frame)


def run(
    settings: Settings,
    restorers: Mapping[str, TorchRestorer],
    recognizer: Recognizer,
    bound: socket.socket,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Serve until a signal; then finish what is under way, for at most `settings.drain_seconds`.

    Args:
        settings: limits, tokens, folders.
        restorers: by name; the first is the default.
        recognizer: for diagnoses.
        bound: socket to listen on, from `settings.listen`.
        elsewhere: what the networks' work is handed to; none: it is done here.

    Raises:
        StoppingError: some part could not be started.
    """
    logs.configure()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # what is there by now stays; looking through it again would keep requests waiting
    app = create_app(settings, restorers, recognizer, elsewhere)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address in a header is whatever the sender likes
        backlog=128,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = Server(config, app.state.service)
    server.run(sockets=[bound])
    if not server.started:
        raise StoppingError("The service could not start; the lines above say why.")
