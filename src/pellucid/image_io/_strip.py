"""Metadata taken away on request: the place where a picture was taken, or all that its pixels don't need.

What can't be followed (a damaged block, another coding) goes whole: a place left over would be worse.
"""

import re
from dataclasses import replace
from typing import Literal, get_args

from pellucid.errors import InputError
from pellucid.image import ImageBuffer
from pellucid.image_io import _exif as exif
from pellucid.image_io._formats import SUFFIX
from pellucid.image_io._write import encode_image

Strip = Literal["gps", "all"]
"""What is taken away: "gps", the place; or "all", EXIF, XMP and IPTC."""

_PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC, _COPIES = b"\x04\x04", (b"\x04\x22", b"\x04\x23", b"\x04\x24")  # its resources; of EXIF and XMP
# IIM 4.2, record 2: content location code and name, city, sublocation, province, country code and name.
_PLACES = [bytes((2, number)) for number in (26, 27, 90, 92, 95, 100, 101)]
_NAMES = (
    rb"(?!xmlns:)[\w.-]+:(?i:GPS)[\w.-]*|photoshop:(?:City|State|Country)|Iptc4xmpCore:(?:Location|CountryCode)"
    rb"|Iptc4xmpExt:Location(?:Created|Shown)"
)
_ATTRIBUTE = re.compile(rb"(?<!\s)\s+(?:" + _NAMES + rb")\s*=\s*(?:\"[^\"]*\"|'[^']*')")
_ELEMENT = re.compile(rb"<(" + _NAMES + rb")(?=[\s/>])")
_TAG_END = re.compile(rb"(?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_XMP, _MORE_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
# Not in a scan's samples, where 00 or a restart follows FF, and not a marker without a length.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_NEEDED_JPEG = (b"JFIF\0", b"ICC_PROFILE\0", b"Adobe")  # the last says how colors are coded
_NEEDED_WEBP = (b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L")

CUT = ("jpeg", "webp")
"""Formats out of whose files metadata is cut; pictures of the others are encoded anew, without loss."""


def check_strip(what: Strip | None) -> None:
    """Refuse now, before long work, what `strip_image` would refuse later.

    Raises:
        InputError: no such word.
    """
    if what not in (None, *get_args(Strip)):
        raise InputError(f"strip is {what!r}; expected 'gps' or 'all'. Leave it out to keep all metadata.")


def strip_image(image: ImageBuffer, what: Strip | None) -> ImageBuffer:
    """The picture without the place in its metadata, or without metadata; profile and resolution stay.

    Args:
        image: what `read_image` gave, or with other pixels.
        what: "gps": EXIF's GPS directory, GPS and location properties of XMP, and location datasets of IPTC;
            "all": EXIF, XMP and IPTC, but for a resolution that only EXIF states; none: nothing.

    Raises:
        InputError: another word.
    """
    check_strip(what)
    if what is None:
        return image
    source = image.source
    # The others state a resolution elsewhere, and what was read is upright.
    needs_exif = what == "gps" or source.format in ("webp", "heif")
    return replace(
        image,
        source=replace(
            source,
            exif=_exif(source.exif, what) if source.exif and needs_exif else None,
            xmp=source.xmp and _xmp(source.xmp, what),
            iptc=source.iptc and _iptc(source.iptc, what),
        ),
    )


def strip_file(data: bytes, image: ImageBuffer, what: Strip | None) -> bytes:
    """A picture file without metadata, as `strip_image`, its samples untouched.

    Those of `CUT` keep their coded samples, and lose what follows the picture's end, an index of further
    pictures (MPF) and extended XMP. EXIF keeps an orientation. Of others only the picture is used.

    Args:
        data: the file.
        image: the picture in it, as `decode_image` gives it.
        what: as for `strip_image`.

    Raises:
        InputError: another word.
    """
    check_strip(what)
    if what is None:
        return data
    if image.source.format in CUT:
        return _jpeg(data, what) if image.source.format == "jpeg" else _webp(data, what)
    return encode_image(strip_image(image, what), SUFFIX[image.source.format], quality=100)


def _exif(block: bytes, what: Strip) -> bytes | None:
    kept = exif.without_place(block) if what == "gps" else None
    return kept or exif.bare(block)  # orientation and resolution, where these can be read


def _xmp(block: bytes, what: Strip) -> bytes | None:
    if what == "all" or b"\0" in block.rstrip(b"\0"):  # UTF-16
        return None
    block, kept, at = _ATTRIBUTE.sub(b"", block), list[bytes](), 0
    while (element := _ELEMENT.search(block, at)) is not None:
        if (tag := _TAG_END.match(block, element.end())) is None:
            return None
        kept.append(block[at : element.start()])
        at = tag.end()
        if block[at - 2 : at] != b"/>":
            closing = re.compile(rb"</" + re.escape(element[1]) + rb"\s*>").search(block, at)
            if closing is None:
                return None
            at = closing.end()
    return b"".join(kept) + block[at:]


def _iptc(block: bytes, what: Strip) -> bytes | None:
    """As TIFF has it, a row of datasets; as JPEG has it, among Photoshop's resources."""
    if what == "all":
        return None
    return _resources(block) if block.startswith(_PHOTOSHOP) else _datasets(block)


def _resources(block: bytes) -> bytes | None:
    kept, at = [_PHOTOSHOP], len(_PHOTOSHOP)
    while block[at : at + 4] == b"8BIM":  # kind, a name that is padded, length, payload
        start = at + 6 + ((int.from_bytes(block[at + 6 : at + 7]) + 2) & ~1)
        end = start + 4 + int.from_bytes(block[start : start + 4])
        head, payload, kind = block[at:start], block[start + 4 : end], block[at + 4 : at + 6]
        at = end + ((end - start) & 1)
        if kind == _IPTC:
            payload = _datasets(payload) or b""
        if kind not in _COPIES:
            kept.append(head + len(payload).to_bytes(4) + payload + b"\0" * (len(payload) & 1))
    return b"".join(kept) if kept[1:] else None


def _datasets(block: bytes) -> bytes | None:
    kept, at = list[bytes](), 0
    while block[at : at + 1] == b"\x1c":  # record, dataset, length of the payload or of its length, payload
        length, start = int.from_bytes(block[at + 3 : at + 5]), at + 5
        if length & 0x8000:
            start += length & 0x7FFF
            length = int.from_bytes(block[at + 5 : start])
        if block[at + 1 : at + 3] not in _PLACES:
            kept.append(block[at : start + length])
        at = start + length
    return b"".join(kept) or None


def _jpeg(data: bytes, what: Strip) -> bytes:
    kept, at = [data[:2]], 2
    while (marker := _MARKER.search(data, at)) is not None:
        kept.append(data[at : marker.start()])  # of a scan, its samples
        if marker[0] == b"\xff\xd9":
            return b"".join((*kept, marker[0]))
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
        payload = _segment(marker[1][0], data[marker.end() + 2 : at], what)
        if payload is not None:
            kept.append(marker[0] + (len(payload) + 2).to_bytes(2) + payload)
    return b"".join((*kept, data[at:]))


def _segment(kind: int, payload: bytes, what: Strip) -> bytes | None:
    """What stays of a JPEG segment's payload, if any; `kind` is its marker's second byte."""
    if kind == 0xE1 and payload.startswith(exif.MARK):
        block = _exif(payload, what)
        return block and exif.MARK + block
    if kind == 0xE1 and payload.startswith(_XMP):
        block = _xmp(payload[len(_XMP) :], what)
        return block and _XMP + block
    if kind == 0xED and payload.startswith(_PHOTOSHOP):
        return _iptc(payload, what)
    if payload.startswith((_MORE_XMP, b"MPF\0")):
        return None
    application = 0xE0 <= kind <= 0xEF or kind == 0xFE  # or a comment
    return None if what == "all" and application and not payload.startswith(_NEEDED_JPEG) else payload


def _webp(data: bytes, what: Strip) -> bytes:
    kept, flags = list[tuple[bytes, bytes]](), 0
    for kind, payload in exif.webp_chunks(data):
        if kind in (b"EXIF", b"XMP "):
            block = _exif(payload, what) if kind == b"EXIF" else _xmp(payload, what)
            if block:
                flags |= 0x08 if kind == b"EXIF" else 0x04
                kept.append((kind, block))
        elif what == "gps" or kind in _NEEDED_WEBP:
            kept.append((kind, payload))
    if kept[0][0] == b"VP8X":
        header = kept[0][1]
        kept[0] = (b"VP8X", bytes([header[0] & ~0x0C | flags]) + header[1:])
    return exif.webp_file(kept)
