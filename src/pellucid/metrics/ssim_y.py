"""Structural similarity of the luma."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.metrics._measure import Measure, checked_pair, luma
from pellucid.metrics.ssim_rgb import mean_ssim

WINDOW, SIGMA = 11, 1.5  # Gaussian, as in the first paper, its MATLAB code and BasicSR


def ssim_y(restored: Tensor, clean: Tensor) -> float:
    """SSIM of Y of BT.601 with a Gaussian window of 11 x 11, population covariance, K1 0.01, K2 0.03, peak 1.

    The mean over all places where the window lies inside the picture. Y as in `psnr_y`.

    Args:
        restored: (3, H, W) or (B, 3, H, W) floating point in [0, 1], sides of at least 11.
        clean: of the same shape.

    Returns:
        The mean over the batch, computed in float64.

    Raises:
        InputError: another shape, dtype or range.
    """
    restored, clean = checked_pair(restored, clean, WINDOW)
    return mean_ssim(luma(restored), luma(clean), lambda planes: gaussian_mean(planes, WINDOW, SIGMA))


def gaussian_mean(planes: Tensor, window: int, sigma: float) -> Tensor:
    """(N, 1, H, W) under a Gaussian window of window x window, where it lies inside."""
    steps = torch.arange(window, dtype=planes.dtype, device=planes.device) - window // 2
    weights = (-(steps**2) / (2 * sigma**2)).exp()
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))


MEASURES = (Measure("ssim_y", ssim_y, 1.0, "", "Wang et al., IEEE TIP 13(4), 2004, of Y, BT.601", digits=4),)
