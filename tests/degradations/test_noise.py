import math

import pytest
import torch

from pellucid.degradations._kernels import soften
from pellucid.degradations.camera_noise import CameraNoise, CameraNoiseParams
from pellucid.degradations.film_grain import FilmGrain, FilmGrainParams
from pellucid.degradations.gaussian_noise import GaussianNoise, GaussianNoiseParams
from pellucid.errors import InputError
from pellucid.srgb import to_linear


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("sigma", [15.0, 25.0, 50.0])
def test_gaussian_noise_has_its_sigma(sigma: float) -> None:
    clean = torch.full((1, 3, 128, 128), 0.5)
    noisy = GaussianNoise().apply(clean, GaussianNoiseParams((sigma,), (False,), (3,)))
    # Clipping narrows sigma 50 a little.
    assert (noisy - clean).std().item() * 255 == pytest.approx(sigma, rel=0.03)


def test_truncation_rounds_down_to_8_bits() -> None:
    levels = torch.arange(256).float().view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    kept = GaussianNoise().apply(levels, GaussianNoiseParams((0.0,), (True,), (0,)))
    assert torch.equal(kept, levels)
    params = GaussianNoiseParams((25.0,), (True,), (5,))
    noisy = GaussianNoise().apply(levels, params) * 255
    plain = GaussianNoise().apply(levels, GaussianNoiseParams((25.0,), (False,), (5,))) * 255
    assert torch.allclose(noisy, noisy.round(), atol=1e-4)
    assert ((plain - noisy) > -1e-3).all()
    assert ((plain - noisy) < 1 + 1e-3).all()


def test_draws_of_sigma() -> None:
    drawn = GaussianNoise().draw(rng(), 3000)
    named = sum(s in (15.0, 25.0, 50.0) for s in drawn.sigma)
    assert 900 < named < 1100
    rest = [s for s in drawn.sigma if s not in (15.0, 25.0, 50.0)]
    assert min(rest) < 1
    assert max(rest) > 54
    assert 1350 < sum(drawn.truncate) < 1650
    fixed = GaussianNoise(sigmas=(25,), truncate=True).draw(rng(), 5)
    assert fixed.sigma == (25.0,) * 5
    assert fixed.truncate == (True,) * 5


def test_sigma_beyond_the_range_is_refused() -> None:
    with pytest.raises(InputError, match="sigma"):
        GaussianNoiseParams((-1.0,), (False,), (0,))


def camera(correlation: float) -> CameraNoiseParams:
    return CameraNoiseParams((4e-4,), (2e-3,), ((2.0, 1.0, 1.5),), (correlation,), (11,))


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_camera_noise_follows_light_and_gain(correlation: float) -> None:
    for level in (0.4, 0.7):
        clean = torch.full((1, 3, 160, 160), level, dtype=torch.float64)
        light = to_linear(clean)
        noise = to_linear(CameraNoise().apply(clean, camera(correlation))) - light
        expected = [math.sqrt(g * 4e-4 * light.mean().item() + (g * 2e-3) ** 2) for g in (2.0, 1.0, 1.5)]
        assert noise.std((0, 2, 3)).tolist() == pytest.approx(expected, rel=0.06)


def test_gain_is_on_what_is_read_in_the_dark_too() -> None:
    clean = torch.full((1, 3, 160, 160), 0.5, dtype=torch.float64)
    params = CameraNoiseParams((0.0,), (0.005,), ((2.0, 1.0, 1.5),), (0.0,), (11,))
    noise = to_linear(CameraNoise().apply(clean, params)) - to_linear(clean)
    assert noise.std((0, 2, 3)).tolist() == pytest.approx([0.01, 0.005, 0.0075], rel=0.03)


def test_drawn_sensors_follow_the_measured_line() -> None:
    drawn = CameraNoise().draw(rng(), 3000)
    shot, read = torch.tensor([drawn.shot, drawn.read], dtype=torch.float64)
    off = (read**2).log() - (2.18 * shot.log() + 1.20)
    assert off.mean().item() == pytest.approx(0, abs=0.02)
    assert off.std().item() == pytest.approx(0.26, abs=0.02)


def test_the_noise_of_light_stays_out_of_the_dark_at_the_other_border() -> None:
    clean = torch.full((1, 3, 64, 4000), 0.1, dtype=torch.float64)
    clean[:, :, :32] = 0.9
    noise = to_linear(CameraNoise().apply(clean, camera(0.9))) - to_linear(clean)
    across = noise[0, 1].std(1)
    assert across[-1].item() == pytest.approx(across[48].item(), rel=0.08)
    assert across[0].item() == pytest.approx(across[16].item(), rel=0.08)


def test_correlation_reaches_the_neighbor() -> None:
    clean = torch.full((1, 3, 96, 96), 0.6)

    def neighbors(correlation: float) -> float:
        noise = (CameraNoise().apply(clean, camera(correlation)) - clean)[0, 1]
        return float(torch.corrcoef(torch.stack([noise[:, 1:].flatten(), noise[:, :-1].flatten()]))[0, 1])

    assert abs(neighbors(0)) < 0.05
    assert neighbors(0.7) > 0.4


def grain(clean: torch.Tensor, softness: float = 0.0, color: float = 0.0) -> torch.Tensor:
    return FilmGrain().apply(clean, FilmGrainParams((20.0,), (softness,), (color,), (7,))) - clean


@pytest.mark.parametrize("softness", [0.0, 0.8])
@pytest.mark.parametrize(("tone", "share"), [(0.5, 1), (0.2, 0.82), (0.9, 0.65)])
def test_film_grain_is_strongest_in_middle_tones(softness: float, tone: float, share: float) -> None:
    found = grain(torch.full((1, 3, 200, 200), tone), softness).std().item() * 255
    # sqrt(0.1 + 0.9 * 4 u (1 - u)) of sigma, less what white clips
    assert found == pytest.approx(20 * share, rel=0.06)


def test_film_grain_is_alike_in_all_channels_or_partly() -> None:
    clean = torch.full((1, 3, 200, 200), 0.5)
    alone = grain(clean)
    assert torch.equal(alone[:, :1].expand_as(alone), alone)
    partly = grain(clean, color=0.4)[0].flatten(1)
    assert float(torch.corrcoef(partly)[0, 1]) == pytest.approx(0.6, abs=0.03)


def test_soft_noise_is_as_strong_on_the_borders_as_inside() -> None:
    rng = torch.Generator().manual_seed(0)
    soft = soften(torch.randn((4000, 12, 12), generator=rng), 1.3)
    # The deviation of 4000 values varies by 0.01.
    assert soft[:, 0, 0].std().item() == pytest.approx(1, abs=0.04)
    assert soft[:, 6, 6].std().item() == pytest.approx(1, abs=0.04)


def test_hardly_soft_noise_is_white() -> None:
    clean = torch.full((1, 3, 32, 32), 0.5)
    for sigma in (1e-300, 1e-150):
        assert torch.allclose(grain(clean, sigma), grain(clean), atol=1e-5)
        assert (CameraNoise().apply(clean, camera(sigma)) != clean).all()


def test_film_grain_is_as_soft_as_told() -> None:
    clean = torch.full((1, 3, 200, 200), 0.5)
    for softness, expected in ((0.0, 0.0), (0.8, 0.68), (1.2, 0.84)):  # exp(-1 / 4 softness^2)
        noise = grain(clean, softness)[0, 1]
        pairs = torch.stack([noise[:, 1:].flatten(), noise[:, :-1].flatten()])
        assert float(torch.corrcoef(pairs)[0, 1]) == pytest.approx(expected, abs=0.04)
