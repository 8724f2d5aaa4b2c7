"""Structural similarity over all three channels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.metrics._measure import Measure, checked_pair

WINDOW = 7  # uniform, as scikit-image's default and the all-in-one restoration papers have it
C1, C2 = 0.01**2, 0.03**2


def ssim_rgb(restored: Tensor, clean: Tensor) -> float:
    """SSIM (Wang et al., 2004) with a uniform 7 x 7 window and sample covariance, K1 0.01, K2 0.03, peak 1.

    The mean over all places where the window lies inside the picture, and over channels.

    Args:
        restored: (3, H, W) or (B, 3, H, W) floating point in [0, 1], sides of at least 7.
        clean: of the same shape.

    Returns:
        The mean over the batch, computed in float64.

    Raises:
        InputError: another shape, dtype or range.
    """
    sample = WINDOW**2 / (WINDOW**2 - 1)  # population to sample covariance
    x, y = checked_pair(restored, clean, WINDOW)
    return mean_ssim(x, y, lambda planes: F.avg_pool2d(planes, WINDOW, stride=1), sample)


def mean_ssim(x: Tensor, y: Tensor, smooth: Callable[[Tensor], Tensor], sample: float = 1.0) -> float:
    """The mean SSIM of batches (B, C, H, W) that are checked already.

    Args:
        x, y: the batches, peak 1.
        smooth: local means of (N, C, H, W), where the window lies inside.
        sample: factor from population to sample covariance; 1 keeps the former.
    """
    means = smooth(torch.cat([x, y, x * x, y * y, x * y]))  # (5B, C, H', W')
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = means.split(len(x))
    var_x, var_y = sample * (mean_xx - mean_x**2), sample * (mean_yy - mean_y**2)
    covariance = sample * (mean_xy - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return float((luminance * structure).mean())


MEASURES = (Measure("ssim_rgb", ssim_rgb, 1.0, "", "Wang et al., IEEE TIP 13(4), 2004", digits=4),)
