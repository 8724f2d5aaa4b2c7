from dataclasses import replace

import pytest
import torch

from pellucid.degradations.low_light import LowLight, LowLightParams
from pellucid.srgb import to_linear


def dark(**changes: tuple[object, ...]) -> LowLightParams:
    bare = LowLightParams((0.1,), (1.0,), ((1.0, 1.0, 1.0),), (0.0,), (0.0,), (False,), (0,))
    return replace(bare, **changes)  # pyright: ignore[reportArgumentType]


def test_exposure_gamma_and_cast_act_on_linear_light() -> None:
    clean = torch.rand((1, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    light = to_linear(clean)
    assert torch.allclose(to_linear(LowLight().apply(clean, dark())), light * 0.1, atol=1e-7)
    params = dark(gamma=(1.2,), cast=((0.8, 1.0, 1.2),))
    cast = torch.tensor([0.8, 1.0, 1.2], dtype=torch.float64).view(1, 3, 1, 1)
    assert torch.allclose(to_linear(LowLight().apply(clean, params)), light**1.2 * 0.1 * cast, atol=1e-7)


def test_quantized_pictures_have_8_bits() -> None:
    clean = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    levels = LowLight().apply(clean, dark(quantize=(True,), read=(1e-3,))) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-5)
    assert levels.unique().numel() > 5


def test_dark_noise_is_stronger_than_the_same_noise_in_light() -> None:
    clean = torch.full((1, 3, 64, 64), 0.6)
    noisy = LowLight().apply(clean, dark(shot=(1e-4,)))
    light = to_linear(noisy)
    expected = (1e-4 * 0.1 * to_linear(clean)[0, 0, 0, 0]).sqrt()
    assert light.std().item() == pytest.approx(expected.item(), rel=0.05)


def test_draws_are_as_dark_as_lol() -> None:
    clean = torch.full((64, 3, 8, 8), 0.45)
    levels = LowLight().apply(clean, LowLight().draw(torch.Generator().manual_seed(2), 64)).mean((1, 2, 3))
    assert 0.02 < levels.median() < 0.12
    assert levels.max() < 0.35
