import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.tiling import TilePlan, plan_tiles, smallest_tile


def weights(plan: TilePlan) -> np.ndarray:
    """The sum of all tiles' weights at each pixel of the padded picture."""
    axes = []
    for spans, length in ((plan.rows, plan.height), (plan.columns, plan.width)):
        total, tiles = np.zeros(length), np.zeros(length, int)
        for span in spans:
            (a, b), (c, d) = span.fade_in, span.fade_out
            total[a:b] += (np.arange(b - a) + 0.5) / max(b - a, 1)
            total[b:c] += 1
            total[c:d] += 1 - (np.arange(d - c) + 0.5) / max(d - c, 1)
            tiles[a:d] += 1
        assert tiles.max() <= 2
        axes.append(total)
    return np.outer(*axes)


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    multiple=st.sampled_from([1, 4, 8, 16, 32]),
    scale=st.floats(1, 40),
)
def test_every_plan_keeps_every_pixel_with_weight_one(height, width, multiple, scale):
    max_pixels = int(smallest_tile(multiple) ** 2 * scale)
    plan = plan_tiles(height, width, multiple_of=multiple, max_pixels=max_pixels)
    assert plan is not None
    assert height <= plan.height < height + multiple
    assert width <= plan.width < width + multiple
    assert plan.tile_height * plan.tile_width <= max_pixels
    for tile in plan:
        for span, size, length in (
            (tile.rows, plan.tile_height, plan.height),
            (tile.columns, plan.tile_width, plan.width),
        ):
            assert 0 <= span.start <= span.fade_in[0] <= span.fade_in[1]
            assert span.fade_in[1] <= span.fade_out[0] <= span.fade_out[1] <= span.stop <= length
            assert span.stop - span.start == size
            assert span.start % multiple == size % multiple == 0
    assert np.allclose(weights(plan), 1)


def test_one_tile_if_it_fits():
    plan = plan_tiles(500, 700, multiple_of=16, max_pixels=512 * 704)
    assert plan is not None
    assert (len(plan), plan.tile_height, plan.tile_width) == (1, 512, 704)
    tiled = plan_tiles(500, 700, multiple_of=16, max_pixels=512 * 704 - 1)
    assert tiled is not None
    assert len(tiled) == 2


def test_no_plan_below_the_smallest_tile():
    side = smallest_tile(16)
    assert plan_tiles(1000, 1000, multiple_of=16, max_pixels=side * side - 1) is None
    assert plan_tiles(1000, 1000, multiple_of=16, max_pixels=side * side) is not None
    assert plan_tiles(30, 30, multiple_of=16, max_pixels=32 * 32 - 1) is None


def test_little_is_read_twice():
    plan = plan_tiles(4000, 6000, multiple_of=16, max_pixels=1024 * 1024)
    assert plan is not None
    assert len(plan) * plan.tile_height * plan.tile_width < 1.2 * 4000 * 6000


@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1), (40_000, 40_000)])
def test_long_pictures_are_planned_quickly(size):
    plan = plan_tiles(*size, multiple_of=16, max_pixels=smallest_tile(16) ** 2)
    assert plan is not None
    assert plan.tile_height * plan.tile_width <= smallest_tile(16) ** 2
