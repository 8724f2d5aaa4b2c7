import pytest
import torch

from pellucid.metrics.psnr_y import psnr_y


def test_black_and_white_are_219_levels_apart():
    expected = -20 * torch.tensor(219 / 255, dtype=torch.float64).log10()
    black = torch.zeros(3, 4, 4)
    assert psnr_y(black + 1, black) == pytest.approx(float(expected), rel=1e-12)


def test_green_counts_more_than_blue():
    gray = torch.full((3, 4, 4), 0.5)
    greener, bluer = gray.clone(), gray.clone()
    greener[1] += 0.1
    bluer[2] += 0.1
    assert psnr_y(bluer, gray) - psnr_y(greener, gray) == pytest.approx(14.24, abs=0.01)  # 128.553 / 24.966
