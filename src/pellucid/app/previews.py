"""Small pictures for the screen: before, after, and what is mixed from them there."""

import base64
import binascii
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.arrays import image_from_array
from pellucid.errors import InputError
from pellucid.explain.canvas import HEAT, paint
from pellucid.explain.change import Change, measure_change
from pellucid.image import ImageBuffer, Source
from pellucid.image_io import Limits, decode_image, encode_image
from pellucid.strength import Strength

SIDE = 2048  # pixels of a preview's longer side
CHANGE_SIDE = 1024  # of the map of changes, which is computed in float64
QUALITY = 92
FULL = 20.0  # change in L*a*b* that has the brightest color of the map
_LONGEST_REGION = 4_000_000  # characters of a region's data URL
_REGION = "data:image/png;base64,"


def fit(pixels: Tensor, side: int) -> Tensor:
    """(C, H, W), made smaller where its longer side is more than `side` pixels: means of areas."""
    scale = side / max(pixels.shape[1:])
    if scale >= 1:
        return pixels
    size = [max(1, round(length * scale)) for length in pixels.shape[1:]]
    return F.interpolate(pixels[None], size=size, mode="area")[0]


def write_layers(degraded: ImageBuffer, restored: Tensor | None, folder: Path) -> tuple[list[str], Change]:
    """The pictures that the page lays over each other.

    Any strength is a mix of them: "restored" and, where light and detail differ, "tone" or "detail", over
    "degraded". Of a picture larger than `SIDE`, tone and detail are told apart in the smaller one.

    Args:
        degraded: the input.
        restored: (3, H, W) in [0, 1], the network's output; none: nothing was changed.
        folder: where `NAME.jpg` is written, and `change.png`.

    Returns:
        The names of the layers, and the change that the map shows.
    """
    before = fit(degraded.pixels, SIDE)
    after = before if restored is None else fit(restored, SIDE)
    layers = {"degraded": before}
    if restored is not None:
        layers |= {
            "restored": after,
            "tone": Strength(1, 0).mix(before, after),
            "detail": Strength(0, 1).mix(before, after),
        }
    for name, pixels in layers.items():
        (folder / f"{name}.jpg").write_bytes(encode_preview(degraded, pixels))
    change = measure_change(fit(before, CHANGE_SIDE), fit(after, CHANGE_SIDE))
    colors = paint(torch.hypot(change.lightness, change.color).numpy(), 0, FULL, HEAT)  # (H, W, 3)
    heat = image_from_array(colors)
    (folder / "change.png").write_bytes(encode_image(heat, ".png"))
    return [*layers, "change"], change


def encode_preview(image: ImageBuffer, pixels: Tensor) -> bytes:
    """A JPEG of (3, h, w) with the profile of `image`, its transparent parts on white."""
    if image.alpha is not None:
        alpha = F.interpolate(image.alpha[None], size=pixels.shape[1:], mode="area")[0]
        pixels = torch.lerp(torch.ones_like(pixels), pixels, alpha)
    return encode_image(ImageBuffer(pixels, None, Source(icc=image.source.icc)), ".jpg", quality=QUALITY)


def read_region(data_url: str) -> Tensor | None:
    """The part of the picture that is to be restored, as the page paints it.

    Args:
        data_url: a PNG, white where the picture is to be restored, black where not.

    Returns:
        (1, h, w) shares in [0, 1]; none where nothing is painted.

    Raises:
        InputError: it is no such picture.
    """
    if not data_url.startswith(_REGION) or len(data_url) > _LONGEST_REGION:
        raise InputError(f"The region is not what the page sends; expected {_REGION}... Paint it again.")
    try:
        data = base64.b64decode(data_url.removeprefix(_REGION), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("The region's base64 can't be read. Paint it again.") from error
    region = decode_image(data, limits=Limits(max_pixels=SIDE * SIDE)).pixels[:1].clone()
    return region if bool(region.any()) else None
