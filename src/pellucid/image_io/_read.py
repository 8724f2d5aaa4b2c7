"""Files and bytes to `ImageBuffer`: the header first, then the pixels."""

import contextlib
import io
import os
import re
import stat
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pellucid import scratch
from pellucid.errors import ImageTooLargeError, UnreadableImageError, UnsupportedImageError, reason
from pellucid.image import ImageBuffer, Mode, SampleFormat, Source, fill_transparent
from pellucid.image_io import _exif as exif
from pellucid.image_io._color import RAMP, fits, tone_curve
from pellucid.image_io._formats import (
    BITS,
    COLORS,
    FORMATS,
    SAMPLES,
    SCALE,
    Array,
    PathLike,
    array,
    field,
    vips,
)
from pellucid.image_io._inspect import Facts, inspect

Create = Callable[[tuple[int, int, int]], Tensor]
_SPLIT = "Split it, or raise the limit where there is --max-pixels (in Python: Limits)."


@dataclass(frozen=True)
class Limits:
    """What a picture may ask for before it is decoded.

    Attributes:
        max_pixels: width times height. 250 million pixels take 3 GB as float32 RGB.
    """

    max_pixels: int = 250_000_000

    def check(self, width: int, height: int, name: str, remedy: str = _SPLIT) -> None:
        """Refuse a picture by its size, before it is decoded.

        Args:
            width, height: in pixels.
            name: of the picture, with which the sentence begins.
            remedy: what to do, as a sentence, where the limit is not the caller's to raise.

        Raises:
            ImageTooLargeError: more pixels than allowed.
        """
        if width * height > self.max_pixels:
            raise ImageTooLargeError(
                f"{name} is {width:,} x {height:,} pixels ({_count(width * height)}); the limit is "
                f"{_count(self.max_pixels)}. {remedy}"
            )


@dataclass(frozen=True)
class Header:
    """What a file says about its picture, before decoding.

    Attributes:
        width, height: pixels, upright.
        format, depth, mode: as in `pellucid.image.Source`.
        has_alpha: there is an alpha channel.
    """

    width: int
    height: int
    format: str
    depth: SampleFormat
    mode: Mode
    has_alpha: bool


def read_header(path: PathLike) -> Header:
    """What the file says about its picture, without decoding it.

    Raises:
        UnreadableImageError, UnsupportedImageError: as in `read_image`.
    """
    with opened(path) as stream:
        return _load(stream, str(path), None)[1]


def decode_header(data: bytes) -> Header:
    """As `read_header`, from the bytes of a file.

    Raises:
        UnreadableImageError, UnsupportedImageError: as in `read_image`.
    """
    return _load(io.BytesIO(data), "The picture", None)[1]


def read_image(path: PathLike, *, limits: Limits | None = None, create: Create | None = None) -> ImageBuffer:
    """The picture in a JPEG, PNG, TIFF, WebP or AVIF file, whatever its suffix.

    Float samples outside [0, 1] are clamped. CMYK becomes sRGB.

    Args:
        path: the file.
        limits: checked from the header, before decoding; the defaults of `Limits` if none are given.
        create: gives float32 tensors for colors and alpha by their shapes (C, H, W); by default they are in
            memory. Into one in a file (see `pellucid.scratch`) the picture is decoded row by row, though
            colors under full transparency still take memory.

    Raises:
        UnreadableImageError: missing, not a picture, cut short or damaged.
        UnsupportedImageError: another format, several pages or frames, or samples of another sort.
        ImageTooLargeError: more pixels than `limits` allow.
        PellucidError: whatever `create` raises.
    """
    with opened(path) as stream:
        state = file_state(stream.fileno())
        image = _decode(stream, str(path), limits or Limits(), create or _in_memory)
    return replace(image, source=replace(image.source, file=state and (Path(path).absolute(), state)))


def decode_image(data: bytes, *, limits: Limits | None = None) -> ImageBuffer:
    """As `read_image`, from the bytes of a file.

    Raises:
        UnreadableImageError, UnsupportedImageError, ImageTooLargeError: as there.
    """
    return _decode(io.BytesIO(data), "The picture", limits or Limits(), _in_memory)


def _in_memory(shape: tuple[int, int, int]) -> Tensor:
    return scratch.create(shape, torch.float32, None)


