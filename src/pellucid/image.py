"""The picture between file and network: pixels, alpha, and all that must survive the round trip."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import scratch
from pellucid.errors import InputError

SampleFormat = Literal["uint8", "uint16", "float32"]
Mode = Literal["rgb", "gray", "palette", "cmyk"]


@dataclass(frozen=True)
class Source:
    """What a file looked like, so that the restored picture can be written the same way.

    Attributes:
        format: by libvips' name, "jpeg", "png", "tiff", "webp" or "heif" (AVIF); "" for an array.
        depth: sample format of the stored pixels.
        mode: "rgb", "gray", "palette", "cmyk".
        bits: significant bits of each sample; fewer than `depth` holds in a 10- or 12-bit AVIF.
        lossless: the file is a losslessly coded WebP.
        icc: ICC profile to write, or none (sRGB is then assumed).
        exif: metadata block without its "Exif" mark, orientation reset to upright, thumbnail removed.
        xmp, iptc: metadata blocks as stored.
        dots_per_mm: horizontal and vertical resolution, or none if the file states none.
        hidden: (3, N) float32, the colors that were stored at the N pixels whose alpha is 0, in row order.
        file: the absolute path that was read, and what `pellucid.image_io.file_state` said of it then.
    """

    format: str = ""
    depth: SampleFormat = "uint8"
    mode: Mode = "rgb"
    bits: int = 8
    lossless: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dots_per_mm: tuple[float, float] | None = None
    hidden: Tensor | None = field(default=None, compare=False, repr=False)
    file: tuple[Path, tuple[int, int, int]] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, eq=False)  # tensors are not simply equal, and have no hash of their values
class ImageBuffer:
    """A picture in memory, upright. Its tensors are not to be changed in place: restorations share them.

    Attributes:
        pixels: (3, H, W) float32 in [0, 1], encoded as sRGB is. The primaries are those of `source.icc`: a
            Display P3 photograph stays in Display P3, so that no color is lost on the way through. Where
            alpha is 0, `pixels` hold colors grown in from the opaque neighbors.
        alpha: (1, H, W) float32 in [0, 1], or none if the picture is opaque.
        source: how the picture was stored.

    Raises:
        InputError: another shape or dtype. The values are looked at where the picture is restored.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    source: Source = field(default_factory=Source)

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if pixels.ndim != 3 or pixels.shape[0] != 3 or not _is_dense(pixels):
            raise InputError(
                f"The pixels are {_described(pixels)}; expected dense float32 (3, H, W). Convert them first."
            )
        if alpha is not None and (alpha.shape != (1, *pixels.shape[1:]) or not _is_dense(alpha)):
            raise InputError(
                f"The alpha is {_described(alpha)}; expected dense float32 {(1, *pixels.shape[1:])}, "
                "as the pixels are. Convert, crop or grow it."
            )

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[2]


def _is_dense(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.layout == torch.strided and not x.is_meta


def _described(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}{' without values' if x.is_meta else ''}"


def to_gray(pixels: Tensor) -> Tensor:
    """(1, H, W) of (3, H, W) in color, by the weights of Rec. 709."""
    red, green, blue = pixels
    return (red + (0.7152 * (green - red) + 0.0722 * (blue - red)))[None]  # three equal ones give just that


def is_finite(x: Tensor) -> bool:
    """Whether all of (C, H, W) float32 are finite: then so is their float64 sum, which takes no memory."""
    bands = scratch.bands(x.shape[1], x[:, 0].nbytes)
    return all(math.isfinite(float(x[:, rows].sum(dtype=torch.float64))) for rows in bands)


def value_range(x: Tensor) -> tuple[float, float]:
    """The least and the greatest of (C, H, W), without taking memory; both NaN where one is."""
    bands = scratch.bands(x.shape[1], x[:, 0].nbytes)
    ranges = torch.stack([torch.stack(torch.aminmax(x[:, rows])) for rows in bands])  # (bands, 2)
    return float(ranges[:, 0].min()), float(ranges[:, 1].max())


def fill_transparent(pixels: Tensor, alpha: Tensor) -> Tensor:
    """The picture with smooth color where it is fully transparent.

    What a file stores under transparency is arbitrary (often black), and a network would smear it over the
    visible edge. The holes are filled from an alpha-weighted pyramid (push-pull, Gortler et al. 1996).

    Args:
        pixels: (3, H, W) float32 in [0, 1].
        alpha: (1, H, W) float32 in [0, 1].

    Returns:
        (3, H, W); unchanged wherever alpha is above 0, middle gray if nothing is visible.
    """
    if not bool((alpha > 0).any()):
        return torch.full_like(pixels, 0.5)
    grown = _pulled((pixels * alpha)[None], alpha[None])[0].clamp_(max=1)  # what rounding adds to white
    return torch.where(alpha > 0, pixels, grown)


def _pulled(weighted: Tensor, weight: Tensor) -> Tensor:
    """Mean color of each pixel's surroundings, from the finest level that has any: (1, 3, H, W)."""
    height, width = weight.shape[-2:]
    color = weighted / weight.clamp(min=1e-30)  # one faint pixel may be alone in a million
    if height == width == 1:
        return color
    coarse = _pulled(
        F.avg_pool2d(weighted, 2, ceil_mode=True, count_include_pad=False),
        F.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False),
    )
    grown = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(weight > 0, color, grown)
