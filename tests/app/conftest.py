"""A real page on loopback, in a thread of this process, with a small network."""

import contextlib
import gc
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import uvicorn

from pellucid import write_image
from pellucid.access import Access, listen
from pellucid.app.desk import Desk
from pellucid.app.server import create_app
from pellucid.arrays import image_from_array
from pellucid.image_io import Limits
from pellucid.restorer import TorchRestorer, load

MODEL = "small"


def pytest_collection_modifyitems(items):
    """Gradio and its client leave event loops unclosed in their threads, and Gradio meets a later pandas."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="package", autouse=True)
def loops_of_gradio() -> Iterator[None]:
    """They go with these tests, so that no other meets them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Callable[..., Path]:
    """`photo(name, rows=..., seed=...)` writes a cat with grain, in the format that the name says."""
    folder = tmp_path_factory.mktemp("photos")

    def draw(name: str = "cat.jpg", rows: int = 96, seed: int = 0) -> Path:
        clean = skimage.data.chelsea()[:rows, :128].astype(np.float64)
        grain = np.random.default_rng(seed).normal(0, 25, clean.shape)
        path = folder / f"{rows}-{seed}" / name
        path.parent.mkdir(exist_ok=True)
        write_image(image_from_array((clean + grain).clip(0, 255).astype(np.uint8)), path, overwrite=True)
        return path

    return draw


@pytest.fixture(scope="session")
def restorer(small_weights: Path) -> TorchRestorer:
    return load(small_weights, device="cpu", precision="float32")


@pytest.fixture
def desk(tmp_path, restorer) -> Iterator[Desk]:
    folder = tmp_path / "desk"
    folder.mkdir()
    desk = Desk([MODEL], lambda *_: restorer, folder, Limits(max_pixels=1_000_000))
    yield desk
    desk.close()
    assert not folder.exists()


@dataclass
class Running:
    """A page that answers."""

    url: str
    desk: Desk


Serve = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="package")
def serve(restorer, tmp_path_factory) -> Serve:
    """`with serve(access) as running:` opens a page."""

    @contextlib.contextmanager
    def open_page(access: Access | None = None, **options) -> Iterator[Running]:
        access = access or Access(port=0)
        folder = tmp_path_factory.mktemp("page").resolve()
        desk = Desk([MODEL], lambda *_: restorer, folder, Limits(max_pixels=1_000_000))
        with listen(access) as bound:
            app = create_app(desk, access, **options)
            server = uvicorn.Server(
                uvicorn.Config(app, log_level="error", ws="none", lifespan="on", timeout_graceful_shutdown=1)
            )
            thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
            thread.start()
            deadline = time.monotonic() + 60
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.02)
            try:
                yield Running(f"http://127.0.0.1:{bound.getsockname()[1]}", desk)
            finally:
                server.should_exit = True
                thread.join(20)
                desk.close()

    return open_page


@pytest.fixture(scope="package")
def running(serve: Serve) -> Iterator[Running]:
    with serve() as one:
        yield one