def file_state(file: PathLike | int) -> tuple[int, int, int] | None:
    """By what a file is known again without reading it: its inode, its bytes, its time of change in ns.

    Args:
        file: a path, or the descriptor of an open file.

    Returns:
        None if there is no such file.
    """
    try:
        found = os.stat(file)  # noqa: PTH116
    except (OSError, ValueError):  # told by who reads it
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def opened(path: PathLike) -> Generator[BinaryIO]:
    """A regular file, opened for reading.

    Raises:
        UnreadableImageError: missing, not a regular file, or not to be opened.
    """
    try:
        # A pipe or device would block, or never end: only the kind of file is asked before opening.
        mode = os.stat(path).st_mode  # noqa: PTH116
        if stat.S_ISDIR(mode):
            raise UnreadableImageError(f"{path} is a folder; expected a picture. Give a file in it.")
        if not stat.S_ISREG(mode):
            raise UnreadableImageError(
                f"{path} is not a regular file; expected a picture. Copy it to a file."
            )
        file = Path(path).open("rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise UnreadableImageError(
            f"There is no file {os.fspath(path) or repr('')}. Check the path."
        ) from error
    except (OSError, ValueError) as error:
        raise UnreadableImageError(
            f"{path} can't be opened: {reason(error)}. Check the path and its permissions."
        ) from error
    with file:
        yield file


def _load(stream: BinaryIO, name: str, limits: Limits | None) -> tuple[Any, Header, Facts]:
    """libvips' image, not decoded yet, its header, and what else the file says.

    From here on the stream belongs to libvips, which reads on from where it left it.
    """
    facts = inspect(stream, name)
    file_format = facts.format
    if limits is not None and facts.size is not None:
        limits.check(*facts.size, name)
    pyvips = vips()
    try:
        # A source, not a path: libvips caches by path and reads options out of brackets in a name.
        if isinstance(stream, io.BytesIO):
            source = pyvips.Source.new_from_memory(stream.getvalue())
        else:
            source = pyvips.Source.new_from_descriptor(stream.fileno())
        loader = getattr(pyvips.Image, f"{file_format}load_source")
        image = loader(source, access="sequential", fail_on="error")
    except pyvips.Error as error:
        raise _unreadable(name, file_format, error) from error
    if (pages := field(image, "n-pages", 1)) > 1:
        raise UnsupportedImageError(
            f"{name} holds {pages} pages or frames; expected one picture. Split it up first."
        )
    depth = SAMPLES.get(image.format)
    if depth is None:
        raise UnsupportedImageError(
            f"{name} stores {image.format} samples; expected 8- or 16-bit integers or 32-bit floats. "
            "Convert it first."
        )
    mode, colors = COLORS.get(image.interpretation, ("rgb", 0))
    if not colors or image.bands not in (colors, colors + 1):
        raise UnsupportedImageError(
            f"{name} has {image.bands} channels of {image.interpretation}; expected gray, RGB or CMYK, "
            "with or without one alpha. Convert it first."
        )
    if field(image, "palette", 0):
        mode = "palette"
    width, height = image.width, image.height
    if limits is not None:
        limits.check(width, height, name)
    if field(image, "orientation", 1) >= 5:
        width, height = height, width
    return image, Header(width, height, file_format, depth, mode, image.bands > colors), facts


def _decode(stream: BinaryIO, name: str, limits: Limits, create: Create) -> ImageBuffer:
    image, header, facts = _load(stream, name, limits)
    source = _source(image, header, facts)
    pyvips = vips()
    try:
        pixels, alpha = _planes(image, header, source, name, create)
    except pyvips.Error as error:
        raise _unreadable(name, header.format, error) from error
    if alpha is None or not bool((alpha == 0).any()):
        return ImageBuffer(pixels, alpha, source)
    source = replace(source, hidden=pixels[:, alpha[0] == 0])
    return ImageBuffer(fill_transparent(pixels, alpha), alpha, source)


def _source(image: Any, header: Header, facts: Facts) -> Source:
    block = facts.exif or field(image, "exif-data", None)
    across, down = float(image.xres), float(image.yres)
    if field(image, "orientation", 1) >= 5:
        across, down = down, across
    # libvips gives 72 or 25.4 dots per inch where the file says nothing, and adds the tag to EXIF without it.
    stated = facts.states_resolution or (block is not None and exif.states_resolution(block))
    icc = field(image, "icc-profile-data", None)
    if header.mode == "cmyk" or (facts.display_p3 and icc is None):
        icc = vips().Operation.call("profile_load", "p3" if facts.display_p3 else "srgb")
    return Source(
        format=header.format,
        depth=header.depth,
        mode=header.mode,
        bits=field(image, "bits-per-sample", 8) if header.format == "heif" else BITS[header.depth],
        lossless=facts.lossless,
        icc=icc if fits(icc, "rgb" if header.mode == "cmyk" else header.mode) else None,
        exif=exif.upright(block, header.width, header.height) if block else None,
        xmp=_upright_xmp(field(image, "xmp-data", None)),
        iptc=facts.iptc if header.format == "tiff" else field(image, "iptc-data", None),
        dots_per_mm=(across, down) if stated and min(across, down) > 0 else None,
    )


