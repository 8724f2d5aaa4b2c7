import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from pellucid import scratch
from pellucid.degradations.gaussian_noise import GaussianNoise
from pellucid.degradations.motion_blur import MotionBlur
from pellucid.degradations.rain_streaks import RainStreaks
from pellucid.errors import InputError
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.strength import DETAIL_KINDS, TONE_KINDS, Strength, fit_tone

KINDS = st.sampled_from(TONE_KINDS + DETAIL_KINDS)
SHARES = st.floats(0, 1)


@pytest.fixture(scope="module")
def clean():
    return torch.from_numpy(data.astronaut()[:240, :250].copy()).permute(2, 0, 1).float() / 255


DETAILS = [GaussianNoise((15.0,)), MotionBlur((27.0, 29.0)), RainStreaks()]


@pytest.mark.parametrize("detail", DETAILS)
@pytest.mark.parametrize("light", [(0.5, 0.4), (0.3, 0.0)])  # thin haze, a third of the light
def test_each_group_can_be_taken_away_alone(clean, light, detail):
    gain, offset = light
    with_tone = clean * gain + offset
    rng = torch.Generator().manual_seed(3)
    drawn = detail.apply(with_tone.expand(8, -1, -1, -1), detail.draw(rng, 8))
    degraded = min(drawn, key=lambda x: psnr_rgb(x, with_tone))  # the worst of eight
    # What a perfect network gives is the clean picture.
    kept = Strength.of(dict.fromkeys(TONE_KINDS, 0.0)).mix(degraded, clean)
    assert psnr_rgb(kept, with_tone) > psnr_rgb(degraded, with_tone) + 3
    assert psnr_rgb(kept, with_tone) > psnr_rgb(clean, with_tone) + 10
    lit = Strength.of(dict.fromkeys(DETAIL_KINDS, 0.0)).mix(degraded, clean)
    expected = ((degraded - offset) / gain).clamp(0, 1)
    assert psnr_rgb(lit, expected) > psnr_rgb(clean, expected) + 1
    assert psnr_rgb(lit, expected) > psnr_rgb(degraded, expected) + 3


def test_a_gain_and_an_offset_are_found_where_there_is_something_to_see():
    hills = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    clean = F.interpolate(hills, (180, 240), mode="bicubic").clamp(0, 1)[0]
    gain, offset = fit_tone(clean * 0.4 + 0.3, clean)
    assert (gain - 2.5).abs().mean() < 0.1
    assert (offset + 0.75).abs().mean() < 0.1
    assert psnr_rgb(((clean * 0.4 + 0.3) * gain + offset).clamp(0, 1), clean) > 40


def test_a_flat_picture_tells_no_gain():
    gain, offset = fit_tone(torch.full((3, 40, 50), 0.2), torch.full((3, 40, 50), 0.6))
    assert torch.allclose(gain, torch.ones(3, 40, 50), atol=1e-3)
    assert torch.allclose(offset, torch.full((3, 40, 50), 0.4), atol=1e-3)


def test_gains_stay_in_their_range():
    hills = F.interpolate(torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(0)), (100, 120))[0]
    for degraded, restored in ((hills, 1 - hills), (hills / 50, hills)):
        gain, _ = fit_tone(degraded, restored)
        assert gain.min() >= 0.25 - 1e-4 and gain.max() <= 16 + 1e-3


def test_what_lies_beyond_the_range_counts_as_its_end(clean):
    degraded, beyond = clean * 0.4 + 0.1, 3 * clean - 1
    for strength in (0.5, {"haze": 0.5}, {"noise": 0.5}):
        mix = Strength.of(strength).mix
        assert torch.equal(mix(degraded, beyond), mix(degraded, beyond.clamp(0, 1)))
    degraded[:, 120, 125] = 0.9  # which the gain alone would take beyond white
    half = Strength(tone=0.5, detail=0.0).mix(degraded, clean)
    assert torch.allclose(half[:, 120, 125], torch.tensor(0.95))


