from dataclasses import replace

import torch

from pellucid import degradations
from pellucid.degradations.underexposure import Underexposure
from pellucid.srgb import to_linear


def test_draws_are_darker_by_1_3_to_4_stops_with_their_colors_right() -> None:
    clean = torch.rand((64, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    params = Underexposure().draw(torch.Generator().manual_seed(1), 64)
    bare = replace(params, shot=(0.0,) * 64, read=(0.0,) * 64, quantize=(False,) * 64)
    light = to_linear(Underexposure().apply(clean, bare)) / to_linear(clean).clamp_min(1e-9)
    stops = -light.mean((1, 2, 3)).log2()
    assert 1.2 < stops.min() < 1.6
    assert 3.6 < stops.max() < 4.1
    channels = light.mean((2, 3))
    assert float((channels.amax(1) / channels.amin(1)).max()) < 1.09
    assert float((light / light.mean((2, 3), keepdim=True) - 1).abs().max()) < 1e-6  # contrast stays


def test_half_of_the_draws_have_noise_and_that_is_weak() -> None:
    params = Underexposure().draw(torch.Generator().manual_seed(2), 400)
    noisy = [shot > 0 for shot in params.shot]
    assert noisy == [read > 0 for read in params.read]
    assert 160 < sum(noisy) < 240
    assert max(params.shot) <= 5e-5
    assert max(params.read) <= 3e-4
    assert 290 < sum(params.quantize) < 350


def test_mixes_by_chance_are_dark_as_lol_is() -> None:
    parts = degradations.get("composite").draw(torch.Generator().manual_seed(3), 60).parts
    names = {part.name for row in parts for part in row}
    assert "low_light" in names
    assert "underexposure" not in names
