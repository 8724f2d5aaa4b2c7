import pytest
import torch

from pellucid.errors import InputError
from pellucid.metrics.ssim_y import gaussian_mean, ssim_y


def test_the_window_must_fit():
    with pytest.raises(InputError, match="at least 11"):
        ssim_y(torch.zeros(3, 10, 20), torch.zeros(3, 10, 20))
    assert ssim_y(torch.zeros(3, 11, 11), torch.zeros(3, 11, 11)) == 1


def test_the_window_is_a_gaussian_that_sums_to_one():
    point = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    point[..., 10, 10] = 1
    window = gaussian_mean(point, 11, 1.5)[0, 0]
    assert window.shape == (11, 11)
    assert float(window.sum()) == pytest.approx(1, rel=1e-12)
    assert float(window[5, 6] / window[5, 5]) == pytest.approx(0.800737, abs=1e-6)  # exp(-1 / 4.5)
