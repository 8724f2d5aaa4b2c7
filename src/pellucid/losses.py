"""Losses on (restored, clean), both (B, 3, H, W) in [0, 1]; each gives a scalar in float32."""

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
