"""Rain streaks: layers of thrown drops, drawn out along the wind, added to the picture as gray light."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params
from pellucid.degradations._kernels import convolve_circular
from pellucid.errors import InputError

MAX_LENGTH = 120.0
MAX_WIDTH = 12.0
VEIL_GRAY = 0.8


@dataclass(frozen=True)
class RainStreaksParams(Params):
    """One value per sample; the first five have one entry per layer, from near to far.

    Attributes:
        angle: of the fall, in degrees from the vertical, to the right at the top.
        length, width: of a streak in pixels.
        density: streaks per pixel of the picture.
        brightness: of the brightest streaks, 0 to 1.
        clumping: 0 for an even fall, 1 for gusts with empty places between.
        blur: sigma in pixels by which all streaks are out of focus.
        intensity: factor on all streaks, drawn or given.
        veil: part of the light replaced by gray, from the drops too far to be seen one by one.
        seed: of the drops.
    """

    angle: tuple[tuple[float, ...], ...]
    length: tuple[tuple[float, ...], ...]
    width: tuple[tuple[float, ...], ...]
    density: tuple[tuple[float, ...], ...]
    brightness: tuple[tuple[float, ...], ...]
    clumping: tuple[float, ...]
    blur: tuple[float, ...]
    intensity: tuple[float, ...]
    veil: tuple[float, ...]
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("angle", -180, 180)
        self.expect("length", 0, MAX_LENGTH)
        self.expect("width", 0.1, MAX_WIDTH)
        self.expect("density", 0, 1)
        self.expect("brightness", 0, 1)
        self.expect("clumping", 0, 1)
        self.expect("blur", 0, MAX_WIDTH)
        self.expect("intensity", 0, 10)
        self.expect("veil", 0, 1)
        self.expect("seed", 0, _draw.SEED_LIMIT)
        for layers in zip(self.angle, self.length, self.width, self.density, self.brightness, strict=True):
            if len({len(values) for values in layers}) > 1:
                raise InputError(
                    f"The rain has layers of different number in {layers}; "
                    "give angle, length, width, density and brightness one value per layer."
                )


class RainStreaks(Degradation):
    """Streaks as in Rain100L: rainy = clip(clean + streaks), the streaks gray, the same in all channels.

    Angles, lengths, coverage and brightness follow that set's training planes at intensity 1.

    Args:
        intensities: lowest and highest factor on the streaks, drawn log-uniformly.
        veiled: part of the draws that have a veil.
    """

    name = "rain_streaks"
    kind = "rain"
    params_type = RainStreaksParams

    def __init__(self, intensities: tuple[float, float] = (0.6, 1.4), veiled: float = 0.15) -> None:
        self.intensities, self.veiled = intensities, veiled

    def draw(self, rng: torch.Generator, n: int) -> RainStreaksParams:
        """See `Degradation.draw`."""
        count = _draw.integers(rng, n, 2, 4)
        angle = _draw.uniform(rng, n, -38, 38)
        length = _draw.log_uniform(rng, n, 18, 70)
        slimness = _draw.log_uniform(rng, n, 12, 40)
        coverage = _draw.log_uniform(rng, n, 0.07, 0.35)
        brightness = _draw.uniform(rng, n, 0.3, 0.75)
        layers = range(4)
        turn = [_draw.uniform(rng, n, -4, 4) for _ in layers]
        longer = [_draw.log_uniform(rng, n, 0.6, 1.6) for _ in layers]
        share = [_draw.log_uniform(rng, n, 0.5, 2.0) for _ in layers]

        def by_layer(value: list[list[float]]) -> tuple[tuple[float, ...], ...]:
            return tuple(tuple(row[: count[i]]) for i, row in enumerate(value))

        # Each layer back is shorter, thinner and dimmer than the one before it.
        lengths = [[min(length[i] * 0.75**j * longer[j][i], MAX_LENGTH) for j in layers] for i in range(n)]
        widths = [[min(max(a / slimness[i], 0.8), 3.5) for a in row] for i, row in enumerate(lengths)]
        densities = [
            [coverage[i] * share[j][i] / count[i] / (lengths[i][j] * widths[i][j]) for j in layers]
            for i in range(n)
        ]
        veil = _draw.uniform(rng, n, 0.02, 0.3)
        with_veil = _draw.flags(rng, n, self.veiled)
        focus = _draw.uniform(rng, n, 0.3, 0.8)
        return RainStreaksParams(
            by_layer([[angle[i] + turn[j][i] for j in layers] for i in range(n)]),
            by_layer(lengths),
            by_layer(widths),
            by_layer(densities),
            by_layer([[brightness[i] * 0.8**j for j in layers] for i in range(n)]),
            _draw.uniform(rng, n, 0, 1),
            tuple(f if on else 0.0 for f, on in zip(focus, _draw.flags(rng, n, 0.3), strict=True)),
            _draw.log_uniform(rng, n, *self.intensities),
            tuple(v if on else 0.0 for v, on in zip(veil, with_veil, strict=True)),
            _draw.seeds(rng, n),
        )

    def zero(self, n: int) -> RainStreaksParams:
        """See `Degradation.zero`."""
        none = (0.0,) * n
        bare: tuple[tuple[float, ...], ...] = ((),) * n
        return RainStreaksParams(bare, bare, bare, bare, bare, none, none, none, none, (0,) * n)

    def apply(self, clean: Tensor, params: RainStreaksParams, streaks: Tensor | None = None) -> Tensor:
        """See `Degradation.apply`.

        Args:
            clean: as there.
            params: as there.
            streaks: (B, 1, H, W) in [0, 1], real streaks that replace the drawn ones; none: drawn.
        """
        self.check(clean, params)
        if streaks is None:
            streaks = torch.stack([draw_streaks(clean[i], params.select(i)) for i in range(len(params))])
        elif streaks.shape != (clean.shape[0], 1, *clean.shape[2:]):
            raise InputError(
                f"The streaks have shape {tuple(streaks.shape)}; "
                f"expected {(clean.shape[0], 1, *clean.shape[2:])}. Crop them to the pictures."
            )
        veil = _draw.column(params.veil, clean)
        rainy = clean + (VEIL_GRAY - clean) * veil + streaks.to(clean) * _draw.column(params.intensity, clean)
        active = tuple(i > 0 or v > 0 for i, v in zip(params.intensity, params.veil, strict=True))
        return _draw.only_where(active, rainy, clean)


def draw_streaks(picture: Tensor, params: RainStreaksParams) -> Tensor:
    """(1, H, W) streaks in [0, 1] for one picture (3, H, W); `params` are of one sample."""
    rng = _draw.generator(params.seed[0], picture)
    height, width = picture.shape[1:]
    plane = torch.zeros((height, width), dtype=picture.dtype, device=picture.device)
    layers = zip(
        params.angle[0],
        params.length[0],
        params.width[0],
        params.density[0],
        params.brightness[0],
        strict=True,
    )
    for angle, length, thickness, density, brightness in layers:
        kernel = streak_kernel(angle, length, thickness, params.blur[0]).to(picture)
        cut = kernel.shape[0] - 1
        # Drops also fall outside, so that streaks enter from there; sizes that FFTs like.
        size = (_rounded(height + cut), _rounded(width + cut))
        drops = _drops(size, density, params.clumping[0], rng, plane)
        layer = convolve_circular(drops[None], kernel)[0, cut : cut + height, cut : cut + width]
        plane = plane + brightness * layer.clamp(0, 1.2)
    return plane.clamp(0, 1)[None]


def _drops(
    size: tuple[int, int], density: float, clumping: float, rng: torch.Generator, like: Tensor
) -> Tensor:
    """Sparse impulses, few bright and many dim, more of them where a coarse random field is high."""
    chance, light = torch.rand((2, *size), generator=rng, dtype=like.dtype, device=like.device)
    cells = (1, 1, max(2, size[0] // 64), max(2, size[1] // 10))
    gusts = torch.randn(cells, generator=rng, dtype=like.dtype, device=like.device)
    gusts = F.interpolate(gusts, size=size, mode="bilinear", align_corners=True)[0, 0]
    # exp(s g - s^2/2) has mean 1 for a standard normal g; interpolation only softens it.
    spread = 1.2 * clumping
    local = density * torch.exp(spread * gusts - spread**2 / 2)
    return torch.where(chance < local, 0.08 + 0.92 * light**3, 0)


def streak_kernel(angle: float, length: float, width: float, blur: float) -> Tensor:
    """(k, k) float64 streak of peak 1 (less if out of focus), k odd, anti-aliased by its Gaussian section."""
    sigma = math.hypot(width / 2.355, 0.35)  # width is the full width at half maximum
    soft = math.hypot(sigma, blur)
    reach = math.ceil(length / 2 + 3 * soft)
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    across = math.cos(math.radians(angle)) * line + math.sin(math.radians(angle)) * line[:, None]
    along = math.cos(math.radians(angle)) * line[:, None] - math.sin(math.radians(angle)) * line
    section = torch.exp(-(across**2) / (2 * soft**2)) * (sigma / soft)
    # Bright in the lower middle, tapering to both ends.
    place = along / max(length / 2, 0.5)
    taper = torch.sigmoid((1 - place.abs()) * 6) * (0.75 + 0.25 * place.clamp(-1, 1))
    return section * taper


def _rounded(size: int) -> int:
    return -(-size // 16) * 16


OPERATORS = (RainStreaks(),)
