"""The light of a picture: kept where nothing took any, seen from afar where haze lies over it.

A lens and a shutter spread light, and take none: blur leaves the mean of linear light in a neighborhood as it
is, and a JPEG file nearly. A restoration that changes it there undoes a haze or a darkness that is not. The
same shows in its scale: what undoes a blur is about as fine as the blur.

What a network learns of haze it learns from crops of a few hundred pixels, in which it sees a scene. Of a
large photograph it sees no more at once than of a pale wall, and takes too little away, above all beneath
noise or rain. In a reduced copy the scene is as large as in training, and noise is averaged out.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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

VIEWS = (192, 256, 320)  # pixels, sides of squares about as large as the reduced copies
LARGE = 768  # pixels, side of a square as large as the smallest picture that is seen from afar
LIGHT = 4.0  # standard deviation of the mean that is taken for light, in pixels of the largest copy
LEAST_CHANGE = 1e-3  # of light, root mean square of its channels, that counts beside doubt


@dataclass(frozen=True)
class LightRule:
    """What is done about the light of a restored picture; by default nothing.

    Attributes:
        kept: undo nothing but a blur or JPEG (`keep_all_but_blur`).
        blur_radius: of that blur, root mean square in pixels; 0 if there is none.
        views: factors of the reduced copies in which light is looked for (`take_light_from_afar`).
    """

    kept: bool = False
    blur_radius: float = 0.0
    views: Sequence[int] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"views": list(self.views)}

    def look(self, degraded: Tensor, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What a network changes in the reduced copies, (3, h, w) each; `run` restores one."""
        copies = [reduced(degraded, view) for view in self.views]
        return [run(copy).clamp(0, 1) - copy for copy in copies]

    def apply(self, degraded: Tensor, restored: Tensor, seen: Sequence[Tensor]) -> Tensor:
        """The restored (3, H, W), whose memory is used, by what `look` gave."""
        if self.kept:
            return keep_all_but_blur(degraded, restored, self.blur_radius)
        if self.views:
            return take_light_from_afar(degraded, restored, self.views[0], seen)
        return restored


NO_RULE = LightRule()


@torch.inference_mode()
def keep_light(degraded: Tensor, restored: Tensor) -> Tensor:
    """The restored picture, its linear light scaled so that local means are those of the degraded one.

    Args:
        degraded, restored: (3, H, W), sRGB-encoded, clamped to [0, 1], on one device.

    Returns:
        (3, H, W) in [0, 1], in the memory of `restored`.
    """
    light, found = (_spread(reduced(picture, CELL, to_linear)) for picture in (degraded, restored))
    for rows, gain in _grown((light + DARK) / (found + DARK), CELL, restored):
        linear = to_linear(restored[None, :, rows].clamp(0, 1))
        restored[:, rows] = to_encoded(linear.mul_(gain))[0]
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


def views_of(height: int, width: int) -> tuple[int, ...]:
    """The factors, ascending, by which a picture of so many pixels is reduced to be seen from afar.

    None if it is hardly larger than the photographs of training.
    """
    side = math.sqrt(height * width)
    return tuple(sorted({round(side / view) for view in VIEWS})) if side >= LARGE else ()


@torch.inference_mode()
def take_light_from_afar(degraded: Tensor, restored: Tensor, cell: int, seen: Sequence[Tensor]) -> Tensor:
    """The restored picture, its light changed as the network does on average, in that and in reduced copies.

    Light is a Gaussian mean of encoded values, with four pixels of the largest copy as standard deviation. Of
    the mean change m a share m^2 / (m^2 + v) is taken, v being the variance between the changes, and both
    means over the channels: where the copies differ, less is changed.

    Args:
        degraded, restored: (3, H, W) in [0, 1], on one device.
        cell: factor by which the largest copy was reduced, above 1.
        seen: what was changed in each copy, (3, h, w), the largest first; one at least.

    Returns:
        (3, H, W), beyond [0, 1] where it was bright or dark, in the memory of `restored`.
    """
    own = reduced(restored, cell) - reduced(degraded, cell)
    alike = [own, *(F.interpolate(change[None], own.shape[1:], mode="bilinear")[0] for change in seen)]
    changes = torch.stack([_gaussian_mean(change, LIGHT) for change in alike])
    mean, doubt = changes.mean(0), changes.var(0).mean(0)
    energy = mean.square().mean(0)
    agreed = mean * (energy / (energy + doubt + LEAST_CHANGE**2))
    for rows, change in _grown(agreed - changes[0], cell, restored):
        restored[:, rows] += change
    return restored


