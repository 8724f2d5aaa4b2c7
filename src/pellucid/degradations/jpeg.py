"""Baseline JPEG, there and back, as tensor operations on the device of the batch."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.degradations import _draw
from pellucid.degradations._base import Degradation, Params

# ITU-T T.81, Annex K, tables K.1 and K.2.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99, 99, 99, 99, 99, 99, 99, 99),) * 4,
)
# JFIF 1.02: Y, Cb, Cr from R, G, B, and back.
FORWARD = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
BACKWARD = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


@dataclass(frozen=True)
class JpegParams(Params):
    """Per sample: IJG `quality` 1 to 100, none for no compression; `subsample`: chroma 4:2:0, not 4:4:4."""

    quality: tuple[int | None, ...]
    subsample: tuple[bool, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("quality", 1, 100)


class Jpeg(Degradation):
    """What is left of a picture after a JPEG file: 8-bit values, block DCT, quantization, chroma subsampling.

    Entropy coding is lossless and left out.

    Args:
        qualities: lowest and highest quality, drawn uniformly.
    """

    name = "jpeg"
    kind = "jpeg"
    params_type = JpegParams

    def __init__(self, qualities: tuple[int, int] = (10, 95)) -> None:
        self.qualities = qualities

    def draw(self, rng: torch.Generator, n: int) -> JpegParams:
        """See `Degradation.draw`."""
        return JpegParams(_draw.integers(rng, n, *self.qualities), _draw.flags(rng, n, 0.75))

    def zero(self, n: int) -> JpegParams:
        """See `Degradation.zero`."""
        return JpegParams((None,) * n, (False,) * n)

    def apply(self, clean: Tensor, params: JpegParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        # One picture at a time: a batched product may sum in another order, and rounding would show it.
        rows = zip(clean, params.quality, params.subsample, strict=True)
        return torch.stack([x.clone() if q is None else _compress(x, q, s) for x, q, s in rows])


def _compress(picture: Tensor, quality: int, subsample: bool) -> Tensor:
    """(3, H, W) through JPEG."""
    height, width = picture.shape[1:]
    step = 16 if subsample else 8
    padding = (0, -width % step, 0, -height % step)
    padded = F.pad((picture * 255).round()[None], padding, mode="replicate")[0]
    ycc = torch.tensordot(padded.new_tensor(FORWARD), padded, dims=1)  # chroma around 0
    luma, chroma = (ycc[:1] - 128).round(), ycc[1:]
    luma = _quantized(luma, LUMINANCE, quality)
    if subsample:
        chroma = F.avg_pool2d(chroma, 2)
    chroma = _quantized(chroma.round(), CHROMINANCE, quality)
    if subsample:  # the triangle filter of common decoders
        chroma = F.interpolate(chroma[None], scale_factor=2, mode="bilinear")[0]
    ycc = torch.cat([luma + 128, chroma])
    rgb = torch.tensordot(padded.new_tensor(BACKWARD), ycc, dims=1)
    return (rgb.round().clamp(0, 255) / 255)[:, :height, :width]


def _quantized(plane: Tensor, table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """(C, H, W), sizes multiples of 8, as it comes back from quantized DCT coefficients; whole numbers."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = plane.new_tensor([[min(max((t * scale + 50) // 100, 1), 255) for t in row] for row in table])
    basis = _dct_basis(plane)
    c, h, w = plane.shape
    blocks = plane.view(c, h // 8, 8, w // 8, 8).transpose(2, 3)  # (C, H/8, W/8, 8, 8)
    coefficients = (basis @ blocks @ basis.T / steps).round() * steps
    blocks = basis.T @ coefficients @ basis
    return blocks.transpose(2, 3).reshape(c, h, w).round().clamp(-128, 127)


def _dct_basis(like: Tensor) -> Tensor:
    """(8, 8) orthonormal DCT-II, frequency by row."""
    return like.new_tensor(
        [
            [math.sqrt((1 if k == 0 else 2) / 8) * math.cos(math.pi * (2 * n + 1) * k / 16) for n in range(8)]
            for k in range(8)
        ]
    )


OPERATORS = (Jpeg(),)