def _upright_xmp(block: bytes | None) -> bytes | None:
    """The block with `tiff:Orientation` 1, as an attribute or an element."""
    return block and re.sub(rb"(\btiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]\b", rb"\g<1>1", block)


def _planes(
    image: Any, header: Header, source: Source, name: str, create: Create
) -> tuple[Tensor, Tensor | None]:
    """Colors (3, H, W) and alpha (1, H, W), upright, float32 in [0, 1]; decodes the picture."""
    orientation, scale = field(image, "orientation", 1), SCALE[header.depth]
    height, width, shift = image.height, image.width, 0
    if header.mode == "cmyk":
        image, scale = _to_srgb(image, header), SCALE["uint16"]
    elif header.format == "heif" and header.depth == "uint16":  # libvips moves the bits to the top
        scale, shift = 2**source.bits - 1, 16 - source.bits
    curve = None if header.mode == "cmyk" else tone_curve(source.icc)
    colors, above, highest = image.bands - header.has_alpha, 0, 0.0
    size = header.height, header.width
    pixels, alpha = create((3, *size)), create((1, *size)) if header.has_alpha else None
    turned = [_as_stored(plane, orientation) for plane in pixels.numpy()]
    opacity = [] if alpha is None else [_as_stored(alpha[0].numpy(), orientation)]
    in_file = scratch.folder_of(pixels) is not None
    for rows in scratch.bands(height, 4 * width * image.bands) if in_file else [slice(0, height)]:
        stored = array(image, rows if in_file else None)
        for channel, plane in enumerate((*turned[:colors], *opacity)):
            samples, band = stored[..., channel], plane[rows]
            if shift:
                samples = samples >> shift
            np.divide(samples, scale, out=band, dtype=np.float32, casting="same_kind")
            if header.depth == "float32":
                if not np.isfinite(band).all():
                    raise UnsupportedImageError(
                        f"{name} has NaN or infinite samples; expected numbers from 0 to 1. "
                        "Replace them first."
                    )
                if channel < colors:
                    above += int((band > 1).sum())
                    highest = max(highest, float(band.max()))
                np.clip(band, 0, 1, out=band)
            if curve is not None and channel < colors:
                band[...] = np.interp(band, RAMP, curve)
        for plane in turned[colors:]:  # of gray, the other two are copies
            plane[rows] = turned[0][rows]
    if above > height * width * colors / 2:
        raise UnsupportedImageError(
            f"{name} has more than half of its float samples above 1 (up to {highest:.4g}); "
            "expected a scale from 0 to 1. Divide by the white level first."
        )
    return pixels, alpha


def _to_srgb(image: Any, header: Header) -> Any:
    """CMYK as sRGB of 16 bits, so that the conversion adds no second rounding; alpha stays, in 16 bits."""
    whole = image.copy_memory()  # read twice: ink and alpha
    ink = whole[:4].copy(interpretation="cmyk")
    color = ink.icc_transform("srgb", embedded=True, input_profile="cmyk", intent="relative", depth=16)
    if not header.has_alpha:
        return color
    alpha = whole[4] if header.depth == "uint16" else (whole[4] * 257).cast("ushort")
    return color.bandjoin(alpha)


def _as_stored(plane: Array, orientation: int) -> Array:
    """A view of an upright plane (H, W), turned as the file stores it (EXIF 1 to 8)."""
    if orientation >= 5:
        plane = plane.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        plane = plane[::-1] if orientation in (3, 4) else plane[:, ::-1]
    if orientation in (2, 3, 6, 7):
        plane = plane[:, ::-1] if orientation in (2, 3) else plane[::-1]
    return plane


def _count(pixels: int) -> str:
    for unit, name in ((10**9, "Gpx"), (10**6, "Mpx")):
        if pixels >= unit:
            return f"{pixels / unit:.3g} {name}"
    return f"{pixels:,} px"


def _unreadable(name: str, file_format: str, error: Exception) -> UnreadableImageError:
    """libvips' many lines as one clause; the last is the most particular."""
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    detail = f" ({lines[-1]})" if lines else ""
    title = FORMATS[file_format].title
    return UnreadableImageError(
        f"{name} begins as {title} but is cut short or damaged{detail}. Get the file again."
    )
