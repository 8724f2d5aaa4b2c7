"""The losses against NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.losses import fourier_l1, l1, picture_errors


def pair(height: int = 9, width: int = 14) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, height, width, generator=generator) for _ in range(2))


@pytest.mark.parametrize("loss", [l1, fourier_l1])
def test_equal_pictures_cost_nothing(loss) -> None:
    restored, _ = pair()
    assert loss(restored, restored.clone()).item() == 0


def test_l1_is_the_mean_absolute_error() -> None:
    restored, clean = pair()
    assert l1(restored, clean).item() == pytest.approx(
        np.abs(restored.numpy() - clean.numpy()).mean(), rel=1e-6
    )


@pytest.mark.parametrize("width", [14, 15])
def test_fourier_l1_is_that_of_the_two_spectra(width: int) -> None:
    restored, clean = pair(9, width)
    spectra = [np.fft.rfft2(x.double().numpy()) for x in (restored, clean)]
    difference = spectra[0] - spectra[1]
    expected = (np.abs(difference.real).mean() + np.abs(difference.imag).mean()) / 2
    assert fourier_l1(restored, clean).item() == pytest.approx(expected, rel=1e-5)


def test_fourier_l1_sees_a_constant_error_once() -> None:
    clean = torch.zeros(1, 3, 8, 8)
    # One of 8 x 5 coefficients is not zero, and only its real part: 64 pixels of 0.5.
    assert fourier_l1(clean + 0.5, clean).item() == pytest.approx(32 / (8 * 5 * 2))


@pytest.mark.parametrize("loss", [l1, fourier_l1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_computed_in_float32(loss, dtype: torch.dtype) -> None:
    restored, clean = (x.to(dtype) for x in pair())
    value = loss(restored, clean)
    assert value.dtype == torch.float32 and value.ndim == 0
    assert value.item() == pytest.approx(loss(restored.float(), clean.float()).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [l1, fourier_l1])
def test_gradient_reaches_every_pixel(loss) -> None:
    restored, clean = pair()
    restored.requires_grad_()
    loss(restored, clean).backward()
    assert restored.grad.isfinite().all()
    assert (restored.grad != 0).float().mean() > 0.95  # here and there the spectrum's signs cancel


def test_a_pictures_error_is_its_l1_and_its_weighted_fourier_error_or_the_logarithm_of_both() -> None:
    restored, clean = pair()
    errors = [
        (l1(r[None], c[None]) + 0.1 * fourier_l1(r[None], c[None])).item()
        for r, c in zip(*pair(), strict=True)
    ]
    assert picture_errors(restored, clean, 0.1).tolist() == pytest.approx(errors, rel=1e-6)
    logarithms = np.log(np.array(errors) + 0.02)
    assert picture_errors(restored, clean, 0.1, log_floor=0.02).tolist() == pytest.approx(
        logarithms, rel=1e-6
    )


def test_a_logarithm_weighs_a_picture_by_one_over_its_error() -> None:
    clean = torch.zeros(2, 3, 8, 8)
    restored = torch.stack([clean[0] + 0.01, clean[1] + 0.4]).requires_grad_()
    picture_errors(restored, clean, 0.0, log_floor=0.02).sum().backward()
    small, large = restored.grad.flatten(1).sum(1).tolist()
    assert small / large == pytest.approx((0.4 + 0.02) / (0.01 + 0.02), rel=1e-5)
