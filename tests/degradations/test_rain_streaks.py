import math

import pytest
import torch

from pellucid.degradations.rain_streaks import (
    RainStreaks,
    RainStreaksParams,
    _drops,
    draw_streaks,
    streak_kernel,
)
from pellucid.errors import InputError


def rain(
    angle: float, *, width: float = 1.5, veil: float = 0.0, intensity: float = 1.0, seed: int = 0
) -> RainStreaksParams:
    return RainStreaksParams(
        ((angle,),),
        ((30.0,),),
        ((width,),),
        ((0.003,),),
        ((0.6,),),
        (0.3,),
        (0.0,),
        (intensity,),
        (veil,),
        (seed,),
    )


def test_streaks_are_gray_and_only_add_light() -> None:
    clean = torch.full((1, 3, 96, 96), 0.2)
    added = RainStreaks().apply(clean, rain(10)) - clean
    assert added.min() >= -1e-6
    assert added.max() > 0.2
    assert torch.equal(added[:, 0], added[:, 1])
    assert torch.equal(added[:, 0], added[:, 2])


@pytest.mark.parametrize("angle", [-35.0, 0.0, 20.0])
def test_streaks_run_along_their_angle(angle: float) -> None:
    plane = draw_streaks(torch.zeros(3, 160, 160, dtype=torch.float64), rain(angle, width=4.0))[0]
    gx, gy = plane[1:-1, 2:] - plane[1:-1, :-2], plane[2:, 1:-1] - plane[:-2, 1:-1]
    # The structure tensor's main axis is across the streaks.
    across = 0.5 * math.atan2(2 * float((gx * gy).mean()), float((gx**2 - gy**2).mean()))
    assert math.degrees(across) == pytest.approx(angle, abs=3)


def test_drawn_rain_resembles_rain100l() -> None:
    """Bounds are the middle 80 % of that set's 180 training planes, widened by half."""
    operator = RainStreaks()
    params = operator.draw(torch.Generator().manual_seed(1), 24)
    planes = torch.stack([draw_streaks(torch.zeros(3, 160, 160), params.select(i)) for i in range(24)])
    planes = planes.flatten(1)
    assert 0.012 < planes.mean(1).median() < 0.033
    assert 0.07 < (planes > 0.05).float().mean(1).median() < 0.21
    assert 0.15 < planes.quantile(0.99, dim=1).median() < 0.4
    assert planes.median(1).values.median() < 0.01


def test_given_streaks_replace_the_drawn_ones() -> None:
    clean = torch.full((1, 3, 8, 8), 0.3)
    streaks = torch.zeros(1, 1, 8, 8)
    streaks[..., 2:6, 4] = 0.5
    rainy = RainStreaks().apply(clean, rain(0, intensity=0.8), streaks)
    assert torch.allclose(rainy, (clean + 0.8 * streaks).clamp(0, 1))
    with pytest.raises(InputError, match="streaks"):
        RainStreaks().apply(clean, rain(0), torch.zeros(1, 1, 4, 8))


def test_veil_grays_the_picture() -> None:
    for level, expected in ((0.0, 0.2), (1.0, 0.95)):
        clean = torch.full((1, 3, 8, 8), level)
        veiled = RainStreaks().apply(clean, rain(0, veil=0.25), torch.zeros(1, 1, 8, 8))
        assert torch.allclose(veiled, torch.full_like(veiled, expected))


def test_gusts_move_the_rain_and_hardly_change_how_much_there_is() -> None:
    plane = torch.zeros(1)
    even, gusty = (
        _drops((1024, 1024), 0.02, clumping, torch.Generator().manual_seed(0), plane) > 0
        for clumping in (0.0, 1.0)
    )
    assert even.float().mean().item() == pytest.approx(0.02, rel=0.03)
    assert 0.6 < gusty.float().mean() / even.float().mean() < 1.2


def test_a_streak_out_of_focus_is_wider_and_has_the_same_light() -> None:
    sharp, soft = (streak_kernel(0.0, 60.0, 2.0, blur) for blur in (0.0, 2.0))
    assert soft.max() < 0.6 * sharp.max()
    assert soft[soft.shape[0] // 2].sum() == pytest.approx(float(sharp[sharp.shape[0] // 2].sum()), rel=0.01)


def test_layers_further_back_are_dimmer() -> None:
    params = RainStreaks().draw(torch.Generator().manual_seed(1), 24)
    assert any(len(row) > 1 for row in params.brightness)
    for row in params.brightness:
        assert list(row) == pytest.approx([row[0] * 0.8**layer for layer in range(len(row))])


def test_layers_must_agree() -> None:
    with pytest.raises(InputError, match="one value per layer"):
        RainStreaksParams(
            ((0.0, 1.0),), ((30.0,),), ((1.5,),), ((0.1,),), ((0.6,),), (0.0,), (0.0,), (1.0,), (0.0,), (0,)
        )
