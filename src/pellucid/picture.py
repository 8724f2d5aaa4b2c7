"""What may be given as a picture, and how each of it becomes an `ImageBuffer`."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pellucid.arrays import image_from_array, image_from_tensor, refuse_wrong_range
from pellucid.errors import InputError
from pellucid.image import ImageBuffer, value_range
from pellucid.image_io import decode_image, read_image

Picture = bytes | str | os.PathLike[str] | ImageBuffer | NDArray[np.generic] | Tensor


def is_wide(samples: NDArray[Any] | Tensor) -> bool:
    """Whether the float32 of an `ImageBuffer` may not hold them."""
    return samples.itemsize > 4


def keep(image: Picture) -> Picture:
    """The picture as it was given, whatever its owner does to it: a copy where no `ImageBuffer` holds all."""
    if isinstance(image, np.ndarray) and is_wide(image):
        return np.array(image)
    if isinstance(image, Tensor) and is_wide(image):
        return image.detach().clone()
    return image


def open_picture(image: Picture) -> ImageBuffer:
    """A picture of any sort.

    Args:
        image: a path, the bytes of a file, an `ImageBuffer`, an array (H, W), (H, W, 3) or (H, W, 4), or a
            tensor (3, H, W), floating point in [0, 1].

    Raises:
        InputError: it can't be read, has no pixel, or values outside [0, 1], or NaN.
    """
    if isinstance(image, ImageBuffer):
        if not image.pixels.numel():
            raise InputError(
                f"The picture is {image.width} x {image.height} pixels; expected at least one pixel. "
                "Check its size."
            )
        pixels, alpha = image.pixels.detach().cpu(), image.alpha
        refuse_wrong_range(*value_range(pixels), "picture")
        if alpha is not None:
            alpha = alpha.detach().cpu()
            refuse_wrong_range(*value_range(alpha), "picture's alpha")
        return replace(image, pixels=pixels, alpha=alpha)
    if isinstance(image, np.ndarray):
        return image_from_array(image)
    if isinstance(image, Tensor):
        return image_from_tensor(image)
    if isinstance(image, bytes):
        return decode_image(image)
    if not isinstance(image, (str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"The picture is of type {type(image).__name__}; expected a path, bytes, an array, a tensor or "
            "an ImageBuffer. Convert it first."
        )
    return read_image(image)
