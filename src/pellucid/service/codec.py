"""The pool of `pellucid.codec`, for those who await."""

import asyncio
from collections.abc import Callable

from pellucid.codec.pool import CodecLimits, CodecPool
from pellucid.image import ImageBuffer
from pellucid.image_io import Header
from pellucid.service.settings import Settings


class Codec:
    """Reads and writes pictures elsewhere; what is raised is told in `pellucid.codec.pool.CodecPool`.

    Args:
        settings: limits.
        on_death: called with "time" or "ended" when a process is lost over a picture.
    """

    def __init__(self, settings: Settings, on_death: Callable[[str], None] = lambda _: None) -> None:
        limits = CodecLimits(
            settings.workers,
            settings.worker_seconds,
            settings.codec_bytes,
            settings.max_pixels,
            settings.max_bytes,
        )
        self.pool = CodecPool(limits, on_death)

    async def start(self) -> None:
        """Start all processes, so that the first requests don't wait for them."""
        await asyncio.gather(*map(asyncio.wrap_future, self.pool.start()))

    def stop(self) -> None:
        """End all processes; what they work on is lost."""
        self.pool.stop()

    async def header(self, data: bytes) -> Header:
        """What the file says about its picture."""
        return await asyncio.wrap_future(self.pool.header(data))

    async def decode(self, data: bytes) -> ImageBuffer:
        """The picture in the bytes of a file."""
        return await asyncio.wrap_future(self.pool.decode(data))

    async def encode(self, image: ImageBuffer, suffix: str) -> bytes:
        """The bytes of a picture file."""
        return await asyncio.wrap_future(self.pool.encode(image, suffix))
