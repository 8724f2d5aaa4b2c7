"""Light is kept where nothing took any, and detail is not touched."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import light, scratch
from pellucid.light import LightRule, keep_coarse, keep_light, take_light_from_afar, views_of
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


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def test_a_coarse_change_beside_a_fine_one_is_taken_back():
    degraded, fine = smooth(96, 128), 0.01 * noise(96, 128)
    kept = keep_coarse(degraded, 0.7 * degraded + 0.1 + fine, 2.0)
    assert (kept - degraded - fine).square().mean().sqrt() < 0.003  # the noise has little that is coarse


def test_a_fine_change_stays_with_all_that_is_coarse_in_it():
    degraded, fine = smooth(96, 128), 0.05 * noise(96, 128)
    restored = degraded + fine + 0.005 * smooth(96, 128)
    assert torch.equal(keep_coarse(degraded, restored, 2.0), restored)


@pytest.mark.parametrize(("radius", "stays"), [(0.0, False), (2.0, False), (4.0, True)])
def test_a_larger_blur_explains_a_coarser_change(radius, stays):
    waves = 0.1 * (torch.arange(240) * 2 * torch.pi / 30).sin().expand(3, 160, 240)
    degraded = torch.full((3, 160, 240), 0.5)
    kept = keep_coarse(degraded, degraded + waves, radius)
    assert torch.allclose(kept, degraded + waves) == stays
    assert ((kept - degraded).square().mean().sqrt() < 0.05) != stays


def test_what_is_taken_back_begins_gently():
    """From one ratio of coarse to fine change to the other a falling share is kept, without a jump."""
    degraded, fine, coarse = smooth(96, 128), 0.01 * noise(96, 128), 0.01 * smooth(96, 128) / 0.54

    def share(size: float) -> float:
        """Of the coarse change that is kept."""
        kept = keep_coarse(degraded, degraded + fine + size * coarse, 2.0) - degraded - fine
        return float((kept * coarse).sum() / (size * coarse.square().sum()))

    shares = [share(size) for size in torch.linspace(0.3, 1.2, 30).tolist()]
    assert shares[0] > 0.98 and shares[-1] < 0.05
    assert all(-0.12 < after - before < 0.01 for before, after in itertools.pairwise(shares))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (40, 90)])
def test_an_unchanged_picture_keeps_what_is_coarse(size):
    picture = torch.rand(3, *size)
    assert torch.equal(keep_coarse(picture, picture.clone(), 3.0), picture)


@pytest.mark.parametrize("rows", [1, 7])
def test_bands_change_nothing_of_what_is_coarse(monkeypatch, rows):
    degraded, restored = smooth(101, 60), 0.6 * smooth(101, 60) + 0.01 * noise(101, 60)
    whole = keep_coarse(degraded, restored, 1.5)
    monkeypatch.setattr(scratch, "TRIM_BYTES", 2 * rows * degraded[:, 0].nbytes)
    assert torch.allclose(keep_coarse(degraded, restored, 1.5), whole, atol=1e-5)


def see(degraded, restored, views, run) -> torch.Tensor:
    return see_by(LightRule(views=views), degraded, restored, run)


def see_by(rule: LightRule, degraded, restored, run) -> torch.Tensor:
    return rule.apply(degraded, restored, rule.look(degraded, run))


def detailed(height: int, width: int) -> torch.Tensor:
    return smooth(height, width) + 0.02 * noise(height, width)


@pytest.mark.parametrize(
    ("size", "views"),
    [
        ((768, 768), (2, 3, 4)),
        ((767, 768), ()),
        ((3000, 4000), (11, 14, 18)),
        ((4000, 3000), (11, 14, 18)),
        ((20, 90000), (4, 5, 7)),
        ((1, 1), ()),
    ],
)
def test_views_are_about_as_large_as_scenes_of_training(size, views):
    assert views_of(*size) == views


def test_light_comes_from_afar_and_detail_stays():
    """A network that takes a haze away in small pictures alone."""
    degraded = detailed(200, 300)
    far = see(degraded, degraded.clone(), (2, 3), lambda small: 0.8 * small)
    light_lost = 2 / 3 * 0.2 * smooth(200, 300)  # in two of three, which differ by a variance of 1 / 3
    share = (2 / 3) ** 2 / ((2 / 3) ** 2 + 1 / 3)
    assert (far - (degraded - share * light_lost))[:, 20:-20, 20:-20].abs().max() < 0.01


def test_what_all_agree_about_is_taken_and_what_they_differ_about_is_not():
    degraded = torch.full((3, 64, 96), 0.5)
    darker = [torch.full((3, 32, 48), 0.3), torch.full((3, 22, 32), 0.3)]
    assert (run_each(degraded, degraded - 0.2, darker) - 0.3).abs().max() < 1e-4
    apart = [torch.full((3, 32, 48), 0.5), torch.full((3, 22, 32), 0.7)]
    assert (run_each(degraded, degraded - 0.2, apart) - 0.5).abs().max() < 1e-4
    one = [torch.full((3, 32, 48), 0.5), torch.full((3, 22, 32), 0.5)]
    found = float(run_each(degraded, degraded - 0.3, one)[0, 0, 0])
    assert found == pytest.approx(0.5 - 0.1 / 4, abs=1e-4)  # of a mean 0.1, by a variance of 0.03


def run_each(degraded: torch.Tensor, restored: torch.Tensor, seen: list[torch.Tensor]) -> torch.Tensor:
    left = list(seen)
    return see(degraded, restored.clone(), (2, 3), lambda small: left.pop(0))


@given(st.integers(1, 70), st.integers(1, 70))
def test_an_unchanged_picture_of_any_size_stays_from_afar(height, width):
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width))
    assert torch.allclose(see(picture, picture.clone(), (2, 3), lambda p: p), picture, atol=1e-6)


def test_what_a_network_gives_beyond_the_range_is_cut_off():
    degraded = torch.full((3, 64, 96), 0.9)
    bright = see(degraded, degraded + 0.1, (2,), lambda small: small + 5.0)
    assert torch.allclose(bright, torch.ones_like(bright), atol=1e-4)


def test_a_change_that_hardly_can_be_seen_counts_less():
    degraded = torch.full((3, 64, 96), 0.5)
    change = see(degraded, degraded + light.LEAST_CHANGE, (2,), lambda small: small + light.LEAST_CHANGE)
    assert torch.allclose(change - 0.5, torch.full_like(change, light.LEAST_CHANGE / 2), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
def test_bands_change_nothing_of_what_is_seen_from_afar(monkeypatch, rows):
    degraded, restored = detailed(101, 61), 0.7 * detailed(101, 61)
    whole = see(degraded, restored.clone(), (2, 5), lambda p: 0.5 * p)
    monkeypatch.setattr(scratch, "TRIM_BYTES", 2 * rows * 2 * degraded[:, 0].nbytes)
    again = see(degraded, restored.clone(), (2, 5), lambda p: 0.5 * p)
    assert torch.allclose(again, whole, atol=1e-6)


def test_a_rule_keeps_light_or_looks_from_afar_or_does_nothing():
    degraded, restored = smooth(60, 80), 0.6 * smooth(60, 80) + 0.01 * noise(60, 80)
    kept = light.keep_all_but_blur(degraded, restored.clone(), 3.0)
    black = [-torch.nn.functional.avg_pool2d(degraded, 2)]
    far = take_light_from_afar(degraded, restored.clone(), 2, black)
    for rule, expected in (
        (LightRule(), restored),
        (LightRule(kept=True, blur_radius=3.0), kept),
        (LightRule(views=(2,)), far),
    ):
        assert torch.equal(see_by(rule, degraded, restored.clone(), torch.zeros_like), expected)
