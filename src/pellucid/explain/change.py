"""Where and how much a restoration changed a picture, and its spectrum before and after."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.explain._watch import rounded
from pellucid.metrics.ciede2000 import color_difference, lab

GRID = 8  # rows and columns of the coarse map
SEEN = 1.0  # CIEDE2000 from which a difference is seen side by side
SPECTRUM_SIDE = 1024  # pixels; a larger picture gives its center
BANDS = 32
_STRIP = 2**18  # pixels that are turned into L*a*b* at once, in float64
_FLOOR = 1e-10  # of power, below 8-bit rounding (1e-6) by far: keeps a flat picture's decibels finite
LUMA = (0.2126, 0.7152, 0.0722)  # of sRGB-encoded red, green, blue (BT.709)


@dataclass(frozen=True)
class Change:
    """The difference restored minus degraded, in CIE L*a*b* (D65).

    Attributes:
        lightness: (H, W), change of L*; above zero is lighter. White is 100.
        color: (H, W), distance moved in the plane of a* and b*.
        ciede2000: mean difference over the picture.
        seen: share of pixels whose CIEDE2000 is above `SEEN`.
    """

    lightness: Tensor
    color: Tensor
    ciede2000: float
    seen: float

    def to_dict(self) -> dict[str, Any]:
        """Means, 95th percentiles, maxima, and a coarse map of mean sizes: rows from the top."""
        values: dict[str, Any] = {"ciede2000": self.ciede2000, "seen": self.seen}
        for name, x in (("lightness", self.lightness), ("color", self.color)):
            size = x.abs()
            values[name] = {
                "mean": float(x.mean(dtype=torch.float64)),
                "mean_absolute": float(size.mean(dtype=torch.float64)),
                "percentile_95": float(np.quantile(size.numpy(), 0.95)),
                "maximum": float(size.max()),
                "map": F.adaptive_avg_pool2d(size[None], GRID)[0],
            }
        return rounded(values)


def measure_change(degraded: Tensor, restored: Tensor) -> Change:
    """The change from one (3, H, W) in [0, 1] to another."""
    _, height, width = degraded.shape
    lightness, color = torch.empty(height, width), torch.empty(height, width)
    total, seen, rows = 0.0, 0, max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        before, after = (lab(x[None, :, strip].double()) for x in (degraded, restored))
        moved, difference = (after - before)[0], color_difference(before, after)
        lightness[strip], color[strip] = moved[0], torch.hypot(moved[1], moved[2])
        total, seen = total + float(difference.sum()), seen + int((difference > SEEN).sum())
    return Change(lightness, color, total / (height * width), seen / (height * width))


@dataclass(frozen=True)
class Spectrum:
    """Power of the luma per frequency, before and after.

    Attributes:
        side: of the square, about the picture's center, that was transformed.
        frequency: (N,) in cycles per pixel, middles of the bands; 0.5 is a pattern of single pixels.
        before, after: (N,) mean power over all directions, in dB; noise of standard deviation s of white
            gives 20 log10(s) in every band.
        before_map, after_map: (side, side) power in dB, frequency 0 at the center.
    """

    side: int
    frequency: Tensor
    before: Tensor
    after: Tensor
    before_map: Tensor
    after_map: Tensor

    def to_dict(self) -> dict[str, Any]:
        """The curves as plain values."""
        return rounded(
            {
                "side": self.side,
                "frequency": self.frequency,
                "before_db": self.before,
                "after_db": self.after,
            }
        )


def measure_spectrum(degraded: Tensor, restored: Tensor) -> Spectrum:
    """The spectra of two (3, H, W) in [0, 1]."""
    side = min(*degraded.shape[1:], SPECTRUM_SIDE)
    before, after = (_power(x, side) for x in (degraded, restored))
    axis = torch.fft.fftshift(torch.fft.fftfreq(side)).abs()
    radius = torch.hypot(axis[:, None], axis[None, :])
    bands = min(BANDS, max(1, side // 4))
    band = (radius * 2 * bands).long().flatten()
    inside = band < bands  # the corners beyond 0.5 hold no whole circles
    count = torch.bincount(band[inside], minlength=bands)

    def curve(power: Tensor) -> Tensor:
        sums = torch.bincount(band[inside], weights=power.flatten()[inside], minlength=bands)
        return _decibels(sums / count)

    middles = (torch.arange(bands) + 0.5) / (2 * bands)
    return Spectrum(side, middles, curve(before), curve(after), _decibels(before), _decibels(after))


def _power(x: Tensor, side: int) -> Tensor:
    """Power (side, side) of the center's luma, its mean removed, under a Hann window."""
    top, left = ((length - side) // 2 for length in x.shape[1:])
    luma = torch.einsum(
        "c,chw->hw", torch.tensor(LUMA), x[:, top : top + side, left : left + side].cpu()
    ).double()
    window = torch.hann_window(side, dtype=torch.float64) if side > 1 else torch.ones(1, dtype=torch.float64)
    window = window[:, None] * window[None, :]
    transformed = torch.fft.fft2((luma - luma.mean()) * window)
    return torch.fft.fftshift(transformed.abs() ** 2 / (window**2).sum())


def _decibels(power: Tensor) -> Tensor:
    return 10 * power.clamp_min(_FLOOR).log10()
