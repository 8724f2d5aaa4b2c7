import pytest
import torch

from pellucid.errors import InputError
from pellucid.metrics.ssim_rgb import ssim_rgb


def test_the_window_must_fit():
    with pytest.raises(InputError, match="at least 7"):
        ssim_rgb(torch.zeros(3, 6, 20), torch.zeros(3, 6, 20))
    assert ssim_rgb(torch.zeros(3, 7, 7), torch.zeros(3, 7, 7)) == 1


def test_flat_pictures_differ_by_luminance_alone():
    dark, bright = torch.full((3, 9, 9), 0.25), torch.full((3, 9, 9), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert ssim_rgb(dark, bright) == pytest.approx(expected, abs=1e-9)
