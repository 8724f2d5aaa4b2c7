"""Decoding and encoding in processes of their own, with limits on memory and time.

Each of a few threads has one process, and asks it one thing at a time. A process that takes too long, or ends
on its own, is replaced; what it worked on fails, and nothing else.
"""

import contextlib
import math
import multiprocessing
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TypeVar

import torch

from pellucid import errors, scratch
from pellucid.codec.wire import Message, pack_image, receive, send, unpack_image
from pellucid.codec.worker import ReadFile, answer_picture, work
from pellucid.errors import (
    EncoderError,
    InputError,
    PellucidError,
    TimeLimitError,
    UnreadableImageError,
)
from pellucid.image import ImageBuffer
from pellucid.image_io import Header, Limits, file_state

T = TypeVar("T")

_TASKS = 1000  # that a process does before it is replaced, so that what a library leaks doesn't add up


def preload() -> ForkServerContext:
    """Start the process from which those that decode are forked, without importing anything again.

    It imports what they need once, which takes seconds, while the caller does something else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    forkserver.ensure_running()
    return context


@dataclass(frozen=True)
class CodecLimits:
    """What processes may take.

    Attributes:
        workers: how many there are.
        seconds: that one may work on a picture.
        memory: bytes of address space beyond what a process takes at its start.
        max_pixels: of a picture.
        max_bytes: of a picture's file.
    """

    workers: int
    seconds: float
    memory: int
    max_pixels: int
    max_bytes: int


class CodecPool:
    """Reads and writes pictures elsewhere; every method gives a future at once.

    Args:
        limits: of the processes.
        on_death: called with "time" or "ended" when a process is lost over a picture.
    """

    def __init__(self, limits: CodecLimits, on_death: Callable[[str], None] = lambda _: None) -> None:
        self._limits, self._on_death = limits, on_death
        self._context = preload()
        self._local = threading.local()
        self._workers: set[_Worker] = set()
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="codec")

    def start(self) -> "list[Future[None]]":
        """Start all processes, so that the first pictures don't wait for them."""
        barrier = threading.Barrier(self._limits.workers)

        def begin() -> None:
            barrier.wait(60)  # each thread takes one of these, none takes two
            self._worker()

        return [self._threads.submit(begin) for _ in range(self._limits.workers)]

    def stop(self) -> None:
        """End all processes; what they work on is lost."""
        for worker in list(self._workers):
            worker.kill()
        self._threads.shutdown(cancel_futures=True)

    def header(self, data: bytes) -> "Future[Header]":
        """What the file says about its picture.

        Raises:
            UnreadableImageError, UnsupportedImageError: as `pellucid.image_io.read_image`.
            ImageTooLargeError: more pixels than the limit.
        """
        return self._submit(Message({"ask": "header"}, (data,)), UnreadableImageError, self._header)

    def _header(self, reply: Message) -> Header:
        with _sense():
            told = Header(**reply.head["header"])
            width, height = int(told.width), int(told.height)
            header = replace(told, width=width, height=height, has_alpha=bool(told.has_alpha))
            if min(width, height) < 1:
                raise ValueError(f"{width} x {height} pixels")
        limits = Limits(self._limits.max_pixels)
        limits.check(header.width, header.height, "The picture", "Send a smaller one.")
        return header

    def decode(self, data: bytes) -> "Future[ImageBuffer]":
        """The picture in the bytes of a file.

        Raises:
            UnreadableImageError, UnsupportedImageError, ImageTooLargeError: as
                `pellucid.image_io.read_image`; also where reading takes too long, or ends the process.
        """
        ask = Message({"ask": "decode", "max_pixels": self._limits.max_pixels}, (data,))
        return self._submit(ask, UnreadableImageError, _unpack)

    def read(self, path: Path, room: int) -> "Future[ReadFile | Header]":
        """The picture in a file, or its header if it has more pixels than there is `room` for in memory.

        Raises:
            UnreadableImageError, UnsupportedImageError, ImageTooLargeError: as `decode`.
        """
        source = _state(path)

        def use(reply: Message) -> ReadFile | Header:
            return self._header(reply) if "header" in reply.head else _read_file(reply, source)

        return self._submit(self._asked(path, room), UnreadableImageError, use)

    def _asked(self, path: Path, room: int) -> Message:
        limit = self._limits.max_pixels
        return Message({"ask": "read", "max_pixels": limit, "room": room, "path": str(path)})

    def read_large(self, path: Path, header: Header, folder: Path | None) -> "Future[ReadFile]":
        """The picture in a file that `read` gave this header of, kept in a file of `folder`, or in memory.

        Raises:
            UnreadableImageError, UnsupportedImageError: as `decode`.
            MemoryBudgetError: the folder has no room.
        """
        shape, source = (3 + header.has_alpha, header.height, header.width), _state(path)
        if folder is None:
            asked = self._asked(path, self._limits.max_pixels)
            return self._submit(asked, UnreadableImageError, lambda reply: _read_file(reply, source))

        def read() -> ReadFile:
            with scratch.reserved(folder, 4 * math.prod(shape)) as file:
                planes = scratch.view(file, shape, torch.float32, folder)
                ask = Message({"ask": "fill", "path": str(path), "shape": shape}, file=file)
                read = _read_file(self._ask_worker(ask, UnreadableImageError), source)
            alpha = planes[3:] if header.has_alpha else None
            return replace(read, image=replace(read.image, pixels=planes[:3], alpha=alpha))

        return self._threads.submit(read)

    def encode(self, image: ImageBuffer, suffix: str) -> "Future[bytes]":
        """The bytes of a picture file.

        Raises:
            UnsupportedImageError, InputError: as `pellucid.image_io.encode_image`.
            TimeLimitError, EncoderError: it took too long, or ended the process.
        """
        packed = pack_image(image)
        ask = Message({**packed.head, "ask": "encode", "suffix": suffix}, packed.blobs)
        return self._submit(ask, EncoderError, lambda reply: bytes(reply.blobs[0]))

    def _submit(
        self, message: Message, death: type[PellucidError], use: Callable[[Message], T]
    ) -> "Future[T]":
        return self._threads.submit(lambda: use(self._ask_worker(message, death)))

    def _ask_worker(self, message: Message, death: type[PellucidError]) -> Message:
        seconds, worker = self._limits.seconds, self._worker()
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
        return _without_error(reply, death)

    def _worker(self) -> "_Worker":
        """This thread's process; a new one if there is none."""
        worker: _Worker | None = getattr(self._local, "worker", None)
        if worker is None or not worker.alive:
            if worker is not None:
                self._drop(worker)
            # 12 bytes for a pixel's colors, 4 for alpha, 12 for what lies under it; then metadata.
            limit = 28 * self._limits.max_pixels + 4 * self._limits.max_bytes + 2**20
            worker = _Worker(self._context, self._limits.memory, limit, answer_picture)
            self._local.worker = worker
            self._workers.add(worker)
        return worker

    def _drop(self, worker: "_Worker") -> None:
        worker.kill()
        self._workers.discard(worker)
        self._local.worker = None


