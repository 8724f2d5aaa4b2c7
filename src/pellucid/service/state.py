"""What all routes share, and the way of a picture through it."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from pellucid.diagnosis import Recognizer
from pellucid.errors import AbandonedJobError, StoppingError, TimeLimitError
from pellucid.restorer import TorchRestorer
from pellucid.service import problems
from pellucid.service.bodies import Upload, read_upload
from pellucid.service.codec import Codec
from pellucid.service.engine import Elsewhere, Engine
from pellucid.service.job_runner import JobRunner
from pellucid.service.job_store import MOST_ATTEMPTS, JobStore
from pellucid.service.metrics import Metrics
from pellucid.service.places import Places
from pellucid.service.settings import Settings

T = TypeVar("T")


class Service:
    """One service: its settings, its parts, and whether it is up.

    Attributes:
        pictures: places of requests whose picture, come in or asked for, is being read or sent.
        places: of those in front of the network.
        streams: of clients that follow jobs.
        store, runner: keep jobs, and do them.
        ready: everything has started.
        stopping: a stop was asked for; what is under way is finished.
    """

    def __init__(
        self,
        settings: Settings,
        restorers: Mapping[str, TorchRestorer],
        recognizer: Recognizer,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.codec = Codec(settings, lambda reason: self.metrics.lost_workers.labels(reason).inc())
        self.engine = Engine(settings, restorers, recognizer, self.codec, self.metrics, elsewhere)
        self.pictures = Places("concurrency", settings.concurrency, self.metrics.refused)
        self.places = Places("queue", settings.queue, self.metrics.refused, self.metrics.places)
        self.streams = Places("streams", settings.streams, self.metrics.refused)
        self.store = JobStore(settings.data, settings.max_jobs)
        self.runner = JobRunner(settings, self.store, self.engine)
        self.ready = False
        self.stopping = asyncio.Event()
        self._stop_at = 0.0  # on the clock of `time.monotonic`

    async def start(self) -> None:
        """Start the parts, and with them the jobs that the last service left."""
        await self.codec.start()
        abandoned = AbandonedJobError(
            f"The service was killed {MOST_ATTEMPTS} times while it did this job, so it was given up. "
            "Check the picture, or tell the operator."
        )
        await asyncio.to_thread(self.store.recover, problems.describe(abandoned))
        self.runner.start()
        self.ready = True

    def begin_stop(self) -> None:
        """Take nothing new; what is under way has `settings.drain_seconds`."""
        if not self.stopping.is_set():
            self._stop_at = time.monotonic() + self.settings.drain_seconds
            self.stopping.set()
            self.runner.begin_stop()

    async def stop(self) -> None:
        """End the parts; whatever could be waited for has been."""
        self.begin_stop()
        self.ready = False
        await self.runner.stop(max(0.0, self._stop_at - time.monotonic()))
        await asyncio.to_thread(self.codec.stop)
        await asyncio.to_thread(self.engine.stop)
        self.store.close()

    def check_ready(self) -> None:
        """Refuse while starting or stopping.

        Raises:
            StoppingError: either.
        """
        if self.stopping.is_set() or not self.ready:
            what = "is stopping" if self.stopping.is_set() else "is starting"
            raise StoppingError(f"The service {what}. Ask again in a few seconds.", retry_after=5)

    async def upload(self, request: Request) -> Upload:
        """The request's body; a place is held from here until the reply is sent.

        Raises:
            OverloadedError: no place is free; known before the body is read.
            PellucidError: as `read_upload`.
        """
        self.check_ready()
        self.places.check()
        hold(request, self.pictures.take())
        upload = await read_upload(request, self.settings)
        request.scope["log"]["bytes_received"] = len(upload.data)
        return upload

    async def answer(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """Do what a request asks for, in a place of the queue, within its time, while its client is there.

        Raises:
            OverloadedError: no place is free.
            TimeLimitError: it took too long.
            ClientDisconnect: nobody waits any more; the place is free again.
            PellucidError: whatever the work raises.
        """
        seconds, start = self.settings.request_seconds, asyncio.get_running_loop().time()
        clock = asyncio.timeout(seconds)
        try:
            with self.places.take():
                async with clock:
                    result = await _while_connected(request, work)
                self.places.took(asyncio.get_running_loop().time() - start)
                return result
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise TimeLimitError(
                f"The picture took more than the {seconds:g} seconds that a request may, waiting included. "
                "Send a smaller one, or make it a job: POST /v1/jobs.",
                retry_after=self.places.retry_after,
            ) from error
        finally:
            work.close()  # where it was never begun


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def hold(request: Request, what: AbstractContextManager[T]) -> T:
    """Enter a context that ends once the request's reply is sent, or given up."""
    return request.scope["held"].enter_context(what)


def of(request: Request) -> Service:
    """The service that a request came to."""
    return request.app.state.service
