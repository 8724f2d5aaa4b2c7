"""Too little light: a short exposure in linear light, off in contrast and color, then the sensor's noise."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params
from pellucid.degradations._light import sensor_noise
from pellucid.srgb import to_encoded, to_linear


@dataclass(frozen=True)
class LowLightParams(Params):
    """One value per sample.

    Attributes:
        exposure: factor on linear light.
        gamma: exponent on linear light before exposure; above 1 the shadows sink more than the highlights.
        cast: factors on red, green and blue.
        shot: variance per unit of linear light.
        read: standard deviation in the dark, in linear light of full scale 1.
        quantize: whether the dark picture was stored with 8 bits.
        seed: of the noise.
    """

    exposure: tuple[float, ...]
    gamma: tuple[float, ...]
    cast: tuple[tuple[float, float, float], ...]
    shot: tuple[float, ...]
    read: tuple[float, ...]
    quantize: tuple[bool, ...]
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("exposure", 0, 1)
        self.expect("gamma", 0.1, 10)
        self.expect("cast", 0, 10)
        self.expect("shot", 0, 1)
        self.expect("read", 0, 1)
        self.expect("seed", 0, _draw.SEED_LIMIT)


class LowLight(Degradation):
    """A picture taken with too little light.

    Ranges were set by LOL-v1's training pairs: linear exposures of 1/16 to 1/150 in most of them, channel
    ratios of 0.7 to 1.3, noise of 1 to 3 gray levels of 255 in the dark picture.

    Args:
        exposures: lowest and highest factor on linear light, drawn log-uniformly.
    """

    name = "low_light"
    kind = "low_light"
    params_type = LowLightParams

    def __init__(self, exposures: tuple[float, float] = (1 / 150, 1 / 4)) -> None:
        self.exposures = exposures

    def draw(self, rng: torch.Generator, n: int) -> LowLightParams:
        """See `Degradation.draw`."""
        exposure = _draw.log_uniform(rng, n, *self.exposures)
        gamma = _draw.log_uniform(rng, n, 0.85, 1.25)
        red, green, blue = (_draw.log_uniform(rng, n, 0.8, 1.25) for _ in range(3))
        return LowLightParams(
            exposure,
            gamma,
            tuple(zip(red, green, blue, strict=True)),
            _draw.log_uniform(rng, n, 5e-6, 2e-4),
            _draw.log_uniform(rng, n, 5e-5, 1e-3),
            _draw.flags(rng, n, 0.8),
            _draw.seeds(rng, n),
        )

    def zero(self, n: int) -> LowLightParams:
        """See `Degradation.zero`."""
        one, none = (1.0,) * n, (0.0,) * n
        return LowLightParams(one, one, ((1.0, 1.0, 1.0),) * n, none, none, (False,) * n, (0,) * n)

    def apply(self, clean: Tensor, params: LowLightParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        linear = to_linear(clean)
        light = torch.stack([picture**gamma for picture, gamma in zip(linear, params.gamma, strict=True)])
        light = light * _draw.column(params.exposure, clean) * _draw.channels(params.cast, clean)
        shot = _draw.column(params.shot, clean).expand(-1, 3, 1, 1)
        read = _draw.column(params.read, clean).expand(-1, 3, 1, 1)
        noise = torch.stack(
            [
                sensor_noise(light[i], shot[i], read[i], _draw.generator(seed, clean))
                for i, seed in enumerate(params.seed)
            ]
        )
        dark = to_encoded(light + noise)
        dark = _draw.only_where(params.quantize, (dark * 255).round() / 255, dark)
        neutral = self.zero(1)
        active = tuple(replace(params.select(i), seed=neutral.seed) != neutral for i in range(len(params)))
        return _draw.only_where(active, dark, clean)


OPERATORS = (LowLight(),)
