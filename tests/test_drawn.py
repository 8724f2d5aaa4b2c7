import numpy as np
import pytest
import torch

from pellucid import drawn
from pellucid.drawn import SIDES, draw_pictures

SORTS = 9  # two of them with photographs


@pytest.fixture(scope="module")
def photographs() -> list[torch.Tensor]:
    return [
        torch.randint(0, 256, (200, 300, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ]


def test_the_same_seed_draws_the_same_pictures(photographs):
    first, again, other = (draw_pictures(SORTS, seed, photographs) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_pictures_are_color_of_eight_bits(photographs):
    for picture in draw_pictures(SORTS, 0, photographs):
        assert picture.dtype == torch.uint8 and picture.shape[2] == 3
        assert min(picture.shape[:2]) >= 200 and max(picture.shape[:2]) <= max(300, SIDES[1])


def test_without_photographs_none_is_shown():
    assert len(draw_pictures(7, 0)) == 7


def test_a_scene_in_a_spotlight_is_dark_and_keeps_its_light(photographs):
    """Dark on purpose: most of it is dark, and something is as bright as can be."""
    picture = np.asarray(draw_pictures(SORTS, 3, photographs)[-1])
    assert np.median(picture) < 60
    assert picture.max() > 250


@pytest.mark.parametrize("sort", [7, 8])
def test_textures_are_full_of_lines_and_free_of_noise(sort):
    """What rain looks like to a recognizer that knows no walls; grain of single pixels would be noise."""
    for seed in range(6):
        texture = draw_pictures(9, seed, textures=True)[sort].float().mean(2)
        across, down = texture.diff(dim=1).abs(), texture.diff(dim=0).abs()
        assert max(float(d.quantile(0.98)) for d in (across, down)) > 8
        assert min(float(d.median()) for d in (across, down)) < 6


def test_a_wall_has_straight_courses_and_grass_has_none():
    """Of a wall, rows (or columns) are dark or light as a whole; blades lie in all directions."""
    courses = []
    for lines in (drawn._joints, drawn._slats, drawn._blades):
        arrays = [lines(np.random.default_rng(seed), (200, 240)) for seed in range(8)]
        assert all(a.shape == (200, 240) and a.min() >= 0 and a.max() <= 1 for a in arrays)
        spread = [max(a.mean(0).std(), a.mean(1).std()) / a.std() for a in arrays]
        courses.append(float(np.median(spread)))
    joints, slats, blades = courses
    assert joints > 1.25 * blades and slats > 1.25 * blades


@pytest.mark.parametrize("size", [(256, 479), (479, 256)])
def test_a_wall_lies_or_stands_in_a_picture_of_any_shape(size: tuple[int, int]):
    for seed in range(12):  # a fifth of them stand
        lines = drawn._joints(np.random.default_rng(seed), size)
        assert lines.shape == size and lines.min() < 0.5 < lines.max()


def test_stones_narrower_than_their_joints_are_drawn():
    assert drawn._joints(np.random.default_rng(5344), (200, 200)).shape == (200, 200)
