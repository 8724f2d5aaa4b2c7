"""Blur as deblurring data sets have it: the frames of a fast camera, averaged."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params
from pellucid.degradations._kernels import convolve, splat

MAX_LENGTH = 61.0
MAX_FRAMES = 128
FLOOR = 1e-16  # of an average of powers


@dataclass(frozen=True)
class Way:
    """How frames are averaged: ranges of half their number, and of the power after which it is done."""

    halves: tuple[float, float]
    exponents: tuple[float, float]


# The means of whole frames, blurred and sharp, agree in GoPro as they are encoded, in REDS only after powers
# of 5 or more (decision record 23); a camera averages light.
GOPRO, REDS, CAMERA = Way((3, 8), (1.0, 1.0)), Way((32, 32), (3.5, 6.5)), Way((32, 32), (1.8, 2.6))
WAYS = (GOPRO, REDS, CAMERA)


@dataclass(frozen=True)
class FrameAverageParams(Params):
    """One value per sample.

    Attributes:
        length: of the way in pixels, from the first frame to the last.
        angle: heading of the middle frame, in degrees.
        bend: how far the heading turns from the first frame to the last, in degrees.
        lead: how much longer the way after the middle frame is than that before it, as a share of the whole.
        frames: how many are averaged.
        exponent: frames are averaged after this power of their values and rooted back: 1 averages encoded
            values, 2.2 about linear light. The higher, the more bright points win over dark ones.
    """

    length: tuple[float, ...]
    angle: tuple[float, ...]
    bend: tuple[float, ...]
    lead: tuple[float, ...]
    frames: tuple[int, ...]
    exponent: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("length", 0, MAX_LENGTH)
        self.expect("angle", -360, 360)
        self.expect("bend", -360, 360)
        self.expect("lead", -0.5, 0.5)
        self.expect("frames", 1, MAX_FRAMES)
        self.expect("exponent", 1, 8)


class FrameAverage(Degradation):
    """The average of an odd number of video frames; the clean picture is the middle one.

    GoPro (Nah et al., CVPR 2017) averages 7 to 13 frames of a 240 Hz camera as they are encoded, REDS (Nah et
    al., CVPRW 2019) interpolates many more and averages what it takes for light. So short a way is nearly
    straight and steady.

    Args:
        lengths: shortest and longest way in pixels, drawn uniformly.
    """

    name = "frame_average"
    kind = "blur"
    params_type = FrameAverageParams

    def __init__(self, lengths: tuple[float, float] = (2.0, 32.0)) -> None:
        self.lengths = lengths

    def draw(self, rng: torch.Generator, n: int) -> FrameAverageParams:
        """See `Degradation.draw`."""
        ways = [WAYS[i] for i in _draw.integers(rng, n, 0, len(WAYS) - 1)]
        counts, powers = _draw.uniform(rng, n, 0, 1), _draw.uniform(rng, n, 0, 1)
        return FrameAverageParams(
            _draw.uniform(rng, n, *self.lengths),
            _draw.uniform(rng, n, 0, 360),
            _draw.uniform(rng, n, -40, 40),
            _draw.uniform(rng, n, -0.2, 0.2),
            tuple(2 * round(_between(way.halves, t)) + 1 for way, t in zip(ways, counts, strict=True)),
            tuple(_between(way.exponents, t) for way, t in zip(ways, powers, strict=True)),
        )

    def zero(self, n: int) -> FrameAverageParams:
        """See `Degradation.zero`."""
        none = (0.0,) * n
        return FrameAverageParams(none, none, none, none, (1,) * n, (1.0,) * n)

    def apply(self, clean: Tensor, params: FrameAverageParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        blurred = [
            # In float64, since a high root brings out the last digits of dark places; the floor, a gray
            # level at the highest power that is drawn, keeps the root's slope finite.
            convolve(clean[i].double() ** power, frame_kernel(params, i).to(clean.device)).clamp(FLOOR, 1)
            ** (1 / power)
            for i, power in enumerate(params.exponent)
        ]
        active = tuple(n > 1 and length > 0 for n, length in zip(params.frames, params.length, strict=True))
        return _draw.only_where(active, torch.stack(blurred).to(clean.dtype), clean)


def frame_kernel(params: FrameAverageParams, index: int) -> Tensor:
    """(k, k) float64 kernel of one sample, sum 1, k odd; the middle frame is its middle pixel."""
    n = params.frames[index]
    time = torch.linspace(-0.5, 0.5, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
    share = time + 2 * params.lead[index] * time**2
    # A circular arc through the middle: a chord, and the heading half a turn on.
    half_turn = math.radians(params.bend[index]) * share / 2
    chord = params.length[index] * share * torch.sinc(half_turn / math.pi)
    heading = math.radians(params.angle[index]) + half_turn
    return splat(torch.stack([chord * torch.sin(heading), chord * torch.cos(heading)]))


def _between(ends: tuple[float, float], t: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * t


OPERATORS = (FrameAverage(),)
