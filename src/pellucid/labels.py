"""Pictures for a recognizer, degraded with known parameters: what each shows, and how strongly.

The same pictures come clean and degraded, of every source, so that no source gives its label away. Strengths
follow from the degradations' own parameters (`SCALES` of `pellucid.models.recognizer`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import degradations
from pellucid.data import (
    VALIDATION_TASKS,
    Bank,
    PictureBank,
    Shards,
    Task,
    center_crop,
    degraded_of_pair,
    depth_of,
    in_other_tones,
    operator_of,
    papers_noise,
    without_color,
)
from pellucid.degradations import Degradation
from pellucid.degradations.composite import ORDER, Composite
from pellucid.degradations.defocus_blur import disc
from pellucid.degradations.frame_average import frame_kernel
from pellucid.degradations.motion_blur import motion_kernel
from pellucid.drawn import draw_pictures
from pellucid.errors import RecipeError
from pellucid.models.recognizer import SCALES, mirrored

KINDS = tuple(SCALES)
# Where a degradation changes a picture by less (root mean square, in gray levels), nobody can see it, and the
# kind has no label: blur on a flat color, for example.
INVISIBLE = 0.7
REAL_STREAKS = 0.6  # share of the rain that real streak planes make, where the data has them
GAMMA = (0.55, 1.35)  # powers of encoded values, for other tones: a pale scene is not a hazy one
MORE_ON_PAIRS = 0.3  # share of the real pairs that are degraded further
MOST_REDUCTION = 2.5
VALIDATION_DRAWN = 54  # validation pictures that are no photographs
VALIDATION_SEED = 1  # theirs; not that of training
# NYU's pictures are JPEG files of quality 75, and show it: to call them so is neither right nor wrong.
HISTORY = {"depth": "jpeg"}
# What no drawing shows: a flat color has no haze that could be told from its color.
NOT_ON_DRAWINGS = ("haze", "low_light")


@dataclass
class Truth:
    """What a picture shows.

    Attributes:
        strengths: by kind, in the kind's unit; none where it is not known. Kinds that are not here are
            absent.
        hidden: kinds of which nobody can say whether they show.
    """

    strengths: dict[str, float | None] = field(default_factory=dict[str, float | None])
    hidden: set[str] = field(default_factory=set[str])

    def presence(self) -> Tensor:
        """(K + 1,): 1 present, 0 absent, NaN where neither can be said; last, whether nothing is wrong."""
        values = [self._presence(kind) for kind in KINDS]
        if 1.0 in values:
            values.append(0.0)
        else:
            values.append(math.nan if any(math.isnan(v) for v in values) else 1.0)
        return torch.tensor(values)

    def encoded(self) -> Tensor:
        """(K,): strengths as a network learns them, NaN where there is none to learn."""
        values = [math.nan] * len(KINDS)
        for i, kind in enumerate(KINDS):
            strength = self.strengths.get(kind)
            if strength is not None and kind not in self.hidden and self._presence(kind) != 0:
                values[i] = SCALES[kind].encode(strength)
        return torch.tensor(values)

    def _presence(self, kind: str) -> float:
        if kind in self.hidden:
            return math.nan
        if kind not in self.strengths:
            return 0.0
        strength = self.strengths[kind]
        return 1.0 if strength is None else SCALES[kind].presence(strength)


def measure_strength(name: str, params: Any, before: Tensor, after: Tensor) -> float | None:
    """How strong a degradation is, in the unit of its kind (`SCALES`).

    Args:
        name: of the operator, or a source of real pairs.
        params: of the operator, for one picture; none for real pairs.
        before, after: (1, 3, H, W) in [0, 1].

    Returns:
        The strength, or none where pairs don't tell it.
    """
    match name:
        case "gaussian_noise":
            return params.sigma[0]
        case "camera_noise" | "camera_noise_pairs" | "film_grain" | "rain_streaks" | "rain_pairs":
            return _difference(before, after)
        case "haze":
            airlight = torch.tensor(params.airlight[0]).view(1, 3, 1, 1)
            lost = airlight - before
            kept = ((airlight - after) * lost).sum() / lost.square().sum().clamp_min(1e-6)
            return float(1 - kept)
        case "defocus_blur":
            return _radius(disc(params.radius[0], params.rim[0])) if params.radius[0] > 0 else 0.0
        case "frame_average":
            return _radius(frame_kernel(params, 0))
        case "motion_blur":
            return _radius(motion_kernel(params, 0))
        case "low_light" | "underexposure" | "low_light_pairs":
            return float(torch.log2(_light(before) / _light(after)))
        case "jpeg":
            return float(params.quality[0] or 100)
        case _:
            return None


def _difference(before: Tensor, after: Tensor) -> float:
    return float((after - before).square().mean().sqrt()) * 255


def _light(x: Tensor) -> Tensor:
    """Mean linear light, above what 8 bits can hold."""
    return (x.clamp_min(1e-6) ** 2.2).mean().clamp_min(1e-6)


def _radius(kernel: Tensor) -> float:
    """Root mean square distance from the middle, of a kernel (k, k) with sum 1."""
    line = torch.arange(kernel.shape[0], dtype=kernel.dtype) - kernel.shape[0] // 2
    return float(((line[:, None] ** 2 + line**2) * kernel).sum().sqrt())


@dataclass(frozen=True)
class Labelled:
    """One degraded picture (3, H, W) in [0, 1], and what it shows."""

    picture: Tensor
    truth: Truth


class LabelledPictures:
    """Draws labelled pictures from shards, task by task, as a recipe's mix says.

    A task of kind "clean" gives the clean pictures of its source, one without operator the source's own
    degraded pictures, and the operator "composite" two or three degradations. The source "drawn" is
    `pellucid.drawn`.

    Args:
        shards: the banks.
        tasks: the mix.
        side: of the square pictures, in pixels, a multiple of 8.
        gray: share of the pictures without color, 0 to 1.
        tones: share of the photographs that get paler or darker before they are degraded, but for real pairs.

    Raises:
        RecipeError: a task asks for a source that the shards lack.
    """

    def __init__(
        self, shards: Shards, tasks: Sequence[Task], side: int, gray: float = 0.0, tones: float = 0.0
    ) -> None:
        missing = sorted({task.source for task in tasks} - set(shards.banks))
        if missing:
            raise RecipeError(
                f"The recipe asks for the sources {', '.join(missing)}, which the data lacks; it has "
                f"{', '.join(sorted(shards.banks))}. Remove the tasks, or give other data."
            )
        self.banks, self.tasks, self.side = shards.banks, list(tasks), side
        self.gray, self.tones = gray, tones
        self.weights = torch.tensor([task.weight for task in tasks], dtype=torch.float64)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A batch: pictures (n, 3, S, S) in [0, 1], presence (n, K + 1), encoded strengths (n, K)."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        rows = [self._one(self.tasks[int(i)], rng) for i in chosen]
        return (
            torch.stack([row.picture for row in rows]),
            torch.stack([row.truth.presence() for row in rows]),
            torch.stack([row.truth.encoded() for row in rows]),
        )

    def _one(self, task: Task, rng: torch.Generator) -> Labelled:
        bank = self.banks[task.source]
        whole = bank.picture(int(torch.randint(len(bank), (), generator=rng)))
        planes = self._region(whole, rng, native=task.is_paired)
        if task.source != "drawn" and _chance(rng) < self.tones:
            power = GAMMA[0] + (GAMMA[1] - GAMMA[0]) * _chance(rng)
            planes = planes if task.is_paired else in_other_tones(planes, power)
        degrade = _degrade_in_gray if _chance(rng) < self.gray else degrade_labelled
        labelled = degrade(task, planes[None], rng, self.banks)
        picture = labelled.picture
        if _chance(rng) < 0.7:
            picture = (picture * 255).round() / 255
        return Labelled(picture, labelled.truth)

    def _region(self, whole: Tensor, rng: torch.Generator, *, native: bool) -> Tensor:
        """(K, S, S) of a picture (K, H, W): as it is, or reduced, which frees it from its file's traces."""
        side = self.side
        whole = mirrored(whole, side, side)
        most = min(whole.shape[-2:]) / side
        reduction = 1.0
        if not native and _chance(rng) < 0.5:
            reduction = 1 + _chance(rng) * (min(most, MOST_REDUCTION) - 1)
        taken = int(side * reduction)
        top, left = (int(_chance(rng) * (length - taken + 1)) for length in whole.shape[-2:])
        if _chance(rng) < 0.7:  # as whole files lie on JPEG's grid
            top, left = top // 8 * 8, left // 8 * 8
        planes = whole[:, top : top + taken, left : left + taken]
        if taken != side:
            planes = F.interpolate(planes[None], (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)
        return planes.flip(2) if _chance(rng) < 0.5 else planes


def degrade_labelled(task: Task, planes: Tensor, rng: torch.Generator, banks: Mapping[str, Bank]) -> Labelled:
    """One labelled picture from a task's planes (1, K, H, W).

    The operator's parameters are drawn first, so that pictures with the same seed are those of
    `pellucid.data.validation_pairs`, but for mixes with rain, of which some are made by real streaks.
    """
    clean, extra = planes[:, :3], planes[:, 3:]
    truth = Truth()
    if task.source in HISTORY:
        truth.hidden.add(HISTORY[task.source])
    if task.kind == "clean":
        return Labelled(clean[0], truth)
    if task.is_paired:
        degraded = degraded_of_pair(task, planes)
        truth.strengths[task.kind] = measure_strength(task.source, None, clean, degraded)
        for operator in _more(task.kind, rng):
            degraded = _apply(operator, operator.draw(rng, 1), degraded, truth, None, None)
        return Labelled(degraded[0], truth)
    operator = operator_of(task)
    params: Any = operator.draw(rng, 1)
    if isinstance(operator, Composite):
        parts = [(degradations.get(part.name), part.params) for part in params.parts[0]]
    else:
        parts = [(operator, params)]
    if task.source == "drawn":
        parts = [part for part in parts if part[0].kind not in NOT_ON_DRAWINGS]
    degraded = clean
    for part, values in parts:
        depth = depth_of(extra) if task.source == "depth" and part.kind == "haze" else None
        streaks = None
        real = task.streaks or task.kind == "composite"
        if part.kind == "rain" and real and "rain_pairs" in banks and _chance(rng) < REAL_STREAKS:
            streaks = _streaks(banks["rain_pairs"], clean.shape[-2:], rng)
        degraded = _apply(part, values, degraded, truth, depth, streaks)
    return Labelled(degraded[0], truth)


def _degrade_in_gray(task: Task, planes: Tensor, rng: torch.Generator, banks: Mapping[str, Bank]) -> Labelled:
    """`degrade_labelled` of planes without color; what degrading adds in color goes, too."""
    planes = planes if task.is_paired else without_color(planes)  # a pair's strength is measured in color
    labelled = degrade_labelled(task, planes, rng, banks)
    return replace(labelled, picture=without_color(labelled.picture))


def _apply(
    operator: Any, params: Any, before: Tensor, truth: Truth, depth: Tensor | None, streaks: Tensor | None
) -> Tensor:
    """The picture after one more degradation, which is entered into `truth`."""
    extra = {"depth": depth} if depth is not None else {"streaks": streaks} if streaks is not None else {}
    after: Tensor = operator.apply(before, params, **extra)
    truth.strengths[operator.kind] = measure_strength(operator.name, params, before, after)
    truth.hidden.discard(operator.kind)
    if _difference(before, after) < INVISIBLE:
        truth.hidden.add(operator.kind)
    return after


def _more(kind: str, rng: torch.Generator) -> list[Degradation]:
    """What may happen to a real degraded picture after its own degradation: mostly nothing."""
    later = [k for k in ORDER[ORDER.index(kind) + 1 :] if k != "low_light"]
    if not later or _chance(rng) >= MORE_ON_PAIRS:
        return []
    chosen = later[int(torch.randint(len(later), (), generator=rng))]
    operators = [o for o in map(degradations.get, degradations.names()) if o.kind == chosen]
    return [operators[int(torch.randint(len(operators), (), generator=rng))]]


def _streaks(bank: Bank, size: Sequence[int], rng: torch.Generator) -> Tensor:
    """(1, 1, H, W) real streaks; a smaller plane is mirrored."""
    height, width = size
    plane = bank.picture(int(torch.randint(len(bank), (), generator=rng)))[3:4]
    plane = mirrored(plane, height, width, whole=True)  # so that any part of it may be taken
    rows, columns = plane.shape[-2:]
    top, left = int(_chance(rng) * (rows - height + 1)), int(_chance(rng) * (columns - width + 1))
    return plane[None, :, top : top + height, left : left + width]


def _chance(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))


