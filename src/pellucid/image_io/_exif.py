"""The EXIF block: corrected in place, and put into an encoded file byte for byte.

libvips rebuilds EXIF on writing: maker notes move, unknown tags go, and files that had none get one. Here the
block stays as the camera wrote it, but for the facts that a restored, upright picture makes false. A block is
a small TIFF file (EXIF 2.32, section 4.5), without the "Exif\\0\\0" mark that JPEG puts before it.
"""

import contextlib
import io
import mmap
import struct
import zlib
from typing import BinaryIO

MARK = b"Exif\0\0"
ORIENTATION, X_RESOLUTION, RESOLUTION_UNIT, IPTC = 0x0112, 0x011A, 0x0128, 0x83BB
_RESOLUTION = (X_RESOLUTION, 0x011B, RESOLUTION_UNIT)
_EXIF_POINTER, _GPS_POINTER = 0x8769, 0x8825
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_THUMBNAIL, _THUMBNAIL_BYTES = 0x0201, 0x0202
_INTEROPERABILITY_POINTER = 0xA005  # a third level of directories; two text tags nobody misses
# What a TIFF keeps in its own first directory: description, make, model, software, date, artist, copyright.
_DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 33432)
_UNIT = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}  # bytes, by type
_PAIRED = (5, 10)  # rationals are two units
_MOST = 1 << 24  # bytes in all values of a directory; more is an attack, not metadata

Buffer = bytes | bytearray | mmap.mmap
Entry = tuple[int, int, bytes]
"""Type, count and value of a tag."""


def upright(block: bytes, width: int, height: int) -> bytes:
    """The block of a picture that was turned upright and restored.

    Orientation becomes 1, the stated pixel dimensions become those given (pixels), and the thumbnail, which
    shows the old picture, goes. A block too damaged to follow comes back corrected as far as possible.
    """
    edited = bytearray(block.removeprefix(MARK))
    try:
        order, first = _header(edited)
        entries, link = _positions(edited, order, first)
        _put(edited, order, entries.get(ORIENTATION), 1)
        (second,) = struct.unpack_from(order + "I", edited, link)
        if second:
            struct.pack_into(order + "I", edited, link, 0)
            _drop_thumbnail(edited, order, second)
        if _EXIF_POINTER in entries:
            (inner,) = struct.unpack_from(order + "I", edited, entries[_EXIF_POINTER] + 8)
            entries, _ = _positions(edited, order, inner)
            _put(edited, order, entries.get(_PIXEL_WIDTH), width)
            _put(edited, order, entries.get(_PIXEL_HEIGHT), height)
    except (struct.error, ValueError):
        pass
    return bytes(edited)


def _drop_thumbnail(block: bytearray, order: str, offset: int) -> None:
    entries, _ = _positions(block, order, offset)
    if _THUMBNAIL in entries and _THUMBNAIL_BYTES in entries:
        (start,) = struct.unpack_from(order + "I", block, entries[_THUMBNAIL] + 8)
        (length,) = struct.unpack_from(order + "I", block, entries[_THUMBNAIL_BYTES] + 8)
        end = min(start + length, len(block))
        if end == len(block):
            del block[start:]
        else:
            block[start:end] = bytes(end - start)


def without_place(block: bytes) -> bytes | None:
    """The block without its GPS directory, or none if it is too damaged to follow.

    It keeps its length, and all else its offset: those in a maker note hold on.
    """
    edited = bytearray(block.removeprefix(MARK))
    try:
        order, first = _header(edited)
        entries, _ = _positions(edited, order, first)
        if _GPS_POINTER in entries:
            _blank(edited, order, *struct.unpack_from(order + "I", edited, entries[_GPS_POINTER] + 8))
            _drop(edited, order, first, (_GPS_POINTER,))
    except (struct.error, ValueError):
        return None
    return bytes(edited)


def _blank(block: bytearray, order: str, offset: int) -> None:
    """Zeros over a directory and its values."""
    entries, link = _positions(block, order, offset)
    left = len(block)
    for entry in entries.values():
        kind, number, start = struct.unpack_from(order + "HII", block, entry + 2)
        length = number * _UNIT.get(kind, 0) * (2 if kind in _PAIRED else 1)
        if 4 < length <= left:
            left -= length
            end = min(start + length, len(block))
            block[start:end] = bytes(max(0, end - start))
    end = min(link + 4, len(block))
    block[offset:end] = bytes(end - offset)


def bare(block: bytes) -> bytes | None:
    """A block of what its picture needs: resolution, and orientation unless it is upright; or none."""
    block = block.removeprefix(MARK)
    order = "<" if block[:2] == b"II" else ">"
    main = first_directory(io.BytesIO(block))
    needed = _RESOLUTION if X_RESOLUTION in main else ()
    if integer(main.get(ORIENTATION), order) > 1:
        needed = (ORIENTATION, *needed)
    return _block(order, {tag: main[tag] for tag in needed if tag in main}, {}) if needed else None


