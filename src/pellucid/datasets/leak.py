"""Test pictures among training pictures, found by content and not by name.

Three ways, each finding what the one before misses: the bytes of the files; the decoded RGB pixels, so that a
PNG copy of a JPEG is found; and, if asked for, a perceptual hash of 64 bits, for copies that were saved again
or resized, and for other pictures of the same scene. Flipped, rotated and cropped copies are not found.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.checkpoint import hash_file
from pellucid.data import paths_of_row, rows_of_split
from pellucid.datasets.files import check_regular, picture_size, pictures_below, read_pixels
from pellucid.errors import InputError, LeakError, PellucidError, some

PathLike = str | os.PathLike[str]
Progress = Callable[[int, int], None]  # called with (pictures done, pictures in all)

# Measured on 301 photographs: copies (JPEG of quality 20, half the size, cropped by 15 pixels, darkened, with
# noise of sigma 25) differ from them by 6 bits or fewer, and no two of them by fewer than 16.
NEAR = 8
_STRENGTH = ("file", "pixels", "near")
_FLAT = 64.0  # cosine coefficients below that are less than a gray level's worth of variation


@dataclass(frozen=True)
class Leak:
    """A test picture that is among the training pictures.

    Attributes:
        train, test: paths of the two files.
        by: "file" for equal bytes, "pixels" for equal pixels, "near" for perceptual hashes that are close.
        distance: bits in which the perceptual hashes differ; none if they were not compared.
    """

    train: str
    test: str
    by: str
    distance: int | None = None


@dataclass(frozen=True)
class LeakReport:
    """What a comparison found.

    Attributes:
        train, test: numbers of pictures.
        leaks: by test picture.
        unread: pictures that could not be read, so that nothing is said about them, with the reason.
    """

    train: int
    test: int
    leaks: tuple[Leak, ...]
    unread: Mapping[str, str]

    @property
    def leaked(self) -> int:
        """Test pictures with a copy among the training pictures."""
        return len({leak.test for leak in self.leaks})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "leaked": self.leaked, "ok": not self.leaks and not self.unread}

    def __str__(self) -> str:
        if not self.leaks:
            return f"none of the {self.test:,} test pictures is among the {self.train:,} training pictures"
        named = some([f"{leak.test} as {leak.train} ({leak.by})" for leak in self.leaks])
        return f"{self.leaked:,} of {self.test:,} test pictures are training pictures: {named}"


@dataclass
class _Picture:
    path: Path
    sha256: str | None = None  # of the file, if a manifest states it
    size: tuple[int, int] | None = None
    pixels: bytes = b""
    perceptual: Tensor | None = None


def find_leaks(
    train: Sequence[PathLike],
    test: Sequence[PathLike],
    *,
    near: int | None = None,
    progress: Progress | None = None,
) -> LeakReport:
    """Look for test pictures among training pictures.

    Without `near` only pictures are decoded whose size is that of a picture on the other side.

    Args:
        train: files, and folders, searched in depth. Of a folder of shards, the pictures that training takes
            of its `manifest.json`, with the hashes that it states; what validation uses, too, is held back.
        test: files, and folders, searched in depth. Of a folder of shards, the pictures for validation.
        near: also compare perceptual hashes, and report pictures that differ in so many bits or fewer; `NEAR`
            suits copies.
        progress: called with (pictures done, pictures in all).

    Raises:
        InputError: a folder can't be listed or holds no pictures.
    """
    sides = _pictures(train, "train"), _pictures(test, "val")
    unread: dict[str, str] = {}
    done, total = 0, len(sides[0]) + len(sides[1])

    def read(pictures: Iterable[_Picture], what: Callable[[_Picture], object]) -> None:
        nonlocal done
        for picture in pictures:
            try:
                what(picture)
            except (PellucidError, OSError) as error:
                unread[str(picture.path)] = str(error)
            done += 1
            if progress is not None:
                progress(done, total)

    for side in sides:
        read(side, _read_head)
    shared = {p.size for p in sides[0]} & {p.size for p in sides[1]} - {None}
    wanted = [
        picture
        for picture in (*sides[0], *sides[1])
        if picture.size is not None and (near is not None or picture.size in shared)
    ]
    total += len(wanted)
    read(wanted, _read_pixels if near is None else _read_all)
    return LeakReport(len(sides[0]), len(sides[1]), _compare(sides[0], sides[1], near), unread)


def refuse_leaks(
    train: Sequence[PathLike],
    test: Sequence[PathLike],
    *,
    allow_leak: bool = False,
    near: int | None = None,
    progress: Progress | None = None,
) -> LeakReport:
    """Refuse training pictures that hold a test picture; for whoever is about to train.

    Args:
        train, test, near, progress: as in `find_leaks`.
        allow_leak: give the report in any case.

    Raises:
        LeakError: test pictures are among the training pictures.
        InputError: pictures that can't be read, so that they can't be ruled out.
    """
    report = find_leaks(train, test, near=near, progress=progress)
    if report.leaks and not allow_leak:
        raise LeakError(f"{str(report)[0].upper()}{str(report)[1:]}. Remove them, or say --allow-leak.")
    if report.unread and not allow_leak:
        first = next(iter(report.unread.values()))
        raise InputError(
            f"{len(report.unread)} pictures could not be compared with the test pictures; the first: {first} "
            "Repair or remove them, or say --allow-leak."
        )
    return report


def perceptual_hash(pixels: Tensor) -> Tensor | None:
    """64 signs that change little when a picture is saved again or resized; none for one flat color.

    The picture is reduced to 32 x 32 gray levels. Each value, +1 or -1, says on which side of their median
    one of the 8 x 8 lowest cosine coefficients lies.

    Args:
        pixels: (H, W, 3) uint8.
    """
    gray = pixels.float() @ torch.tensor([0.299, 0.587, 0.114])
    small = F.adaptive_avg_pool2d(gray[None, None], 32)[0, 0]
    n = torch.arange(32)
    cosines = torch.cos(math.pi / 32 * (n + 0.5) * torch.arange(8)[:, None])  # (8, 32)
    low = (cosines @ small @ cosines.T).flatten()
    if float(low[1:].abs().max()) < _FLAT:
        return None
    return (low > low[1:].median()).float() * 2 - 1  # the first is the mean, which shows nothing


def _pictures(folders: Sequence[PathLike], split: str) -> list[_Picture]:
    pictures: dict[Path, _Picture] = {}
    for folder in map(Path, folders):
        listed = [_Picture(folder)] if folder.is_file() else _shard_pictures(folder, split)
        if listed is None:
            listed = [_Picture(path) for path in pictures_below(folder)]
        if not listed:
            raise InputError(f"{folder} holds shards, but none of the split {split}. Give another folder.")
        pictures.update((picture.path, picture) for picture in listed)
    return list(pictures.values())


def _shard_pictures(folder: Path, split: str) -> list[_Picture] | None:
    """One split of a folder of shards; none if it is another folder."""
    try:
        rows: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
        hashes = {row["path"]: row["sha256"] for row in rows}
        named = (path for row in rows_of_split(rows, split) for path in paths_of_row(row))
        return [_Picture(folder / path, hashes.get(path)) for path in dict.fromkeys(named)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_head(picture: _Picture) -> None:
    check_regular(picture.path)
    if picture.sha256 is None:
        picture.sha256 = hash_file(picture.path)
    picture.size = picture_size(picture.path)


def _read_pixels(picture: _Picture) -> Tensor:
    pixels = read_pixels(picture.path)
    height, width = pixels.shape[:2]
    content = f"{width} {height} ".encode() + pixels.numpy().tobytes()
    picture.pixels = hashlib.sha256(content).digest()
    return pixels


def _read_all(picture: _Picture) -> None:
    picture.perceptual = perceptual_hash(_read_pixels(picture))


def _compare(train: list[_Picture], test: list[_Picture], near: int | None) -> tuple[Leak, ...]:
    by_file, by_pixels = _grouped(train, "sha256"), _grouped(train, "pixels")
    hashed = [(p.path, p.perceptual) for p in train if p.perceptual is not None]
    signs = torch.stack([signs for _, signs in hashed]) if hashed else torch.empty(0, 64)
    leaks: list[Leak] = []
    for picture in test:
        how: dict[Path, tuple[str, int | None]] = {}
        if near is not None and picture.perceptual is not None:
            distances = ((64 - signs @ picture.perceptual) / 2).int()
            for i in (distances <= near).nonzero()[:, 0].tolist():
                how[hashed[i][0]] = "near", int(distances[i])
        for by, matches in (
            ("pixels", by_pixels.get(picture.pixels, ())),
            ("file", by_file.get(picture.sha256, ())),
        ):
            for other in matches:
                how[other.path] = by, how.get(other.path, (by, None))[1]
        leaks += [Leak(str(path), str(picture.path), by, distance) for path, (by, distance) in how.items()]
    return tuple(sorted(leaks, key=lambda leak: (leak.test, _STRENGTH.index(leak.by), leak.train)))


def _grouped(pictures: Iterable[_Picture], key: str) -> dict[Any, list[_Picture]]:
    groups: dict[Any, list[_Picture]] = {}
    for picture in pictures:
        if value := getattr(picture, key):
            groups.setdefault(value, []).append(picture)
    return groups
