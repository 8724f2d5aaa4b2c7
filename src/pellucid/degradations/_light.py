"""What air and a sensor do to light."""

import torch
from torch import Tensor

from pellucid.srgb import by_picture

exponential = by_picture(torch.exp)


def sensor_noise(linear: Tensor, shot: Tensor, read: Tensor, rng: torch.Generator) -> Tensor:
    """The noise that a sensor adds to one picture.

    Args:
        linear: (3, H, W) linear light in [0, 1].
        shot: (3, 1, 1) variance per unit of light; one electron counts for this much. 0 for none.
        read: (3, 1, 1) standard deviation of what is added in the dark.
        rng: generator on the device of `linear`.

    Returns:
        (3, H, W) deviations from `linear`: a Poisson count of electrons and Gaussian read noise.
    """
    electron = shot.clamp(min=1e-12)
    counted = torch.poisson(linear.clamp(min=0) / electron, generator=rng) * electron - linear
    dark = torch.randn(linear.shape, generator=rng, dtype=linear.dtype, device=linear.device)
    return torch.where(shot > 0, counted, 0) + read * dark
