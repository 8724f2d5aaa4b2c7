"""Training data: shards of photographs in one uint8 tensor each, and the mixing of tasks into batches.

A shard folder holds `manifest.json` (`files`: path, split, role, sha256, links between files) and the
pictures. Everything is read once; crops, flips and degradations happen on the device, so no worker processes
are needed.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import degradations
from pellucid.degradations.gaussian_noise import GaussianNoise, GaussianNoiseParams
from pellucid.errors import RecipeError, UnreadableImageError, reason
from pellucid.registry import unknown_name

# A NYU picture has a white border; this is the part to use: x0, y0, x1, y1.
NYU_INNER = (10, 10, 630, 470)
LEAST_SIDE = 16  # of a picture, in pixels; validation crops to multiples of it
DEPTH_STEPS = 100  # stored depth is round(depth * DEPTH_STEPS), so that it fits 8 bits up to 2.55

PAIR_KINDS = {  # what the pairs of a source show
    "rain_pairs": "rain",
    "low_light_pairs": "low_light",
    "blur_pairs": "blur",
    "camera_noise_pairs": "noise",
    "haze_pairs": "haze",
}
# role of the clean file, role of its degraded partner
PAIR_ROLES = {
    "low_light_pairs": ("lowlight-high", "lowlight-low"),
    "blur_pairs": ("deblur-sharp", "deblur-blur"),
    "camera_noise_pairs": ("noise-gt", "noise-noisy"),
    "haze_pairs": ("haze-gt", "haze-hazy"),
}
# roles of the splits that are read here; "haze-clean" is what a "haze-depth" names as its `rgb`
ROLES = (
    "clean",
    "drawing",
    "rain-streak",
    "haze-depth",
    "haze-clean",
    *(r for p in PAIR_ROLES.values() for r in p),
)
SPLITS = ("train", "val", "test", "demo", "any")  # the first two are read here
# of a file's fields in the manifest
_TYPES: dict[str, Any] = dict.fromkeys(
    ("path", "split", "role", "sha256", "gt", "rgb", "made_of", "scene"), str
)
_TYPES["depth_scale"] = int | float
TONES = (0.55, 1.8)  # least and greatest power of encoded values: paler and darker
SOURCES = ("clean", "rain_pairs", "depth", "drawn", *PAIR_ROLES)


class Bank(Protocol):
    """Where crops come from: pictures in memory (`PictureBank`) or in files (`pellucid.folders`)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The pictures' paths."""
        ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> "Bank":
        """The same pictures, on another device."""
        ...

    def crops(
        self, n: int, size: int, rng: torch.Generator, which: Tensor | None = None, upright: float = 0.0
    ) -> Tensor:
        """Random crops: (n, K, size, size) float32 in [0, 1]."""
        ...

    def picture(self, index: int) -> Tensor:
        """One whole picture: (K, H, W) float32 in [0, 1]."""
        ...

    def clean_pictures(self) -> Iterator[Tensor]:
        """Every clean picture once: (H, W, 3) uint8 on the CPU."""
        ...


