"""Defocus blur: a disc with a soft rim, in linear light."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params
from pellucid.degradations._kernels import convolve
from pellucid.srgb import to_encoded, to_linear


@dataclass(frozen=True)
class DefocusBlurParams(Params):
    """Per sample: `radius` of the disc in pixels, and the width in pixels of its soft `rim`."""

    radius: tuple[float, ...]
    rim: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("radius", 0, 30)
        self.expect("rim", 0.1, 30)


class DefocusBlur(Degradation):
    """A picture out of focus, the same everywhere.

    Args:
        radii: smallest and largest radius in pixels, drawn log-uniformly.
    """

    name = "defocus_blur"
    kind = "blur"
    params_type = DefocusBlurParams

    def __init__(self, radii: tuple[float, float] = (0.5, 6.0)) -> None:
        self.radii = radii

    def draw(self, rng: torch.Generator, n: int) -> DefocusBlurParams:
        """See `Degradation.draw`."""
        return DefocusBlurParams(_draw.log_uniform(rng, n, *self.radii), _draw.uniform(rng, n, 1.0, 2.0))

    def zero(self, n: int) -> DefocusBlurParams:
        """See `Degradation.zero`."""
        return DefocusBlurParams((0.0,) * n, (1.0,) * n)

    def apply(self, clean: Tensor, params: DefocusBlurParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        linear = to_linear(clean)
        blurred = [
            convolve(linear[i], disc(radius, rim).to(clean))
            for i, (radius, rim) in enumerate(zip(params.radius, params.rim, strict=True))
        ]
        active = tuple(radius > 0 for radius in params.radius)
        return _draw.only_where(active, to_encoded(torch.stack(blurred)), clean)


def disc(radius: float, rim: float) -> Tensor:
    """(k, k) float64 disc with sum 1: full inside `radius - rim/2`, nothing outside `radius + rim/2`."""
    reach = max(1, math.ceil(radius + rim / 2))
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    distance = (line[:, None] ** 2 + line**2).sqrt()
    kernel = ((radius - distance) / rim + 0.5).clamp(0, 1)
    # A disc of no size is a point; without the floor its center would be empty.
    kernel[reach, reach] = kernel[reach, reach].clamp(min=0.1)
    return kernel / kernel.sum()


OPERATORS = (DefocusBlur(),)
