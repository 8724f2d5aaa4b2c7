"""A sheet of pixels with text, color scales, matrices and curves: as much drawing as a figure here needs."""

import functools
import html
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyvips
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]  # (H, W, 3)
Color = tuple[int, int, int]
Anchor = Literal["left", "middle", "right"]

INK: Color = (34, 34, 34)
FAINT: Color = (120, 120, 120)
LINE: Color = (205, 205, 205)
BEFORE: Color = (213, 94, 0)  # of two curves, told apart by the color-blind too (Okabe, Ito)
AFTER: Color = (0, 114, 178)

# Colors at equal steps, blended between.
SEQUENTIAL = ((247, 251, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
DIVERGING = ((33, 80, 170), (140, 180, 225), (247, 247, 247), (235, 150, 110), (170, 30, 40))
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


def paint(values: NDArray[Any], low: float, high: float, scale: Sequence[Color]) -> Pixels:
    """(H, W) values as colors of a scale, from `low` to `high`, clamped there."""
    place = np.clip((np.asarray(values, np.float64) - low) / max(high - low, 1e-12), 0, 1) * (len(scale) - 1)
    index = np.minimum(place.astype(int), len(scale) - 2)
    share = (place - index)[..., None]
    table = np.asarray(scale, np.float64)
    return np.rint(table[index] * (1 - share) + table[index + 1] * share).astype(np.uint8)


def picture(x: Tensor) -> Pixels:
    """(3, H, W) in [0, 1] as pixels."""
    return (x * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def shrink(x: Tensor, width: int, height: int) -> Tensor:
    """(C, H, W) fitted into a box: means of areas if larger; small ones grow by whole factors."""
    box = min(width / x.shape[2], height / x.shape[1])
    if box >= 2:
        return x.repeat_interleave(int(box), 1).repeat_interleave(int(box), 2)
    if box >= 1:
        return x
    size = (max(1, int(x.shape[1] * box)), max(1, int(x.shape[2] * box)))
    return F.interpolate(x[None].float(), size=size, mode="area")[0]


class Canvas:
    """A white sheet; x grows to the right, y down, both in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels: Pixels = np.full((height, width, 3), 255, np.uint8)

    def fill(self, x: int, y: int, width: int, height: int, color: Color) -> None:
        """A rectangle; what lies outside the sheet is cut off."""
        self.pixels[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = color

    def frame(self, x: int, y: int, width: int, height: int, color: Color = LINE, thick: int = 1) -> None:
        """The border of a rectangle, drawn inside it."""
        for side in (
            (x, y, width, thick),
            (x, y + height - thick, width, thick),
            (x, y, thick, height),
            (x + width - thick, y, thick, height),
        ):
            self.fill(*side, color)

    def paste(self, x: int, y: int, pixels: Pixels) -> None:
        """Pixels with their upper left corner at (x, y)."""
        room = self.pixels[y : y + pixels.shape[0], x : x + pixels.shape[1]]
        room[:] = pixels[: room.shape[0], : room.shape[1]]

    def text(
        self,
        x: int,
        y: int,
        words: str,
        *,
        size: int = 12,
        color: Color = INK,
        anchor: Anchor = "left",
        bold: bool = False,
        upright: bool = False,
    ) -> int:
        """Words whose box has its top at y and its left, middle or right at x; gives the width.

        With `upright`, they read from bottom to top, and y is their lower end.
        """
        ink = _letters(words, size, bold)
        if upright:
            ink = np.rot90(ink)
            y -= ink.shape[0]
        x -= {"left": 0, "middle": ink.shape[1] // 2, "right": ink.shape[1]}[anchor]
        top, left = max(y, 0), max(x, 0)
        room = self.pixels[top : max(y + ink.shape[0], 0), left : max(x + ink.shape[1], 0)]
        cut = ink[top - y :, left - x :][: room.shape[0], : room.shape[1], None] / 255
        room[:] = np.rint(room * (1 - cut) + np.asarray(color) * cut).astype(np.uint8)
        return ink.shape[1]

    def scale(
        self,
        x: int,
        y: int,
        width: int,
        colors: Sequence[Color],
        low: str,
        high: str,
    ) -> None:
        """A bar of colors with words at its ends."""
        left = x + self.text(x, y, low, size=11, color=FAINT) + 6
        right = x + width - _letters(high, 11, False).shape[1] - 6
        ramp = np.linspace(0, 1, max(right - left, 1))[None].repeat(9, 0)
        self.paste(left, y + 3, paint(ramp, 0, 1, colors))
        self.text(right + 6, y, high, size=11, color=FAINT)

    def curve(self, points: Sequence[tuple[float, float]], color: Color) -> None:
        """A line two pixels thick through points (x, y)."""
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
            for t in np.linspace(0, 1, steps + 1):
                self.fill(round(x0 + (x1 - x0) * t), round(y0 + (y1 - y0) * t), 2, 2, color)


@functools.lru_cache(maxsize=512)
def _letters(words: str, size: int, bold: bool) -> Pixels:
    """Words as ink, (h, w) from 0 to 255, with the height of a line whatever letters they hold."""
    line = size * 3 // 2
    plain = words.encode(errors="replace").decode().replace("\n", " ").replace("\0", " ")
    font = f"sans {'bold ' if bold else ''}{size}px"
    try:
        # A bar sets the height of a line, so that words without tall letters stand where others do.
        letters, bar = (
            pyvips.Image.text(html.escape(text, quote=False), font=font, dpi=72)
            for text in (f"|{plain}|", "|")
        )
    except pyvips.Error:  # libvips was built without text
        return np.zeros((line, 1), np.uint8)
    ink = letters.numpy()[:, bar.width + 1 : letters.width - bar.width - 1]
    return np.ascontiguousarray(ink)


def plain_width(words: str, size: int = 12) -> int:
    """The width that words take, in pixels."""
    return _letters(words, size, False).shape[1]


def evened(x: Tensor) -> NDArray[Any]:
    """A tensor for drawing: on the CPU, as NumPy's."""
    return x.detach().to("cpu", torch.float64).numpy()
