"""Light is kept where nothing took any, and detail is not touched."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import light, scratch
from pellucid.light import keep_light
from pellucid.srgb import to_encoded, to_linear


def smooth(height: int, width: int) -> torch.Tensor:
    """A picture whose light varies slowly."""
    y, x = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 2, width)
    return torch.stack([0.5 + 0.3 * (y + x + phase).sin() for phase in (0, 1, 2)])


def test_a_haze_that_was_seen_where_none_is_is_put_back():
    degraded = smooth(90, 130)
    restored = to_encoded(to_linear(degraded[None]) * 0.5)[0]
    assert (keep_light(degraded, restored) - degraded).abs().max() < 2e-3


def test_sharper_detail_stays():
    fine = 0.05 * (-1.0) ** torch.arange(128)  # invisible to means
    linear = to_linear(smooth(96, 128)[None])[0].clamp(0.1, 0.9)
    degraded, sharp = to_encoded(linear[None])[0], to_encoded((linear + fine)[None])[0]
    assert (keep_light(degraded, sharp.clone()) - sharp).abs().max() < 5e-3


@given(st.integers(1, 70), st.integers(1, 70))
def test_an_unchanged_picture_of_any_size_stays(height, width):
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width))
    assert (keep_light(picture, picture.clone()) - picture).abs().max() < 1e-5


def test_light_is_put_back_where_it_went_and_nowhere_else():
    degraded = torch.full((3, 160, 400), 0.5)
    restored = degraded.clone()
    restored[:, :, :100] = 0.3  # a haze on the left only
    kept = keep_light(degraded, restored)
    far = 100 + 2 * light.REACH * light.CELL + 2 * light.CELL
    assert (kept[:, :, :28] - 0.5).abs().max() < 2e-3
    assert torch.allclose(kept[:, :, far:], degraded[:, :, far:], atol=1e-5)
    assert (kept[:, :, 100 + (light.REACH + 1) * light.CELL] - 0.5).abs().min() > 1e-3  # falling off, not cut


def test_the_neighborhood_is_wider_than_what_a_blur_moves():
    """A line that becomes a sharper one keeps its light, but is not smeared again."""
    degraded, restored = torch.full((3, 96, 96), 0.2), torch.full((3, 96, 96), 0.2)
    degraded[:, :, 44:52], restored[:, :, 46:50] = 0.5, 0.67
    kept = keep_light(degraded, restored.clone())
    assert (kept[:, :, 46:50] > 0.9 * restored[:, :, 46:50]).all()
    assert (kept[:, :, 30:40] - 0.2).abs().max() < 0.02


def test_a_tint_is_put_back():
    degraded = torch.full((3, 64, 64), 0.5)
    restored = degraded * torch.tensor([1.2, 1.0, 0.7]).view(3, 1, 1)
    assert (keep_light(degraded, restored) - degraded).abs().max() < 2e-3


def test_gains_have_no_steps():
    degraded, restored = torch.full((3, 128, 128), 0.5), torch.full((3, 128, 128), 0.5)
    restored[:, :, :64] = 0.4
    inside = keep_light(degraded, restored)[0, 64, :64]
    assert inside.diff().abs().max() < 0.005  # steps of cells would be eight times as high


def test_what_lies_beyond_the_range_counts_as_its_end():
    degraded, restored = smooth(64, 80), 3 * smooth(64, 80) - 1
    assert torch.equal(keep_light(degraded, restored.clone()), keep_light(degraded, restored.clamp(0, 1)))


def test_a_mirrored_picture_gives_the_mirrored_result():
    degraded, restored = smooth(96, 128), torch.full((3, 96, 128), 0.4)
    mirrored = keep_light(degraded.flip(1, 2), restored.clone()).flip(1, 2)
    assert torch.allclose(mirrored, keep_light(degraded, restored.clone()), atol=1e-5)


def test_black_stays_black_and_the_result_in_range():
    degraded, restored = torch.zeros(3, 40, 40), torch.zeros(3, 40, 40)
    degraded[:, :20], restored[:, :10] = 1.0, 1.5
    kept = keep_light(degraded, restored)
    assert kept.min() == 0 and kept.max() <= 1
    assert kept[:, 30:].max() == 0


@pytest.mark.parametrize("rows", [1, 3])
def test_bands_change_nothing(monkeypatch, rows):
    degraded, restored = torch.rand(3, 101, 60), torch.rand(3, 101, 60)
    whole = keep_light(degraded, restored.clone())
    row_bytes = light.CELL * degraded[:, 0].nbytes
    monkeypatch.setattr(scratch, "TRIM_BYTES", 2 * rows * row_bytes)
    assert torch.allclose(keep_light(degraded, restored.clone()), whole, atol=1e-6)