@dataclass(frozen=True)
class PictureBank:
    """Pictures of any size, end to end in one tensor.

    Attributes:
        planes: (N, K) uint8, one row per pixel. The first three planes are the clean picture; then follow
            the degraded one (3), a streak plane (1) or a depth map (1, in 1/100), as the source has it.
        offsets, heights, widths: (P,) int64, where each picture starts and its size.
        names: the pictures' paths inside the shard folder.
    """

    planes: Tensor
    offsets: Tensor
    heights: Tensor
    widths: Tensor
    names: tuple[str, ...]

    @classmethod
    def from_pictures(cls, pictures: Sequence[Tensor], names: Sequence[str]) -> "PictureBank":
        """A bank of (H, W, K) uint8 pictures."""
        heights = torch.tensor([p.shape[0] for p in pictures])
        widths = torch.tensor([p.shape[1] for p in pictures])
        offsets = F.pad((heights * widths).cumsum(0), (1, 0))[:-1]
        planes = torch.cat([p.flatten(0, 1) for p in pictures])
        return cls(planes, offsets, heights, widths, tuple(names))

    def __len__(self) -> int:
        return len(self.names)

    def listing(self, which: Sequence[int]) -> "PictureBank":
        """A bank of some of the pictures, each as often as it is named; the planes are the same memory."""
        rows = torch.tensor(which)
        names = tuple(self.names[i] for i in which)
        return PictureBank(self.planes, self.offsets[rows], self.heights[rows], self.widths[rows], names)

    def to(self, device: torch.device | str) -> "PictureBank":
        """The bank on another device."""
        planes, offsets = self.planes.to(device), self.offsets.to(device)
        return PictureBank(planes, offsets, self.heights.to(device), self.widths.to(device), self.names)

    def crops(
        self, n: int, size: int, rng: torch.Generator, which: Tensor | None = None, upright: float = 0.0
    ) -> Tensor:
        """Random crops, each in one of the eight flips and rotations: (n, K, size, size) float32 in [0, 1].

        Identity is among the eight. A share `upright` of the crops keeps its top on top: left and right may
        change sides. A picture smaller than `size` has its last row and column repeated. `which` (n,) int64
        names the pictures; without it they are drawn too.
        """

        def draw(high: int) -> Tensor:
            return torch.randint(high, (n,), generator=rng).to(self.planes.device)

        which = draw(len(self)) if which is None else which.to(self.planes.device)
        height, width = self.heights[which], self.widths[which]
        top = draw(2**31) % (height - size + 1).clamp_min(1)
        left = draw(2**31) % (width - size + 1).clamp_min(1)
        step = torch.arange(size, device=self.planes.device)
        flip_rows, flip_columns, transpose = (draw(2).bool()[:, None] for _ in range(3))
        if upright:  # else nothing is drawn, so that such recipes have the crops that they had
            turning = (torch.rand((n, 1), generator=rng) >= upright).to(self.planes.device)
            flip_rows, transpose = flip_rows & turning, transpose & turning
        rows = torch.where(flip_rows, size - 1 - step, step)[:, :, None].expand(n, size, size)
        columns = torch.where(flip_columns, size - 1 - step, step)[:, None, :].expand(n, size, size)
        turned = transpose[:, :, None]
        rows, columns = (
            torch.where(turned, rows.transpose(1, 2), rows),
            torch.where(turned, columns.transpose(1, 2), columns),
        )
        y = torch.minimum(top[:, None, None] + rows, height[:, None, None] - 1)
        x = torch.minimum(left[:, None, None] + columns, width[:, None, None] - 1)
        index = self.offsets[which][:, None, None] + y * width[:, None, None] + x  # (n, size, size)
        return self.planes[index].permute(0, 3, 1, 2).float() / 255

    def picture(self, index: int) -> Tensor:
        """One whole picture: (K, H, W) float32 in [0, 1]."""
        height, width, start = (int(t[index]) for t in (self.heights, self.widths, self.offsets))
        rows = self.planes[start : start + height * width]
        return rows.reshape(height, width, -1).permute(2, 0, 1).float() / 255

    def clean_pictures(self) -> Iterator[Tensor]:
        """Every clean picture: (H, W, 3) uint8 on the CPU."""
        sizes = (t.tolist() for t in (self.offsets, self.heights, self.widths))
        for start, height, width in zip(*sizes, strict=True):
            yield self.planes[start : start + height * width, :3].cpu().reshape(height, width, 3)


@dataclass(frozen=True)
class Shards:
    """All sources of one split, and a hash over the files they came from."""

    banks: Mapping[str, Bank]
    data_hash: str

    def to(self, device: torch.device | str) -> "Shards":
        """The shards on another device."""
        return Shards({name: bank.to(device) for name, bank in self.banks.items()}, self.data_hash)


