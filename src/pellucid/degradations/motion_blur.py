"""Motion blur of a moving camera: a random trajectory, averaged in linear light."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params
from pellucid.degradations._kernels import convolve, splat
from pellucid.srgb import to_encoded, to_linear

STEPS = 512  # points on a trajectory: several per pixel, so that splatting leaves no gaps
MAX_LENGTH = 61.0


@dataclass(frozen=True)
class MotionBlurParams(Params):
    """One value per sample.

    Attributes:
        length: longer side in pixels of the box around the trajectory.
        angle: heading at the start, in degrees.
        wander: how far the heading turns on the way (standard deviation in degrees); 0 is a straight line.
        unsteadiness: how much the speed varies on the way, 0 to 1.
        seed: of the trajectory.
    """

    length: tuple[float, ...]
    angle: tuple[float, ...]
    wander: tuple[float, ...]
    unsteadiness: tuple[float, ...]
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("length", 0, MAX_LENGTH)
        self.expect("angle", -360, 360)
        self.expect("wander", 0, 720)
        self.expect("unsteadiness", 0, 1)
        self.expect("seed", 0, _draw.SEED_LIMIT)


class MotionBlur(Degradation):
    """The picture averaged along the way that a shaken camera takes while the shutter is open.

    Heading and speed are smooth random walks (a camera has inertia); the kernel is the time spent at each
    place, splatted bilinearly, with its centroid in the middle so that the picture does not shift.

    Args:
        lengths: shortest and longest extent in pixels, drawn log-uniformly.
    """

    name = "motion_blur"
    kind = "blur"
    params_type = MotionBlurParams

    def __init__(self, lengths: tuple[float, float] = (3.0, 29.0)) -> None:
        self.lengths = lengths

    def draw(self, rng: torch.Generator, n: int) -> MotionBlurParams:
        """See `Degradation.draw`."""
        return MotionBlurParams(
            _draw.log_uniform(rng, n, *self.lengths),
            _draw.uniform(rng, n, 0, 360),
            _draw.log_uniform(rng, n, 5, 150),
            _draw.uniform(rng, n, 0, 0.8),
            _draw.seeds(rng, n),
        )

    def zero(self, n: int) -> MotionBlurParams:
        """See `Degradation.zero`."""
        none = (0.0,) * n
        return MotionBlurParams(none, none, none, none, (0,) * n)

    def apply(self, clean: Tensor, params: MotionBlurParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        linear = to_linear(clean)
        blurred = [convolve(linear[i], motion_kernel(params, i).to(clean)) for i in range(len(params))]
        active = tuple(length > 0 for length in params.length)
        return _draw.only_where(active, to_encoded(torch.stack(blurred)), clean)


def motion_kernel(params: MotionBlurParams, index: int) -> Tensor:
    """(k, k) float64 kernel of one sample, sum 1, k odd; made on the CPU, so the same for all devices."""
    rng = torch.Generator().manual_seed(params.seed[index])
    turn, speed = _smooth_walks(rng)
    heading = math.radians(params.angle[index]) + math.radians(params.wander[index]) * turn
    pace = torch.exp(params.unsteadiness[index] * speed)
    way = torch.stack([torch.sin(heading) * pace, torch.cos(heading) * pace]).cumsum(1)  # (2, STEPS): y, x
    extent = (way.amax(1) - way.amin(1)).amax()
    way = way * (params.length[index] / extent)
    way = way - way.mean(1, keepdim=True)
    return splat(way)


def _smooth_walks(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two (STEPS,) random walks with inertia, starting at 0: of the heading and of the speed's logarithm."""
    kicks = torch.randn(2, 1, 9, generator=rng, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(kicks, size=STEPS, mode="linear", align_corners=True)[:, 0]
    walk = (smooth.cumsum(1) / STEPS) * 3  # 3 brings the final spread near 1
    return walk[0], walk[1]


OPERATORS = (MotionBlur(),)