def ask_once(
    answer: Callable[[Message], Message], message: Message, *, seconds: float, memory: int
) -> Message:
    """What `answer` says to a message, in a process that is started for it, as confined as a pool's.

    Raises:
        PellucidError: what `answer` raises.
        OSError, EOFError, ValueError, KeyError, TypeError: the process ended, was late, or made no sense.
    """
    worker = _Worker(preload(), memory, memory, answer)
    try:
        return _without_error(worker.ask(message, seconds), PellucidError)
    finally:
        worker.kill()


def _without_error(reply: Message, death: type[PellucidError]) -> Message:
    """The reply; raises the error that it tells of."""
    if (name := reply.head.get("error")) is not None:
        kind = getattr(errors, str(name), None)
        known = isinstance(kind, type) and issubclass(kind, PellucidError)
        raise (kind if known else death)(str(reply.head.get("message")))  # type: ignore[misc]
    return reply


@contextlib.contextmanager
def _sense() -> Generator[None]:
    """A process that a picture has taken over may answer anything."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise UnreadableImageError(
            "Reading the picture gave something that is no picture. Check the file."
        ) from error


def _unpack(reply: Message) -> ImageBuffer:
    with _sense():
        return unpack_image(reply)


def _state(path: Path) -> tuple[Path, tuple[int, int, int]] | None:
    """What `pellucid.image.Source.file` is of a picture that is read from there now."""
    state = file_state(path)
    return state and (path.absolute(), state)


def _read_file(reply: Message, file: tuple[Path, tuple[int, int, int]] | None) -> ReadFile:
    image = _unpack(reply)
    image = replace(image, source=replace(image.source, file=file))  # no process may say what else to copy
    with _sense():
        return ReadFile(image, str(reply.head["sha256"]), float(reply.head["seconds"]))


class _Worker:
    """One process, and our end of the pipe to it."""

    def __init__(
        self, context: ForkServerContext, memory: int, limit: int, answer: Callable[[Message], Message]
    ) -> None:
        self._connection: Connection
        self._connection, theirs = context.Pipe()  # pyright: ignore[reportAttributeAccessIssue]
        self._limit, self.tasks, self.late = limit, 0, False
        self._process = context.Process(target=work, args=(theirs, memory, limit, answer), daemon=True)
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
