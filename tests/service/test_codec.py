import asyncio
import os
import signal

import numpy as np
import pytest

from pellucid.arrays import image_from_array
from pellucid.errors import (
    EncoderError,
    ImageTooLargeError,
    TimeLimitError,
    UnreadableImageError,
    UnsupportedImageError,
)
from pellucid.image_io import decode_image, encode_image
from pellucid.service.codec import Codec
from pellucid.service.settings import Settings


def use(work, **settings):
    """Run `work(codec, deaths)` with a codec of one process."""
    deaths: list[str] = []

    async def run():
        codec = Codec(Settings(workers=1, **settings), deaths.append)
        await codec.start()
        try:
            return await work(codec)
        finally:
            codec.stop()

    return asyncio.run(run()), deaths


def process(codec: Codec) -> int:
    (worker,) = codec.pool._workers
    return worker._process.pid


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"), [(".png", 4, np.uint16), (".jpg", 3, np.uint8), (".tif", 1, np.uint8)]
)
def test_a_picture_comes_through_whole(suffix, channels, dtype, picture):
    data = picture(suffix, channels=channels, dtype=dtype)

    async def there_and_back(codec):
        image = await codec.decode(data)
        return await codec.header(data), image, await codec.encode(image, suffix)

    (header, image, written), deaths = use(there_and_back)
    expected = decode_image(data)
    assert (header.width, header.height) == (60, 40)
    assert image.source == expected.source
    assert np.array_equal(image.pixels.numpy(), expected.pixels.numpy())
    assert written == encode_image(expected, suffix)
    assert not deaths


def test_hidden_colors_come_through():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 4), dtype=np.uint8)
    pixels[:3, :, 3] = 0
    data = encode_image(image_from_array(pixels), ".png")

    async def there_and_back(codec):
        return await codec.encode(await codec.decode(data), ".png")

    assert use(there_and_back)[0] == encode_image(decode_image(data), ".png")


def test_errors_keep_their_kind(picture):
    async def wrong(codec):
        with pytest.raises(UnreadableImageError, match="not a picture"):
            await codec.decode(b"text")
        with pytest.raises(UnsupportedImageError, match="a GIF"):
            await codec.header(b"GIF89a")
        with pytest.raises(UnsupportedImageError, match="transparency"):
            await codec.encode(await codec.decode(picture(channels=4)), ".jpg")
        return await codec.header(picture())

    assert use(wrong)[0].width == 60


def test_too_much_memory_fails_one_request(picture):
    """Random pixels of 2000 x 2000 take 48 MB as float32."""

    async def wrong(codec):
        with pytest.raises((ImageTooLargeError, UnreadableImageError)):
            await codec.decode(picture(size=(2000, 2000)))
        return await codec.decode(picture())

    assert use(wrong, worker_bytes=40 * 2**20)[0].width == 60


def test_a_process_that_hangs_is_replaced(picture):
    async def hang(codec):
        os.kill(first := process(codec), signal.SIGSTOP)
        with pytest.raises(UnreadableImageError, match=r"more than 0\.5 seconds"):
            await codec.decode(picture())
        assert (await codec.decode(picture())).width == 60
        os.kill(second := process(codec), signal.SIGSTOP)
        with pytest.raises(TimeLimitError):
            await codec.encode(decode_image(picture()), ".png")
        return first != second

    different, deaths = use(hang, worker_seconds=0.5)
    assert different
    assert deaths == ["time", "time"]


def test_a_process_that_dies_is_replaced(picture):
    async def die(codec):
        os.kill(pid := process(codec), signal.SIGSTOP)
        reading = asyncio.create_task(codec.decode(picture()))
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(UnreadableImageError, match="ended the process"):
            await reading
        os.kill(pid := process_of_next(await codec.header(picture()), codec), signal.SIGSTOP)
        writing = asyncio.create_task(codec.encode(decode_image(picture()), ".png"))
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EncoderError):
            await writing
        return (await codec.decode(picture())).width

    assert use(die) == (60, ["ended", "ended"])


def process_of_next(_, codec: Codec) -> int:
    return process(codec)


def test_one_that_died_while_idle_costs_nobody_anything(picture, until):
    async def die(codec):
        os.kill(pid := process(codec), signal.SIGKILL)
        until(lambda: not next(iter(codec.pool._workers)).alive)
        assert (await codec.decode(picture())).width == 60
        return process(codec) != pid

    assert use(die) == (True, [])
