"""Picture files of data sets: which a folder holds, how large they are, and their pixels.

Beside the formats of `pellucid.image_io` these are bitmaps (WED comes as such), which libvips does not read.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from pellucid.errors import InputError, UnreadableImageError, UnsupportedImageError, some
from pellucid.image_io import IMAGE_SUFFIXES, Limits, read_header, read_image

SUFFIXES = (*IMAGE_SUFFIXES, ".bmp")
_TAIL = 1 << 16  # bytes at a file's end in which its last marker is looked for
_BMP_HEAD = 54


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, links followed, each folder once.

    Raises:
        InputError: the folder can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename} can't be listed: {error.strerror}. Give an existing folder that may be read."
        )

    seen: set[str] = set()
    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(where, name) for name in sorted(files))


def pictures_below(folder: Path) -> list[Path]:
    """The files below a folder that are pictures by their suffix.

    Raises:
        InputError: it can't be listed, or there are none.
    """
    if found := [path for path in walk(folder) if path.suffix.lower() in SUFFIXES]:
        return found
    raise InputError(
        f"{folder} holds no pictures; expected files ending in {', '.join(SUFFIXES)}. Give another folder."
    )


def by_name(folder: Path, files: Iterable[Path]) -> dict[Path, Path]:
    """Pictures below a folder by their paths in it, without suffix.

    Raises:
        InputError: two have the same name but for the suffix.
    """
    named: dict[Path, Path] = {}
    for path in files:
        if (other := named.setdefault(path.relative_to(folder).with_suffix(""), path)) != path:
            raise InputError(
                f"{folder} holds both {other.name} and {path.name}; pictures go by the name without suffix. "
                "Rename one of them."
            )
    return named


def paired(folder: Path, list_pictures: Callable[[Path], Iterable[Path]]) -> list[tuple[Path, Path]]:
    """The pictures of `folder/degraded`, each with that of the same name in `folder/clean`.

    Args:
        folder: with the two folders in it.
        list_pictures: the pictures of one of them, in the order of the pairs.

    Raises:
        InputError: names repeat or have no partner.
    """
    degraded, clean = (by_name(side, list_pictures(side)) for side in (folder / "degraded", folder / "clean"))
    if lonely := [path for name, path in (degraded | clean).items() if (name in degraded) != (name in clean)]:
        raise InputError(
            f"{folder} has pictures without a partner: "
            f"{some([path.relative_to(folder).as_posix() for path in lonely])}. "
            "Each needs one of the same name (the suffix may differ) in the other of degraded and clean."
        )
    return [(path, clean[name]) for name, path in degraded.items()]


def folder_of(root: Path, name: str) -> Path:
    """Where a data set lies below a root: in a folder of its own name, if there is one."""
    return root / name if (root / name).is_dir() else root


def check_regular(path: Path) -> None:
    """Refuse what is no file: a pipe or a device would block, or never end.

    Raises:
        UnreadableImageError: not a regular file.
    """
    if not path.is_file():
        raise UnreadableImageError(
            f"{path} is not a regular file, or leads nowhere; expected a picture. Remove it."
        )


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height, upright, from the header alone; the file's end must be there.

    Raises:
        UnreadableImageError: not a picture, or cut short.
        UnsupportedImageError: a picture of a sort that isn't handled.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(_BMP_HEAD)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - _TAIL))
            tail = file.read()
    except OSError as error:
        raise UnreadableImageError(
            f"{path} can't be read: {error.strerror}. Check its permissions."
        ) from error
    if head[:2] == b"BM":
        width, height, _, needed = _bmp_header(head, str(path))
        if length < needed:
            raise _short(str(path))
        return width, height
    ends = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PN": b"IEND"}.get(head[:3])
    if ends is not None and ends not in tail and not (head[:2] == b"\xff\xd8" and _jpeg_ends(path)):
        raise _short(str(path))
    header = read_header(path)
    return header.width, header.height


def _jpeg_ends(path: Path) -> bool:
    """Whether a JPEG has an end, wherever; phones put whole films behind it.

    Its data hold no end marker, but the thumbnail in its head does, so that is passed over.
    """
    data, at = path.read_bytes(), 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":  # until the first scan
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) >= 0


def read_pixels(path: Path) -> Tensor:
    """(H, W, 3) uint8, upright.

    Raises:
        UnreadableImageError, UnsupportedImageError, ImageTooLargeError: as in `pellucid.read_image`.
        OSError: the file can't be opened.
    """
    with path.open("rb") as file:
        if file.read(2) == b"BM":
            return _bmp_pixels(path.read_bytes(), str(path))
    return read_image(path).pixels.mul(255).round().byte().permute(1, 2, 0).contiguous()


def _bmp_header(head: bytes, name: str) -> tuple[int, int, int, int]:
    """Width, height (negative: rows from the top), bytes per pixel, bytes of the file."""
    if len(head) < _BMP_HEAD:
        raise _short(name)
    start, size, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", head, 10)
    if size < 40 or bits not in (24, 32) or compression != 0 or width <= 0 or height == 0:
        raise UnsupportedImageError(
            f"{name} is a bitmap of {bits} bits, compression {compression}; expected 24 or 32 bits, "
            "uncompressed. Convert it to PNG."
        )
    return width, abs(height), bits // 8, start + _bmp_stride(width, bits // 8) * abs(height)


def _bmp_stride(width: int, channels: int) -> int:
    """Bytes of a row, which is padded to a multiple of four."""
    return (width * channels + 3) // 4 * 4


def _bmp_pixels(data: bytes, name: str) -> Tensor:
    width, height, channels, needed = _bmp_header(data[:_BMP_HEAD], name)
    Limits().check(width, height, name)
    if len(data) < needed:
        raise _short(name)
    start, stored_height = struct.unpack_from("<I", data, 10)[0], struct.unpack_from("<i", data, 22)[0]
    stride = _bmp_stride(width, channels)
    rows = torch.frombuffer(bytearray(data[start:needed]), dtype=torch.uint8).reshape(height, stride)
    rows = rows[:, : width * channels].reshape(height, width, channels)[..., [2, 1, 0]]  # stored as BGR
    return rows.flip(0) if stored_height > 0 else rows


def _short(name: str) -> UnreadableImageError:
    return UnreadableImageError(f"{name} is cut short: its end is missing. Get the file again.")
