"""What every measure owes."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000, rgb2lab, rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pellucid import metrics
from pellucid.errors import InputError
from pellucid.metrics import lpips_alex


def luma(x):
    return rgb2ycbcr(x)[..., 0] / 255


REFERENCES = {
    "ciede2000": lambda x, y: deltaE_ciede2000(rgb2lab(x), rgb2lab(y)).mean(),
    "lpips_alex": lambda x, y: np.abs(x - y).mean(),  # of the stand-in below
    "psnr_rgb": lambda x, y: peak_signal_noise_ratio(y, x, data_range=1),
    "psnr_y": lambda x, y: peak_signal_noise_ratio(luma(y), luma(x), data_range=1),
    "ssim_rgb": lambda x, y: structural_similarity(y, x, channel_axis=2, data_range=1),
    "ssim_y": lambda x, y: structural_similarity(
        luma(y), luma(x), data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    ),
}
ALL = [metrics.get(name) for name in metrics.names()]
every = pytest.mark.parametrize("measure", ALL, ids=metrics.names())
every_with_reference = pytest.mark.parametrize(
    "measure", [m for m in ALL if m.reference], ids=[m.name for m in ALL if m.reference]
)


@pytest.fixture(autouse=True)
def stand_in_for_lpips(monkeypatch, tmp_path):
    """A package `lpips` whose network is the mean difference; the real one needs torchvision."""

    class Network:
        def __init__(self, net: str, verbose: bool) -> None:
            assert (net, verbose) == ("alex", False)

        def eval(self):
            return self

        def __call__(self, restored, clean, normalize):
            assert normalize
            return (restored.double() - clean.double()).abs().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Network))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    lpips_alex.load_network.cache_clear()
    yield
    lpips_alex.load_network.cache_clear()


def pair(n: int = 2, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(n)
    clean = torch.rand(n, 3, 33, 41, generator=rng, dtype=dtype)
    return (clean + 0.2 * torch.rand(clean.shape, generator=rng, dtype=dtype)).clamp(0, 1), clean


def large(pictures: tuple[torch.Tensor, ...], measure: metrics.Measure) -> tuple[torch.Tensor, ...]:
    """Statistics of one picture need more of it: 99 x 205 pixels."""
    return pictures if measure.reference else tuple(x.repeat(1, 1, 3, 5) for x in pictures)


@every_with_reference
def test_equal_pictures_are_best(measure):
    clean = pair()[1]
    assert measure(clean, clean.clone()) == measure.best
    worse = measure(*pair())
    assert worse > measure.best if measure.lower_is_better else worse < measure.best


@every
def test_a_batch_is_the_mean_of_its_pictures(measure):
    restored, clean = large(pair(3), measure)
    singles = [measure(r, c) for r, c in zip(restored, clean, strict=True)]
    assert measure(restored, clean) == pytest.approx(np.mean(singles), rel=1e-12)


@every_with_reference
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_an_independent_implementation_agrees(measure, dtype):
    restored, clean = pair(1, torch.float32)
    restored, clean = restored[0].to(dtype), clean[0].to(dtype)
    arrays = (t.permute(1, 2, 0).double().numpy() for t in (restored, clean))
    assert measure(restored, clean) == pytest.approx(REFERENCES[measure.name](*arrays), abs=1e-9)


@every_with_reference
def test_it_agrees_over_random_pictures(measure):
    """Sizes, contrast, colors and the size of the error are drawn; scikit-image is the reference."""
    rng = np.random.default_rng(0)
    for _ in range(25):
        height, width = rng.integers(32, 60, size=2)  # LPIPS asks for 32
        clean = rng.uniform(0, 1, (height, width, 3)) * rng.uniform(0, 1, 3)
        restored = np.clip(clean + rng.normal(0, 10 ** rng.uniform(-3, -0.3), clean.shape), 0, 1)
        tensors = (torch.from_numpy(x).permute(2, 0, 1) for x in (restored, clean))
        assert measure(*tensors) == pytest.approx(REFERENCES[measure.name](restored, clean), abs=1e-6)


@every
@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x * 255,
        lambda x: x - 0.5,
        lambda x: x / 0 * 0,
        lambda x: (x * 255).to(torch.uint8),
        lambda x: x.numpy(),
        lambda x: x[:, :1],
        lambda x: x[0, 0],
        lambda x: x[..., :0],
        lambda x: x.to("meta"),
    ],
    ids=["range", "negative", "nan", "dtype", "array", "channels", "dimensions", "empty", "meta"],
)
def test_wrong_pictures_are_refused(measure, fault):
    restored, clean = large(pair(), measure)
    assert np.isfinite(measure(restored, clean))
    with pytest.raises(InputError, match="expected"):
        measure(fault(restored), clean)
    if measure.reference:
        with pytest.raises(InputError, match="expected"):
            measure(restored, fault(clean))


@every_with_reference
def test_pictures_of_two_sizes_are_refused(measure):
    restored, clean = pair()
    with pytest.raises(InputError, match="expected one shape"):
        measure(restored[..., :-1], clean)
