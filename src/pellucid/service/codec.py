"""Decoding and encoding in processes of their own, with limits on memory and time.

Each of a few threads has one process, and asks it one thing at a time. A process that takes too long, or ends
on its own, is replaced; the request that it worked on fails, and no other.
"""

import asyncio
import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

from pellucid import errors
from pellucid.errors import (
    EncoderError,
    ImageTooLargeError,
    PellucidError,
    TimeLimitError,
    UnreadableImageError,
)
from pellucid.image import ImageBuffer
from pellucid.image_io import Header
from pellucid.service.codec_worker import work
from pellucid.service.settings import Settings
from pellucid.service.wire import Message, pack_image, receive, send, unpack_image

_TASKS = 1000  # that a process does before it is replaced, so that what a library leaks doesn't add up


def preload() -> ForkServerContext:
    """Start the process from which those that decode are forked, without importing anything again.

    It imports what they need once, which takes seconds, while the caller does something else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    forkserver.ensure_running()
    return context


class Codec:
    """Reads and writes pictures elsewhere.

    Args:
        settings: limits.
        on_death: called with "time" or "ended" when a process is lost over a picture.
    """

    def __init__(self, settings: Settings, on_death: Callable[[str], None] = lambda _: None) -> None:
        self._settings, self._on_death = settings, on_death
        self._context = preload()
        self._local = threading.local()
        self._workers: set[_Worker] = set()
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="codec")

    async def start(self) -> None:
        """Start all processes, so that the first requests don't wait for them."""
        barrier = threading.Barrier(self._settings.workers)

        def begin() -> None:
            barrier.wait(60)  # each thread takes one of these, none takes two
            self._worker()

        loop = asyncio.get_running_loop()
        begun = [loop.run_in_executor(self._threads, begin) for _ in range(self._settings.workers)]
        await asyncio.gather(*begun)

    def stop(self) -> None:
        """End all processes; what they work on is lost."""
        for worker in list(self._workers):
            worker.kill()
        self._threads.shutdown(cancel_futures=True)

    async def header(self, data: bytes) -> Header:
        """What the file says about its picture.

        Raises:
            UnreadableImageError, UnsupportedImageError: as `pellucid.image_io.read_image`.
            ImageTooLargeError: more pixels than the limit.
        """
        reply = await self._ask(Message({"ask": "header"}, (data,)), UnreadableImageError)
        with _sense():
            header = Header(**reply.head)
        if header.width * header.height > self._settings.max_pixels:
            raise ImageTooLargeError(
                f"The picture is {header.width:,} x {header.height:,} pixels; the limit is "
                f"{self._settings.max_pixels:,} in all. Send a smaller one."
            )
        return header

    async def decode(self, data: bytes) -> ImageBuffer:
        """The picture in the bytes of a file.

        Raises:
            UnreadableImageError, UnsupportedImageError, ImageTooLargeError: as
                `pellucid.image_io.read_image`; also where reading takes too long, or ends the process.
        """
        ask = Message({"ask": "decode", "max_pixels": self._settings.max_pixels}, (data,))
        reply = await self._ask(ask, UnreadableImageError)
        with _sense():
            return unpack_image(reply)

    async def encode(self, image: ImageBuffer, suffix: str) -> bytes:
        """The bytes of a picture file.

        Raises:
            UnsupportedImageError, InputError: as `pellucid.image_io.encode_image`.
            TimeLimitError, EncoderError: it took too long, or ended the process.
        """
        packed = pack_image(image)
        ask = Message({**packed.head, "ask": "encode", "suffix": suffix}, packed.blobs)
        return bytes((await self._ask(ask, EncoderError)).blobs[0])

    async def _ask(self, message: Message, death: type[PellucidError]) -> Message:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._ask_worker, message, death)

    def _ask_worker(self, message: Message, death: type[PellucidError]) -> Message:
        seconds, worker = self._settings.worker_seconds, self._worker()
        try:
            reply = worker.ask(message, seconds)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            self._drop(worker)
            self._on_death("time" if worker.late else "ended")
            encoding = death is EncoderError
            if worker.late and encoding:
                raise TimeLimitError(
                    f"Writing the result took more than {seconds:g} seconds. Ask for another format."
                ) from error
            what = f"took more than {seconds:g} seconds" if worker.late else "ended the process that did it"
            doing, step = ("Writing", "Ask for another format") if encoding else ("Reading", "Check the file")
            raise death(f"{doing} the picture {what}; nothing else was affected. {step}.") from error
        if worker.late or worker.tasks >= _TASKS:
            self._drop(worker)
        if (name := reply.head.get("error")) is not None:
            kind = getattr(errors, str(name), None)
            known = isinstance(kind, type) and issubclass(kind, PellucidError)
            raise (kind if known else death)(str(reply.head.get("message")))  # type: ignore[misc]
        return reply

    def _worker(self) -> "_Worker":
        """This thread's process; a new one if there is none."""
        worker: _Worker | None = getattr(self._local, "worker", None)
        if worker is None or not worker.alive:
            if worker is not None:
                self._drop(worker)
            # 12 bytes for a pixel's colors, 4 for alpha, 12 for what lies under it; then metadata.
            limit = 28 * self._settings.max_pixels + 4 * self._settings.max_bytes + 2**20
            worker = _Worker(self._context, self._settings.codec_bytes, limit)
            self._local.worker = worker
            self._workers.add(worker)
        return worker

    def _drop(self, worker: "_Worker") -> None:
        worker.kill()
        self._workers.discard(worker)
        self._local.worker = None


@contextlib.contextmanager
def _sense() -> Generator[None]:
    """A process that a picture has taken over may answer anything."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableImageError(
            "Reading the picture gave something that is no picture. Check the file."
        ) from error


class _Worker:
    """One process, and the service's end of the pipe to it."""

    def __init__(self, context: ForkServerContext, memory: int, limit: int) -> None:
        self._connection: Connection
        self._connection, theirs = context.Pipe()  # pyright: ignore[reportAttributeAccessIssue]
        self._limit, self.tasks, self.late = limit, 0, False
        self._process = context.Process(target=work, args=(theirs, memory, limit), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.is_alive()

    def ask(self, message: Message, seconds: float) -> Message:
        """Its reply; a process that takes longer than `seconds` is killed.

        Raises:
            OSError, EOFError: it is gone.
            ValueError, KeyError, TypeError: it says what makes no sense.
        """
        self.tasks += 1
        clock = threading.Timer(seconds, self._expire)
        clock.daemon = True
        clock.start()
        try:
            send(self._connection.fileno(), message)
            return receive(self._connection.fileno(), self._limit)
        finally:
            clock.cancel()

    def _expire(self) -> None:
        self.late = True
        self._process.kill()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.join(5)
        with contextlib.suppress(OSError):
            self._connection.close()
