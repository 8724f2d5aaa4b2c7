"""Convolution of single pictures with single kernels by FFT, borders mirrored or wrapped; trajectories."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_mirrored(picture: Tensor, by: int) -> Tensor:
    """(C, H, W) to (C, H+2*by, W+2*by): mirrored where the picture is large enough, else repeated."""
    mode = "reflect" if min(picture.shape[-2:]) > by else "replicate"
    return F.pad(picture[None], (by, by, by, by), mode=mode)[0]


def convolve(picture: Tensor, kernel: Tensor) -> Tensor:
    """(C, H, W) convolved with one (k, k) kernel, k odd; same size, borders mirrored.

    One picture at a time, so that a sample's bytes don't depend on its batch.
    """
    padded = pad_mirrored(picture, kernel.shape[-1] // 2)
    full = convolve_circular(padded, kernel)
    cut = kernel.shape[-1] - 1
    return full[..., cut:, cut:]


def convolve_circular(picture: Tensor, kernel: Tensor) -> Tensor:
    """(C, H, W) convolved with (h, w), borders wrapped around, output delayed by the place of its middle."""
    size = picture.shape[-2:]
    spectrum = torch.fft.rfft2(picture) * torch.fft.rfft2(kernel, s=size)
    return torch.fft.irfft2(spectrum, s=size)


def soften(noise: Tensor, sigma: float) -> Tensor:
    """White noise (C, H, W) blurred by a Gaussian of `sigma` pixels, 0 or more; 0 gives the noise itself.

    Its standard deviation stays, up to the borders, which wrap around.
    """
    if sigma**2 == 0:  # none, or too little to be squared
        return noise
    column, row = (_gaussian_on_a_ring(size, sigma).to(noise) for size in noise.shape[-2:])
    kernel = column[:, None] * row
    return convolve_circular(noise, kernel / kernel.square().sum().sqrt())


def _gaussian_on_a_ring(size: int, sigma: float) -> Tensor:
    """(size,) float64 of the distance to the first place, either way round."""
    steps = torch.arange(size, dtype=torch.float64)
    return torch.exp(-(torch.minimum(steps, size - steps) ** 2) / (2 * sigma**2))


def splat(way: Tensor) -> Tensor:
    """(k, k) float64 kernel, sum 1, k odd, of the places (2, N) in pixels (y, x) around its middle.

    Each place weighs the same and is spread bilinearly over its four neighbors.
    """
    reach = math.floor(float(way.abs().amax())) + 1
    size = 2 * reach + 1
    corner = way.floor()
    part = way - corner  # the bilinear weights of the lower right neighbors
    corner = corner.long() + reach
    kernel = torch.zeros(size * size, dtype=torch.float64)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (part[0] if dy else 1 - part[0]) * (part[1] if dx else 1 - part[1])
            place = (corner[0] + dy).clamp(max=size - 1) * size + (corner[1] + dx).clamp(max=size - 1)
            kernel.index_add_(0, place, weight)
    return (kernel / kernel.sum()).view(size, size)
