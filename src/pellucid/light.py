"""The light of a picture, kept where nothing took any.

A lens and a shutter spread light, and take none: blur leaves the mean of linear light in a neighborhood as it
is, and a JPEG file nearly. A restoration that changes it there undoes a haze or a darkness that is not. The
same shows in its scale: what undoes a blur is about as fine as the blur.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import scratch
from pellucid.srgb import to_encoded, to_linear

CELL = 8  # pixels, side of the squares whose means are taken first
REACH = 4  # cells around a cell of which a mean is taken, twice: 32 pixels, falling off until 72
DARK = 5e-4  # linear light that is added to both means: in black, a ratio says nothing
COARSE = 2.0  # standard deviation of the mean that parts coarse from fine, in radii of the blur
LEAST_DEVIATION = 1.5  # pixels, of that mean, also where no blur is found
EXCESS = (0.5, 0.9)  # coarse change for each fine one: all is kept up to the first, none from the second


@torch.inference_mode()
def keep_light(degraded: Tensor, restored: Tensor) -> Tensor:
    """The restored picture, its linear light scaled so that local means are those of the degraded one.

    Args:
        degraded, restored: (3, H, W), sRGB-encoded, clamped to [0, 1], on one device.

    Returns:
        (3, H, W) in [0, 1], in the memory of `restored`.
    """
    light, found = (_spread(_cells(picture)) for picture in (degraded, restored))
    gain = F.pad(((light + DARK) / (found + DARK))[None], (0, 0, 1, 1), "replicate")
    for cells, rows in _bands(restored):
        beyond = gain[:, :, cells.start : cells.stop + 2]  # one cell more on each side
        smooth = F.interpolate(beyond, scale_factor=CELL, mode="bilinear")[:, :, CELL:]
        linear = to_linear(restored[None, :, rows].clamp(0, 1))
        restored[:, rows] = to_encoded(linear.mul_(smooth[:, :, : linear.shape[2], : linear.shape[3]]))[0]
    return restored


@torch.inference_mode()
def keep_coarse(degraded: Tensor, restored: Tensor, radius: float) -> Tensor:
    """The restored picture without its coarse change, where undoing a blur does not explain it.

    Coarse is the change's Gaussian mean, with twice the blur's radius as standard deviation and 1.5 pixels at
    least; fine is what that leaves. Their root mean squares over the whole picture are compared: between two
    ratios a share of the coarse change is kept.

    Args:
        degraded, restored: (3, H, W) in [0, 1], on one device.
        radius: of the blur, root mean square distance from its center in pixels; 0 if there is none.

    Returns:
        (3, H, W), beyond [0, 1] where a steep change is left by itself; `restored` if all of it is kept.
    """
    deviation = max(LEAST_DEVIATION, COARSE * radius)
    coarse_energy = fine_energy = 0.0
    for _, coarse, fine in _parted(degraded, restored, deviation):
        coarse_energy += float(coarse.square().sum())
        fine_energy += float(fine.square().sum())
    least, most = EXCESS
    excess = math.sqrt(coarse_energy) / max(math.sqrt(fine_energy), 1e-9)
    if excess <= least:
        return restored
    share = max(0.0, (most - excess) / (most - least))
    kept = scratch.zeros_like(restored, restored.shape)
    for rows, coarse, fine in _parted(degraded, restored, deviation):
        kept[:, rows] = degraded[:, rows] + fine + share * coarse
    return kept


def keep_all_but_blur(degraded: Tensor, restored: Tensor, radius: float) -> Tensor:
    """`keep_light` and `keep_coarse`: the restored picture, in which nothing but a blur or JPEG is undone.

    Returns:
        (3, H, W) as `keep_coarse`; the memory of `restored` is used.
    """
    return keep_coarse(degraded, keep_light(degraded, restored), radius)


def _parted(degraded: Tensor, restored: Tensor, deviation: float) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Bands of rows, each with the coarse and the fine part of what was changed there."""
    reach, height = math.ceil(3 * deviation), restored.shape[1]
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = (-0.5 * (line / deviation) ** 2).exp()
    kernel = (weights / weights.sum()).to(restored.device, restored.dtype).expand(3, 1, 1, -1)
    for rows in scratch.bands(height, restored[:, 0].nbytes):
        around = slice(max(0, rows.start - reach), min(height, rows.stop + reach))
        change = restored[:, around] - degraded[:, around]
        above, below = rows.start - around.start, around.stop - rows.stop
        wide = F.pad(change[None], (reach, reach, reach - above, reach - below), "replicate")
        coarse = F.conv2d(F.conv2d(wide, kernel.transpose(2, 3), groups=3), kernel, groups=3)[0]
        yield rows, coarse, change[:, above : change.shape[1] - below] - coarse


def _bands(picture: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of cells from top to bottom, each with its slice of pixels."""
    _, height, width = picture.shape
    for cells in scratch.bands(-(-height // CELL), CELL * width * 3 * picture.element_size()):
        yield cells, slice(cells.start * CELL, min(cells.stop * CELL, height))


def _cells(picture: Tensor) -> Tensor:
    """Mean linear light of each cell, (3, cells high, cells wide); those at the edge are cut off."""
    return torch.cat(
        [
            F.avg_pool2d(to_linear(picture[None, :, rows].clamp(0, 1))[0], CELL, ceil_mode=True)
            for _, rows in _bands(picture)
        ],
        dim=1,
    )


def _spread(cells: Tensor) -> Tensor:
    """Means over the neighborhood of each cell, (3, h, w), falling off with distance."""
    for _ in range(2):
        cells = F.avg_pool2d(cells, 2 * REACH + 1, stride=1, padding=REACH, count_include_pad=False)
    return cells
