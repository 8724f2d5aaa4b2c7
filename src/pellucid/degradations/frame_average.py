"""Blur as deblurring data sets have it: the frames of a fast camera, averaged."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params, check_batch
from pellucid.degradations._kernels import convolve, splat

MAX_LENGTH = 61.0
MAX_FRAMES = 128


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
            values, 2.2 about linear light.
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
        self.expect("exponent", 1, 4)


class FrameAverage(Degradation):
    """The average of an odd number of video frames; the clean picture is the middle one.

    GoPro (Nah et al., CVPR 2017) averages 7 to 13 frames of a 240 Hz camera as they are encoded, REDS (Nah et
    al., CVPRW 2019) interpolates many more and averages light. So short a way is nearly straight and steady.

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
        few = _draw.integers(rng, n, 3, 8)
        many = _draw.flags(rng, n, 0.5)
        return FrameAverageParams(
            _draw.uniform(rng, n, *self.lengths),
            _draw.uniform(rng, n, 0, 360),
            _draw.uniform(rng, n, -40, 40),
            _draw.uniform(rng, n, -0.2, 0.2),
            tuple(65 if smooth else 2 * half + 1 for smooth, half in zip(many, few, strict=True)),
            _draw.uniform(rng, n, 1.0, 2.4),
        )

    def zero(self, n: int) -> FrameAverageParams:
        """See `Degradation.zero`."""
        none = (0.0,) * n
        return FrameAverageParams(none, none, none, none, (1,) * n, (1.0,) * n)

    def apply(self, clean: Tensor, params: FrameAverageParams) -> Tensor:
        """See `Degradation.apply`."""
        check_batch(clean, params)
        blurred = [
            # The floor keeps the root's slope finite; values that small are black.
            convolve(clean[i] ** power, frame_kernel(params, i).to(clean)).clamp(1e-6, 1) ** (1 / power)
            for i, power in enumerate(params.exponent)
        ]
        active = tuple(n > 1 and length > 0 for n, length in zip(params.frames, params.length, strict=True))
        return _draw.only_where(active, torch.stack(blurred), clean)


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


OPERATORS = (FrameAverage(),)
