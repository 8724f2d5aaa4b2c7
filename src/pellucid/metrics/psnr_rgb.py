"""Peak signal-to-noise ratio over all three channels."""

import math

from torch import Tensor

from pellucid.metrics._measure import Measure, checked_pair


def psnr_rgb(restored: Tensor, clean: Tensor) -> float:
    """PSNR in dB, peak 1, of the mean squared error over pixels and channels; infinite for equal pictures.

    Args:
        restored: (3, H, W) or (B, 3, H, W) floating point in [0, 1].
        clean: of the same shape.

    Returns:
        The mean over the batch, computed in float64.

    Raises:
        InputError: another shape, dtype or range.
    """
    return mean_psnr(*checked_pair(restored, clean))


def mean_psnr(restored: Tensor, clean: Tensor) -> float:
    """The mean PSNR in dB of batches (B, C, H, W) that are checked already."""
    errors: list[float] = (restored - clean).square().mean((1, 2, 3)).tolist()  # (B,)
    return sum(-10 * math.log10(error) if error > 0 else math.inf for error in errors) / len(errors)


MEASURES = (Measure("psnr_rgb", psnr_rgb, math.inf, "dB", "-10 log10(MSE)"),)