@given(kinds=st.dictionaries(KINDS, SHARES, max_size=2))
@settings(max_examples=30, deadline=None)
def test_between_the_input_and_the_result_nothing_jumps(kinds):
    rng = torch.Generator().manual_seed(0)
    degraded, restored = torch.rand(2, 3, 20, 23, generator=rng)
    try:
        strength = Strength.of(kinds)
    except InputError:  # two shares in one group
        return
    mixed = strength.mix(degraded, restored)
    for tone, detail in ((1e-4, 0), (0, 1e-4), (-1e-4, 0), (0, -1e-4)):
        near = Strength(min(max(strength.tone + tone, 0), 1), min(max(strength.detail + detail, 0), 1))
        assert (near.mix(degraded, restored) - mixed).abs().max() < 1e-3
    assert mixed.min() >= 0
    assert mixed.max() <= 1


def test_one_number_is_a_straight_line_and_its_ends_are_the_pictures_themselves(clean):
    degraded = clean * 0.5
    assert torch.equal(Strength.of(0).mix(degraded, clean), degraded)
    assert torch.equal(Strength.of(1).mix(degraded, clean), clean)
    distances = [float((Strength.of(s / 10).mix(degraded, clean) - degraded).norm()) for s in range(11)]
    assert distances == sorted(distances)
    assert torch.allclose(
        Strength.of({"haze": 0.3, "noise": 0.3}).mix(degraded, clean), degraded.lerp(clean, 0.3)
    )


@pytest.mark.parametrize("strength", [0.3, {"haze": 0.0}, {"noise": 0.25}])
def test_bands_give_what_the_whole_gives(clean, strength, monkeypatch):
    degraded = clean * 0.5 + 0.1
    whole = Strength.of(strength).mix(degraded, clean)
    monkeypatch.setattr(scratch, "TRIM_BYTES", 60 * clean[:, 0].nbytes)  # bands of 30 rows
    assert torch.equal(Strength.of(strength).mix(degraded, clean), whole)


def test_what_is_in_a_file_is_mixed_into_a_file(tmp_path):
    restored = scratch.create((3, 20, 30), torch.float32, tmp_path)
    for strength in (1, 0.5, {"haze": 0.5}):
        mixed = Strength.of(strength).mix(torch.zeros(3, 20, 30), restored)
        assert scratch.folder_of(mixed) == tmp_path


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 40), (3, 5, 3)])
def test_tiny_pictures(shape):
    degraded, restored = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    mixed = Strength(1, 0).mix(degraded, restored)
    assert mixed.shape == shape
    assert mixed.isfinite().all()


def test_kinds_that_are_not_named_are_taken_away_whole():
    assert Strength.of({"rain": 0.2}) == Strength(1.0, 0.2)
    assert Strength.of({}) == Strength(1.0, 1.0)
    assert Strength.of({"rain": 0.2, "noise": 0.2, "haze": 0.1}) == Strength(0.1, 0.2)


@pytest.mark.parametrize(
    "value", [-0.1, 1.01, math.nan, "much", None, {"noise": 2}, {"haze": "x"}, torch.ones(2)]
)
def test_what_is_no_share_is_refused(value):
    with pytest.raises(InputError, match="expected a number from 0"):
        Strength.of(value)


@pytest.mark.parametrize("share", [-1, 2.0, math.nan, "0.5", None])
def test_what_is_no_share_is_refused_in_a_strength_made_directly(share):
    for shares in ({"tone": share}, {"detail": share}):
        with pytest.raises(InputError, match="expected a number from 0"):
            Strength(**shares)
    assert json.dumps(Strength(np.float32(0.5), torch.tensor(1)).plain) == '{"tone": 0.5, "detail": 1.0}'


def test_kinds_that_cant_be_told_apart_need_one_share():
    with pytest.raises(
        InputError, match=r"noise 0.5, rain 0.2; expected one for all of noise, rain, blur, jpeg"
    ):
        Strength.of({"noise": 0.5, "rain": 0.2})
    with pytest.raises(InputError, match="noise"):
        Strength.of({"nose": 0.5})


def test_a_kind_is_named_once():
    with pytest.raises(InputError, match="strength of haze is given twice"):
        Strength.parse("haze=1,noise=0.5, haze=0.5")
