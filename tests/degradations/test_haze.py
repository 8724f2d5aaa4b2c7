from dataclasses import replace

import pytest
import torch

from pellucid.degradations.haze import Haze, HazeParams, outdoor_depth
from pellucid.errors import InputError


def haze(beta: float = 1.0, sky: float = 0.0) -> HazeParams:
    return HazeParams((beta,), ((0.9, 0.8, 1.0),), (0.2,), (1.2,), (0.0,), (0.0,), (0.0,), (sky,), (3,))


def test_given_depth_follows_the_scattering_model() -> None:
    clean = torch.rand((1, 3, 6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    depth = torch.linspace(0, 3, 48, dtype=torch.float64).view(1, 1, 6, 8)
    transmission = torch.exp(-0.7 * depth)
    airlight = torch.tensor([0.9, 0.8, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    hazy = Haze().apply(clean, haze(0.7), depth)
    assert torch.allclose(hazy, clean * transmission + airlight * (1 - transmission))
    with pytest.raises(InputError, match="depth"):
        Haze().apply(clean, haze(), depth[..., :4])


def test_drawn_ground_is_far_at_the_top() -> None:
    depth = outdoor_depth(torch.zeros(3, 33, 32), haze())[0]
    assert depth[0].mean() == pytest.approx(1.2)
    assert depth[16].mean() == pytest.approx(0.2 + 0.5**1.5)  # most of the way lies near the horizon
    assert depth[-1].mean() == pytest.approx(0.2)
    assert (depth.diff(dim=0) <= 1e-6).all()


def test_sky_is_far_and_a_dark_roof_is_not() -> None:
    picture = torch.full((3, 64, 64), 0.85)
    picture[:, :32, 40:] = 0.15
    params = haze(sky=2.0)
    added = outdoor_depth(picture, params) - outdoor_depth(picture, replace(params, sky=(0.0,)))
    assert added[0, :10, :25].min() > 1
    assert added[0, :10, 55:].max() < 0.3
    assert added[0, 56:].max() < 0.01


def test_objects_have_hard_outlines() -> None:
    params = replace(haze(), objects=(0.5,))
    depth = outdoor_depth(torch.full((3, 64, 64), 0.5), params)[0]
    ratio = depth / outdoor_depth(torch.full((3, 64, 64), 0.5), haze())[0]
    whole = ((ratio - 1).abs() < 1e-4) | ((ratio - 0.5).abs() < 1e-4)
    assert 0.1 < (ratio < 0.75).float().mean() < 0.9
    assert whole.float().mean() > 0.85


def test_draws_reach_the_field_usual_strength() -> None:
    clean = torch.rand((24, 3, 48, 48), generator=torch.Generator().manual_seed(2)) * 0.9
    hazy = Haze().apply(clean, Haze().draw(torch.Generator().manual_seed(4), 24))
    psnr = -10 * (hazy - clean).square().flatten(1).mean(1).log10()
    assert 10 < psnr.median() < 20
