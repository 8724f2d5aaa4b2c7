"""Losses on (restored, clean), both (B, 3, H, W) in [0, 1]; in float32; each gives a scalar, unless said."""

import torch
import torch.nn.functional as F
from torch import Tensor


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(restored.float(), clean.float())


def fourier_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error of the real and imaginary parts of the 2-D spectrum (un-normalized `rfft2`).

    In float32 always: half precision knows only sizes that are powers of two. The scale is that of DaAIR's
    successor MoCE-IR (Zamfir et al., CVPR 2025), where it goes in with weight 0.1 and then outweighs the
    plain L1 on white errors.
    """
    spectrum = torch.fft.rfft2(restored.float() - clean.float())  # linear: one transform for both
    return torch.view_as_real(spectrum).abs().mean()


def picture_errors(restored: Tensor, clean: Tensor, fourier_weight: float, log_floor: float = 0.0) -> Tensor:
    """Each picture's error, (B,): L1 plus its weighted Fourier error; with a `log_floor`, log(that + floor).

    The gradient of a logarithm is divided by (error + log_floor), so that a picture that is nearly right
    counts as much as one that is dark: scores are means of decibels. Far below the floor, errors weigh alike.
    """
    pairs = zip(restored.split(1), clean.split(1), strict=True)
    errors = torch.stack([l1(r, c) + fourier_weight * fourier_l1(r, c) for r, c in pairs])
    return (errors + log_floor).log() if log_floor else errors
