import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve as reference

from pellucid.degradations._kernels import convolve
from pellucid.degradations.defocus_blur import DefocusBlur, DefocusBlurParams, disc
from pellucid.degradations.frame_average import FrameAverage, FrameAverageParams, frame_kernel
from pellucid.degradations.motion_blur import MotionBlur, MotionBlurParams, motion_kernel
from pellucid.srgb import to_linear


@pytest.mark.parametrize("size", [(20, 31), (4, 40)])
def test_convolution_agrees_with_scipy(size: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    picture = torch.rand((3, *size), generator=rng, dtype=torch.float64)
    kernel = torch.rand((11, 11), generator=rng, dtype=torch.float64)
    # Pictures with room for it are mirrored without repeating the border, small ones repeat it.
    mode = "mirror" if min(size) > 5 else "nearest"
    expected = [reference(channel.numpy(), kernel.numpy(), mode=mode) for channel in picture]
    assert torch.allclose(convolve(picture, kernel), torch.from_numpy(np.stack(expected)), atol=1e-10)


def test_motion_kernels_are_centered_and_as_long_as_stated() -> None:
    params = MotionBlur(lengths=(3, 29)).draw(torch.Generator().manual_seed(1), 40)
    for i in range(40):
        kernel = motion_kernel(params, i)
        k = kernel.shape[0]
        assert k % 2 == 1
        assert kernel.min() >= 0
        assert kernel.sum() == pytest.approx(1)
        line = torch.arange(k, dtype=torch.float64) - k // 2
        assert (kernel.sum(1) @ line).abs() < 1e-6
        assert (kernel.sum(0) @ line).abs() < 1e-6
        rows = max(int((kernel.sum(axis) > 0).sum()) for axis in (0, 1))
        assert params.length[i] <= rows <= params.length[i] + 3


def test_a_steady_hand_draws_a_straight_line() -> None:
    kernel = motion_kernel(MotionBlurParams((9.0,), (0.0,), (0.0,), (0.0,), (5,)), 0)
    middle = kernel.shape[0] // 2
    assert kernel[middle].sum() == pytest.approx(1)
    assert kernel[middle, middle - 3 : middle + 4].tolist() == pytest.approx([1 / 9] * 7, rel=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_a_way_that_turns_back_is_no_longer_than_stated(seed: int) -> None:
    kernel = motion_kernel(MotionBlurParams((29.0,), (0.0,), (700.0,), (0.0,), (seed,)), 0)
    rows = max(int((kernel.sum(axis) > 0).sum()) for axis in (0, 1))
    assert 29 <= rows <= 32


def test_a_way_wanders_by_degrees() -> None:
    for seed in range(6):
        kernel = motion_kernel(MotionBlurParams((29.0,), (0.0,), (5.0,), (0.0,), (seed,)), 0)
        assert int((kernel.sum(1) > 0).sum()) < 10


def test_an_unsteady_hand_stays_longer_in_some_places() -> None:
    kernel = motion_kernel(MotionBlurParams((21.0,), (0.0,), (0.0,), (0.8,), (5,)), 0)
    along = kernel.sum(0)
    inner = along[along > 0][2:-2]
    assert inner.max() > 1.5 * inner.min()


def test_disc() -> None:
    kernel = disc(4.0, 1.0)
    k = kernel.shape[0] // 2
    assert kernel.sum() == pytest.approx(1)
    assert torch.equal(kernel, kernel.T)
    assert kernel[k, k + 3] == kernel[k, k]
    assert kernel[k, k + 4] == pytest.approx(float(kernel[k, k]) / 2)
    # Its area is the circle's.
    assert float(1 / kernel[k, k]) == pytest.approx(3.14159 * 16, rel=0.03)
    assert disc(0.01, 1.0).amax() > 0.9


def test_blur_averages_linear_light() -> None:
    clean = torch.zeros(1, 3, 41, 41, dtype=torch.float64)
    clean[..., 20, 20] = 1.0
    for blurred in (
        DefocusBlur().apply(clean, DefocusBlurParams((3.0,), (1.0,))),
        MotionBlur().apply(clean, MotionBlurParams((9.0,), (30.0,), (40.0,), (0.3,), (2,))),
    ):
        assert to_linear(blurred)[0, 0].sum() == pytest.approx(1, rel=1e-5)
        assert blurred.max() < 0.8


def test_averaged_frames_lie_on_an_arc_around_the_middle_one() -> None:
    params = FrameAverageParams((20.0,), (30.0,), (40.0,), (0.2,), (11,), (1.0,))
    kernel = frame_kernel(params, 0)
    middle = kernel.shape[0] // 2
    assert kernel.sum() == pytest.approx(1)
    assert kernel[middle, middle] == pytest.approx(1 / 11)
    line = torch.arange(kernel.shape[0], dtype=torch.float64) - middle
    y, x = (line[:, None] * kernel).sum(), (line * kernel).sum()
    assert torch.hypot(y, x) > 0.5  # there is more way after the middle frame than before it
    # A quarter of a circle: half of its length each way, and both ends to the side that it bends to.
    three = frame_kernel(FrameAverageParams((20.0,), (0.0,), (90.0,), (0.0,), (3,), (1.0,)), 0)
    line = torch.arange(three.shape[0], dtype=torch.float64) - three.shape[0] // 2
    radius = 20 / (math.pi / 2)
    assert float((line[:, None] * three).sum()) == pytest.approx(2 / 3 * radius * (1 - math.sqrt(0.5)))
    assert float((line.abs() * three).sum()) == pytest.approx(2 / 3 * radius * math.sqrt(0.5))
    ahead = frame_kernel(FrameAverageParams((20.0,), (0.0,), (0.0,), (0.2,), (3,), (1.0,)), 0)
    middle = ahead.shape[0] // 2
    assert ahead[middle, [middle - 8, middle, middle + 12]].tolist() == pytest.approx([1 / 3] * 3)
    straight = frame_kernel(FrameAverageParams((12.0,), (0.0,), (0.0,), (0.0,), (13,), (1.0,)), 0)
    assert straight[straight.shape[0] // 2].tolist() == pytest.approx([0.0] + [1 / 13] * 13 + [0.0])


@pytest.mark.parametrize("exponent", [1.0, 2.0, 6.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frames_are_averaged_after_a_power(exponent: float, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    clean = torch.rand((1, 3, 24, 24), generator=rng, dtype=torch.float64)
    clean[..., :12] *= 0.02  # almost black, where a high power leaves nothing of float32
    blurred = FrameAverage().apply(
        clean.to(dtype), FrameAverageParams((2.0,), (0.0,), (0.0,), (0.0,), (3,), (exponent,))
    )
    frames = torch.stack([clean[..., 4:-4, shift : 24 - 8 + shift] for shift in (3, 4, 5)])
    expected = (frames**exponent).mean(0) ** (1 / exponent)
    assert blurred.dtype == dtype
    assert (blurred[..., 4:-4, 4:-4] - expected).abs().max() < (1 / 255 if exponent > 2 else 1e-6)


def test_few_frames_are_averaged_as_encoded_and_many_as_light() -> None:
    params = FrameAverage().draw(torch.Generator().manual_seed(0), 300)
    ways = {(n == 65, round(exponent)) for n, exponent in zip(params.frames, params.exponent, strict=True)}
    assert ways == {(False, 1), (True, 2), (True, 3), (True, 4), (True, 5), (True, 6)}
    assert {n for n in params.frames if n < 65} == set(range(7, 18, 2))
