"""A real service on loopback, in a thread of this process; its decoding processes are real too."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from pellucid.access import listen
from pellucid.arrays import image_from_array
from pellucid.diagnosis import Recognizer
from pellucid.image_io import encode_image
from pellucid.restorer import TorchRestorer, load
from pellucid.service.app import create_app
from pellucid.service.server import Server
from pellucid.service.settings import Settings
from pellucid.service.state import Service


def draw(suffix=".png", size=(40, 60), channels=3, dtype=np.uint8, seed=0) -> bytes:
    """The bytes of a file with a random picture."""
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(seed).integers(0, top, (*size, channels), dtype=dtype, endpoint=True)
    return encode_image(image_from_array(pixels[..., 0] if channels == 1 else pixels), suffix)


@dataclass
class Running:
    """A service that answers."""

    url: str
    service: Service
    server: uvicorn.Server

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)


class Gated(TorchRestorer):
    """Waits before each picture until the gate is open, in steps of a tile, so that it can be stopped."""

    gate = threading.Event()

    def __call__(self, image, *, progress=None, **options):
        while not self.gate.wait(0.02):
            if progress is not None:
                progress(0, 1)
        return super().__call__(image, progress=progress, **options)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    return draw


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(scope="session")
def restorer(small_weights: Path) -> TorchRestorer:
    return load(small_weights, device="cpu", precision="float32")


@pytest.fixture(scope="session")
def recognizer() -> Recognizer:
    return Recognizer.load()


Serve = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def serve(restorer, recognizer, tmp_path_factory) -> Serve:
    """`with serve(queue=2) as running:`, or with `gate=` an event that the network waits for."""

    @contextlib.contextmanager
    def start(*, gate: threading.Event | None = None, **settings: Any) -> Iterator[Running]:
        settings = {"port": 0, "workers": 1, "data": tmp_path_factory.mktemp("jobs")} | settings
        chosen = Settings(**settings)
        bound = listen(chosen)
        one = restorer
        if gate is not None:
            one = Gated.__new__(Gated)
            one.__dict__.update(restorer.__dict__)
            one.gate = gate
        app = create_app(replace(chosen), {"small": one}, recognizer)
        config = uvicorn.Config(
            app, http="h11", ws="none", lifespan="on", log_config=None, access_log=False,
            server_header=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
        server = Server(config, app.state.service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive(), 120)
        assert server.started
        try:
            yield Running(f"http://127.0.0.1:{port_of(server, bound)}", app.state.service, server)
        finally:
            if gate is not None:
                gate.set()
            server.handle_exit(15, None)
            thread.join(30)
            assert not thread.is_alive()

    return start


def port_of(server: uvicorn.Server, bound: socket.socket) -> int:
    return bound.getsockname()[1]


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)
    return found


@pytest.fixture(scope="session")
def running(serve) -> Iterator[Running]:
    """One service for all tests that leave it as it is."""
    with serve(max_bytes=2_000_000, max_pixels=1_000_000) as one:
        yield one


@pytest.fixture
def client(running) -> Iterator[httpx.Client]:
    with running.client() as one:
        yield one
