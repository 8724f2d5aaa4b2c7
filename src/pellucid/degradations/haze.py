"""Haze by atmospheric scattering: light lost on the way, airlight gained, both by distance."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params
from pellucid.degradations._light import exponential
from pellucid.errors import InputError

OCTAVES = (2, 4, 8, 16)  # cells across the picture


@dataclass(frozen=True)
class HazeParams(Params):
    """One value per sample. Only `beta` and `airlight` matter when a depth map is given.

    Attributes:
        beta: scattering per unit of depth; transmission = exp(-beta * depth).
        airlight: color of the haze, red, green, blue.
        near, far: depth at the bottom and at the top of a drawn scene.
        tilt: turn of the drawn ground against the vertical, in degrees.
        relief: how strongly smooth hills bend the drawn depth, 0 to 1.
        objects: how far things with hard outlines stand before their background, 0 to 1.
        sky: depth added where the picture looks like sky; 0 for none.
        seed: of the drawn depth.
    """

    beta: tuple[float, ...]
    airlight: tuple[tuple[float, float, float], ...]
    near: tuple[float, ...]
    far: tuple[float, ...]
    tilt: tuple[float, ...]
    relief: tuple[float, ...]
    objects: tuple[float, ...]
    sky: tuple[float, ...]
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("beta", 0, 100)
        self.expect("airlight", 0, 1)
        self.expect("near", 0, 100)
        self.expect("far", 0, 100)
        self.expect("tilt", -360, 360)
        self.expect("relief", 0, 1)
        self.expect("objects", 0, 1)
        self.expect("sky", 0, 100)
        self.expect("seed", 0, _draw.SEED_LIMIT)


class Haze(Degradation):
    """hazy = clean * transmission + airlight * (1 - transmission), with transmission = exp(-beta * depth).

    The model is Koschmieder's, on encoded values as RESIDE applies it. Depth is given, or drawn to look like
    the outdoors: far at the top, rolling, with objects before the background and a sky behind everything.

    Args:
        betas: lowest and highest scattering, drawn uniformly.
    """

    name = "haze"
    kind = "haze"
    params_type = HazeParams

    def __init__(self, betas: tuple[float, float] = (0.4, 1.6)) -> None:
        self.betas = betas

    def draw(self, rng: torch.Generator, n: int) -> HazeParams:
        """See `Degradation.draw`."""
        gray = _draw.uniform(rng, n, 0.7, 1.0)
        tints = [_draw.uniform(rng, n, -0.03, 0.03) for _ in range(3)]
        airlight = tuple(
            (min(g + r, 1.0), min(g + s, 1.0), min(g + b, 1.0))
            for g, r, s, b in zip(gray, *tints, strict=True)
        )
        near = _draw.uniform(rng, n, 0.1, 0.6)
        span = _draw.log_uniform(rng, n, 0.1, 1.5)  # a crop of a scene sees only part of its depth
        with_sky = _draw.flags(rng, n, 0.6)
        sky = _draw.uniform(rng, n, 0.5, 2.5)
        with_objects = _draw.flags(rng, n, 0.5)
        objects = _draw.uniform(rng, n, 0.05, 0.4)
        return HazeParams(
            _draw.uniform(rng, n, *self.betas),
            airlight,
            near,
            tuple(a + b for a, b in zip(near, span, strict=True)),
            _draw.uniform(rng, n, -40, 40),
            _draw.uniform(rng, n, 0, 0.6),
            tuple(o if on else 0.0 for o, on in zip(objects, with_objects, strict=True)),
            tuple(s if on else 0.0 for s, on in zip(sky, with_sky, strict=True)),
            _draw.seeds(rng, n),
        )

    def zero(self, n: int) -> HazeParams:
        """See `Degradation.zero`."""
        none = (0.0,) * n
        return HazeParams(none, ((1.0, 1.0, 1.0),) * n, none, none, none, none, none, none, (0,) * n)

    def apply(self, clean: Tensor, params: HazeParams, depth: Tensor | None = None) -> Tensor:
        """See `Degradation.apply`.

        Args:
            clean: as there.
            params: as there.
            depth: (B, 1, H, W) distances in any unit that suits `beta`, larger is farther; none: drawn.
        """
        self.check(clean, params)
        if depth is None:
            depth = torch.stack([outdoor_depth(clean[i], params.select(i)) for i in range(len(params))])
        elif depth.shape != (clean.shape[0], 1, *clean.shape[2:]):
            raise InputError(
                f"The depth has shape {tuple(depth.shape)}; "
                f"expected {(clean.shape[0], 1, *clean.shape[2:])}. Resize it to the pictures."
            )
        transmission = exponential(-_draw.column(params.beta, clean) * depth.to(clean))
        airlight = _draw.channels(params.airlight, clean)
        hazy = airlight + (clean - airlight) * transmission
        return _draw.only_where(tuple(beta > 0 for beta in params.beta), hazy, clean)


def outdoor_depth(picture: Tensor, params: HazeParams) -> Tensor:
    """(1, H, W) drawn depth behind one picture (3, H, W); `params` are of one sample."""
    rng = _draw.generator(params.seed[0], picture)
    height, width = picture.shape[1:]
    y = torch.linspace(-1, 1, height, dtype=picture.dtype, device=picture.device)[:, None]
    x = torch.linspace(-1, 1, width, dtype=picture.dtype, device=picture.device)
    tilt = math.radians(params.tilt[0])
    ground = (0.5 + (math.sin(tilt) * x - math.cos(tilt) * y) / 2).clamp(0, 1)  # 0 near, 1 far
    hills, outlines = _clouds(picture, rng), _clouds(picture, rng)
    ground = (ground + params.relief[0] * (hills - 0.5)).clamp(0, 1)
    # Perspective packs the distance toward the horizon.
    depth = params.near[0] + (params.far[0] - params.near[0]) * ground**1.5
    # Thresholded clouds have outlines one or two pixels wide. Brightness bends them, so that many run along
    # the picture's own edges, as the outlines of real things do.
    brightness = _box(picture.mean(0), 5)
    standing = ((outlines - 0.55 - 0.8 * (brightness - brightness.mean())) * min(height, width)).clamp(0, 1)
    depth = depth * (1 - params.objects[0] * standing)
    if params.sky[0] > 0:
        depth = depth + params.sky[0] * _sky(picture, y)
    return depth[None]


def _clouds(picture: Tensor, rng: torch.Generator) -> Tensor:
    """(H, W) smooth random field in [0, 1], octaves falling by half."""
    size = picture.shape[1:]
    field = torch.zeros(size, dtype=picture.dtype, device=picture.device)
    for i, cells in enumerate(OCTAVES):
        grid = torch.randn(
            (1, 1, cells + 1, cells + 1), generator=rng, dtype=picture.dtype, device=picture.device
        )
        field = field + F.interpolate(grid, size=tuple(size), mode="bicubic", align_corners=True)[0, 0] / 2**i
    return torch.sigmoid(1.7 * field)


def _sky(picture: Tensor, y: Tensor) -> Tensor:
    """(H, W) in [0, 1]: how much a place looks like sky: bright, gray or blue, smooth, near the top."""
    brightness = picture.mean(0)
    reddish = (picture[0] - picture[2]).clamp(min=0) + (picture[1] - picture[2]).clamp(min=0)
    smoothed = _box(brightness, 9)
    texture = _box((brightness - smoothed).abs(), 9)
    looks = torch.sigmoid((smoothed - 0.6) * 15) * torch.exp(-texture * 30) * torch.exp(-_box(reddish, 9) * 6)
    return _box(looks, 3) * (0.5 - y).clamp(0, 1)


def _box(plane: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(plane[None, None], size, 1, size // 2, count_include_pad=False)[0, 0]


OPERATORS = (Haze(),)
