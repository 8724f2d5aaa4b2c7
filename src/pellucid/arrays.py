"""Pictures as numpy arrays and torch tensors, to and from `ImageBuffer`."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid import scratch
from pellucid.errors import InputError
from pellucid.image import ImageBuffer, SampleFormat, Source, fill_transparent, to_gray

Array = NDArray[Any]
_DEPTHS: dict[str, SampleFormat] = {"uint8": "uint8", "uint16": "uint16"}


def image_from_array(array: Array) -> ImageBuffer:
    """The picture in `array`.

    Args:
        array: (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGB and alpha, sRGB-encoded; uint8, uint16, or floating
            point in [0, 1].

    Raises:
        InputError: another shape or dtype, no pixels, values outside [0, 1], or NaN.
    """
    array = np.asarray(array)  # subclasses, such as masked arrays, compute by rules of their own
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise InputError(
            f"The array has shape {array.shape}; expected (H, W), (H, W, 3) or (H, W, 4), "
            "with at least one pixel. Move the channels to the end, and pass pictures one by one."
        )
    if array.dtype.name in _DEPTHS:
        scaled = array.astype(np.float32) / np.iinfo(array.dtype).max
    elif array.dtype.kind == "f":
        refuse_wrong_range(float(array.min()), float(array.max()), "array")
        scaled = array.astype(np.float32)
    else:
        raise InputError(
            f"The array holds {array.dtype}; expected uint8, uint16, or floating point in [0, 1]. "
            "Convert it first."
        )
    channels = torch.from_numpy(np.atleast_3d(scaled)).permute(2, 0, 1).contiguous()  # (C, H, W)
    depth = _DEPTHS.get(array.dtype.name, "float32")
    if channels.shape[0] == 1:
        return ImageBuffer(channels.repeat(3, 1, 1), None, Source(depth=depth, mode="gray"))
    pixels, alpha = channels[:3], channels[3:]
    if alpha.shape[0] == 0:
        return ImageBuffer(pixels, None, Source(depth=depth))
    # As in files: what lies under full transparency is set aside, and does not bleed into what is seen.
    hidden = pixels[:, alpha[0] == 0]
    return ImageBuffer(fill_transparent(pixels, alpha), alpha, Source(depth=depth, hidden=hidden))


def image_from_tensor(tensor: Tensor) -> ImageBuffer:
    """The picture in `tensor`.

    Args:
        tensor: (3, H, W) floating point in [0, 1], sRGB-encoded, on any device.

    Raises:
        InputError: another shape or dtype, no pixels, values outside [0, 1], or NaN.
    """
    usable = tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta
    # Floats of one byte have no minimum in torch, and too few levels for a picture.
    if tensor.ndim != 3 or tensor.shape[0] != 3 or 0 in tensor.shape or not usable or tensor.itemsize < 2:
        raise InputError(
            f"The tensor is {tensor.dtype} of shape {tuple(tensor.shape)}"
            f" ({tensor.layout}, {tensor.device}); expected dense floating point (3, H, W) of 16 bits "
            "or more in [0, 1]. Pass pictures one by one."
        )
    tensor = tensor.detach()
    refuse_wrong_range(float(tensor.min()), float(tensor.max()), "tensor")
    pixels = tensor.to("cpu", torch.float32)
    if pixels is tensor:  # whose owner may change it afterwards
        pixels = scratch.copy(tensor)
    return ImageBuffer(pixels, None, Source(depth="float32"))


def array_from_image(image: ImageBuffer, dtype: np.dtype[Any] | None = None) -> Array:
    """The picture as an array: (H, W) if its source was gray and opaque, else (H, W, 3) or (H, W, 4).

    Args:
        image: the picture; a gray one has the gray that `write_image` gives it, too.
        dtype: of the result; integers are rounded. Default: the depth of the picture's source.
    """
    pixels = image.pixels
    if image.source.mode == "gray" and image.alpha is None:
        pixels = to_gray(pixels)
    if image.alpha is not None:
        pixels = torch.cat([pixels, image.alpha])
        if image.source.hidden is not None:
            pixels[:3, image.alpha[0] == 0] = image.source.hidden
    array = pixels.permute(1, 2, 0).numpy()
    dtype = np.dtype(image.source.depth) if dtype is None else dtype
    if dtype.kind == "u":
        array = np.rint(array * np.float32(np.iinfo(dtype).max))
    array = np.array(array, dtype, order="C")
    return array[..., 0] if array.shape[2] == 1 else array


def refuse_wrong_range(lowest: float, highest: float, what: str) -> None:
    """Refuse a picture by its least and its greatest value.

    Raises:
        InputError: they are not in [0, 1], or NaN.
    """
    if not (lowest >= 0 and highest <= 1):  # so written, NaN is refused too
        raise InputError(
            f"The {what} holds values from {_told(lowest)} to {_told(highest)}; expected 0 to 1. "
            "Divide by its white level, and remove NaN."
        )


def _told(value: float) -> str:
    """The value in six digits, or in all where these would hide that it lies outside of [0, 1]."""
    short = f"{value:.6g}"
    return short if (0 <= float(short) <= 1) == (0 <= value <= 1) else repr(value)
