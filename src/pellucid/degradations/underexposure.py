"""A scene that got too little of the light: the same picture, 1.3 to 4 stops darker."""

import torch

from pellucid.degradations import _draw
from pellucid.degradations.low_light import LowLight, LowLightParams


class Underexposure(LowLight):
    """A picture that an ordinary camera took with too short an exposure.

    Unlike `LowLight`, which follows LOL-v1, its colors and its contrast are right, its noise is that of a
    camera in daylight, or none, and it is as little as 1.3 stops too dark. Where it has none, only its tones
    tell that it is dark: no part of it is bright.

    Args:
        exposures: lowest and highest factor on linear light, drawn log-uniformly.
    """

    name = "underexposure"
    in_mixes = False  # mixes, those of validation among them, have the darkness of `LowLight`

    def __init__(self, exposures: tuple[float, float] = (1 / 16, 1 / 2.5)) -> None:
        super().__init__(exposures)

    def draw(self, rng: torch.Generator, n: int) -> LowLightParams:
        """See `Degradation.draw`."""
        exposure = _draw.log_uniform(rng, n, *self.exposures)
        red, green, blue = (_draw.log_uniform(rng, n, 0.96, 1.04) for _ in range(3))
        noisy = _draw.flags(rng, n, 0.5)
        shot, read = _draw.log_uniform(rng, n, 1e-6, 5e-5), _draw.log_uniform(rng, n, 1e-5, 3e-4)
        return LowLightParams(
            exposure,
            (1.0,) * n,
            tuple(zip(red, green, blue, strict=True)),
            tuple(value * there for value, there in zip(shot, noisy, strict=True)),
            tuple(value * there for value, there in zip(read, noisy, strict=True)),
            _draw.flags(rng, n, 0.8),
            _draw.seeds(rng, n),
        )


OPERATORS = (Underexposure(),)
