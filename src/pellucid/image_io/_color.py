"""ICC profiles: whether one fits a picture, and how far its tones are from sRGB's."""

from functools import lru_cache

import numpy as np

from pellucid.image import Mode
from pellucid.image_io._formats import Array, array, vips, vips_image

_PROFILE_SPACE = {"rgb": b"RGB ", "palette": b"RGB ", "gray": b"GRAY"}

RAMP = np.linspace(0, 1, 1024)
"""The samples at which a tone curve is known."""


def fits(icc: bytes | None, mode: Mode) -> bool:
    """Whether these bytes are an ICC profile for samples of this mode."""
    return icc is not None and icc[36:40] == b"acsp" and icc[16:20] == _PROFILE_SPACE.get(mode)


@lru_cache(maxsize=16)
def tone_curve(icc: bytes | None, near: float = 0.15) -> Array | None:
    """How the profile's gray ramp looks in sRGB's encoding, or none where that is close to the ramp itself.

    Networks learn on sRGB-encoded photographs. Display P3, Adobe RGB and their like have other primaries but
    nearly the same tones, and pass as they are, so nothing is clipped or rounded. A linear profile differs by
    far; its samples go through this curve, and back through its inverse, still without touching primaries.

    Args:
        icc: the profile.
        near: a curve that stays so close to the ramp passes; gamma 1.8 to 2.6 and L* do, linear is off by
            0.29.

    Returns:
        float64 (1024,), strictly rising from 0 to 1.
    """
    if icc is None:
        return None
    pyvips = vips()
    gray = icc[16:20] == b"GRAY"
    samples = np.rint(RAMP * 65_535).astype(np.uint16)[None, :, None].repeat(1 if gray else 3, axis=2)
    strip = vips_image(samples, gray)
    strip.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    try:
        lightness = array(strip.icc_import(embedded=True, pcs="lab", intent="relative"))[0, :, 0]
    except pyvips.Error:
        return None  # a broken profile is kept, but says nothing
    luminance = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)  # CIE 15
    curve = np.where(
        luminance <= 0.0031308, 12.92 * luminance, 1.055 * np.maximum(luminance, 0) ** (1 / 2.4) - 0.055
    )
    if np.abs(curve - RAMP).max() < near:
        return None
    curve = np.maximum.accumulate(np.clip(curve, 0, 1)) + 1e-5 * RAMP
    return (curve - curve[0]) / (curve[-1] - curve[0])