def load_shards(root: str | Path, split: str) -> Shards:
    """Read every picture of one split ("train" or "val") of a shard folder.

    A file that validation uses is left out of "train", under whatever path it is listed again.

    Raises:
        RecipeError: the folder has no manifest, or the manifest asks for what is not there.
        UnreadableImageError: a file is not a picture, or not the one that the manifest lists.
    """
    root = Path(root)
    files = read_manifest(root)
    hashes: dict[str, str] = {f["path"]: f["sha256"] for f in files}
    chosen = sorted(rows_of_split(files, split), key=lambda f: f["path"])
    missing = [path for f in chosen for path in paths_of_row(f) if not (root / path).is_file()]
    if missing:
        raise RecipeError(
            f"{len(missing)} files of {root / 'manifest.json'} are missing, the first is {missing[0]}. "
            "Complete the folder."
        )
    by_role: dict[str, list[dict[str, Any]]] = {}
    for file in chosen:
        by_role.setdefault(file["role"], []).append(file)
    banks: dict[str, PictureBank] = {}

    def read(path: str) -> Tensor:
        if path in hashes and _hash(root / path) != hashes[path]:
            raise UnreadableImageError(
                f"{root / path} does not hold the bytes that manifest.json lists (by SHA-256). "
                "The file is damaged or another one; get it again."
            )
        return read_rgb8(root / path)

    def add(source: str, role: str, planes: Callable[[dict[str, Any]], list[Tensor]]) -> None:
        if role in by_role:
            pictures = [_joined(file["path"], planes(file)) for file in by_role[role]]
            banks[source] = PictureBank.from_pictures(pictures, [f["path"] for f in by_role[role]])

    def depth_planes(file: dict[str, Any]) -> list[Tensor]:
        x0, y0, x1, y1 = NYU_INNER
        rgb = read(file["rgb"])
        depth = read(file["path"])[..., 0].float() * (file["depth_scale"] / 255)
        depth = F.interpolate(depth[None, None], rgb.shape[:2], mode="bilinear", align_corners=False)[0, 0]
        stored = (depth * DEPTH_STEPS).round().clamp(0, 255).byte()
        return [rgb[y0:y1, x0:x1], stored[y0:y1, x0:x1, None]]

    add("clean", "clean", lambda f: [read(f["path"])])
    add("drawn", "drawing", lambda f: [read(f["path"])])
    add("rain_pairs", "rain-streak", lambda f: [read(f["gt"]), read(f["path"])[..., :1]])
    add("depth", "haze-depth", depth_planes)
    for source, (clean_role, degraded_role) in PAIR_ROLES.items():
        clean, degraded = (_by_pair_key(by_role.get(role, [])) for role in (clean_role, degraded_role))
        everywhere = {_pair_key(f["path"]) for f in files if f["role"] == clean_role}  # some are held out
        lone = [(clean[key], degraded_role) for key in clean if key not in degraded]
        lone += [(degraded[key], clean_role) for key in degraded if key not in everywhere]
        if lone:
            path, role = lone[0]
            raise RecipeError(
                f"{path} has no partner of the role {role} and the split {split} in "
                f"{root / 'manifest.json'}. Complete the pair, or remove the file."
            )

        def pair(file: dict[str, Any], partners: dict[str, str] = degraded) -> list[Tensor]:
            return [read(file["path"]), read(partners[_pair_key(file["path"])])]

        add(source, clean_role, pair)
    listing = "".join(f"{f['path']} {f['sha256']}\n" for f in chosen)
    return Shards(banks, hashlib.sha256(listing.encode()).hexdigest())


