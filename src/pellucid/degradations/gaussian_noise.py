"""Additive white Gaussian noise, as the denoising papers add it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params


@dataclass(frozen=True)
class GaussianNoiseParams(Params):
    """Per sample: `sigma` in gray levels of 255; `truncate` to 8 bits, as the papers' test sets; `seed`."""

    sigma: tuple[float, ...]
    truncate: tuple[bool, ...]
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("sigma", 0, 255)
        self.expect("seed", 0, _draw.SEED_LIMIT)


class GaussianNoise(Degradation):
    """White noise on the encoded values, clipped to [0, 1].

    With `truncate` the papers' own arithmetic is followed: the 8-bit picture plus noise is clipped to
    [0, 255] and cast, that is, rounded down (as in the test code of DnCNN and PromptIR); it costs half a gray
    level of mean.

    Args:
        sigmas: noise levels to choose from with equal chance; none: two thirds of the draws are uniform over
            `sigma_range`, the rest are the papers' 15, 25 and 50.
        sigma_range: lowest and highest, in gray levels of 255.
        truncate: whether to truncate to 8 bits; none: every second draw.
    """

    name = "gaussian_noise"
    kind = "noise"
    params_type = GaussianNoiseParams

    def __init__(
        self,
        sigmas: tuple[float, ...] | None = None,
        *,
        sigma_range: tuple[float, float] = (0.0, 55.0),
        truncate: bool | None = None,
    ) -> None:
        self.sigmas, self.sigma_range, self.truncate = sigmas, sigma_range, truncate

    def draw(self, rng: torch.Generator, n: int) -> GaussianNoiseParams:
        """See `Degradation.draw`."""
        levels = self.sigmas or (15.0, 25.0, 50.0)
        named = tuple(float(levels[i]) for i in _draw.integers(rng, n, 0, len(levels) - 1))
        continuous = _draw.uniform(rng, n, *self.sigma_range)
        is_named = _draw.flags(rng, n, 1.0 if self.sigmas else 1 / 3)
        truncated = _draw.flags(rng, n, 0.5) if self.truncate is None else (self.truncate,) * n
        sigma = tuple(a if use else b for a, b, use in zip(named, continuous, is_named, strict=True))
        return GaussianNoiseParams(sigma, truncated, _draw.seeds(rng, n))

    def zero(self, n: int) -> GaussianNoiseParams:
        """See `Degradation.zero`."""
        return GaussianNoiseParams((0.0,) * n, (False,) * n, (0,) * n)

    def apply(self, clean: Tensor, params: GaussianNoiseParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        noise = torch.stack(
            [
                torch.randn(
                    clean.shape[1:],
                    generator=_draw.generator(seed, clean),
                    dtype=clean.dtype,
                    device=clean.device,
                )
                for seed in params.seed
            ]
        ) * _draw.column(params.sigma, clean)
        plain = clean + noise / 255
        truncated = ((clean * 255).round() + noise).clamp(0, 255).floor() / 255
        noisy = _draw.only_where(params.truncate, truncated, plain.clamp(0, 1))
        active = tuple(s > 0 or t for s, t in zip(params.sigma, params.truncate, strict=True))
        return _draw.only_where(active, noisy, clean)


OPERATORS = (GaussianNoise(),)
