"""The application: routes, problems and protection around one `Service`."""

import contextlib
from collections.abc import AsyncGenerator, Mapping

from fastapi import FastAPI

from pellucid import __version__
from pellucid.diagnosis import Recognizer
from pellucid.restorer import TorchRestorer
from pellucid.service import jobs, pictures, problems, status
from pellucid.service.engine import Elsewhere
from pellucid.service.protection import Protection
from pellucid.service.settings import Settings
from pellucid.service.state import Service


def create_app(
    settings: Settings,
    restorers: Mapping[str, TorchRestorer],
    recognizer: Recognizer,
    elsewhere: Elsewhere | None = None,
) -> FastAPI:
    """The service as an ASGI application; `app.state.service` is its `Service`.

    Args:
        settings: limits, tokens, folders.
        restorers: by the names under which they are served; the first is the default.
        recognizer: for diagnoses.
        elsewhere: what the networks' work is handed to; none: it is done here.
    """
    service = Service(settings, restorers, recognizer, elsewhere)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        try:
            await service.start()
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="pellucid",
        version=__version__,
        summary="Clean photographs from noisy, hazy, rainy, blurred or dark ones.",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    for module in (pictures, jobs, status):
        app.include_router(module.router)
    problems.install(app)
    app.add_middleware(Protection, settings=settings, metrics=service.metrics)
    return app
