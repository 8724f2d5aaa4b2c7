"""What each file format holds, how it is recognized, and libvips itself."""

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import InputError
from pellucid.image import Mode, SampleFormat

PathLike = str | os.PathLike[str]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FileFormat:
    """What a file format holds. `depths` is sorted, deepest last; `max_side` is in pixels."""

    title: str
    suffixes: tuple[str, ...]
    depths: tuple[SampleFormat, ...]
    gray: bool
    alpha: bool
    max_side: int


FORMATS = {
    "jpeg": FileFormat("JPEG", (".jpg", ".jpeg"), ("uint8",), gray=True, alpha=False, max_side=65_535),
    "png": FileFormat("PNG", (".png",), ("uint8", "uint16"), gray=True, alpha=True, max_side=1_000_000),
    "tiff": FileFormat(
        "TIFF", (".tif", ".tiff"), ("uint8", "uint16", "float32"), gray=True, alpha=True, max_side=10_000_000
    ),
    "webp": FileFormat("WebP", (".webp",), ("uint8",), gray=False, alpha=True, max_side=16_383),
    "heif": FileFormat("AVIF", (".avif",), ("uint8", "uint16"), gray=False, alpha=True, max_side=16_384),
}
SUFFIX = {name: row.suffixes[0] for name, row in FORMATS.items()}  # by which a format is written
BY_SUFFIX = {suffix: name for name, row in FORMATS.items() for suffix in row.suffixes}

IMAGE_SUFFIXES = tuple(sorted(BY_SUFFIX))
"""Lower-case suffixes of the files that can be read and written."""

READABLE = "JPEG, PNG, TIFF, WebP or AVIF"
MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)
# Major brands of MP4, QuickTime and 3GP (MP4 Registration Authority).
FILM = (b"iso", b"mp4", b"avc1", b"qt  ", b"M4V", b"3gp", b"dash")
MATROSKA = b"\x1a\x45\xdf\xa3"  # and WebM
FOREIGN = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document or SVG drawing"),
    (b"BM", "a BMP"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"FUJIFILM", "a camera raw file"),
)
SAMPLES: dict[str, SampleFormat] = {"uchar": "uint8", "ushort": "uint16", "float": "float32"}
VIPS_FORMAT = {sample: name for name, sample in SAMPLES.items()}
SCALE: dict[SampleFormat, int] = {"uint8": 255, "uint16": 65_535, "float32": 1}
COLORS: dict[str, tuple[Mode, int]] = {
    "b-w": ("gray", 1),
    "grey16": ("gray", 1),
    "srgb": ("rgb", 3),
    "rgb16": ("rgb", 3),
    "scrgb": ("rgb", 3),  # what libvips calls any float RGB
    "cmyk": ("cmyk", 4),
}
BITS = {"uint8": 8, "uint16": 16, "float32": 32}


def vips() -> Any:
    """pyvips, with the loaders that libvips itself doesn't trust switched off.

    It sends libvips' warnings to its own silent logger; what matters arrives as an exception.

    Raises:
        InputError: libvips was first used by the process that this one was forked from. Its threads are
            there alone, and it would wait for them without end.
    """
    pyvips, process = _begun()
    if process != os.getpid():
        raise InputError(
            "This process was forked from one that had read or written pictures; expected one of its own, as "
            'libvips\' threads outlive no fork. Start workers by "spawn" or "forkserver".'
        )
    return pyvips


@cache
def _begun() -> tuple[Any, int]:
    """pyvips, and the process that first used it."""
    os.environ.setdefault("VIPS_BLOCK_UNTRUSTED", "1")
    import pyvips

    pyvips.block_untrusted_set(True)
    return pyvips, os.getpid()


def field(image: Any, name: str, default: Any) -> Any:
    """A metadata field of libvips' image, or the default if it has none."""
    return image.get(name) if image.get_typeof(name) else default


def array(image: Any, rows: slice | None = None) -> Array:
    """(H, W, C), or the next (r, W, C), from top to bottom; decodes."""
    if rows is None:
        samples: Array = image.numpy()
        return samples.reshape(image.height, image.width, image.bands)
    number = rows.stop - rows.start
    fetched = vips().Region.new(image).fetch(0, rows.start, image.width, number)
    return np.frombuffer(fetched, SAMPLES[image.format]).reshape(number, image.width, image.bands)


def vips_image(stored: Array, gray: bool) -> Any:
    """libvips' image of (H, W, C) samples."""
    sample = str(stored.dtype)
    names = {"uint8": ("srgb", "b-w"), "uint16": ("rgb16", "grey16"), "float32": ("scrgb", "b-w")}
    height, width, bands = stored.shape
    image = vips().Image.new_from_memory(
        np.ascontiguousarray(stored).data, width, height, bands, VIPS_FORMAT[sample]
    )
    return image.copy(interpretation=names[sample][gray])