def set_tag(data: bytearray | mmap.mmap, tag: int, value: int) -> None:
    """Set an integer tag of the first directory of a TIFF file or EXIF block, if it is there."""
    order, first = _header(data)
    _put(data, order, _positions(data, order, first)[0].get(tag), value)


def drop_resolution(data: bytearray) -> None:
    """Take the resolution out of the block, with its mark, in an encoded picture, which keeps its length."""
    start = max(data.find(MARK + order) for order in (b"II*\0", b"MM\0*")) + len(MARK)
    try:
        order, first = _header(data[start:])
        _drop(data, order, start + first, _RESOLUTION)
    except (struct.error, ValueError):
        return


def _drop(data: bytearray, order: str, offset: int, tags: tuple[int, ...]) -> None:
    """Take tags out of a directory, which keeps its length."""
    entries, link = _positions(data, order, offset)
    kept = [bytes(data[at : at + 12]) for tag, at in entries.items() if tag not in tags]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + data[link : link + 4]
    end = min(link + 4, len(data))
    data[offset:end] = directory.ljust(end - offset, b"\0")


def states_resolution(block: bytes) -> bool:
    """Whether the block, with or without its mark, has a resolution."""
    return X_RESOLUTION in first_directory(io.BytesIO(block.removeprefix(MARK)))


def first_directory(stream: BinaryIO) -> dict[int, Entry]:
    """The tags of a TIFF file's first directory; empty for BigTIFF and for a damaged one."""
    try:
        stream.seek(0)
        order, first = _header(stream.read(8))
        return _read(stream, order, first)
    except (struct.error, ValueError):
        return {}


def integer(entry: Entry | None, order: str) -> int:
    """The first number of a SHORT or LONG tag, 0 if there is none. `order` is "<" or ">"."""
    if entry is None or entry[0] not in (3, 4) or entry[1] < 1:
        return 0
    return int(struct.unpack_from(order + ("H" if entry[0] == 3 else "I"), entry[2])[0])


def from_tiff(stream: BinaryIO) -> bytes | None:
    """An EXIF block with what a TIFF file says in its descriptive tags and its EXIF and GPS directories."""
    main = first_directory(stream)
    stream.seek(0)
    order = "<" if stream.read(2) == b"II" else ">"
    subs: dict[int, dict[int, Entry]] = {}
    for pointer in (_EXIF_POINTER, _GPS_POINTER):
        if offset := integer(main.get(pointer), order):
            try:
                subs[pointer] = _read(stream, order, offset)
            except (struct.error, ValueError):
                continue  # a damaged directory is worth less than the picture
    own = {tag: main[tag] for tag in _DESCRIPTIVE if tag in main}
    return _block(order, own, subs) if own or subs else None


def embed(data: bytes, file_format: str, block: bytes, size: tuple[int, int]) -> bytes:
    """An encoded picture with the block in it.

    Args:
        data: what libvips wrote, without EXIF.
        file_format: "jpeg", "png" or "webp".
        block: without its mark. A JPEG can't hold more than 65,527 bytes; a longer block is left out.
        size: (width, height) in pixels.
    """
    if file_format == "jpeg":
        if len(block) > 65_527:
            return data
        after = 2
        if data[2:4] == b"\xff\xe0":  # JFIF wants to be first
            after += 2 + struct.unpack_from(">H", data, 4)[0]
        segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + MARK + block
        return data[:after] + segment + data[after:]
    if file_format == "png":
        return data[:33] + png_chunk(b"eXIf", block) + data[33:]  # signature 8 bytes, IHDR 25
    return _embed_webp(data, block, size)


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and payloads of a WebP file's chunks."""
    chunks, position = list[tuple[bytes, bytes]](), 12
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    while position + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from("<4sI", data, position)
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += 8 + length + (length & 1)
    return chunks


def webp_file(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A WebP file of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) & 1)
        for kind, payload in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _embed_webp(data: bytes, block: bytes, size: tuple[int, int]) -> bytes:
    chunks = webp_chunks(data)
    if chunks[0][0] != b"VP8X":
        # A simple file gets the extended header. Only VP8L can hold alpha without it (bit 28 of its header).
        kind, payload = chunks[0]
        alpha = kind == b"VP8L" and bool(payload[4] & 0x10)
        width, height = (struct.pack("<I", side - 1)[:3] for side in size)
        chunks.insert(0, (b"VP8X", bytes([0x10 if alpha else 0, 0, 0, 0]) + width + height))
    header = chunks[0][1]
    chunks[0] = (b"VP8X", bytes([header[0] | 0x08]) + header[1:])
    place = len(chunks) - (chunks[-1][0] == b"XMP ")
    chunks.insert(place, (b"EXIF", block))
    return webp_file(chunks)


