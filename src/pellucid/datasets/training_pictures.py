"""What weights remember of the clean pictures that they were trained on: a perceptual hash of each.

A checkpoint carries them in its provenance, 64 bits a picture, so that whoever evaluates can say whether a
test picture was trained on without having the training pictures. The hashes are those of
`pellucid.datasets.leak.perceptual_hash`: flipped, rotated and much cropped copies are not found.
"""

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pellucid.checkpoint import Checkpoint
from pellucid.data import Bank, Shards, load_shards
from pellucid.datasets.leak import NEAR, perceptual_hash
from pellucid.errors import CheckpointError

KEY = "training_pictures"  # in a checkpoint's provenance
_BYTES = 8  # of a hash
_SAY_EVERY = 10.0  # seconds

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingPictures:
    """The perceptual hashes of the clean training pictures.

    Attributes:
        hashes: 8 bytes each, sorted, each once. A picture of one flat color has none.
    """

    hashes: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, pictures: Iterable[Tensor]) -> Self:
        """The hashes of pictures (H, W, 3) uint8."""
        found = (perceptual_hash(picture) for picture in pictures)
        return cls(tuple(sorted({packed(signs) for signs in found if signs is not None})))

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> Self | None:
        """The hashes that a checkpoint carries; none if it carries none.

        Raises:
            CheckpointError: they are damaged.
        """
        if (stored := provenance.get(KEY)) is None:
            return None
        try:
            joined = base64.b64decode(stored["perceptual_hashes"], validate=True)
            if len(joined) != stored["count"] * _BYTES:
                raise ValueError(f"{len(joined)} bytes for {stored['count']} pictures")
        except (TypeError, KeyError, ValueError, binascii.Error) as error:
            raise CheckpointError(
                f"The checkpoint's hashes of its training pictures are damaged ({error}); expected 8 bytes a "
                "picture, as base64. Get the file again."
            ) from error
        return cls(tuple(joined[i : i + _BYTES] for i in range(0, len(joined), _BYTES)))

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint stores: the count, and all hashes in one base64 string."""
        joined = base64.b64encode(b"".join(self.hashes)).decode()
        return {"count": len(self), "perceptual_hashes": joined}

    def __len__(self) -> int:
        return len(self.hashes)

    def __or__(self, other: Self) -> Self:
        return type(self)(tuple(sorted({*self.hashes, *other.hashes})))

    def holds(self, picture: Tensor, near: int = NEAR) -> bool:
        """Whether the picture (H, W, 3) uint8 differs from a training picture in `near` bits or fewer."""
        signs = perceptual_hash(picture)
        if signs is None or not self.hashes:
            return False
        bits = np.frombuffer(b"".join(self.hashes), np.uint8).reshape(-1, _BYTES)
        different = np.unpackbits(bits ^ np.frombuffer(packed(signs), np.uint8), axis=1).sum(axis=1)
        return bool((different <= near).any())


def hash_training_pictures(
    run_folder: Path,
    training: Shards,
    sources: Iterable[str],
    *,
    start: Mapping[str, Any] | None,
    resumed: bool,
    say: Say,
) -> TrainingPictures | None:
    """The clean pictures that a run trains on, with those that its start was trained on.

    They are kept in `run_folder/training_pictures.json`, so that a resumed run need not look again. None if
    something was trained on that is not known: weights to start from that carry no hashes, or a run that was
    begun without.

    Args:
        run_folder: of the run, existing.
        training: what it trains on.
        sources: the sources that its tasks name.
        start: provenance of the checkpoint that it starts from, if there is one.
        resumed: go on from what the folder holds.
        say: told about progress.

    Raises:
        CheckpointError: the start's hashes are damaged.
        UnreadableImageError: a picture can't be decoded.
    """
    file = run_folder / "training_pictures.json"
    key = " ".join((training.data_hash, *sorted(set(sources))))
    cached = _read_cache(file) if resumed else {"data": []}
    known = TrainingPictures.from_provenance(cached)
    if not resumed:
        known = TrainingPictures() if start is None else TrainingPictures.from_provenance(start)
    if known is None:
        say(
            "The weights will carry no hashes of their training pictures: what they start from carries none. "
            "Add them with: pellucid data remember WEIGHTS --train SHARDS"
        )
    elif key not in cached["data"]:
        begin = time.monotonic()
        known |= _hash_banks([training.banks[source] for source in sorted(set(sources))], say)
        say(f"{len(known):,} clean training pictures hashed in {time.monotonic() - begin:.0f} s")
    cached = {"data": [*cached["data"], key], KEY: None if known is None else known.to_dict()}
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(cached), encoding="utf-8")
    temporary.replace(file)
    return known


def add_training_pictures(checkpoint: str | Path, shards: str | Path) -> TrainingPictures:
    """Write the hashes of the training pictures of a shard folder into weights that were trained on them.

    All clean pictures of the folder's training split are taken, whichever of them the recipe used, and added
    to those that the checkpoint carries already. The file's SHA-256 changes; its tensors stay.

    Raises:
        CheckpointError: no checkpoint, one that can't be replaced, or one that was trained on other data.
        RecipeError, UnreadableImageError: no whole shard folder.
    """
    read = Checkpoint.read(checkpoint)
    training = load_shards(shards, "train")
    stated = read.provenance.get("training_data_sha256", training.data_hash)
    if stated != training.data_hash:
        raise CheckpointError(
            f"{checkpoint} was trained on data with the hash {stated[:16]}, {shards} has "
            f"{training.data_hash[:16]}. Give the shards that it was trained on."
        )
    pictures = TrainingPictures.from_provenance(read.provenance) or TrainingPictures()
    pictures |= _hash_banks(list(training.banks.values()), lambda _: None)
    replace(read, provenance={**read.provenance, KEY: pictures.to_dict()}).write(checkpoint)
    return pictures


def _hash_banks(banks: Iterable[Bank], say: Say) -> TrainingPictures:
    said = time.monotonic()

    def pictures() -> Iterable[Tensor]:
        nonlocal said
        done = 0
        for bank in banks:
            for picture in bank.clean_pictures():
                yield picture
                done += 1
                if time.monotonic() - said > _SAY_EVERY:
                    said = time.monotonic()
                    say(f"{done:,} clean training pictures hashed so far")

    return TrainingPictures.of(pictures())


def _read_cache(file: Path) -> dict[str, Any]:
    """What an earlier part of the run wrote; without hashes if it wrote nothing, or half of it."""
    try:
        cached = json.loads(file.read_text("utf-8"))
        return {"data": list(cached["data"]), KEY: cached[KEY]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"data": []}


def packed(signs: Tensor) -> bytes:
    """8 bytes from 64 signs."""
    return np.packbits((signs > 0).to(torch.uint8).numpy()).tobytes()
