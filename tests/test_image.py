"""The buffer's own checks, and the color grown in under transparency."""

import dataclasses
import math

import pytest
import torch

from pellucid.errors import InputError
from pellucid.image import ImageBuffer, Source, fill_transparent, value_range


def test_size_is_height_and_width_of_the_pixels() -> None:
    image = ImageBuffer(torch.zeros(3, 4, 7))
    assert (image.height, image.width, image.alpha) == (4, 7, None)
    assert image.source == Source()


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(1, 4, 7),
        torch.zeros(1, 3, 4, 7),
        torch.zeros(3, 4, 7, dtype=torch.float64),
        torch.zeros(3, 4, 7, device="meta"),
        torch.zeros(3, 4, 7).to_sparse(),
    ],
)
def test_pixels_of_another_shape_or_dtype_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"expected dense float32 \(3, H, W\)"):
        ImageBuffer(pixels)


@pytest.mark.parametrize(
    "alpha",
    [
        torch.zeros(1, 7, 4),
        torch.zeros(1, 4, 7, dtype=torch.uint8),
        torch.zeros(1, 4, 7, dtype=torch.float64),
        torch.zeros(1, 4, 7, device="meta"),
    ],
)
def test_alpha_of_another_shape_or_dtype_is_refused(alpha: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"expected dense float32 \(1, 4, 7\)"):
        ImageBuffer(torch.zeros(3, 4, 7), alpha)


def test_a_range_is_found_in_all_bands(monkeypatch) -> None:
    monkeypatch.setattr("pellucid.scratch.TRIM_BYTES", 2 * 3 * 7 * 4)  # a row each
    pixels = torch.full((3, 5, 7), 0.5)
    pixels[0, 1, 2], pixels[2, 4, 6] = -1, 2
    assert value_range(pixels) == (-1, 2)
    pixels[1, 0, 0] = torch.nan
    assert all(map(math.isnan, value_range(pixels)))


def test_sources_compare_without_their_hidden_colors() -> None:
    source = dataclasses.replace(Source(), hidden=torch.zeros(3, 5))
    assert source == Source()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 1), (33, 17), (64, 64)])
def test_fill_keeps_what_is_visible_and_stays_among_its_colors(size: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(3)
    pixels = torch.rand(3, *size, generator=rng) * 0.2 + 0.6
    alpha = (torch.rand(1, *size, generator=rng) > 0.7).float()
    alpha[0, -1, -1] = 1 / 65_535  # a single faint pixel must not fade the fill
    stored = torch.where(alpha > 0, pixels, torch.zeros(()))
    filled = fill_transparent(stored, alpha)
    visible = (alpha > 0).expand_as(pixels)
    assert torch.equal(filled[visible], pixels[visible])
    assert float(filled.min()) >= float(pixels.min()) - 1e-5
    assert float(filled.max()) <= float(pixels.max()) + 1e-5


def test_fill_from_one_faint_pixel_takes_its_color_everywhere() -> None:
    pixels, alpha = torch.zeros(3, 256, 256), torch.zeros(1, 256, 256)
    pixels[:, 100, 20] = torch.tensor([0.9, 0.5, 0.1])
    alpha[0, 100, 20] = 1 / 65_535
    filled = fill_transparent(pixels, alpha)
    assert torch.allclose(filled, torch.tensor([0.9, 0.5, 0.1])[:, None, None].expand_as(filled), atol=1e-5)


def test_fill_of_white_is_no_more_than_white() -> None:
    rng = torch.Generator().manual_seed(0)
    alpha = torch.rand(1, 50, 50, generator=rng) * (torch.rand(1, 50, 50, generator=rng) > 0.6)
    assert float(fill_transparent(torch.ones(3, 50, 50), alpha).max()) == 1


def test_fill_is_smooth_across_the_edge() -> None:
    pixels, alpha = torch.zeros(3, 40, 40), torch.zeros(1, 40, 40)
    pixels[:, :, :20], alpha[:, :, :20] = 0.8, 1.0
    filled = fill_transparent(pixels, alpha)
    assert float((filled[:, :, 20:] - 0.8).abs().max()) < 1e-5


def test_nothing_visible_becomes_middle_gray() -> None:
    assert bool((fill_transparent(torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)) == 0.5).all())
