"""The light of a picture, kept where nothing took any.

A lens and a shutter spread light, and take none: blur leaves the mean of linear light in a neighborhood as it
is, and a JPEG file nearly. A restoration that changes it there undoes a haze or a darkness that is not.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import scratch
from pellucid.srgb import to_encoded, to_linear

CELL = 8  # pixels, side of the squares whose means are taken first
REACH = 4  # cells around a cell of which a mean is taken, twice: 32 pixels, falling off until 72
DARK = 5e-4  # linear light that is added to both means: in black, a ratio says nothing


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