def with_drawn(shards: Shards, count: int, seed: int = 0, *, textures: bool = False) -> Shards:
    """The shards, and the source "drawn" with `count` pictures that are no photographs (`draw_pictures`).

    Drawings that the shards hold already come first, so often that they are about half of the source, once if
    they are more.
    """
    photographs: list[Tensor] = []
    if (bank := shards.banks.get("clean")) is not None:
        chosen = (bank.picture(i)[:3] for i in range(0, len(bank), max(1, len(bank) // 40)))
        photographs = [(picture * 255).round().byte().permute(1, 2, 0) for picture in chosen]
    pictures = draw_pictures(count, seed, photographs, textures=textures)
    given = shards.banks.get("drawn")
    held, known = (list(given.clean_pictures()), given.names) if given is not None else ([], ())
    names = [*known, *(f"drawn/{i}" for i in range(count))]
    times = max(1, count // max(1, len(held)))
    order = [*list(range(len(held))) * times, *range(len(held), len(names))]
    drawn = PictureBank.from_pictures([*held, *pictures], names).listing(order)
    return Shards({**shards.banks, "drawn": drawn}, shards.data_hash)


def validation_shards(shards: Shards) -> Shards:
    """The shards with the drawings that validation takes; none where they are empty.

    No textures are among them, so that measures compare with those from before there were any.
    """
    if not shards.banks:
        return shards
    return with_drawn(shards, VALIDATION_DRAWN, VALIDATION_SEED)


# Beside the single kinds of `VALIDATION_TASKS`: what else a recognizer is asked.
FURTHER_TASKS = (
    ("rain_drawn", Task("rain", 1, "clean", "rain_streaks", streaks=True)),
    ("low_light_drawn", Task("low_light", 1, "clean", "low_light")),
    ("camera_noise_drawn", Task("noise", 1, "clean", "camera_noise")),
    ("noise_continuous", Task("noise", 1, "clean", "gaussian_noise")),
    ("clean_low_light", Task("clean", 1, "low_light_pairs")),
    ("clean_depth", Task("clean", 1, "depth")),
    ("drawn_jpeg", Task("jpeg", 1, "drawn", "jpeg")),
    ("drawn_noise", Task("noise", 1, "drawn", "gaussian_noise")),
    ("gray_clean", Task("clean", 1, "clean")),
    ("gray_noise", Task("noise", 1, "clean", "gaussian_noise")),
    ("gray_blur", Task("blur", 1, "clean", "defocus_blur")),
)


def validation_pictures(shards: Shards, limit: int | None = None) -> Iterator[tuple[str, int, Labelled]]:
    """The fixed labelled validation pictures: name of the row, number of the picture, and the picture.

    Rows of `VALIDATION_TASKS` are those of `pellucid.data.validation_pairs` (see `degrade_labelled`), the
    composites as often again with other seeds; then `FURTHER_TASKS`.
    """
    for name, task in (
        *VALIDATION_TASKS,
        ("composite_more", Task("composite", 1, "clean", "composite")),
        *FURTHER_TASKS,
    ):
        if task.source not in shards.banks:
            continue
        bank = shards.banks[task.source]
        for i in range(len(bank) if limit is None else min(limit, len(bank))):
            planes = center_crop(bank.picture(i)[None], 16)
            rng = torch.Generator().manual_seed(i + 10_000 * (name == "composite_more"))
            if name.startswith("noise_") and name != "noise_continuous":
                yield name, i, _papers_noise(planes, float(name.removeprefix("noise_")), rng)
            elif task.is_paired:
                yield name, i, _as_it_is(task, planes)
            elif name.startswith("gray_"):
                yield name, i, _degrade_in_gray(task, planes, rng, shards.banks)
            else:
                yield name, i, degrade_labelled(task, planes, rng, shards.banks)


def _papers_noise(planes: Tensor, sigma: float, rng: torch.Generator) -> Labelled:
    (operator, params), truth = papers_noise(sigma, rng), Truth()
    return Labelled(_apply(operator, params, planes[:, :3], truth, None, None)[0], truth)


def _as_it_is(task: Task, planes: Tensor) -> Labelled:
    """A real pair's degraded picture, with nothing added."""
    degraded = degraded_of_pair(task, planes)
    strength = measure_strength(task.source, None, planes[:, :3], degraded)
    return Labelled(degraded[0], Truth({task.kind: strength}))


def strange_pictures(seed: int = 7) -> Iterator[tuple[str, Tensor]]:
    """Pictures (3, 192, 256) unlike any that a recognizer was trained on: about these it can't know."""
    rng = torch.Generator().manual_seed(seed)
    size = (3, 192, 256)
    yield "uniform noise", torch.rand(size, generator=rng)
    yield "black and white pixels", (torch.rand((1, *size[1:]), generator=rng) < 0.5).float().repeat(3, 1, 1)
    yield (
        "salt and pepper",
        torch.where(
            torch.rand((1, *size[1:]), generator=rng) < 0.3,
            torch.rand(size, generator=rng).round(),
            torch.full(size, 0.5),
        ),
    )
    board = (torch.arange(size[1])[:, None] + torch.arange(size[2])) % 2
    yield "checkerboard of pixels", board.float().repeat(3, 1, 1)
    stripes = (torch.arange(size[2]) % 2).float()
    yield "stripes of one pixel", stripes.expand(size).clone()
    small = torch.rand((1, 3, 12, 16), generator=rng)
    yield "large mosaic", F.interpolate(small, size[1:], mode="nearest")[0]
    rows = torch.rand((3, size[1], 1), generator=rng).expand(size)
    yield "random rows", rows.clone()
    walk = torch.randn(size, generator=rng).cumsum(1).cumsum(2)
    yield "random walk", (walk - walk.amin()) / (walk.amax() - walk.amin())
