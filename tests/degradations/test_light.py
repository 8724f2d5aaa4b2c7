import torch
from skimage.color import rgb2xyz, xyz2rgb

from pellucid.degradations._light import sensor_noise, to_encoded, to_linear


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


def test_sensor_noise_has_the_stated_variance() -> None:
    rng = torch.Generator().manual_seed(0)
    level = torch.tensor([0.02, 0.2, 0.7], dtype=torch.float64).view(3, 1, 1)
    shot = torch.full((3, 1, 1), 4e-3, dtype=torch.float64)
    read = torch.full((3, 1, 1), 0.01, dtype=torch.float64)
    noise = sensor_noise(level.expand(3, 200, 200), shot, read, rng)
    expected = (shot * level + read**2).flatten()
    assert torch.allclose(noise.flatten(1).var(1), expected, rtol=0.04)
    assert noise.flatten(1).mean(1).abs().max() < 2e-3