def rows_of_split(files: Sequence[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """A manifest's rows of one split; of "train", those that share no file (path or bytes) with "val"."""
    chosen = [f for f in files if f["split"] == split]
    if split != "train":
        return chosen
    hashes: dict[str, str] = {f["path"]: f["sha256"] for f in files}
    held_out = {path for f in files if f["split"] == "val" for path in paths_of_row(f)}
    contents = {hashes[path] for path in held_out if path in hashes}

    def is_held_out(path: str) -> bool:
        return path in held_out or hashes.get(path) in contents

    return [f for f in chosen if not any(map(is_held_out, paths_of_row(f)))]


def read_manifest(root: Path) -> list[dict[str, Any]]:
    """The rows of a shard folder's manifest, each with all that its role asks for.

    Raises:
        RecipeError: there is no manifest, or it can't be read.
    """
    needed = {"rain-streak": {"gt"}, "haze-depth": {"rgb", "depth_scale"}}
    try:
        files: list[dict[str, Any]] = json.loads((root / "manifest.json").read_text("utf-8"))["files"]
        for file in files:
            lacking = {"path", "split", "role", "sha256", *needed.get(file.get("role", ""), ())} - set(file)
            if lacking:
                raise ValueError(f"{file.get('path', 'a file')} lacks {', '.join(sorted(lacking))}")
            for key, value in file.items():
                if not isinstance(value, _TYPES.get(key, object)):
                    expected = "a number" if key == "depth_scale" else "a text"
                    raise ValueError(f"{key} of {file['path']} is {value!r}; expected {expected}")
            if file["split"] not in SPLITS:
                raise ValueError(f"{file['path']}: " + unknown_name("split", file["split"], list(SPLITS)))
            if file["split"] in ("train", "val") and file["role"] not in ROLES:
                raise ValueError(f"{file['path']}: " + unknown_name("role", file["role"], list(ROLES)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"{root} is no shard folder: its manifest.json can't be read ({reason(error)}). "
            "Give the folder that holds manifest.json."
        ) from error
    return files


def paths_of_row(file: dict[str, Any]) -> list[str]:
    """The files that one row of a manifest names: its own, and those it links to."""
    return [file[key] for key in ("path", "gt", "rgb") if key in file]


def _hash(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _joined(name: str, planes: list[Tensor]) -> Tensor:
    """The planes of one picture, (H, W, K)."""
    height, width = planes[0].shape[:2]
    if any(p.shape[:2] != (height, width) for p in planes):
        sizes = " and ".join(f"{p.shape[1]}x{p.shape[0]}" for p in planes)
        raise RecipeError(f"{name} and its partner have different sizes, {sizes}. Give pairs of one size.")
    if min(height, width) < LEAST_SIDE:
        raise RecipeError(
            f"{name} is {width}x{height} pixels; expected sides of at least {LEAST_SIDE}. Remove it."
        )
    return torch.cat(planes, dim=2)


def _by_pair_key(files: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The paths of one side of all pairs, by what a pair has in common."""
    paths: dict[str, str] = {}
    for path in (file["path"] for file in files):
        if (other := paths.setdefault(_pair_key(path), path)) != path:
            raise RecipeError(
                f"{other} and {path} claim the same partner: the two files of a pair differ in the folder "
                "that holds them, and in nothing else. Put each set of pairs into a folder of its own."
            )
    return paths


def _pair_key(path: str) -> str:
    """What the two files of a pair have in common: everything but the folder that holds the file."""
    parts = Path(path).with_suffix("").parts
    return "/".join((*parts[:-2], parts[-1]))


def read_rgb8(path: Path) -> Tensor:
    """A picture, upright, as (H, W, 3) uint8, by libvips; by Pillow where that is missing, and bitmaps.

    Floating-point samples are encoded values in [0, 1], as `image_io.read_image` takes them.

    Raises:
        UnreadableImageError: not a picture, or cut short.
    """
    if path.suffix.lower() == ".bmp":  # as WED has them; the usual builds of libvips read none
        return _read_rgb8_with_pillow(path)
    try:
        import pyvips
    except ImportError:
        return _read_rgb8_with_pillow(path)
    try:
        image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="error")
        if image.format in ("float", "double"):  # which libvips would take for linear light
            planes = image[:3] if image.bands >= 3 else image[0].bandjoin([image[0], image[0]])
            colors = (planes * 255).round("rint").cast("uchar")
        else:
            colors = image.colourspace("srgb")[:3]
        if image.get_typeof("orientation"):
            colors = colors.copy_memory().autorot()
        return torch.from_numpy(colors.numpy().copy())
    except pyvips.Error as error:
        raise UnreadableImageError(
            f"{path} can't be decoded ({str(error).splitlines()[0]}). Get the file again."
        ) from error


def _read_rgb8_with_pillow(path: Path) -> Tensor:
    import numpy as np

    pillow = _pillow()
    from PIL import ImageOps

    try:
        with pillow.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "F":  # gray floating point, which Pillow would cut to 0 and 1
                gray = np.rint(np.clip(np.asarray(upright), 0, 1) * 255).astype(np.uint8)
                return torch.from_numpy(gray)[..., None].repeat(1, 1, 3)
            return torch.from_numpy(np.array(upright.convert("RGB")))
    except (OSError, SyntaxError) as error:
        raise UnreadableImageError(f"{path} can't be decoded ({error}). Get the file again.") from error


def write_rgb8(pixels: Tensor, path: Path) -> None:
    """Write (H, W, 3) uint8 as a picture, in the format that the suffix names; replaces a file.

    With the library that `read_rgb8` takes.

    Raises:
        OSError: it can't be written; what lies there may be cut short.
    """
    array = pixels.contiguous().numpy()
    try:
        import pyvips
    except ImportError:
        _pillow().fromarray(array).save(path)
    else:
        try:
            pyvips.Image.new_from_array(array).write_to_file(str(path))
        except pyvips.Error as error:
            raise OSError(str(error).strip().splitlines()[-1]) from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise RecipeError(
            "Training reads pictures through libvips or Pillow (bitmaps through Pillow alone), and what is "
            "needed is not installed. Install both with: pip install 'pyvips[binary]' pillow"
        ) from error
    return Image


@dataclass(frozen=True)
class Task:
    """One ingredient of the training mix.

    Attributes:
        kind: what the pairs show: "noise", "rain", "haze", "blur", "low_light", "jpeg", "composite", "clean",
            or the kind of an operator of one's own.
        weight: its share of the crops, relative to the other tasks that have started ("weighted" mixing).
        source: one of `SOURCES`, where the pictures come from.
        operator: a degradation's name; without it the source's own pairs are used ("clean": identity).
        streaks: draw real streak planes from the source "rain_pairs" for the operator.
        sigma: for the operator "gaussian_noise": this one level in gray levels of 255, truncated to 8 bits
            as the papers train; without it the level is drawn.
        prompt: for guided networks, the prompt's name; without it the kind is the name.
        repeat: how often an epoch holds each of its pictures ("counted" mixing).
        starts_at: share of the run, 0 to 1, after which the task joins the mix. Kinds whose error is one
            coherent shift of a picture (haze, darkness) drown the gradients of noise while both are new.
        loss_weight: its pictures' terms of the loss (errors, or with a `log_floor` their logarithms) are
            multiplied by it. Many crops that count little have the mean gradient of few that count fully,
            with less noise: so a task whose gradients vary much (darkness) should disturb the others less.
    """

    kind: str
    weight: float
    source: str
    operator: str | None = None
    streaks: bool = False
    sigma: float | None = None
    prompt: str | None = None
    repeat: int = 1
    starts_at: float = 0.0
    loss_weight: float = 1.0

    @property
    def is_paired(self) -> bool:
        """Whether the source's own pairs show what the task is about, which must stay as it is."""
        return self.operator is None and self.kind != "clean"


class Mixer:
    """Draws batches of (degraded, clean, tasks) from shards, task by task.

    Args:
        shards: where the pictures come from; batches lie on their device.
        tasks: the mix.
        mixing: "weighted" draws each sample's task by the tasks' weights; "counted" goes through epochs that
            hold each picture of a task `repeat` times, shuffled, as the papers do: large data sets then
            drown small ones.
        seed: shuffles the epochs.
        gray: share of the samples, clean and degraded, that lose their color (green in all channels), 0 to 1.
        tones: share of the samples, 0 to 1, that get paler or darker before they are degraded, so that scenes
            which are pale or dark by themselves are not taken for hazy or dimmed ones; not those of real
            pairs.
        upright: share of the samples, 0 to 1, whose top stays on top; the others are in any of the eight
            flips and rotations.

    Raises:
        RecipeError: a task asks for a source that the shards lack.
    """

    def __init__(
        self,
        shards: Shards,
        tasks: Sequence[Task],
        mixing: str = "weighted",
        seed: int = 0,
        gray: float = 0.0,
        tones: float = 0.0,
        upright: float = 0.0,
    ) -> None:
        self.shards, self.tasks = shards, list(tasks)
        self.mixing, self.seed = mixing, seed
        self.gray, self.tones, self.upright = gray, tones, upright
        self._shuffled: tuple[int, Tensor] | None = None
        self.weights = torch.tensor([task.weight for task in self.tasks], dtype=torch.float64)
        self.starts = torch.tensor([task.starts_at for task in self.tasks], dtype=torch.float64)
        faults = [
            f"task {task.kind!r} asks for the source {source!r}, which the data lacks"
            for task in self.tasks
            for source in (task.source, *(("rain_pairs",) if task.streaks else ()))
            if source not in shards.banks
        ]
        if faults:
            raise RecipeError(
                "; ".join(faults) + f". The data has: {', '.join(sorted(shards.banks))}. "
                "Remove the task from the recipe, or give other data."
            )
        entries = [len(shards.banks[task.source]) * task.repeat for task in self.tasks]
        self.ends = torch.tensor(entries).cumsum(0)  # of the tasks in an epoch's list

    @property
    def epoch(self) -> int:
        """Samples in an epoch, where mixing is "counted"."""
        return int(self.ends[-1])

    def batch(
        self, n: int, size: int, rng: torch.Generator, done: float = 1.0, first: int = 0
    ) -> tuple[Tensor, Tensor, list[Task]]:
        """One batch: degraded and clean (n, 3, size, size) float32 in [0, 1], and each sample's task.

        Args:
            n: number of samples.
            size: side of the square crops in pixels.
            rng: CPU generator; the batch is a function of its state.
            done: share of the run that is over, 0 to 1; only tasks that have started by then are drawn from.
            first: samples that the run has drawn before, by which "counted" mixing finds its place.
        """
        degraded: list[Tensor] = []
        clean: list[Tensor] = []
        tasks: list[Task] = []
        chosen = self._counted(first, n) if self.mixing == "counted" else self._weighted(n, done, rng)
        for task, count, which in chosen:
            planes = self.shards.banks[task.source].crops(count, size, rng, which, upright=self.upright)
            if self.tones and not task.is_paired:
                planes = self._in_drawn_tones(planes, rng)
            pair = self._in_gray_or_color(task, planes, rng)
            degraded.append(pair[0])
            clean.append(pair[1])
            tasks += [task] * count
        return torch.cat(degraded), torch.cat(clean), tasks

    def _weighted(self, n: int, done: float, rng: torch.Generator) -> Iterator[tuple[Task, int, None]]:
        weights = self.weights * (self.starts <= done)
        drawn = torch.multinomial(weights, n, replacement=True, generator=rng)
        for task, count in zip(self.tasks, drawn.bincount(minlength=len(self.tasks)).tolist(), strict=True):
            if count:
                yield task, count, None

    def _counted(self, first: int, n: int) -> Iterator[tuple[Task, int, Tensor]]:
        entries = torch.tensor([self._entry(first + i) for i in range(n)])
        owners = torch.searchsorted(self.ends, entries, right=True)
        for i, task in enumerate(self.tasks):
            own = entries[owners == i]
            if len(own):
                start = int(self.ends[i - 1]) if i else 0
                yield task, len(own), (own - start) % len(self.shards.banks[task.source])

    def _entry(self, position: int) -> int:
        """What stands at a place of the endless row of shuffled epochs."""
        epoch, place = divmod(position, self.epoch)
        if self._shuffled is None or self._shuffled[0] != epoch:
            rng = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._shuffled = epoch, torch.randperm(self.epoch, generator=rng)
        return int(self._shuffled[1][place])

    def _in_drawn_tones(self, planes: Tensor, rng: torch.Generator) -> Tensor:
        """Planes (B, K, H, W) whose first three are, in a share `tones` of the samples, paler or darker."""
        shape = (len(planes), 1, 1, 1)
        low, high = (math.log(power) for power in TONES)
        power = (low + (high - low) * torch.rand(shape, generator=rng)).exp()
        power = torch.where(torch.rand(shape, generator=rng) < self.tones, power, 1.0).to(planes.device)
        return in_other_tones(planes, power)

    def _in_gray_or_color(self, task: Task, planes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`pairs` of planes of which a share `gray` has no color; what degrading adds in color goes, too."""
        if not self.gray:  # nothing is drawn, so that such recipes have the crops that they had
            return self.pairs(task, planes, rng)
        gray = (torch.rand((len(planes), 1, 1, 1), generator=rng) < self.gray).to(planes.device)
        degraded, clean = self.pairs(task, torch.where(gray, without_color(planes), planes), rng)
        return torch.where(gray, without_color(degraded), degraded), clean

    def pairs(self, task: Task, planes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Degraded and clean (B, 3, H, W) from a task's crops (B, K, H, W), all in [0, 1]."""
        clean, extra = planes[:, :3], planes[:, 3:]
        if task.kind == "clean":
            return clean, clean
        if task.is_paired:
            return degraded_of_pair(task, planes), clean
        operator = operator_of(task)
        params = operator.draw(rng, len(clean))
        if task.source == "depth" and operator.kind == "haze":
            return operator.apply(clean, params, depth=depth_of(extra)), clean
        if task.streaks:
            rainy = self.shards.banks["rain_pairs"]
            streaks = rainy.crops(len(clean), clean.shape[-1], rng, upright=self.upright)[:, 3:]
            return operator.apply(clean, params, streaks=streaks), clean
        return operator.apply(clean, params), clean


def operator_of(task: Task) -> Any:
    """The degradation of a task that has one: noise of one level as the papers train, where it names one."""
    if task.sigma is not None:
        return GaussianNoise((task.sigma,), truncate=True)
    return degradations.get(str(task.operator))


def degraded_of_pair(task: Task, planes: Tensor) -> Tensor:
    """The degraded pictures (B, 3, H, W) of a paired task's planes (B, K, H, W).

    Raises:
        RecipeError: the source has none.
    """
    clean, extra = planes[:, :3], planes[:, 3:]
    if task.source == "rain_pairs":  # the pair is exactly clip(clean + streaks)
        return (clean + extra).clamp(max=1)
    if extra.shape[1] != 3:
        raise RecipeError(
            f"The source {task.source!r} has no degraded pictures, of which the task {task.kind!r} learns. "
            "Give the task an operator."
        )
    return extra


def depth_of(plane: Tensor) -> Tensor:
    """Depth from the plane of a source "depth", which holds `DEPTH_STEPS` levels per unit, over 255."""
    return plane * (255 / DEPTH_STEPS)


def papers_noise(sigma: float, rng: torch.Generator) -> tuple[GaussianNoise, GaussianNoiseParams]:
    """Noise of one level for one picture by the papers' protocol: 8 bits, truncated."""
    operator = GaussianNoise()
    return operator, replace(operator.draw(rng, 1), sigma=(sigma,), truncate=(True,))


def without_color(planes: Tensor) -> Tensor:
    """(..., K, H, W), K of 3 or more, with green in place of red and blue, which is as noisy as each was."""
    return torch.cat([planes[..., [1, 1, 1], :, :], planes[..., 3:, :, :]], dim=-3)


def in_other_tones(planes: Tensor, power: Tensor | float) -> Tensor:
    """(..., K, H, W), K of 3 or more, with the encoded colors to a power: paler below 1, darker above."""
    return torch.cat([planes[..., :3, :, :] ** power, planes[..., 3:, :, :]], dim=-3)


# Validation: each kind alone. Name, and the task it is made by; real pairs where the data has them.
VALIDATION_TASKS = (
    ("noise_15", Task("noise", 1, "clean", "gaussian_noise")),
    ("noise_25", Task("noise", 1, "clean", "gaussian_noise")),
    ("noise_50", Task("noise", 1, "clean", "gaussian_noise")),
    ("camera_noise", Task("noise", 1, "camera_noise_pairs")),
    ("film_grain", Task("noise", 1, "clean", "film_grain")),
    ("rain", Task("rain", 1, "rain_pairs")),
    ("haze_depth", Task("haze", 1, "depth", "haze")),
    ("haze_outdoor", Task("haze", 1, "clean", "haze")),
    ("low_light", Task("low_light", 1, "low_light_pairs")),
    ("underexposure", Task("low_light", 1, "clean", "underexposure")),
    ("blur_camera", Task("blur", 1, "blur_pairs")),
    ("blur_motion", Task("blur", 1, "clean", "motion_blur")),
    ("blur_defocus", Task("blur", 1, "clean", "defocus_blur")),
    ("jpeg", Task("jpeg", 1, "clean", "jpeg")),
    ("composite", Task("composite", 1, "clean", "composite")),
    ("clean", Task("clean", 1, "clean")),
    ("clean_drawn", Task("clean", 1, "drawn")),  # of the data, or of `pellucid.labels.with_drawn`
)
VALIDATION_KINDS = {name: task.kind for name, task in VALIDATION_TASKS}


def validation_pairs(
    shards: Shards, limit: int | None = None, kinds: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The fixed validation pairs: name of the row, degraded and clean (1, 3, H, W) in [0, 1].

    All rows of `VALIDATION_TASKS` that the data serves, or those of some `kinds`. Both pictures are
    center-cropped to multiples of 16. The degradation of picture i of a row is drawn from the seed i, so the
    pairs are the same at every call, also when `limit` takes only the first pictures of each row.
    """
    for name, task in VALIDATION_TASKS:
        if task.source not in shards.banks or (kinds is not None and task.kind not in kinds):
            continue
        bank, mixer = shards.banks[task.source], Mixer(shards, [task])
        for i in range(len(bank) if limit is None else min(limit, len(bank))):
            planes = center_crop(bank.picture(i)[None], LEAST_SIDE)
            rng = torch.Generator().manual_seed(i)
            if name.startswith("noise_"):
                operator, params = papers_noise(float(name.removeprefix("noise_")), rng)
                yield name, operator.apply(planes, params), planes
            else:
                yield name, *mixer.pairs(task, planes, rng)


def center_crop(x: Tensor, multiple: int) -> Tensor:
    """(..., H, W) cropped around its center to multiples of `multiple`."""
    height, width = x.shape[-2:]
    new_height, new_width = height // multiple * multiple, width // multiple * multiple
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return x[..., top : top + new_height, left : left + new_width]
