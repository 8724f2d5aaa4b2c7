"""Mean difference in color."""

import math

import torch
from torch import Tensor

from pellucid.metrics._measure import Measure, checked_pair
from pellucid.srgb import to_linear

# Linear sRGB to XYZ (IEC 61966-2-1), and the white D65 seen under 2 degrees.
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)


def ciede2000(restored: Tensor, clean: Tensor) -> float:
    """The mean CIEDE2000 difference over pixels, for sRGB pictures; about 1 is just seen, 0 is equal.

    Args:
        restored: (3, H, W) or (B, 3, H, W) floating point in [0, 1].
        clean: of the same shape.

    Returns:
        The mean over the batch, computed in float64.

    Raises:
        InputError: another shape, dtype or range.
    """
    restored, clean = checked_pair(restored, clean)
    return float(color_difference(lab(restored), lab(clean)).mean())


def lab(x: Tensor) -> Tensor:
    """CIE L*a*b*, (B, 3, H, W), of sRGB pictures (B, 3, H, W) in [0, 1]."""
    xyz = torch.einsum("ij,bjhw->bihw", x.new_tensor(XYZ), to_linear(x)) / x.new_tensor(WHITE).view(3, 1, 1)
    root = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    x_root, y_root, z_root = root.unbind(1)
    return torch.stack([116 * y_root - 16, 500 * (x_root - y_root), 200 * (y_root - z_root)], dim=1)


def color_difference(one: Tensor, other: Tensor) -> Tensor:
    """CIEDE2000, (B, H, W), between colors in L*a*b*, (B, 3, H, W); names as in Sharma et al., 2005."""
    (l1, a1, b1), (l2, a2, b2) = one.unbind(1), other.unbind(1)
    gain = 1.5 - 0.5 * _saturation((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)
    c1, c2 = torch.hypot(a1 * gain, b1), torch.hypot(a2 * gain, b2)
    h1, h2 = (torch.atan2(b, a * gain) % (2 * math.pi) for a, b in ((a1, b1), (a2, b2)))
    gray = c1 * c2 == 0  # a gray has no hue

    turn = h2 - h1
    turn = torch.where(turn > math.pi, turn - 2 * math.pi, turn)
    turn = torch.where(turn < -math.pi, turn + 2 * math.pi, turn)
    turn = torch.where(gray, 0, turn)
    apart, total = (h1 - h2).abs() > math.pi, h1 + h2
    across = torch.where(total < 2 * math.pi, total + 2 * math.pi, total - 2 * math.pi)
    mean_hue = torch.where(gray, total, torch.where(apart, across, total) / 2)
    mean_c, lightness = (c1 + c2) / 2, ((l1 + l2) / 2 - 50) ** 2

    def wave(factor: int, degrees: float) -> Tensor:
        return (factor * mean_hue + math.radians(degrees)).cos()

    t = 1 - 0.17 * wave(1, -30) + 0.24 * wave(2, 0) + 0.32 * wave(3, 6) - 0.20 * wave(4, -63)
    d_l = (l2 - l1) / (1 + 0.015 * lightness / (20 + lightness).sqrt())
    d_c = (c2 - c1) / (1 + 0.045 * mean_c)
    d_h = 2 * (c1 * c2).sqrt() * (turn / 2).sin() / (1 + 0.015 * mean_c * t)
    blue = math.radians(60) * (-(((mean_hue.rad2deg() - 275) / 25) ** 2)).exp()
    rotation = -2 * _saturation(mean_c) * blue.sin()
    # Rounding may take a difference of nothing below zero.
    return (d_l**2 + d_c**2 + d_h**2 + rotation * d_c * d_h).clamp_min(0).sqrt()


def _saturation(chroma: Tensor) -> Tensor:
    return (chroma**7 / (chroma**7 + 25.0**7)).sqrt()


MEASURES = (
    Measure("ciede2000", ciede2000, 0.0, "", "CIE 142-2001; Sharma et al., 2005", lower_is_better=True),
)
