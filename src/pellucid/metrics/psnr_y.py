"""Peak signal-to-noise ratio of the luma."""

import math

from torch import Tensor

from pellucid.metrics._measure import Measure, checked_pair, luma
from pellucid.metrics.psnr_rgb import mean_psnr


def psnr_y(restored: Tensor, clean: Tensor) -> float:
    """PSNR in dB, peak 1, of Y of BT.601; infinite for equal pictures.

    As in the papers on rain, and in BasicSR: Y spans 16/255 to 235/255 and is not rounded, the peak stays 1.

    Args:
        restored: (3, H, W) or (B, 3, H, W) floating point in [0, 1].
        clean: of the same shape.

    Returns:
        The mean over the batch, computed in float64.

    Raises:
        InputError: another shape, dtype or range.
    """
    restored, clean = checked_pair(restored, clean)
    return mean_psnr(luma(restored), luma(clean))


MEASURES = (Measure("psnr_y", psnr_y, math.inf, "dB", "-10 log10(MSE) of Y, ITU-R BT.601"),)
