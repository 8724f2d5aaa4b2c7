"""A folder of shards, as `pellucid train --data` takes it, from pictures of one's own.

Pictures are stored as PNG in 8 bits, upright. Each keeps, in its row of `manifest.json`, the hash of the
files that it was made of, so that nothing is added twice, and a perceptual hash, so that no scene is both
trained on and validated on.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor

from pellucid.checkpoint import hash_file
from pellucid.data import LEAST_SIDE, PAIR_KINDS, PAIR_ROLES, read_manifest, write_rgb8
from pellucid.datasets.files import check_regular, paired, pictures_below, read_pixels
from pellucid.datasets.leak import NEAR, perceptual_hash
from pellucid.datasets.training_pictures import packed
from pellucid.errors import InputError, PellucidError, RecipeError, UnknownNameError, reason, write_refusal
from pellucid.registry import unknown_name

HELD_OUT = 0.1  # share of the scenes that validation gets
LONG_SIDE = 768  # pixels; reduced so far, a photograph has hardly any noise or JPEG left
KINDS = {PAIR_KINDS[source]: roles for source, roles in PAIR_ROLES.items()}  # of pairs: clean, degraded
_STEM = 50  # characters of a picture's name that are kept


@dataclass
class Prepared:
    """What was added to a folder of shards.

    Attributes:
        train, val: pictures or pairs added for training and for validation.
        known: that were there already.
        left_out: files that could not be taken, with the reason.
    """

    train: int = 0
    val: int = 0
    known: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def prepare_shards(
    folder: str | os.PathLike[str],
    shards: str | os.PathLike[str],
    *,
    kind: str | None = None,
    drawings: bool = False,
    held_out: float = HELD_OUT,
    long_side: int | None = LONG_SIDE,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Add the pictures of a folder, searched in depth, to a folder of shards, which is made if missing.

    The manifest is written last, so what a kill interrupts is done again by the same call. A hidden file
    `.lock`, by which one process at a time adds to the folder, stays there.

    Args:
        folder: clean pictures; with `kind`, two folders `degraded` and `clean`, whose pictures have the same
            names but for the suffix.
        shards: folder with a `manifest.json`, or one to be made.
        kind: what is wrong with the degraded pictures, one of `KINDS`. They are stored in their size.
        drawings: these are drawings, pages and screens rather than photographs.
        held_out: share of the scenes for validation, in [0, 1); of fewer than five none by a tenth. A picture
            near one that is there (`leak.NEAR`) goes where that went.
        long_side: in pixels; larger clean pictures are reduced to it. None: they keep their size.
        progress: called with (pictures done, pictures in all).

    Raises:
        UnknownNameError: no such kind of pairs.
        InputError: a folder can't be listed, read or written, holds no pictures or other files than shards,
            another process adds to it, its manifest can't be read, names have no partner, or `held_out` is no
            such share.
    """
    if not 0 <= held_out < 1:
        raise InputError(f"held_out is {held_out}; expected a share of 0 or more, below 1.")
    if kind is not None and kind not in KINDS:
        raise UnknownNameError(unknown_name("kind of pairs", kind, list(KINDS)))
    if kind is not None and drawings:
        raise InputError("Pairs and drawings were asked for at once; expected one of them. Add them in turn.")
    folder, target = Path(folder), Path(shards)
    if target.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{target} lies in {folder}, whose pictures are to be added. Name a folder beside it."
        )
    sources = (
        [[clean, degraded] for degraded, clean in paired(folder, pictures_below)]
        if kind
        else [[path] for path in pictures_below(folder)]
    )
    with _held(target):
        rows = _open(target)
        roles = KINDS[kind] if kind else ("drawing" if drawings else "clean",)
        known = {row["made_of"] for row in rows if "made_of" in row}
        counts = Counter(row["split"] for row in rows if row["role"] == roles[0])
        sides = _Sides(target, rows)
        found = Prepared()
        # by their hashes, so that chance chooses what is held out, and the same each time
        hashed = sorted(_hashed(sources, found.left_out).items())
        for done, (made_of, files) in enumerate(hashed, 1):
            if made_of in known:
                found.known += 1
            elif (pictures := _read(files, long_side, found.left_out)) is not None:
                names = [f"{role}/{_plain(files[0].stem)}-{made_of[:12]}.png" for role in roles]
                hashes = [_store(pixels, target / name) for pixels, name in zip(pictures, names, strict=True)]
                scene = _scene(pictures[0])
                split = sides.of(scene, hashes) or _lacking(counts, held_out)
                for role, name, sha256 in zip(roles, names, hashes, strict=True):
                    row = {"path": name, "split": split, "role": role, "sha256": sha256}
                    rows.append(row | {"made_of": made_of, "scene": "" if scene is None else f"{scene:016x}"})
                sides.add(scene, hashes, split)
                counts[split] += 1
                found.val += split == "val"
                found.train += split == "train"
            if progress is not None:
                progress(done, len(hashed))
        _write(rows, target)
        return found


