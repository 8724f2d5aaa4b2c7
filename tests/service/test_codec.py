import asyncio
import hashlib
import os
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from pellucid.arrays import image_from_array
from pellucid.codec import pool
from pellucid.codec.pool import CodecLimits, CodecPool
from pellucid.codec.wire import Message, receive
from pellucid.codec.worker import ReadFile
from pellucid.errors import (
    EncoderError,
    ImageTooLargeError,
    TimeLimitError,
    UnreadableImageError,
    UnsupportedImageError,
)
from pellucid.image_io import Header, decode_image, encode_image, read_image
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


def test_a_process_does_so_many_tasks_and_is_replaced(picture, monkeypatch):
    monkeypatch.setattr(pool, "_TASKS", 2)

    async def ask(codec):
        pids: list[int] = []
        for _ in range(3):
            pids += [process(codec)] if codec.pool._workers else []
            await codec.header(picture())
        return pids, len(codec.pool._workers)

    (pids, alive), deaths = use(ask)
    assert len(set(pids)) == 1 and len(pids) == 2 and alive == 1
    assert not deaths


def test_a_picture_beyond_the_limit_is_refused_by_its_header(picture):
    async def ask(codec):
        with pytest.raises(
            ImageTooLargeError, match=r"60 x 40 pixels \(2,400 px\); the limit is 2,399 px\. Send a smaller"
        ):
            await codec.header(picture())

    use(ask, max_pixels=60 * 40 - 1)
    assert use(lambda codec: codec.header(picture()), max_pixels=60 * 40)[0].width == 60


def test_a_file_read_elsewhere_is_known_as_one_read_here(picture, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    codec = CodecPool(CodecLimits(1, 60, 2**30, 10**6, 2**20))
    try:
        file = codec.read(path, 10**6).result()
        assert isinstance(file, ReadFile) and file.image.source == read_image(path).source
        assert file.image.source.file == read_image(path).source.file is not None
        assert file.sha256 == hashlib.sha256(picture()).hexdigest()
        large = codec.read(path, 60 * 40 - 1).result()
        assert isinstance(large, Header) and (large.width, large.height) == (60, 40)
    finally:
        codec.stop()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (struct.pack(">I", 2**20 + 1), "a head of 1048577 bytes"),
        (b'{"head": {}, "blobs": [6, 6]}', "blobs of 12 bytes, of 10 allowed"),
        (b'{"head": {}, "blobs": [12, -5]}', "blobs of 7 bytes, of 10 allowed"),
    ],
)
def test_a_message_takes_no_more_memory_than_it_may(sent, said):
    reading, writing = os.pipe()
    try:
        os.write(writing, sent if len(sent) == 4 else struct.pack(">I", len(sent)) + sent + b"0" * 12)
        os.close(writing)
        with pytest.raises(ValueError, match=said):
            receive(reading, 10)
    finally:
        os.close(reading)


@pytest.mark.parametrize("name", ["reason", "annotations", "ValueError", "no_such_name"])
def test_a_process_may_name_no_error_but_those_of_pellucid(name):
    with pytest.raises(UnreadableImageError, match="told"):
        pool._without_error(Message({"error": name, "message": "told"}), UnreadableImageError)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes aren't confined")
def test_a_process_may_write_no_file_and_take_no_more_memory(picture):
    async def look(codec):
        await codec.header(picture())
        rows = Path(f"/proc/{process(codec)}/limits").read_text(encoding="ascii").splitlines()
        return {row[:26].strip(): row[26:].split()[:2] for row in rows}

    limits, _ = use(look)
    assert limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
    assert "unlimited" not in limits["Max address space"]
