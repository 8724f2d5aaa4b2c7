"""Does the jobs, one after the other, in turns with requests; tells those who watch."""

import asyncio
import logging
import sqlite3
import time
import weakref
from dataclasses import dataclass
from typing import Any

from pellucid.errors import PellucidError, StorageError, TimeLimitError
from pellucid.service import problems
from pellucid.service.engine import Engine, Options
from pellucid.service.job_store import Job, JobStore
from pellucid.service.logs import log
from pellucid.service.settings import Settings

_SWEEP_SECONDS = 60.0
_STORAGE_PAUSE = 5.0  # seconds, before a full disk is tried again


@dataclass(frozen=True)
class Progress:
    """How far a running job is: tiles, or passes of strips, done, of how many (0 while that is not known)."""

    done: int = 0
    tiles: int = 0


class JobRunner:
    """Takes jobs from the store as long as it runs."""

    def __init__(self, settings: Settings, store: JobStore, engine: Engine) -> None:
        self._settings, self._store, self._engine = settings, store, engine
        self._added = asyncio.Event()
        self._changes = weakref.WeakValueDictionary[str, asyncio.Event]()  # kept by those who watch
        self._running: tuple[str, asyncio.Task[None]] | None = None
        self._progress: dict[str, Progress] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Begin with what the last service left."""
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._sweep())]

    def begin_stop(self) -> None:
        """Begin no more jobs, and wake all who watch."""
        self._stopping = True
        self._added.set()
        for name in list(self._changes):
            self._changed(name)

    async def stop(self, seconds: float) -> None:
        """Give the running job so many seconds to end, then put it back into the queue."""
        self.begin_stop()
        running = self._running
        if running is not None:
            await asyncio.wait({running[1]}, timeout=seconds)
        for task in [*self._tasks, *([running[1]] if running else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, *([running[1]] if running else []), return_exceptions=True)

    def progress(self, name: str) -> Progress:
        """How far a job is."""
        return self._progress.get(name, Progress())

    def added(self) -> None:
        """There is a new job."""
        self._added.set()

    async def cancel(self, name: str) -> bool:
        """End a job that has not ended; whether it had not."""
        canceled = await asyncio.to_thread(self._store.cancel, name)
        if self._running is not None and self._running[0] == name:
            self._running[1].cancel()
        self._changed(name)
        return canceled

    def watch(self, name: str) -> asyncio.Event:
        """An event that is set at the next change of a job; it is to be held until then."""
        return self._changes.setdefault(name, asyncio.Event())

    def _changed(self, name: str) -> None:
        if (event := self._changes.pop(name, None)) is not None:
            event.set()

    async def _run(self) -> None:
        while not self._stopping:
            self._added.clear()
            try:
                job = await asyncio.to_thread(self._store.begin)
                if job is None:
                    await self._added.wait()
                    continue
                task = asyncio.create_task(self._do(job))
                self._running = job.id, task
                self._changed(job.id)
                await asyncio.wait({task})
            except sqlite3.Error as error:  # a full disk, above all; jobs must go on once there is space
                log("jobs are paused", level=logging.ERROR, error=error)
                await asyncio.sleep(_STORAGE_PAUSE)
            finally:
                if self._running is not None:
                    name, _ = self._running
                    self._running = None
                    self._progress.pop(name, None)
                    self._changed(name)

    async def _do(self, job: Job) -> None:
        loop, start = asyncio.get_running_loop(), time.perf_counter()

        def tile_done(done: int, tiles: int) -> None:  # in the network's thread
            loop.call_soon_threadsafe(self._tile_done, job.id, Progress(done, tiles))

        seconds = self._settings.job_seconds
        clock = asyncio.timeout(seconds)
        try:
            async with clock:
                data = await asyncio.to_thread(self._store.picture, job.id)
                restored = await self._engine.restore(data, Options(**job.options), job.format, tile_done)
            await asyncio.to_thread(self._store.finish, job.id, restored.data, restored.report)
        except asyncio.CancelledError:
            await asyncio.to_thread(self._store.requeue, job.id)  # only if nobody canceled the job itself
            raise
        except Exception as error:
            problem = self._problem(job, error, clock.expired())
            while not await self._fail(job, problem):  # a full disk; nothing else can be done until it isn't
                await asyncio.sleep(_STORAGE_PAUSE)
        log("job", job=job.id, attempts=job.attempts, seconds=round(time.perf_counter() - start, 3))

    async def _fail(self, job: Job, problem: dict[str, Any]) -> bool:
        try:
            await asyncio.to_thread(self._store.fail, job.id, problem)
        except sqlite3.Error as error:
            log("a job's end can't be kept", level=logging.ERROR, error=error, job=job.id)
            return False
        return True

    def _problem(self, job: Job, error: Exception, late: bool) -> dict[str, Any]:
        if isinstance(error, PellucidError):
            return problems.describe(error)
        if late:
            seconds = self._settings.job_seconds
            told = f"The job took more than the {seconds:g} seconds that one may. Send a smaller picture."
            return problems.describe(TimeLimitError(told))
        if isinstance(error, OSError | sqlite3.Error):
            return problems.describe(StorageError(f"The job's files can't be used: {error}. Ask again."))
        log("fault", level=logging.ERROR, error=error, job=job.id)
        return problems.fault(job.id)

    def _tile_done(self, name: str, progress: Progress) -> None:
        if self._running is not None and self._running[0] == name:
            self._progress[name] = progress
            self._changed(name)

    async def _sweep(self) -> None:
        while True:
            try:
                expired = await asyncio.to_thread(self._store.expire, self._settings.keep_seconds)
            except (OSError, sqlite3.Error) as error:  # a full disk, above all; it is asked again
                log("jobs can't be expired", level=logging.ERROR, error=error)
            else:
                if expired:
                    log("jobs expired", number=expired)
            await asyncio.sleep(min(_SWEEP_SECONDS, self._settings.keep_seconds))
