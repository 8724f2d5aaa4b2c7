"""What a file's own bytes say that libvips doesn't, or says less clearly; read before libvips is asked."""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from pellucid.errors import UnreadableImageError, UnsupportedImageError
from pellucid.image_io import _exif as exif
from pellucid.image_io._formats import FILM, FOREIGN, MAGIC, MATROSKA, READABLE

_DNG_VERSION, _SUBFILE_TYPE, _BITS, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 50706, 254, 258, 338, 339
_PHOTOMETRIC, _LAB = 262, (8, 9, 10)  # CIELAB, its ICC and its ITU variant
_ALPHA = (1, 2)  # of extra samples: associated or not; 0 is anything else
_SRGB_LIKE, _P3 = (1, 2, 5, 6), 12  # color primaries, ITU-T H.273 table 2
_PQ_AND_HLG = (16, 18)  # transfer characteristics, ITU-T H.273 table 3


@dataclass(frozen=True)
class Facts:
    """What was found.

    Attributes:
        format: as in `pellucid.image.Source`.
        size: (width, height) as stored, if known without libvips.
        states_resolution: outside of EXIF; libvips gives a number in any case.
        lossless: a losslessly coded WebP.
        display_p3: an AVIF or PNG that says so by code points instead of a profile.
        exif, iptc: metadata that libvips leaves in a TIFF, or reads a quarter of.
    """

    format: str
    size: tuple[int, int] | None = None
    states_resolution: bool = False
    lossless: bool = False
    display_p3: bool = False
    exif: bytes | None = None
    iptc: bytes | None = None


def inspect(stream: BinaryIO, name: str) -> Facts:
    """Read the stream's beginning and leave it rewound.

    Raises:
        UnreadableImageError: empty, or not a picture by its first bytes.
        UnsupportedImageError: a format or sort of picture that isn't handled, above all those of which
            libvips would show only the first or smallest part, or wrong colors, without a word.
    """
    file_format = _format_of(stream.read(512), name)
    look = {"jpeg": _jpeg, "png": _png, "tiff": _tiff, "webp": _webp, "heif": _avif}[file_format]
    stream.seek(0)
    try:
        return look(stream, name)
    finally:
        stream.seek(0)


def _format_of(head: bytes, name: str) -> str:
    """The format by its first bytes; libvips is only ever handed to the loader of that name."""
    if not head:
        raise UnreadableImageError(f"{name} is empty (0 bytes). Get the file again.")
    for magic, file_format in MAGIC:
        if head.startswith(magic):
            return file_format
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        brands = head[8 : struct.unpack(">I", head[:4])[0]]
        if b"avif" in brands and b"avis" not in brands:
            return "heif"
        if brands.startswith(FILM):
            raise UnsupportedImageError(_film(name))
        what = (
            "an animated AVIF" if b"avis" in brands else "a HEIC, a camera raw or another file of its family"
        )
        raise UnsupportedImageError(f"{name} is {what}; expected {READABLE}. Convert it first.")
    if head.startswith(MATROSKA) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        raise UnsupportedImageError(_film(name))
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what in FOREIGN:
        if text.startswith(magic):
            raise UnsupportedImageError(f"{name} is {what}; expected {READABLE}. Convert it first.")
    raise UnreadableImageError(
        f"{name} is not a picture: it does not begin as {READABLE} does. Check the file."
    )


def _film(name: str) -> str:
    return (
        f"{name} is a film; expected {READABLE}. "
        "Give it to pellucid restore alone, under a film's name (.mp4, .mkv and the like)."
    )


def _jpeg(stream: BinaryIO, name: str) -> Facts:  # noqa: ARG001
    head = stream.read(14)
    return Facts("jpeg", states_resolution=head[6:11] == b"JFIF\0" and head[13:14] in (b"\1", b"\2"))


