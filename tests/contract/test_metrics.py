"""What every measure owes."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pellucid import metrics
from pellucid.errors import InputError

REFERENCES = {
    "psnr_rgb": lambda x, y: peak_signal_noise_ratio(y, x, data_range=1),
    "ssim_rgb": lambda x, y: structural_similarity(y, x, channel_axis=2, data_range=1),
}
every = pytest.mark.parametrize(
    "measure", [metrics.get(name) for name in metrics.names()], ids=metrics.names()
)


def pair(n: int = 2, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(n)
    clean = torch.rand(n, 3, 24, 31, generator=rng, dtype=dtype)
    return (clean + 0.2 * torch.rand(clean.shape, generator=rng, dtype=dtype)).clamp(0, 1), clean


@every
def test_equal_pictures_are_best(measure):
    clean = pair()[1]
    assert measure.function(clean, clean.clone()) == measure.best
    assert measure.function(*pair()) < measure.best


@every
def test_a_batch_is_the_mean_of_its_pictures(measure):
    restored, clean = pair(3)
    singles = [measure.function(r, c) for r, c in zip(restored, clean, strict=True)]
    assert measure.function(restored, clean) == pytest.approx(np.mean(singles), rel=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_an_independent_implementation_agrees(measure, dtype):
    restored, clean = pair(1, torch.float32)
    restored, clean = restored[0].to(dtype), clean[0].to(dtype)
    arrays = (t.permute(1, 2, 0).double().numpy() for t in (restored, clean))
    assert measure.function(restored, clean) == pytest.approx(REFERENCES[measure.name](*arrays), abs=1e-9)


@every
@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x * 255,
        lambda x: x - 0.5,
        lambda x: x / 0 * 0,
        lambda x: (x * 255).to(torch.uint8),
        lambda x: x[:, :1],
        lambda x: x[0, 0],
        lambda x: x[..., :-1],
        lambda x: x[..., :0],
    ],
    ids=["range", "negative", "nan", "dtype", "channels", "dimensions", "size", "empty"],
)
def test_wrong_pictures_are_refused(measure, fault):
    restored, clean = pair()
    with pytest.raises(InputError, match="expected"):
        measure.function(fault(restored), clean)
    with pytest.raises(InputError, match="expected"):
        measure.function(restored, fault(clean))
