"""What every measure is: a plain function on (restored, clean) or on (restored) alone, and its facts."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pellucid.errors import InputError


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: with the protocol in it, for example "psnr_rgb".
        function: (restored, clean) to a number, the mean over the batch; without reference, (restored) alone.
        best: the value of equal pictures; without reference, the least possible.
        unit: "dB", or empty.
        source: the definition.
        digits: behind the point, where it is printed.
        lower_is_better: a distance, unlike PSNR and SSIM.
        reference: whether it compares with the clean picture.
        prepare: to be called before a long run; raises if something the measure needs is not installed.
    """

    name: str
    function: Callable[..., float]
    best: float
    unit: str
    source: str
    digits: int = 2
    lower_is_better: bool = False
    reference: bool = True
    prepare: Callable[[], object] | None = None

    def __call__(self, restored: Tensor, clean: Tensor) -> float:
        """The measure of `restored`, compared with `clean` if it compares."""
        return self.function(restored, clean) if self.reference else self.function(restored)


def checked(picture: Tensor, name: str, least_side: int = 1) -> Tensor:
    """The picture as (B, 3, H, W) float64.

    Raises:
        InputError: no tensor of a picture or batch, floating point in [0, 1], with sides long enough.
    """
    if not isinstance(picture, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"The {name} picture is a {type(picture).__name__}; expected a tensor (3, H, W) or (B, 3, H, W) "
            "in [0, 1]. An array (H, W, 3) of 8 bits becomes one by torch.from_numpy(array).permute(2, 0, 1) "
            "/ 255."
        )
    empty = 0 in picture.shape
    if picture.ndim not in (3, 4) or picture.shape[-3] != 3 or min(picture.shape[-2:]) < least_side or empty:
        raise InputError(
            f"The {name} picture has shape {tuple(picture.shape)}; expected (3, H, W) or (B, 3, H, W) "
            f"with sides of at least {least_side}."
        )
    if not picture.is_floating_point() or picture.is_meta:
        raise InputError(
            f"The {name} picture is {picture.dtype} on {picture.device}; expected floating point in [0, 1]."
        )
    lowest, highest = float(picture.min()), float(picture.max())
    if not (lowest >= 0 and highest <= 1):  # so written, NaN is refused too
        raise InputError(
            f"The {name} picture holds values from {lowest:.6g} to {highest:.6g}; expected 0 to 1. Clamp it."
        )
    return picture.double().reshape(-1, *picture.shape[-3:])


def checked_pair(restored: Tensor, clean: Tensor, least_side: int = 1) -> tuple[Tensor, Tensor]:
    """Both as (B, 3, H, W) float64.

    Raises:
        InputError: not two pictures or batches of one shape, floating point in [0, 1], sides long enough.
    """
    pair = checked(restored, "restored", least_side), checked(clean, "clean", least_side)
    if restored.shape != clean.shape:
        raise InputError(
            f"The restored picture has shape {tuple(restored.shape)}, the clean one {tuple(clean.shape)}; "
            "expected one shape. Crop them alike."
        )
    return pair


def luma(x: Tensor) -> Tensor:
    """Y of BT.601 as the field takes it, (B, 1, H, W) in [16/255, 235/255], from (B, 3, H, W) in [0, 1]."""
    return (x * x.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)).sum(1, keepdim=True) / 255 + 16 / 255
