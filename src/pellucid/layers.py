"""Layers that both networks use unchanged. Where no shape is told, (B, C, H, W) gives the same.

Restormer: Zamir et al., CVPR 2022, arXiv 2111.09881.

Legend: B batch, C channels, H and W height and width, h heads, c channels per head (C = h*c), n = H*W.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import InputError


def check_grid(network: str, grid: int) -> None:
    """Refuse a grid that no picture can be laid on.

    Raises:
        InputError: a grid below 1.
    """
    if grid < 1:
        raise InputError(f"{network} has grid {grid}; expected 1 (every pixel) or more. Usual: 1 or 2.")


def check_batch(x: Tensor, side: int) -> None:
    """Refuse what a network can't halve as often as it does.

    Raises:
        InputError: not (B, 3, H, W) with H and W multiples of `side`, or empty.
    """
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % side or x.shape[3] % side or not x.numel():
        raise InputError(
            f"The batch has shape {tuple(x.shape)}; expected (B, 3, H, W) with H and W multiples of "
            f"{side}. Pad it and crop the result."
        )


def to_grid(picture: Tensor, grid: int) -> Tensor:
    """(B, 3, H, W) to (B, 3 * grid^2, H / grid, W / grid), on which a network works; unchanged for 1."""
    return F.pixel_unshuffle(picture, grid) if grid > 1 else picture


def from_grid(x: Tensor, grid: int) -> Tensor:
    """What `to_grid` did, undone."""
    return F.pixel_shuffle(x, grid) if grid > 1 else x


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel of (B, C, H, W); biased variance, eps 1e-5, affine."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        # The native kernel normalizes the last axis; in channels_last memory the permutation costs nothing.
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5).permute(0, 3, 1, 2)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, C, H, W) to (B, h, c, n), head index slow."""
    b, c, h, w = x.shape
    return x.reshape(b, num_heads, c // num_heads, h * w)


def channel_attention_scores(query: Tensor, key: Tensor, temperature: Tensor) -> Tensor:
    """Cosine similarity of channels over all pixels, times a temperature per head (Restormer, eq. 1).

    Args:
        query, key: (B, h, c, n).
        temperature: (h, 1, 1), a factor.

    Returns:
        (B, h, c, c) scores before the softmax.
    """
    # A channel's pixels are laid side by side first: sums along a strided axis add up one by one, which costs
    # float32 another digit at a quarter of a million pixels.
    query, key = F.normalize(query.contiguous(), dim=-1), F.normalize(key.contiguous(), dim=-1)  # eps 1e-12
    return query @ key.transpose(-2, -1) * temperature


class TransposedAttention(nn.Module):
    """Attention between channels instead of pixels (MDTA of Restormer), linear in the number of pixels."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(dim, dim * 3, 1, bias=False)
        self.qkv_depthwise = nn.Conv2d(dim * 3, dim * 3, 3, padding=1, groups=dim * 3, bias=False)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            split_heads(part, self.num_heads) for part in self.qkv_depthwise(self.qkv(x)).chunk(3, dim=1)
        )  # each (B, h, c, n)
        attention = channel_attention_scores(query, key, self.temperature).softmax(dim=-1)  # (B, h, c, c)
        return self.project_out((attention @ value).reshape(x.shape))


class GatedFeedForward(nn.Module):
    """Feed-forward with a depthwise convolution and a GELU gate (GDFN of Restormer)."""

    def __init__(self, dim: int, expansion: float) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = nn.Conv2d(dim, hidden * 2, 1, bias=False)
        self.depthwise = nn.Conv2d(hidden * 2, hidden * 2, 3, padding=1, groups=hidden * 2, bias=False)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.depthwise(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


class Downsample(nn.Module):
    """(B, C, H, W) to (B, 2C, H/2, W/2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.conv(x), 2)


class Upsample(nn.Module):
    """(B, C, H, W) to (B, C/2, 2H, 2W)."""

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim * 2, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)
