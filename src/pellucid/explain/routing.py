"""Which experts a DaAIR's routers choose: for one picture, and for the kinds of a data set."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.data import load_shards, validation_pairs
from pellucid.errors import InputError
from pellucid.explain._watch import has, rounded, watching
from pellucid.image import ImageBuffer
from pellucid.image_io import IMAGE_SUFFIXES, read_image
from pellucid.models.daair import Router
from pellucid.restoration import Report
from pellucid.restorer import TorchRestorer

CROP = 256  # pixels: side of the center that a picture of a data set is judged by
LIMIT = 20  # pictures per kind
SHUFFLES = 200  # of the kinds, to see what mutual information chance alone gives
Progress = Callable[[int], None]  # called with the pictures done


@dataclass(frozen=True)
class Choice:
    """What one router decided about one picture.

    Attributes:
        block: the block's path in the network, "encoder.1.0" being the first block of the second level.
        expert: the index of the expert that most tiles were given to.
        confidence: the router's probability of that expert, mean over tiles; 1/n is a router without opinion.
        probabilities: of every expert, mean over tiles.
        tiles: the expert of each tile.
    """

    block: str
    expert: int
    confidence: float
    probabilities: tuple[float, ...]
    tiles: tuple[int, ...]


def routes(restorer: TorchRestorer) -> bool:
    """Whether the network has routers that show: an engine has no hooks."""
    return restorer.engine is None and has(restorer.network, Router)


def watching_routers(
    restorer: TorchRestorer,
) -> AbstractContextManager[list[dict[str, tuple[int, Tensor]]]]:
    """For each call of the network, the expert of every router and the probabilities of all, (n,)."""

    def look(router: Router, arguments: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> Any:
        x = arguments[0]
        with torch.autocast(x.device.type, enabled=False):  # as the router itself decides
            mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
            logits = F.linear(mean, router.linear.weight.to(mean.dtype))
        return int(output[0][0]), logits.softmax(dim=-1)[0].float().cpu()

    return watching(restorer.network, Router, look)


def summarize_choices(calls: Sequence[dict[str, tuple[int, Tensor]]]) -> tuple[Choice, ...]:
    """One choice per router, in the order of the forward pass, over the tiles of a picture."""
    choices: list[Choice] = []
    for path in calls[0]:
        tiles = tuple(call[path][0] for call in calls)
        probabilities = torch.stack([call[path][1] for call in calls]).mean(0)
        expert = max(set(tiles), key=lambda e: (tiles.count(e), float(probabilities[e])))
        choices.append(
            Choice(_block(path), expert, float(probabilities[expert]), tuple(probabilities.tolist()), tiles)
        )
    return tuple(choices)


def _block(path: str) -> str:
    return path.removesuffix(".router").removesuffix(".learner")


def short_name(block: str) -> str:
    """ "encoder.1.0" as "E2.1": the first block of the second level."""
    parts = block.split(".")
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return f"{parts[0][:1].upper()}{int(parts[1]) + 1}.{int(parts[2]) + 1}"
    return block


@dataclass(frozen=True)
class RoutingTable:
    """Kinds of degradation against experts, block by block.

    Attributes:
        kinds: names, K of them.
        blocks: paths, L of them in the order of the forward pass.
        counts: (L, K, n) pictures of a kind that a block gave to an expert.
        confidence: (L, K) mean probability of the chosen expert.
        bits: (L,) mutual information between kind and expert over the pictures counted, in bits.
        chance_bits: (L,) the 95th percentile of what the same choices give with the kinds shuffled: a block
            whose bits do not exceed it has not been seen to tell kinds apart.
        kind_bits: entropy of the kinds, which `bits` can't exceed.
        report: of the restorer that ran.
        data: what the pictures are, in words.
        data_sha256: of the files, for shards.
    """

    kinds: tuple[str, ...]
    blocks: tuple[str, ...]
    counts: Tensor
    confidence: Tensor
    bits: Tensor
    chance_bits: Tensor
    kind_bits: float
    report: Report
    data: str
    data_sha256: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return rounded(
            {
                "model": self.report.model,
                "weights_sha256": self.report.weights_sha256,
                "data": self.data,
                "data_sha256": self.data_sha256,
                "pictures": {
                    kind: int(n) for kind, n in zip(self.kinds, self.counts[0].sum(-1), strict=True)
                },
                "experts": self.counts.shape[2],
                "kind_bits": self.kind_bits,
                "blocks": [
                    {
                        "block": block,
                        "bits": self.bits[i],
                        "chance_bits": self.chance_bits[i],
                        "counts": dict(zip(self.kinds, self.counts[i], strict=True)),
                        "confidence": dict(zip(self.kinds, self.confidence[i], strict=True)),
                    }
                    for i, block in enumerate(self.blocks)
                ],
            }
        )


def explain_shards(
    restorer: TorchRestorer,
    root: str | os.PathLike[str],
    *,
    limit: int = LIMIT,
    crop: int = CROP,
    progress: Progress | None = None,
) -> RoutingTable:
    """The table over the validation pairs of a shard folder.

    Args:
        restorer: holds a network with routers.
        root: the folder with `manifest.json`.
        limit: the first so many pictures of each kind.
        crop: side of the center, in pixels, that each picture is judged by.
        progress: called with the pictures done.

    Raises:
        InputError: no routers, or none that show, a limit or crop that can't be, or fewer than two kinds.
        RecipeError, UnreadableImageError: `root` is no whole shard folder.
    """
    _check(restorer, limit, crop)
    shards = load_shards(Path(root), "val")
    pictures = ((kind, degraded[0]) for kind, degraded, _ in validation_pairs(shards, limit))
    what = f"validation pairs, the first {limit} of each kind, the central {crop} x {crop} pixels"
    return _tabulate(restorer, pictures, crop, what, shards.data_hash, progress)


def explain_folders(
    restorer: TorchRestorer,
    root: str | os.PathLike[str],
    *,
    limit: int = LIMIT,
    crop: int = CROP,
    progress: Progress | None = None,
) -> RoutingTable:
    """The table over a folder whose sub-folders hold the pictures of one kind each; see `explain_shards`.

    Raises:
        InputError: no routers, or none that show, a limit or crop that can't be, fewer than two sub-folders
            with pictures, or a picture that can't be used.
    """
    _check(restorer, limit, crop)
    try:
        folders = sorted(p for p in Path(root).iterdir() if p.is_dir() and p.name[0] != ".")
        files = {
            folder.name: sorted(
                p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."
            )[:limit]
            for folder in folders
        }
    except OSError as error:
        raise InputError(
            f"{error.filename} can't be listed: {error.strerror}. Check the path and its permissions."
        ) from error
    files = {kind: paths for kind, paths in files.items() if paths}
    if len(files) < 2:
        raise InputError(
            f"{root} has {len(files)} sub-folders with pictures; a table of kinds needs two or more. "
            "Give a folder like DIR/noise/*.png, DIR/rain/*.png, or a shard folder with --shards."
        )
    pictures = ((kind, read_image(path).pixels) for kind, paths in files.items() for path in paths)
    what = f"sub-folders, the first {limit} pictures of each, the central {crop} x {crop} pixels"
    return _tabulate(restorer, pictures, crop, what, None, progress)


def _check(restorer: TorchRestorer, limit: int, crop: int) -> None:
    if restorer.engine is not None:
        raise InputError(
            f"{restorer.name} is run by {restorer.engine.name}, which does not show its routing; expected a "
            "network that torch runs. Give the weights (.safetensors), not an exported file."
        )
    if not routes(restorer):
        raise InputError(
            f"{restorer.name} has no routers, so there is no table of kinds against experts. "
            "Take a DaAIR, or explain one picture."
        )
    if limit < 1 or crop < 1:
        raise InputError(f"The limit is {limit} and the crop {crop}; expected 1 or more of each.")


def _tabulate(
    restorer: TorchRestorer,
    pictures: Iterable[tuple[str, Tensor]],
    crop: int,
    what: str,
    data_sha256: str | None,
    progress: Progress | None,
) -> RoutingTable:
    report = restorer.describe()  # and the probe's own runs are over
    kinds: list[str] = []
    choices: list[tuple[Choice, ...]] = []
    with watching_routers(restorer) as calls:
        for kind, pixels in pictures:
            calls.clear()
            top, left = (max(0, length - crop) // 2 for length in pixels.shape[1:])
            center = pixels[:, top : top + crop, left : left + crop].contiguous()
            tiles = restorer(ImageBuffer(center)).report.tiles
            kinds.append(kind)
            choices.append(summarize_choices(calls[-tiles:]))
            if progress is not None:
                progress(len(kinds))
    names = tuple(dict.fromkeys(kinds))
    if len(names) < 2:
        raise InputError(
            f"There are pictures of {len(names)} kinds; a table of kinds needs two or more. "
            "Complete the validation pictures."
        )
    kind = torch.tensor([names.index(k) for k in kinds])
    expert = torch.tensor([[c.expert for c in row] for row in choices])  # (N, L)
    confidence = torch.tensor([[c.confidence for c in row] for row in choices])
    counts = count_choices(kind, expert, len(names), len(choices[0][0].probabilities))
    sums = torch.zeros(len(names), expert.shape[1]).index_add_(0, kind, confidence)
    share = counts[0].sum(-1).double() / len(kinds)
    return RoutingTable(
        names,
        tuple(choice.block for choice in choices[0]),
        counts,
        (sums / torch.bincount(kind)[:, None]).T,
        mutual_information(counts),
        _chance(kind, expert, len(names), counts.shape[2]),
        float(-(share * share.log2()).sum()),
        report,
        what,
        data_sha256,
    )


def count_choices(kind: Tensor, expert: Tensor, kinds: int, experts: int) -> Tensor:
    """(L, kinds, experts) counts from the kind (N,) of each picture and its expert (N, L) in each block."""
    return torch.einsum(
        "nk,nle->lke", F.one_hot(kind, kinds).double(), F.one_hot(expert, experts).double()
    ).long()


def mutual_information(counts: Tensor) -> Tensor:
    """Bits, (...), that a column tells about the row, from counts (..., rows, columns)."""
    joint = counts.double() / counts.sum((-2, -1), keepdim=True)
    independent = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    ratio = torch.where(joint > 0, joint / independent, 1.0)  # 0 log 0 is 0
    return (joint * ratio.log2()).sum((-2, -1)).clamp_min(0)


def _chance(kind: Tensor, expert: Tensor, kinds: int, experts: int) -> Tensor:
    """The 95th percentile, per block, of the information that shuffled kinds share with the choices."""
    rng = torch.Generator().manual_seed(0)
    shuffled = [
        mutual_information(
            count_choices(kind[torch.randperm(len(kind), generator=rng)], expert, kinds, experts)
        )
        for _ in range(SHUFFLES)
    ]
    return torch.stack(shuffled).quantile(0.95, dim=0)
