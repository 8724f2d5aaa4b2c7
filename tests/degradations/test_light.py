import torch

from pellucid.degradations._light import sensor_noise


def test_sensor_noise_has_the_stated_variance() -> None:
    rng = torch.Generator().manual_seed(0)
    level = torch.tensor([0.02, 0.2, 0.7], dtype=torch.float64).view(3, 1, 1)
    shot = torch.full((3, 1, 1), 4e-3, dtype=torch.float64)
    read = torch.full((3, 1, 1), 0.01, dtype=torch.float64)
    noise = sensor_noise(level.expand(3, 200, 200), shot, read, rng)
    expected = (shot * level + read**2).flatten()
    assert torch.allclose(noise.flatten(1).var(1), expected, rtol=0.04)
    assert noise.flatten(1).mean(1).abs().max() < 2e-3
