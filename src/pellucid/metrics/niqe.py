"""Naturalness of a picture by itself: its distance from the statistics of sharp photographs."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.errors import InputError
from pellucid.metrics._measure import Measure, checked
from pellucid.metrics.ssim_y import gaussian_mean

BLOCK = 96  # pixels; the features of each block are one sample
SCALES = 2
WINDOW, SIGMA = 7, 7 / 6  # of the local mean and deviation
SHARP = 0.75  # the model is made of blocks with this share of their picture's largest deviation
SHIFTS = ((0, 1), (1, 0), (1, 1), (-1, 1))  # neighbors whose products are looked at
MODEL = Path(__file__).with_name("niqe.safetensors")


def niqe(restored: Tensor) -> float:
    """NIQE: the distance of a picture's statistics from those of sharp photographs; lower is more natural.

    The method is Mittal et al.'s, the statistics are pellucid's own (`niqe.safetensors`, made by
    `benchmarks/fit_niqe.py`), since theirs carry no license: numbers compare with each other, not with those
    of other programs.

    Args:
        restored: (3, H, W) or (B, 3, H, W) floating point in [0, 1], with two blocks of 96 x 96 or more.

    Returns:
        The mean over the batch, computed in float64.

    Raises:
        InputError: another shape, dtype or range, or no two blocks that have texture.
    """
    pictures = checked(restored, "restored", BLOCK)
    mean, covariance = (statistic.to(pictures.device) for statistic in load_model())
    distances: list[Tensor] = []
    for picture in pictures:
        features, _ = block_features(gray(picture))
        features = features[features.isfinite().all(1)]  # a flat block has no statistics
        if len(features) < 2:
            raise InputError(
                f"NIQE found {len(features)} blocks of {BLOCK} x {BLOCK} pixels with texture in a picture of "
                f"{picture.shape[2]} x {picture.shape[1]}; expected two or more. Leave niqe out."
            )
        offset = features.mean(0) - mean
        pooled = (features.T.cov() + covariance) / 2
        distances.append((offset @ torch.linalg.pinv(pooled, hermitian=True) @ offset).sqrt())
    return float(torch.stack(distances).mean())


def fit_model(pictures: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (36,) and covariance (36, 36) of the features of the sharp blocks of clean pictures (3, H, W)."""
    sharp: list[Tensor] = []
    for picture in pictures:
        features, deviation = block_features(gray(checked(picture, "clean", BLOCK)[0]))
        sharp.append(features[(deviation > SHARP * deviation.max()) & features.isfinite().all(1)])
    features = torch.cat(sharp)
    return features.mean(0), features.T.cov()


@cache
def load_model() -> tuple[Tensor, Tensor]:
    """Mean and covariance that come with pellucid."""
    from safetensors.torch import load_file

    tensors = load_file(MODEL)
    return tensors["mean"], tensors["covariance"]


def gray(picture: Tensor) -> Tensor:
    """(1, 1, H, W) in 0..255, from (3, H, W) in [0, 1]."""
    weights = picture.new_tensor([0.298936, 0.587043, 0.114021]) * 255
    return torch.einsum("c,chw->hw", weights, picture)[None, None]


def block_features(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, 36) of the blocks of (1, 1, H, W) in 0..255, and their mean local deviation (N,)."""
    rows, columns = plane.shape[2] // BLOCK, plane.shape[3] // BLOCK
    plane = plane[:, :, : rows * BLOCK, : columns * BLOCK]
    features: list[Tensor] = []
    deviations = plane.new_zeros(rows * columns)
    for scale in range(SCALES):
        side = BLOCK // 2**scale
        edge = F.pad(plane, [WINDOW // 2] * 4, mode="replicate")
        mean = gaussian_mean(edge, WINDOW, SIGMA)
        deviation = (gaussian_mean(edge**2, WINDOW, SIGMA) - mean**2).abs().sqrt()
        if scale == 0:
            deviations = blocks(deviation, side).mean((1, 2))
        normalized = blocks((plane - mean) / (deviation + 1), side)  # (N, side, side)
        alpha, left, right = asymmetric_gaussian(normalized)
        features += [alpha, (left + right) / 2]
        for shift in SHIFTS:
            product = normalized * normalized.roll(shift, (1, 2))
            alpha, left, right = asymmetric_gaussian(product)
            center = (right - left) * ((2 / alpha).lgamma() - (1 / alpha).lgamma()).exp()
            features += [alpha, center, left, right]
        # Cubic with a = -0.5 and antialiasing, as MATLAB's imresize.
        plane = F.interpolate(plane, scale_factor=0.5, mode="bicubic", antialias=True)
    return torch.stack(features, dim=1), deviations


def blocks(plane: Tensor, side: int) -> Tensor:
    """(N, side, side) from (1, 1, H, W), row by row."""
    return plane[0, 0].unfold(0, side, side).unfold(1, side, side).flatten(0, 1)


def asymmetric_gaussian(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, left and right scale, each (N,), of the asymmetric generalized Gaussians of (N, h, w)."""
    values = values.flatten(1)
    squares = values**2
    left, right = (  # root mean squares of either side; of nothing, NaN
        ((squares * side).sum(1) / side.sum(1)).sqrt() for side in (values < 0, values > 0)
    )
    skew = left / right
    ratio = values.abs().mean(1) ** 2 / squares.mean(1)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    # The ratio grows with the shape, so the nearest of a fine grid is found by looking up.
    shapes = torch.arange(0.2, 10, 0.001, dtype=values.dtype, device=values.device)
    ratios = (2 * (2 / shapes).lgamma() - (1 / shapes).lgamma() - (3 / shapes).lgamma()).exp()
    above = torch.searchsorted(ratios, ratio).clamp(1, len(shapes) - 1)
    nearer = (ratio - ratios[above - 1]) < (ratios[above] - ratio)
    alpha = torch.where(ratio.isfinite(), shapes[above - nearer.long()], torch.nan)
    scale = (((1 / alpha).lgamma() - (3 / alpha).lgamma()) / 2).exp()
    return alpha, left * scale, right * scale


MEASURES = (
    Measure(
        "niqe",
        niqe,
        0.0,
        "",
        "Mittal et al., IEEE SPL 20(3), 2013; sharp photographs of pellucid's own",
        lower_is_better=True,
        reference=False,
    ),
)