class _Sides:
    """On which side of the split scenes and files lie that are there already."""

    def __init__(self, shards: Path, rows: list[dict[str, Any]]) -> None:
        self.scenes: list[tuple[int, str]] = []
        self.files: dict[str, str] = {}
        degraded = {role for _, role in PAIR_ROLES.values()}
        for row in rows:
            if row["split"] not in ("train", "val"):
                continue
            if "made_of" in row:
                scene = int(row["scene"], 16) if row.get("scene") else None
            elif row["role"] in degraded:
                scene = None
            else:
                scene = _scene(read_pixels(shards / (row.get("gt") or row.get("rgb") or row["path"])))
            self.add(scene, [row["sha256"]], row["split"])

    def add(self, scene: int | None, hashes: list[str], split: str) -> None:
        if scene is not None:
            self.scenes.append((scene, split))
        self.files |= dict.fromkeys(hashes, split)

    def of(self, scene: int | None, hashes: list[str]) -> str | None:
        """The side of one of the files, or of the nearest scene, if it is near."""
        if sides := [self.files[sha256] for sha256 in hashes if sha256 in self.files]:
            return sides[0]
        near = [
            (distance, split)
            for other, split in self.scenes
            if scene is not None and (distance := (scene ^ other).bit_count()) <= NEAR
        ]
        return min(near)[1] if near else None


def _lacking(counts: Counter[str], held_out: float) -> str:
    """The side that lacks a picture."""
    return "val" if counts["val"] + 0.5 <= held_out * (counts["val"] + counts["train"] + 1) else "train"


def _scene(pixels: Tensor) -> int | None:
    """A perceptual hash as a number of 64 bits; none for one flat color."""
    signs = perceptual_hash(pixels)
    return None if signs is None else int.from_bytes(packed(signs))


def _hashed(sources: Iterable[list[Path]], left_out: dict[str, str]) -> dict[str, list[Path]]:
    """The files of each picture by a hash of their bytes; equal ones count once."""
    hashed: dict[str, list[Path]] = {}
    for files in sources:
        digest = hashlib.sha256()
        try:
            for file in files:
                check_regular(file)
                digest.update(hash_file(file).encode())
        except (PellucidError, OSError) as error:
            left_out[str(files[0])] = _told(files[0], error)
        else:
            hashed.setdefault(digest.hexdigest(), files)
    return hashed


def _read(files: list[Path], long_side: int | None, left_out: dict[str, str]) -> list[Tensor] | None:
    """A clean picture, reduced, or the two of a pair as they are: (H, W, 3) uint8.

    None if they can't be taken, which `left_out` then says.
    """
    pictures: list[Tensor] = []
    for file in files:
        try:
            pictures.append(read_pixels(file))
        except (PellucidError, OSError) as error:
            left_out[str(file)] = _told(file, error)
            return None
    sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in pictures]
    if len(set(sizes)) > 1 or min(pictures[0].shape[:2]) < LEAST_SIDE:
        left_out[str(files[0])] = (
            f"{files[0]} is {' and its partner '.join(sizes)} pixels; expected one size, sides of at least "
            f"{LEAST_SIDE}."
        )
        return None
    return [_reduced(pictures[0], long_side)] if long_side is not None and len(files) == 1 else pictures


def _told(file: Path, error: Exception) -> str:
    """Why a file can't be taken, as a sentence."""
    if isinstance(error, PellucidError):
        return str(error)
    return f"{file} can't be read: {reason(error)}. Check its permissions."


def _plain(stem: str) -> str:
    """A name that every disk takes, whatever bytes it is made of."""
    return stem.encode("utf-8", "replace").decode()[:_STEM]


def _reduced(pixels: Tensor, long_side: int) -> Tensor:
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return pixels
    size = [max(LEAST_SIDE, round(side * scale)) for side in (height, width)]
    planes = pixels.permute(2, 0, 1)[None].float()
    small = F.interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)
    return small[0].round().clamp(0, 255).byte().permute(1, 2, 0)


@contextmanager
def _held(shards: Path) -> Generator[None]:
    """Make the folder, and hold it against other processes: of two manifests only one would stay."""
    lock = FileLock(shards / ".lock", timeout=0)
    try:
        shards.mkdir(parents=True, exist_ok=True)
        if not _is_empty(shards):
            _rows(shards)  # refuses a folder of other files before anything is written into it
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Another process adds pictures to {shards} now. Wait for it, or name another folder."
        ) from error
    except OSError as error:
        raise write_refusal(shards, error) from error
    try:
        yield
    finally:
        lock.release()


def _open(shards: Path) -> list[dict[str, Any]]:
    """The rows of a folder of shards; an empty one gets a manifest without any."""
    try:
        if _is_empty(shards):
            _write([], shards)
    except OSError as error:
        raise write_refusal(shards, error) from error
    return _rows(shards)


def _is_empty(folder: Path) -> bool:
    """Whether it holds nothing, but for hidden files."""
    return all(path.name[0] == "." for path in folder.iterdir())


def _rows(shards: Path) -> list[dict[str, Any]]:
    try:
        return read_manifest(shards)
    except RecipeError as error:
        raise InputError(f"{error} To make a new one, name a folder that is empty or not there.") from error


def _store(pixels: Tensor, path: Path) -> str:
    """Write a picture, and give the SHA-256 of its file."""
    try:
        path.parent.mkdir(exist_ok=True)
        write_rgb8(pixels, path)
        return hash_file(path)
    except OSError as error:
        raise write_refusal(path, error) from error


def _write(rows: list[dict[str, Any]], shards: Path) -> None:
    temporary = shards / f".manifest.json.{os.getpid()}.tmp"
    try:
        temporary.write_text(json.dumps({"files": rows}, indent=1) + "\n", "utf-8")
        temporary.replace(shards / "manifest.json")
    except OSError as error:
        raise write_refusal(shards / "manifest.json", error) from error
    finally:
        temporary.unlink(missing_ok=True)
