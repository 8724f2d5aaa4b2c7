"""Noise of a camera: shot and read noise in linear light, colored by demosaicing."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params
from pellucid.degradations._kernels import pad_mirrored, soften
from pellucid.degradations._light import sensor_noise
from pellucid.srgb import to_encoded, to_linear


@dataclass(frozen=True)
class CameraNoiseParams(Params):
    """One value per sample.

    Attributes:
        shot: variance of the green channel per unit of linear light, before white balance.
        read: standard deviation in the dark, in linear light of full scale 1.
        gains: white balance, by which red, green and blue and their noise were amplified.
        correlation: sigma in pixels of the blur that demosaicing leaves in the noise; 0 for white noise.
        seed: of the noise.
    """

    shot: tuple[float, ...]
    read: tuple[float, ...]
    gains: tuple[tuple[float, float, float], ...]
    correlation: tuple[float, ...]
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("shot", 0, 1)
        self.expect("read", 0, 1)
        self.expect("gains", 0.1, 10)
        self.expect("correlation", 0, 3)
        self.expect("seed", 0, _draw.SEED_LIMIT)


class CameraNoise(Degradation):
    """Signal-dependent noise as in a developed photograph.

    Levels follow real sensors: log shot uniform in [1e-4, 0.012], read tied to it by a measured line
    (Brooks et al., Unprocessing Images for Learned Raw Denoising, 2019).
    The blur keeps the standard deviation.
    """

    name = "camera_noise"
    kind = "noise"
    params_type = CameraNoiseParams

    def draw(self, rng: torch.Generator, n: int) -> CameraNoiseParams:
        """See `Degradation.draw`."""
        shot = _draw.log_uniform(rng, n, 1e-4, 0.012)
        spread = torch.randn(n, generator=rng, dtype=torch.float64).tolist()
        # Brooks et al. give the line for variances: log read = 2.18 log shot + 1.20, spread 0.26.
        read = tuple(
            math.exp((2.18 * math.log(s) + 1.20 + 0.26 * e) / 2) for s, e in zip(shot, spread, strict=True)
        )
        red, blue = _draw.uniform(rng, n, 1.0, 2.2), _draw.uniform(rng, n, 1.0, 2.2)
        gains = tuple((r, 1.0, b) for r, b in zip(red, blue, strict=True))
        blurred = _draw.flags(rng, n, 0.6)
        sigma = _draw.uniform(rng, n, 0.3, 0.9)
        correlation = tuple(s if on else 0.0 for s, on in zip(sigma, blurred, strict=True))
        return CameraNoiseParams(shot, read, gains, correlation, _draw.seeds(rng, n))

    def zero(self, n: int) -> CameraNoiseParams:
        """See `Degradation.zero`."""
        return CameraNoiseParams((0.0,) * n, (0.0,) * n, ((1.0, 1.0, 1.0),) * n, (0.0,) * n, (0,) * n)

    def apply(self, clean: Tensor, params: CameraNoiseParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        linear = to_linear(clean)
        gains = _draw.channels(params.gains, clean)
        shot = gains * _draw.column(params.shot, clean)
        read = gains * _draw.column(params.read, clean)
        noise = [
            _noise(linear[i], shot[i], read[i], sigma, _draw.generator(seed, clean))
            for i, (seed, sigma) in enumerate(zip(params.seed, params.correlation, strict=True))
        ]
        active = tuple(s > 0 or r > 0 for s, r in zip(params.shot, params.read, strict=True))
        return _draw.only_where(active, to_encoded(linear + torch.stack(noise)), clean)


def _noise(linear: Tensor, shot: Tensor, read: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
    """Soft sensor noise of light (3, H, W) that is mirrored beyond the borders, where `soften` wraps."""
    reach = math.ceil(3 * sigma)
    noise = soften(sensor_noise(pad_mirrored(linear, reach), shot, read, rng), sigma)
    return noise[:, reach : reach + linear.shape[1], reach : reach + linear.shape[2]]


OPERATORS = (CameraNoise(),)
