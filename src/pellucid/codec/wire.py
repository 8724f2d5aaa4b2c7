"""What a pool and its processes say to each other: plain JSON and bytes, over a pipe.

Never pickles: a process that a hostile picture has taken over must not be able to run code elsewhere.
"""

import json
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.image import ImageBuffer, Source

_LENGTH = struct.Struct(">I")
_LONGEST_HEAD = 1 << 20  # bytes of JSON
_CHUNK = 1 << 20
_BLOBS = ("icc", "exif", "xmp", "iptc")

Blob = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Message:
    """Plain values, bytes that go with them, and maybe the descriptor of an open file."""

    head: dict[str, Any]
    blobs: tuple[Blob, ...] = ()
    file: int | None = None


def send(descriptor: int, message: Message) -> None:
    """Write a message to a pipe.

    Raises:
        OSError: nobody reads.
    """
    blobs = [memoryview(blob).cast("B") for blob in message.blobs]
    told = {"head": message.head, "blobs": [len(blob) for blob in blobs], "file": message.file is not None}
    head = json.dumps(told).encode()
    for part in (memoryview(_LENGTH.pack(len(head)) + head), *blobs):
        written = 0
        while written < len(part):
            written += os.write(descriptor, part[written : written + _CHUNK])
    if message.file is not None:
        with socket.socket(fileno=os.dup(descriptor)) as pipe:
            socket.send_fds(pipe, [b"f"], [message.file])


def receive(descriptor: int, limit: int, *, files: bool = False) -> Message:
    """Read a message from a pipe.

    Args:
        descriptor: of the pipe.
        limit: bytes that the blobs may have together.
        files: the other side may send a file, which the caller closes.

    Raises:
        EOFError: the other side is gone.
        ValueError: what it says makes no sense, is larger than the limit, or is a file that it may not send.
    """
    (length,) = _LENGTH.unpack(_exactly(descriptor, _LENGTH.size))
    if length > _LONGEST_HEAD:
        raise ValueError(f"a head of {length} bytes")
    told = json.loads(_exactly(descriptor, length))
    sizes = [int(size) for size in told["blobs"]]
    if min(sizes, default=0) < 0 or sum(sizes) > limit:
        raise ValueError(f"blobs of {sum(sizes)} bytes, of {limit} allowed")
    if told.get("file") and not files:
        raise ValueError("a file")
    blobs = tuple(_exactly(descriptor, size) for size in sizes)
    return Message(dict(told["head"]), blobs, _receive_file(descriptor) if told.get("file") else None)


def _receive_file(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as pipe:
        found = socket.recv_fds(pipe, 1, 1)[1]
    if not found:
        raise EOFError("the other side sent no file")
    return found[0]


def _exactly(descriptor: int, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = os.readv(descriptor, [view[done : done + _CHUNK]])
        if not count:
            raise EOFError("the other side closed the pipe")
        done += count
    return data


def pack_image(image: ImageBuffer) -> Message:
    """A picture as a message."""
    source = image.source
    planes = {"pixels": image.pixels, "alpha": image.alpha, "hidden": source.hidden}
    arrays = {name: t.contiguous().numpy() for name, t in planes.items() if t is not None}
    kept = {name: blob for name in _BLOBS if (blob := getattr(source, name)) is not None}
    head = {
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "kept": list(kept),
        "source": {
            "format": source.format,
            "depth": source.depth,
            "mode": source.mode,
            "bits": source.bits,
            "lossless": source.lossless,
            "dots_per_mm": source.dots_per_mm,
        },
    }
    blobs = [array.reshape(-1).data.cast("B") for array in arrays.values() if array.size]
    return Message(head, (*blobs, *kept.values()))


def unpack_image(message: Message) -> ImageBuffer:
    """The picture of a message.

    Raises:
        ValueError, KeyError, TypeError, InputError: it is none.
    """
    head, blobs = message.head, list(message.blobs)
    planes: dict[str, Tensor] = {}
    for name, shape in head["shapes"].items():
        size = int(np.prod(shape))
        array = np.frombuffer(blobs.pop(0), np.float32) if size else np.empty(0, np.float32)
        planes[name] = torch.from_numpy(array.reshape(shape))  # pyright: ignore[reportUnknownMemberType]
    kept = {name: bytes(blobs.pop(0)) for name in head["kept"] if name in _BLOBS}
    told = head["source"]
    dots = told["dots_per_mm"]
    source = Source(
        format=str(told["format"]),
        depth=told["depth"],
        mode=told["mode"],
        bits=int(told["bits"]),
        lossless=bool(told["lossless"]),
        dots_per_mm=None if dots is None else (float(dots[0]), float(dots[1])),
        icc=kept.get("icc"),
        exif=kept.get("exif"),
        xmp=kept.get("xmp"),
        iptc=kept.get("iptc"),
        hidden=planes.get("hidden"),
    )
    return ImageBuffer(planes["pixels"], planes.get("alpha"), source)
