"""The network, and the one thread that runs it: requests come in by turns, and each gets all cores.

A picture is only decoded shortly before its turn, so that what waits takes no more memory than its file.
"""

import asyncio
import copy
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pellucid import image_io
from pellucid.diagnosis import Diagnosis, Recognizer
from pellucid.errors import UnknownNameError
from pellucid.image import ImageBuffer
from pellucid.image_io import Header
from pellucid.registry import unknown_name
from pellucid.restoration import Restoration
from pellucid.restorer import TorchRestorer
from pellucid.runner import Progress
from pellucid.service.codec import Codec
from pellucid.service.metrics import Metrics
from pellucid.service.settings import Settings
from pellucid.strength import Strength

T = TypeVar("T")

_DECODED = 2  # pictures in memory at once: one on the network, one that is read or written meanwhile


def format_name(source_format: str) -> str:
    """The name, as in `SUFFIX`, of a format as libvips calls it."""
    return "avif" if source_format == "heif" else source_format


SUFFIX = {format_name(name): suffix for name, suffix in image_io.SUFFIX.items()}
"""Suffix of each format that can be asked for."""


class Stopped(Exception):  # noqa: N818 - it ends a run that nobody waits for, and is no error
    """The one who asked is gone."""


@dataclass(frozen=True)
class Options:
    """How a picture is to be restored.

    Attributes:
        model: name of a model that is served; none: the first.
        strength: as `pellucid.strength.Strength.parse` takes it.
        prompt: for a guided model, what is wrong.
        guard: leave a picture alone in which nothing seems wrong.
    """

    model: str | None = None
    strength: str = "1"
    prompt: str | None = None
    guard: bool = True


@dataclass(frozen=True)
class Restored:
    """A restored picture as a file.

    Attributes:
        data: the file.
        format: its format, as in `SUFFIX`.
        report: what was done, as `pellucid.restoration.Report`, with the seconds of each stage.
        pixels: of the picture, for those that were restored now.
    """

    data: bytes
    format: str
    report: dict[str, Any]
    pixels: int = 0


class Elsewhere(Protocol):
    """What restores and recognizes in the engine's place, on other machines; errors are the engine's."""

    async def restore(self, data: bytes, options: Options, target: str) -> Restored:
        """See `Engine.restore`."""
        ...

    async def diagnose(self, data: bytes) -> Diagnosis:
        """See `Engine.diagnose`."""
        ...


class Engine:
    """Restores and recognizes the pictures in files.

    Args:
        restorers: those that are served, by name; the first is the default.
        recognizer: for diagnoses.
        codec: reads and writes.
        metrics: are told the seconds of each stage.
        elsewhere: what the work is handed to; none: it is done here.
    """

    def __init__(
        self,
        settings: Settings,
        restorers: Mapping[str, TorchRestorer],
        recognizer: Recognizer,
        codec: Codec,
        metrics: Metrics,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self.settings, self.restorers, self.recognizer = settings, dict(restorers), recognizer
        self._codec, self._metrics = codec, metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._decoded = asyncio.Semaphore(_DECODED)
        self._guarded: dict[tuple[str, bool], TorchRestorer] = {}
        for name, restorer in self.restorers.items():
            for guard in (True, False):
                one = copy.copy(restorer)  # the same network, other habits
                one.guard = guard
                self._guarded[name, guard] = one

    def stop(self) -> None:
        """End the thread, after the tile it works on."""
        self._thread.shutdown(cancel_futures=True)

    def check(self, options: Options) -> None:
        """Refuse what can't be done before a picture is looked at.

        Raises:
            UnknownNameError: no such model.
            InputError: no such prompt, or a prompt for a blind model.
        """
        restorer = self._restorer(options)
        if options.prompt is not None:
            restorer.check_diagnosis(options.prompt)

    async def header(self, data: bytes) -> Header:
        """What a file says about its picture.

        Raises:
            UnreadableImageError, UnsupportedImageError, ImageTooLargeError: it can't be used.
        """
        return await self._timed("header", self._codec.header(data))

    async def restore(
        self, data: bytes, options: Options, target: str, progress: Progress | None = None
    ) -> Restored:
        """Restore the picture in a file.

        What comes back is, byte for byte, what `pellucid restore` writes in the same precision.

        Args:
            data: the file.
            options: how.
            target: format of the result, as in `SUFFIX`.
            progress: called with (parts done, parts in all) after each tile, or each pass in strips, in
                the network's thread.

        Raises:
            PellucidError: whatever can be foreseen.
        """
        if self._elsewhere is not None:
            restored = await self._timed("network", self._elsewhere.restore(data, options, target))
            self._metrics.pixels.inc(restored.pixels)
            if progress is not None:
                progress(1, 1)
            return restored
        restorer, strength = self._restorer(options), Strength.parse(options.strength)
        asked = time.perf_counter()
        async with self._decoded:
            self._metrics.stage_seconds.labels("wait").observe(waited := time.perf_counter() - asked)
            began = time.perf_counter()
            image = await self._timed("read", self._codec.decode(data))
            seconds = {"wait": waited, "read": time.perf_counter() - began}

            def run(report_progress: Progress) -> Restoration:
                return restorer(image, diagnosis=options.prompt, strength=strength, progress=report_progress)

            restoration = await self._timed("network", self._on_network(run, progress))
            self._metrics.pixels.inc(pixels := image.height * image.width)
            began = time.perf_counter()
            if dataclasses.replace(restoration, original=data).keeps_file(SUFFIX[target]):
                written = data
            else:
                written = await self._timed("write", self._codec.encode(restoration.image, SUFFIX[target]))
            seconds["write"] = time.perf_counter() - began
        report = dataclasses.replace(restoration.report, seconds=restoration.report.seconds | seconds)
        return Restored(written, target, report.to_dict(), pixels)

    async def diagnose(self, data: bytes) -> Diagnosis:
        """What the picture in a file shows.

        Raises:
            PellucidError: whatever can be foreseen.
        """
        if self._elsewhere is not None:
            return await self._timed("network", self._elsewhere.diagnose(data))
        async with self._decoded:
            image: ImageBuffer = await self._timed("read", self._codec.decode(data))
            return await self._timed("network", self._on_network(lambda _: self.recognizer(image), None))

    async def _on_network(self, run: Callable[[Progress], T], progress: Progress | None) -> T:
        """Run in the network's thread; stop after the present tile or pass once nobody waits."""
        gone = threading.Event()

        def tile_done(done: int, tiles: int) -> None:
            if gone.is_set():
                raise Stopped
            if progress is not None:
                progress(done, tiles)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, run, tile_done)
        finally:
            gone.set()

    async def _timed(self, stage: str, work: "asyncio.Future[T] | Any") -> T:
        start = time.perf_counter()
        try:
            return await work
        finally:
            self._metrics.stage_seconds.labels(stage).observe(time.perf_counter() - start)

    def _restorer(self, options: Options) -> TorchRestorer:
        name = options.model or next(iter(self.restorers))
        if name not in self.restorers:
            raise UnknownNameError(unknown_name("model of this service", name, sorted(self.restorers)))
        return self._guarded[name, options.guard]
