"""Grain of a film, as its scan shows it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params
from pellucid.degradations._kernels import soften

EVERYWHERE = 0.1  # share of the variance that does not depend on the tone: the scanner's own


@dataclass(frozen=True)
class FilmGrainParams(Params):
    """One value per sample.

    Attributes:
        sigma: standard deviation in middle gray, 0 to 255 gray levels.
        softness: sigma in pixels of the blur by the grains' size and the scanner, 0 (white noise) to 3.
        color: share of the variance that is a channel's own, 0 to 1; 0 for black-and-white film.
        seed: of the grain, 0 to 2^31 - 1.
    """

    sigma: tuple[float, ...]
    softness: tuple[float, ...]
    color: tuple[float, ...]
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("sigma", 0, 255)
        self.expect("softness", 0, 3)
        self.expect("color", 0, 1)
        self.expect("seed", 0, _draw.SEED_LIMIT)


class FilmGrain(Degradation):
    """Soft noise on the encoded values, strongest in middle tones, alike in all channels or partly.

    Opaque grains that cover a share u of the film vary by u (1 - u), which is how the variance falls towards
    black and white (the Boolean model of Newson, Delon and Galerne, A Stochastic Film Grain Model for
    Resolution-Independent Rendering, 2017), but for a tenth. The blur keeps the standard deviation.
    """

    name = "film_grain"
    kind = "noise"
    params_type = FilmGrainParams

    def draw(self, rng: torch.Generator, n: int) -> FilmGrainParams:
        """See `Degradation.draw`."""
        sigma = _draw.uniform(rng, n, 2, 45)
        softness = _draw.uniform(rng, n, 0, 1.3)
        white = _draw.flags(rng, n, 0.25)
        color, colored = _draw.uniform(rng, n, 0, 1), _draw.flags(rng, n, 0.5)
        return FilmGrainParams(
            sigma,
            tuple(0.0 if is_white else s for s, is_white in zip(softness, white, strict=True)),
            tuple(c if has_color else 0.0 for c, has_color in zip(color, colored, strict=True)),
            _draw.seeds(rng, n),
        )

    def zero(self, n: int) -> FilmGrainParams:
        """See `Degradation.zero`."""
        return FilmGrainParams((0.0,) * n, (0.0,) * n, (0.0,) * n, (0,) * n)

    def apply(self, clean: Tensor, params: FilmGrainParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        rows = zip(params.softness, params.color, params.seed, strict=True)
        grain = torch.stack([_grain(clean[i], *row) for i, row in enumerate(rows)])
        tone = clean.clamp(0, 1)  # a filter's overshoot would have no square root
        spread = (EVERYWHERE + (1 - EVERYWHERE) * 4 * tone * (1 - tone)).sqrt()
        grainy = clean + grain * spread * (_draw.column(params.sigma, clean) / 255)
        return _draw.only_where(tuple(sigma > 0 for sigma in params.sigma), grainy, clean)


def _grain(like: Tensor, softness: float, color: float, seed: int) -> Tensor:
    """(3, H, W) of mean 0 and standard deviation 1."""
    rng = _draw.generator(seed, like)
    drawn = torch.randn((4, *like.shape[1:]), generator=rng, dtype=like.dtype, device=like.device)
    grain = drawn[:1] * (1 - color) ** 0.5 + drawn[1:] * color**0.5
    return soften(grain, softness)


OPERATORS = (FilmGrain(),)
