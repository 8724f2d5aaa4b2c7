"""A process that decodes and encodes pictures, or reads what else is foreign, and can do nothing else.

What kills it costs one picture.
"""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from pellucid import scratch
from pellucid.codec.wire import Message, pack_image, receive, send, unpack_image
from pellucid.errors import ImageTooLargeError, PellucidError, UnreadableImageError
from pellucid.image import ImageBuffer
from pellucid.image_io import (
    Limits,
    decode_header,
    decode_image,
    encode_image,
    file_state,
    read_header,
    read_image,
)


def work(connection: Connection, memory: int, limit: int, answer: Callable[[Message], Message]) -> None:
    """Answer messages until the other side closes.

    Args:
        connection: to the parent.
        memory: bytes of address space that may be taken beyond what is taken at the start.
        limit: bytes that a message may have.
        answer: what answers one; of its errors those of pellucid go to the other side.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    torch.set_num_threads(1)  # the other cores are the network's
    import pyvips

    pyvips.cache_set_max(0)  # no picture is asked for twice
    _confine(memory)
    descriptor = connection.fileno()
    while True:
        try:
            message = receive(descriptor, limit, files=True)
        except EOFError:
            return
        try:
            reply = answer(message)
        except PellucidError as error:
            reply = Message({"error": type(error).__name__, "message": str(error)})
        except MemoryError:
            reply = Message({"error": ImageTooLargeError.__name__, "message": _no_memory(memory)})
        except RuntimeError as error:  # torch's way to say so
            if "memory" not in str(error):
                raise
            reply = Message({"error": ImageTooLargeError.__name__, "message": _no_memory(memory)})
        try:
            send(descriptor, reply)
        except BrokenPipeError:
            return
        del message, reply


def answer_picture(message: Message) -> Message:
    """What is asked about a picture: its header, its pixels, or its file."""
    head = message.head
    match head["ask"]:
        case "header":
            return Message({"header": asdict(decode_header(bytes(message.blobs[0])))})
        case "read":
            path, limits = head["path"], Limits(max_pixels=head["max_pixels"])
            header = read_header(path)
            if head["room"] < header.width * header.height <= limits.max_pixels:
                return Message({"header": asdict(header)})
            return _pack_file(read_steady(path, lambda: read_image(path, limits=limits)))
        case "fill":
            return _pack_file(_fill(message))
        case "decode":
            limits = Limits(max_pixels=head["max_pixels"])
            return pack_image(decode_image(bytes(message.blobs[0]), limits=limits))
        case _:
            return Message({}, (encode_image(unpack_image(message), head["suffix"]),))


def _fill(message: Message) -> "ReadFile":
    """A picture whose planes (C, H, W), colors and maybe alpha, go into the file that was sent."""
    path, shape, file = message.head["path"], tuple(message.head["shape"]), message.file
    assert file is not None
    planes = scratch.view(file, shape, torch.float32, Path(path).parent)
    os.close(file)

    def create(wanted: tuple[int, int, int]) -> Tensor:
        plane = planes[:3] if wanted[0] == 3 else planes[3:]
        if plane.shape != wanted:
            raise _changed(path)
        return plane

    read = read_steady(path, lambda: read_image(path, create=create))
    pixels, alpha = read.image.pixels, read.image.alpha
    if pixels.data_ptr() != planes.data_ptr():  # filled in where alpha is 0
        planes[:3] = pixels
    # What went into the file isn't sent.
    rest = replace(read.image, pixels=pixels[:, :0], alpha=None if alpha is None else alpha[:, :0])
    return replace(read, image=rest)


def _pack_file(file: "ReadFile") -> Message:
    packed = pack_image(file.image)
    return Message({**packed.head, "sha256": file.sha256, "seconds": file.seconds}, packed.blobs)


@dataclass(frozen=True)
class ReadFile:
    """A picture, and what its file was.

    Attributes:
        image: the picture.
        sha256: of the file's bytes.
        seconds: that reading took.
    """

    image: ImageBuffer
    sha256: str
    seconds: float


def read_steady(path: str | Path, read: Callable[[], ImageBuffer]) -> ReadFile:
    """The picture that `read` gives, of a file that stays as it is meanwhile.

    Raises:
        UnreadableImageError: it changed: its pixels may be others than those of the bytes that are hashed.
        PellucidError: whatever `read` raises.
    """
    start, before = time.perf_counter(), file_state(path)
    image = read()
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        digest = None
    if digest is None or file_state(path) != before:
        raise _changed(path)
    return ReadFile(image, digest, time.perf_counter() - start)


def _changed(path: str | Path) -> UnreadableImageError:
    return UnreadableImageError(
        f"{path} was changed while it was read; expected a file that stays as it is. Run the command again."
    )


def _confine(memory: int) -> None:
    """No more memory than that, no files, no core dump. Only Linux counts address space so that it helps."""
    if sys.platform != "linux":
        return
    import resource

    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for kind, most in (
        (resource.RLIMIT_AS, taken + memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _no_memory(memory: int) -> str:
    return (
        f"The picture needs more than the {memory // 10**6:,} MB of memory that one may take. "
        "Send a smaller one."
    )