def add_to_tiff(data: Buffer, block: bytes | None, iptc: bytes | None) -> tuple[bytes, bytes]:
    """What puts the block's tags into a TIFF file's directories, and the IPTC record as its own tag.

    Returns:
        The file's new first eight bytes, which point at a new first directory, and what is to be appended:
            that and the others. BigTIFF stays as it is.
    """
    try:
        order, first = _header(data)
    except ValueError:
        return bytes(data[:8]), b""
    stream = data if isinstance(data, mmap.mmap) else io.BytesIO(data)
    own = _read(stream, order, first, most=len(data))
    subs: dict[int, dict[int, Entry]] = {}
    if block:
        with contextlib.suppress(struct.error, ValueError):  # a damaged block gives what can be read
            theirs, first = _header(block)
            stream = io.BytesIO(block)
            main = _read(stream, theirs, first)
            own = {**_ordered({t: main[t] for t in _DESCRIPTIVE if t in main}, theirs, order), **own}
            for pointer in (_EXIF_POINTER, _GPS_POINTER):
                if offset := integer(main.get(pointer), theirs):
                    subs[pointer] = _ordered(_read(stream, theirs, offset), theirs, order)
    if iptc:
        own[IPTC] = (7, len(iptc), iptc)
    start = len(data) + (len(data) & 1)
    body, directory = _lay_out_all(order, own, subs, start)
    head = bytes(data[:4]) + struct.pack(order + "I", directory)
    return head, b"\0" * (start - len(data)) + body


def _header(data: Buffer) -> tuple[str, int]:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None:
        raise ValueError("not a TIFF structure")
    return order, struct.unpack_from(order + "I", data, 4)[0]


def _positions(data: Buffer, order: str, offset: int) -> tuple[dict[int, int], int]:
    """Where each tag's entry begins, and where the link to the next directory is."""
    (count,) = struct.unpack_from(order + "H", data, offset)
    fitting = max(0, (len(data) - offset - 2) // 12)
    starts = range(offset + 2, offset + 2 + 12 * min(count, fitting), 12)
    return {struct.unpack_from(order + "H", data, s)[0]: s for s in starts}, offset + 2 + 12 * count


def _put(data: bytearray | mmap.mmap, order: str, entry: int | None, value: int) -> None:
    if entry is not None:
        (kind,) = struct.unpack_from(order + "H", data, entry + 2)
        if kind in (3, 4):
            struct.pack_into(order + ("H" if kind == 3 else "I"), data, entry + 8, value)


def _read(stream: BinaryIO | mmap.mmap, order: str, offset: int, most: int = _MOST) -> dict[int, Entry]:
    stream.seek(offset)
    (count,) = struct.unpack(order + "H", stream.read(2))
    raw = stream.read(12 * count)
    entries: dict[int, Entry] = {}
    left = most
    for position in range(0, 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", raw, position)
        length = number * _UNIT.get(kind, 0) * (2 if kind in _PAIRED else 1)
        if not 0 < length <= left:
            continue
        left -= length
        value = raw[position + 8 : position + 8 + length]
        if length > 4:
            stream.seek(struct.unpack_from(order + "I", raw, position + 8)[0])
            value = stream.read(length)
        if len(value) == length:
            entries[tag] = (kind, number, value)
    return entries


def _ordered(directory: dict[int, Entry], theirs: str, order: str) -> dict[int, Entry]:
    """The directory with its numbers in another byte order."""
    if theirs == order:
        return directory
    swapped: dict[int, Entry] = {}
    for tag, (kind, count, value) in directory.items():
        unit = _UNIT[kind]
        units = (value[i : i + unit][::-1] for i in range(0, len(value), unit))
        swapped[tag] = (kind, count, b"".join(units))
    return swapped


def _block(order: str, main: dict[int, Entry], subs: dict[int, dict[int, Entry]]) -> bytes:
    """An EXIF block of these directories."""
    body, directory = _lay_out_all(order, main, subs, 8)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory) + body


def _lay_out_all(
    order: str, main: dict[int, Entry], subs: dict[int, dict[int, Entry]], start: int
) -> tuple[bytes, int]:
    """The bytes of all directories, to stand at offset `start`, and the offset of the main one."""
    body, pointers = b"", dict[int, Entry]()
    for pointer, directory in subs.items():
        pointers[pointer] = (4, 1, struct.pack(order + "I", start + len(body)))
        kept = {tag: entry for tag, entry in directory.items() if tag != _INTEROPERABILITY_POINTER}
        body += _lay_out(order, kept, start + len(body))
    return body + _lay_out(order, {**main, **pointers}, start + len(body)), start + len(body)


def _lay_out(order: str, directory: dict[int, Entry], start: int) -> bytes:
    table, values = struct.pack(order + "H", len(directory)), b""
    after = start + 2 + 12 * len(directory) + 4
    for tag, (kind, count, value) in sorted(directory.items()):
        table += struct.pack(order + "HHI", tag, kind, count)
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", after + len(values))
            values += value + b"\0" * (len(value) & 1)
    return table + bytes(4) + values
