import torch
from skimage.color import rgb2xyz, xyz2rgb

from pellucid.srgb import to_encoded, to_linear


def test_curves_are_inverse_and_monotonic() -> None:
    values = torch.linspace(0, 1, 4096, dtype=torch.float64)[None]
    linear = to_linear(values)
    assert (linear.diff() > 0).all()
    assert torch.allclose(to_encoded(linear), values, atol=1e-7)


def test_curve_agrees_with_scikit_image() -> None:
    gray = torch.linspace(0, 1, 64, dtype=torch.float64)
    luminance = rgb2xyz(gray[:, None].expand(-1, 3).numpy())[:, 1]
    assert torch.allclose(to_linear(gray[None])[0], torch.from_numpy(luminance), atol=1e-6)
    xyz = torch.stack([gray * 0.95047, gray, gray * 1.08883], 1).numpy()
    assert torch.allclose(to_encoded(gray[None])[0], torch.from_numpy(xyz2rgb(xyz))[:, 1], atol=1e-3)
