"""The change of a picture and its spectrum, on pictures whose answer is known."""

import json
import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from pellucid.explain import change
from pellucid.explain.change import GRID, measure_change, measure_spectrum


def noise(height: int, width: int, sigma: float, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    gray = 0.5 + sigma * torch.randn(1, height, width, generator=rng)
    return gray.expand(3, -1, -1).contiguous()


def test_the_maps_are_differences_in_lab_by_an_independent_implementation(monkeypatch):
    monkeypatch.setattr(change, "_STRIP", 40)  # several strips
    rng = torch.Generator().manual_seed(1)
    before, after = torch.rand(2, 3, 17, 13, generator=rng)
    found = measure_change(before, after)
    lab = [rgb2lab(x.permute(1, 2, 0).double().numpy()) for x in (before, after)]
    moved = lab[1] - lab[0]
    assert np.allclose(found.lightness, moved[..., 0], atol=1e-2)
    assert np.allclose(found.color, np.hypot(moved[..., 1], moved[..., 2]), atol=1e-2)


def test_an_unchanged_picture_has_no_change():
    x = torch.rand(3, 9, 20)
    values = measure_change(x, x.clone()).to_dict()
    assert values["seen"] == values["ciede2000"] == values["lightness"]["maximum"] == 0


def test_gray_that_gets_lighter_changes_in_lightness_alone_and_where_it_does():
    before, after = torch.full((3, 32, 32), 0.3), torch.full((3, 32, 32), 0.3)
    after[:, :16, 16:] = 0.5
    found = measure_change(before, after)
    assert found.seen == 0.25
    assert found.lightness[:16, 16:].min() > 15
    assert found.color.abs().max() < 0.01
    grid = torch.tensor(found.to_dict()["lightness"]["map"])
    assert grid.shape == (GRID, GRID)
    assert (grid[:4, 4:] > 15).all()
    assert grid[4:].abs().max() == grid[:, :4].abs().max() == 0


def test_a_turn_of_hue_is_a_change_of_color():
    before = torch.tensor([0.6, 0.4, 0.4]).view(3, 1, 1).expand(3, 4, 4)
    after = torch.tensor([0.4, 0.47, 0.4]).view(3, 1, 1).expand(3, 4, 4)
    found = measure_change(before, after)
    assert found.color.min() > 4 * found.lightness.abs().max()


def test_white_noise_has_a_flat_spectrum_at_its_variance():
    spectrum = measure_spectrum(noise(128, 150, 0.1), noise(128, 150, 0.01, seed=1))
    assert spectrum.side == 128
    assert spectrum.before.mean().item() == pytest.approx(-20, abs=0.5)
    assert spectrum.after.mean().item() == pytest.approx(-40, abs=0.5)
    assert (spectrum.before[2:] - spectrum.before[2:].mean()).abs().max() < 2


@pytest.mark.parametrize("period", [4, 8])
def test_a_wave_peaks_at_its_frequency(period):
    wave = 0.5 + 0.3 * torch.sin(torch.arange(64) * 2 * math.pi / period)
    spectrum = measure_spectrum(wave.expand(3, 64, 64), torch.full((3, 64, 64), 0.5))
    peak = spectrum.frequency[spectrum.before.argmax()].item()
    assert peak == pytest.approx(1 / period, abs=1 / 32)
    assert spectrum.after.max() < -90  # nothing is left


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3), (7, 40), (1030, 1100)])
def test_pictures_of_every_size_give_finite_values(size):
    before, after = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    values = {
        "change": measure_change(before, after).to_dict(),
        "s": measure_spectrum(before, after).to_dict(),
    }
    json.dumps(values, allow_nan=False)
    assert len(values["s"]["frequency"]) == len(values["s"]["after_db"]) >= 1
    assert max(values["s"]["frequency"]) <= 0.5
