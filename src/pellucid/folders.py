"""Training from data sets as they lie on a disk: pictures are decoded when a batch asks for them.

Shards (`pellucid.data.load_shards`) are read once and stay in memory; the field's larger sets, RESIDE's
72,135 hazy pictures before all, would not fit.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from pellucid import datasets
from pellucid.data import LEAST_SIDE, Bank, PictureBank, Shards, Task, center_crop, read_rgb8
from pellucid.datasets.files import folder_of
from pellucid.datasets.verify import find_pairs
from pellucid.errors import InputError, RecipeError, UnknownNameError

CROP = 16  # pictures are cut to multiples of this about their center, as the papers' code does
_AT_ONCE = 32  # pictures that are decoded ahead


class FolderBank:
    """The pictures of one data set, read from their files; used as a `PictureBank` is.

    Args:
        source: the data set's name.
        root: folder that the paths start in.
        pairs: (degraded, clean) paths; none as degraded for clean pictures alone.
        device: where crops go.
        workers: threads that decode.
    """

    def __init__(
        self,
        source: str,
        root: Path,
        pairs: Sequence[tuple[str | None, str]],
        device: torch.device | str = "cpu",
        workers: int = 8,
    ) -> None:
        self.source, self.root, self.pairs, self.device = source, root, list(pairs), device
        self.names = tuple(degraded or clean for degraded, clean in pairs)
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, "decode")

    def __len__(self) -> int:
        return len(self.pairs)

    def to(self, device: torch.device | str) -> "FolderBank":
        """The same files, with crops on another device."""
        return FolderBank(self.source, self.root, self.pairs, device, self.workers)

    def crops(
        self, n: int, size: int, rng: torch.Generator, which: Tensor | None = None, upright: float = 0.0
    ) -> Tensor:
        """As `PictureBank.crops`: (n, K, size, size), the clean planes before those of the degraded picture.

        Raises:
            UnreadableImageError: a file can't be decoded.
            RecipeError: a picture and its partner differ in size, or are too small.
        """
        chosen = torch.randint(len(self), (n,), generator=rng) if which is None else which
        pictures = list(self._pool.map(self._read, chosen.tolist()))
        names = [self.names[i] for i in chosen.tolist()]
        bank = PictureBank.from_pictures(pictures, names).to(self.device)
        return bank.crops(n, size, rng, torch.arange(n), upright=upright)

    def picture(self, index: int) -> Tensor:
        """One whole picture: (K, H, W) float32 in [0, 1]."""
        return self._read(index).permute(2, 0, 1).to(self.device).float() / 255

    def clean_pictures(self) -> Iterator[Tensor]:
        """Every clean picture once, whole: (H, W, 3) uint8.

        Raises:
            UnreadableImageError: a file can't be decoded.
        """
        paths = [self.root / path for path in sorted({clean for _, clean in self.pairs})]
        for first in range(0, len(paths), _AT_ONCE):  # all of them would not fit into memory
            yield from self._pool.map(read_rgb8, paths[first : first + _AT_ONCE])

    def _read(self, index: int) -> Tensor:
        degraded, clean = self.pairs[index]
        planes = [center_crop(_read_planes(self.root / clean), CROP)]
        if degraded is not None:
            planes.append(center_crop(_read_planes(self.root / degraded), CROP))
        sizes = [f"{p.shape[2]}x{p.shape[1]}" for p in planes]
        if len(set(sizes)) > 1 or min(planes[0].shape[1:]) < LEAST_SIDE:
            raise RecipeError(
                f"{self.root / self.names[index]} is, with its partner, {' and '.join(sizes)}; expected "
                f"one size of at least {LEAST_SIDE}. Look at the data set with: pellucid data verify"
            )
        return torch.cat(planes).permute(1, 2, 0)


def _read_planes(path: Path) -> Tensor:
    return read_rgb8(path).permute(2, 0, 1)


def load_folders(root: str | Path, tasks: Sequence[Task]) -> Shards:
    """The training pictures of the data sets that a recipe's tasks name, below one folder.

    The hash is that of the sorted lines "path bytes": to hash the content of hundreds of thousands of files
    would take longer than the first epoch.

    Raises:
        RecipeError: every data set that is missing, in one message, or a source that is no data set.
    """
    root = Path(root)
    faults: list[str] = []
    banks: dict[str, FolderBank] = {}
    lines: list[str] = []
    for source in dict.fromkeys(task.source for task in tasks):
        if source not in datasets.names():
            faults.append(f"the source {source!r} is made of shards; {root} has no manifest.json")
            continue
        try:
            pairs = find_pairs(source, folder_of(root, source), "train")
        except (InputError, UnknownNameError) as error:
            faults.append(str(error))
            if not root.is_dir():  # one sentence says it for all
                break
            continue
        banks[source] = FolderBank(source, folder_of(root, source), pairs)
        files = sorted({path for pair in pairs for path in pair if path is not None})
        lines += [f"{source}/{path} {(folder_of(root, source) / path).stat().st_size}" for path in files]
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        raise RecipeError(f"{len(faults)} fault{'s' * (len(faults) > 1)} of the data:{listed}")
    return Shards(banks, hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest())


def incomplete(banks: Mapping[str, Bank], root: str | Path) -> list[str]:
    """A sentence for each data set that gives another number of pictures or pairs than the field counts."""
    sentences: list[str] = []
    for source in (name for name in banks if name in datasets.names()):
        counted = datasets.load_manifest(source).splits["train"]
        what, expected = ("pairs", counted.degraded) if counted.degraded else ("pictures", counted.clean)
        if expected and len(banks[source]) not in expected:
            sentences.append(
                f"{source}: {len(banks[source]):,} of {' or '.join(f'{n:,}' for n in expected)} {what}. "
                f"See why with: pellucid data verify {source} {folder_of(Path(root), source)}"
            )
    return sentences
