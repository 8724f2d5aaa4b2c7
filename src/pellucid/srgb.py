"""The sRGB curve both ways (IEC 61966-2-1), for torch."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor


def by_picture(curve: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`curve`, applied to a batch so that a picture's bytes don't depend on the rest of the batch.

    On a CPU powers are computed by vectors of values with a scalar rest, and the two differ in the last bit.
    """

    @wraps(curve)
    def apply(batch: Tensor) -> Tensor:
        if batch.device.type != "cpu":
            return curve(batch)
        return torch.stack([curve(picture) for picture in batch])

    return apply


@by_picture
def to_linear(encoded: Tensor) -> Tensor:
    """Linear light in [0, 1] from sRGB-encoded values in [0, 1]."""
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


@by_picture
def to_encoded(linear: Tensor) -> Tensor:
    """sRGB-encoded values in [0, 1] from linear light, which is clipped to [0, 1]."""
    linear = linear.clamp(0, 1)
    # The floor keeps the unused branch away from the root's infinite slope at 0.
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-4) ** (1 / 2.4) - 0.055
    )