def _gaussian_mean(picture: Tensor, deviation: float) -> Tensor:
    """The Gaussian mean around each pixel of (3, h, w), in which the edge goes on beyond it."""
    reach = _reach(deviation)
    return _gaussian_means(F.pad(picture[None], (reach,) * 4, "replicate"), deviation)[0]


def _gaussian_means(wide: Tensor, deviation: float) -> Tensor:
    """Gaussian means of (1, 3, h, w), which is larger than they by `_reach` on each side."""
    reach = _reach(deviation)
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = (-0.5 * (line / deviation) ** 2).exp()
    kernel = (weights / weights.sum()).to(wide.device, wide.dtype).expand(3, 1, 1, -1)
    return F.conv2d(F.conv2d(wide, kernel.transpose(2, 3), groups=3), kernel, groups=3)


def _reach(deviation: float) -> int:
    return math.ceil(3 * deviation)


def _parted(degraded: Tensor, restored: Tensor, deviation: float) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Bands of rows, each with the coarse and the fine part of what was changed there."""
    reach, height = _reach(deviation), restored.shape[1]
    for rows in scratch.bands(height, restored[:, 0].nbytes):
        around = slice(max(0, rows.start - reach), min(height, rows.stop + reach))
        change = restored[:, around] - degraded[:, around]
        above, below = rows.start - around.start, around.stop - rows.stop
        wide = F.pad(change[None], (reach, reach, reach - above, reach - below), "replicate")
        coarse = _gaussian_means(wide, deviation)[0]
        yield rows, coarse, change[:, above : change.shape[1] - below] - coarse


def _bands(picture: Tensor, cell: int) -> Iterator[tuple[slice, slice]]:
    """Slices of cells from top to bottom, each with its slice of pixels."""
    _, height, width = picture.shape
    for cells in scratch.bands(-(-height // cell), cell * width * 3 * picture.element_size()):
        yield cells, slice(cells.start * cell, min(cells.stop * cell, height))


def reduced(picture: Tensor, factor: int, of: Callable[[Tensor], Tensor] = lambda values: values) -> Tensor:
    """A picture (3, H, W) in [0, 1], or a function of its values, as means over squares: (3, h, w).

    The squares have `factor` pixels a side; those at the edge are cut off.
    """
    return torch.cat(
        [
            F.avg_pool2d(of(picture[None, :, rows].clamp(0, 1))[0], factor, ceil_mode=True)
            for _, rows in _bands(picture, factor)
        ],
        dim=1,
    )


def _grown(cells: Tensor, cell: int, picture: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Bands of a picture's rows, each with the values of its cells (3, h, w) in between, (3, rows, W)."""
    beyond = F.pad(cells[None], (0, 0, 1, 1), "replicate")  # so that a band has one more on each side
    for band, rows in _bands(picture, cell):
        around = beyond[:, :, band.start : band.stop + 2]
        smooth = F.interpolate(around, scale_factor=cell, mode="bilinear")[0, :, cell:]
        yield rows, smooth[:, : rows.stop - rows.start, : picture.shape[2]]


def _spread(cells: Tensor) -> Tensor:
    """Means over the neighborhood of each cell, (3, h, w), falling off with distance."""
    for _ in range(2):
        cells = F.avg_pool2d(cells, 2 * REACH + 1, stride=1, padding=REACH, count_include_pad=False)
    return cells
