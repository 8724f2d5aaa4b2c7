import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve
from scipy.special import gamma
from skimage.data import astronaut, chelsea

from pellucid.errors import InputError
from pellucid.metrics.niqe import block_features, fit_model, gray, load_model, niqe


def picture(name=astronaut) -> torch.Tensor:
    return torch.from_numpy(name()).permute(2, 0, 1).double() / 255


def reference_shape(values):
    """Shape and scales by a plain search, as the paper's equations say."""
    shapes = np.arange(0.2, 10, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    left, right = (np.sqrt((values[side] ** 2).mean()) for side in (values < 0, values > 0))
    skew = left / right
    ratio = np.abs(values).mean() ** 2 / (values**2).mean()
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    alpha = shapes[np.argmin((ratios - ratio) ** 2)]
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, left * scale, right * scale


def reference_features(plane, side):
    """The 18 features of each block at one scale, and its mean deviation, in loops."""
    steps = np.arange(-3, 4)
    line = np.exp(-(steps**2) / (2 * (7 / 6) ** 2))
    window = np.outer(line, line) / line.sum() ** 2
    mean = convolve(plane, window, mode="nearest")
    deviation = np.sqrt(np.abs(convolve(plane**2, window, mode="nearest") - mean**2))
    normalized = (plane - mean) / (deviation + 1)
    rows, deviations = [], []
    for y in range(0, plane.shape[0], side):
        for x in range(0, plane.shape[1], side):
            block = normalized[y : y + side, x : x + side]
            alpha, left, right = reference_shape(block)
            row = [alpha, (left + right) / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (-1, 1)):
                alpha, left, right = reference_shape(block * np.roll(block, shift, (0, 1)))
                row += [alpha, (right - left) * gamma(2 / alpha) / gamma(1 / alpha), left, right]
            rows.append(row)
            deviations.append(deviation[y : y + side, x : x + side].mean())
    return np.array(rows), np.array(deviations)


def test_features_agree_with_an_independent_implementation():
    plane = gray(picture()[:, 60:260, 100:400])
    found, deviations = block_features(plane)
    cropped = plane[0, 0, :192, :288].numpy()
    fine, expected_deviations = reference_features(cropped, 96)
    half = np.array(Image.fromarray(cropped.astype(np.float32)).resize((144, 96), Image.Resampling.BICUBIC))
    coarse, _ = reference_features(half.astype(np.float64), 48)
    assert found.shape == (6, 36)
    np.testing.assert_allclose(deviations, expected_deviations, rtol=1e-9)
    np.testing.assert_allclose(found[:, :18], fine, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[:, 18:], coarse, atol=2e-3)  # Pillow resizes in float32


def test_the_distance_is_the_papers():
    x = picture(chelsea)
    features = block_features(gray(x))[0].numpy()
    mean, covariance = (t.numpy() for t in load_model())
    offset = features.mean(0) - mean
    pooled = (np.cov(features, rowvar=False) + covariance) / 2
    assert niqe(x) == pytest.approx(float(np.sqrt(offset @ np.linalg.inv(pooled) @ offset)), rel=1e-6)


def test_noise_and_blur_are_less_natural():
    x = picture()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    blurred = torch.nn.functional.avg_pool2d(x[None], 7, 1)[0].clamp(0, 1)
    assert niqe(x) + 2 < niqe((x + noise * 25 / 255).clamp(0, 1))
    assert niqe(x) + 2 < niqe(blurred)


def test_pictures_that_the_model_is_made_of_are_the_most_natural():
    x = picture()
    mean, covariance = fit_model([x, picture(chelsea)])
    assert mean.shape == (36,)
    assert covariance.shape == (36, 36)
    features, deviation = block_features(gray(x))
    sharp = features[deviation > 0.75 * deviation.max()]
    assert 0 < len(sharp) < len(features)
    assert fit_model([x])[0].tolist() == sharp.mean(0).tolist()


def test_too_little_to_look_at_is_refused():
    with pytest.raises(InputError, match="at least 96"):
        niqe(torch.rand(3, 95, 300))
    with pytest.raises(InputError, match=r"1 blocks.*191 x 100.*Leave niqe out"):
        niqe(picture()[:, :100, :191])
    with pytest.raises(InputError, match="0 blocks"):
        niqe(torch.full((3, 200, 200), 0.5))
