"""How parameters are drawn: tuples of `n` plain Python values from a CPU generator."""

from math import exp, log

import torch
from torch import Tensor

SEED_LIMIT = 2**31 - 1


def uniform(rng: torch.Generator, n: int, low: float, high: float) -> tuple[float, ...]:
    """`n` values from [low, high)."""
    return tuple((torch.rand(n, generator=rng, dtype=torch.float64) * (high - low) + low).tolist())


def log_uniform(rng: torch.Generator, n: int, low: float, high: float) -> tuple[float, ...]:
    """`n` positive values whose logarithm is uniform."""
    return tuple(exp(v) for v in uniform(rng, n, log(low), log(high)))


def integers(rng: torch.Generator, n: int, low: int, high: int) -> tuple[int, ...]:
    """`n` integers from low to high, both included."""
    return tuple(torch.randint(low, high + 1, (n,), generator=rng).tolist())


def flags(rng: torch.Generator, n: int, probability: float) -> tuple[bool, ...]:
    """`n` booleans, true with the given probability."""
    return tuple((torch.rand(n, generator=rng, dtype=torch.float64) < probability).tolist())


def seeds(rng: torch.Generator, n: int) -> tuple[int, ...]:
    """`n` seeds for `generator`."""
    return integers(rng, n, 0, SEED_LIMIT)


def generator(seed: int, like: Tensor) -> torch.Generator:
    """A generator for one sample, on the device of `like`."""
    return torch.Generator(like.device).manual_seed(seed)


def column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """(B, 1, 1, 1) from one value per sample, dtype and device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)


def channels(values: tuple[tuple[float, float, float], ...], like: Tensor) -> Tensor:
    """(B, 3, 1, 1) from one triple per sample, dtype and device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 3, 1, 1)


def only_where(active: tuple[bool, ...], degraded: Tensor, clean: Tensor) -> Tensor:
    """The degraded samples where active, the clean ones elsewhere: zero strength is exact."""
    chosen = torch.tensor(active, dtype=torch.bool, device=clean.device).view(-1, 1, 1, 1)
    return torch.where(chosen, degraded.clamp(0, 1), clean)