def _png(stream: BinaryIO, name: str) -> Facts:
    head = stream.read(24)
    size = struct.unpack(">II", head[16:24]) if head[12:16] == b"IHDR" and len(head) == 24 else None
    states_resolution = display_p3 = False
    stream.seek(8)
    while len(start := stream.read(8)) == 8 and start[4:] != b"IDAT":
        if start[4:] == b"acTL":
            raise UnsupportedImageError(
                f"{name} is an animated PNG; expected one picture. Split it into single pictures first."
            )
        states_resolution |= start[4:] == b"pHYs"
        after = stream.tell() + struct.unpack(">I", start[:4])[0] + 4
        if start[4:] == b"cICP" and len(codes := stream.read(2)) == 2:
            display_p3 = _is_p3(name, "PNG", *codes)
        stream.seek(after)
    return Facts("png", size, states_resolution, display_p3=display_p3)


def _webp(stream: BinaryIO, name: str) -> Facts:  # noqa: ARG001
    stream.seek(12)
    while len(start := stream.read(8)) == 8 and start[:4] not in (b"VP8L", b"VP8 "):
        length = struct.unpack("<I", start[4:])[0]
        stream.seek(length + (length & 1), io.SEEK_CUR)
    return Facts("webp", lossless=start[:4] == b"VP8L")


def _avif(stream: BinaryIO, name: str) -> Facts:
    head = stream.read(1 << 16)
    place = head.find(b"colrnclx")
    if place < 0 or b"colrprof" in head or b"colrrICC" in head or len(head) < place + 12:
        return Facts("heif")  # without code points, or with a profile, which overrides them
    primaries, transfer = struct.unpack_from(">HH", head, place + 8)
    return Facts("heif", display_p3=_is_p3(name, "AVIF", primaries, transfer))


def _is_p3(name: str, title: str, primaries: int, transfer: int) -> bool:
    """Whether code points mean Display P3; else they mean sRGB, or are refused."""
    if transfer in _PQ_AND_HLG or primaries not in (*_SRGB_LIKE, _P3):
        raise UnsupportedImageError(
            f"{name} is an HDR or BT.2020 {title} (H.273 codes {primaries}, {transfer}); expected sRGB, "
            "Display P3 or an ICC profile. Convert it first."
        )
    return primaries == _P3


def _tiff(stream: BinaryIO, name: str) -> Facts:
    tags = exif.first_directory(stream)
    stream.seek(0)
    order = "<" if stream.read(1) == b"I" else ">"
    # Camera raws are TIFFs that begin with a small preview (bit 0 of NewSubfileType), or name a DNG version.
    if _DNG_VERSION in tags or exif.integer(tags.get(_SUBFILE_TYPE), order) & 1:
        raise UnsupportedImageError(
            f"{name} is a camera raw file or begins with a reduced preview; expected a plain TIFF. "
            "Develop it to TIFF first."
        )
    # Not converted: sRGB lacks many of its colors, and which white they are told from differs by program.
    if exif.integer(tags.get(_PHOTOMETRIC), order) in _LAB:
        raise UnsupportedImageError(
            f"{name} stores L*a*b* colors (CIELAB); expected gray, RGB or CMYK. Convert it to RGB first, "
            "with a profile as wide as its colors."
        )
    bits = exif.integer(tags.get(_BITS), order) or 1
    kind = exif.integer(tags.get(_SAMPLE_FORMAT), order) or 1
    if (kind == 1 and bits > 16) or (kind == 3 and bits != 32) or kind not in (1, 3, 4):
        sort = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(kind, "complex")
        raise UnsupportedImageError(
            f"{name} stores {bits}-bit {sort} samples; expected 8- or 16-bit unsigned or 32-bit "
            "floating-point ones. Convert it first."
        )
    if _EXTRA_SAMPLES in tags and exif.integer(tags[_EXTRA_SAMPLES], order) not in _ALPHA:
        raise UnsupportedImageError(
            f"{name} has a channel beside its colors that is no alpha (a saved selection, or infrared); "
            "expected colors with or without alpha. Save it without that channel first."
        )
    unit = exif.integer(tags.get(exif.RESOLUTION_UNIT), order) or 2
    states_resolution = exif.X_RESOLUTION in tags and unit != 1  # 1: a mere ratio of the sides
    iptc = tags[exif.IPTC][2] if exif.IPTC in tags else None
    return Facts("tiff", None, states_resolution, exif=exif.from_tiff(stream), iptc=iptc)
