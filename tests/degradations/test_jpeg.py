import numpy as np
import pytest
import pyvips
import torch
from skimage import data

from pellucid.degradations.jpeg import Jpeg, JpegParams
from pellucid.errors import InputError


def libvips_jpeg(pixels: np.ndarray, quality: int, subsample: bool) -> np.ndarray:
    file = pyvips.Image.new_from_array(pixels).jpegsave_buffer(
        Q=quality, subsample_mode="on" if subsample else "off"
    )
    return pyvips.Image.new_from_buffer(file, "").numpy()


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("quality", [10, 35, 50, 75, 95])
def test_agrees_with_libvips(quality: int, subsample: bool) -> None:
    pixels = data.astronaut()[100:283, 120:331]  # odd on purpose: 183x211
    expected = libvips_jpeg(pixels, quality, subsample).astype(np.float64)
    clean = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    ours = Jpeg().apply(clean, JpegParams((quality,), (subsample,)))[0].permute(1, 2, 0).numpy() * 255
    between = np.mean((ours - expected) ** 2)
    lost = np.mean((pixels - expected) ** 2)
    # Rounding of the decoder and of its color tables is all that remains.
    assert 10 * np.log10(255**2 / between) > 44
    assert between < lost / 5


def test_no_quality_means_no_compression() -> None:
    clean = torch.rand(2, 3, 9, 9)
    degraded = Jpeg().apply(clean, JpegParams((None, 30), (False, True)))
    assert torch.equal(degraded[0], clean[0])
    assert not torch.equal(degraded[1], clean[1])


def test_lower_quality_loses_more() -> None:
    clean = torch.from_numpy(data.coffee()[:96, :96]).permute(2, 0, 1)[None].float() / 255
    errors = [
        (Jpeg().apply(clean, JpegParams((q,), (True,))) - clean).square().mean().item() for q in (95, 60, 10)
    ]
    assert errors == sorted(errors)


def test_quality_beyond_the_scale_is_refused() -> None:
    with pytest.raises(InputError, match="quality"):
        JpegParams((0,), (True,))
