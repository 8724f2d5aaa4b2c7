"""What every measure is: a plain function on (restored, clean), and its facts."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pellucid.errors import InputError


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: with the protocol in it, for example "psnr_rgb".
        function: (restored, clean) to a number, the mean over the batch.
        best: the value of equal pictures.
        unit: "dB", or empty.
        source: the definition.
    """

    name: str
    function: Callable[[Tensor, Tensor], float]
    best: float
    unit: str
    source: str


def checked_pair(restored: Tensor, clean: Tensor, least_side: int = 1) -> tuple[Tensor, Tensor]:
    """Both as (B, 3, H, W) float64.

    Raises:
        InputError: not two pictures or batches of one shape, floating point in [0, 1], sides long enough.
    """
    for name, picture in (("restored", restored), ("clean", clean)):
        if picture.ndim not in (3, 4) or picture.shape[-3] != 3 or min(picture.shape[-2:]) < least_side:
            raise InputError(
                f"The {name} picture has shape {tuple(picture.shape)}; expected (3, H, W) or (B, 3, H, W) "
                f"with sides of at least {least_side}."
            )
        if not picture.is_floating_point():
            raise InputError(f"The {name} picture is {picture.dtype}; expected floating point in [0, 1].")
        lowest, highest = float(picture.min()), float(picture.max())
        if not (lowest >= 0 and highest <= 1):  # so written, NaN is refused too
            raise InputError(
                f"The {name} picture holds values from {lowest:.6g} to {highest:.6g}; expected 0 to 1. "
                "Clamp it."
            )
    if restored.shape != clean.shape:
        raise InputError(
            f"The restored picture has shape {tuple(restored.shape)}, the clean one {tuple(clean.shape)}; "
            "expected one shape. Crop them alike."
        )
    return restored.double().reshape(-1, *restored.shape[-3:]), clean.double().reshape(-1, *clean.shape[-3:])
