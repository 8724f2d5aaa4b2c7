"""How a picture is read and kept in pieces: integers only.

A picture is padded to multiples of what the network asks for, then read in equal tiles that overlap. Where
two tiles meet, one fades out while the other fades in, over a ramp in the middle of their overlap; what lies
outside the ramp, near a tile's border, is not kept. So at every pixel the kept weights sum to one, and along
one axis no more than two tiles share a pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

OVERLAP = 64  # pixels that neighbors share; the networks see farther, so tiles only come near the whole
RAMP = 32  # pixels over which one tile fades into the next


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels of the padded picture.

    Attributes:
        start, stop: what is read.
        fade_in, fade_out: (start, stop) of the ramps towards the neighbors; at the picture's border an empty
            ramp. What lies between the two is kept with weight one.
    """

    start: int
    stop: int
    fade_in: tuple[int, int]
    fade_out: tuple[int, int]


@dataclass(frozen=True)
class Tile:
    """A piece of the padded picture: `rows` by `columns`."""

    rows: Span
    columns: Span


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one picture, all of one size.

    Attributes:
        height, width: of the padded picture.
        tile_height, tile_width: of every tile.
        rows, columns: the spans whose products are the tiles.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        """The tiles, row by row."""
        return (Tile(rows, columns) for rows in self.rows for columns in self.columns)


def smallest_tile(multiple_of: int) -> int:
    """The shortest side in pixels that a tile can have without its two ramps meeting."""
    return _round_up(2 * OVERLAP, multiple_of) + 2 * multiple_of


def plan_tiles(height: int, width: int, *, multiple_of: int, max_pixels: int) -> TilePlan | None:
    """The plan that reads the fewest pixels with tiles of at most `max_pixels`; one tile if it fits.

    Args:
        height, width: of the picture, at least 1.
        multiple_of: sizes and places of tiles are multiples of this.
        max_pixels: what one tile may hold.

    Returns:
        The plan, or none if even the smallest tiles hold more than `max_pixels`.
    """
    height, width = _round_up(height, multiple_of), _round_up(width, multiple_of)
    best: tuple[int, int, int, int] | None = (
        None  # pixels read in all, tile perimeter, tile height, tile width
    )
    for count in range(1, _count(height, smallest_tile(multiple_of), multiple_of) + 1):
        tile_height = _tile_size(height, count, multiple_of)
        tile_width = _largest_tile(width, max_pixels // tile_height, multiple_of)
        if tile_width is None:
            continue
        area = (
            _count(height, tile_height, multiple_of)
            * _count(width, tile_width, multiple_of)
            * tile_height
            * tile_width
        )
        candidate = (area, tile_height + tile_width, tile_height, tile_width)
        best = candidate if best is None else min(best, candidate)
    if best is None:
        return None
    _, _, tile_height, tile_width = best
    return TilePlan(
        height,
        width,
        tile_height,
        tile_width,
        _spans(height, tile_height, multiple_of),
        _spans(width, tile_width, multiple_of),
    )


def _round_up(length: int, multiple_of: int) -> int:
    return -(-length // multiple_of) * multiple_of


def _count(length: int, tile: int, multiple_of: int) -> int:
    overlap = _round_up(OVERLAP, multiple_of)
    return 1 if tile >= length else -(-(length - overlap) // (tile - overlap))


def _tile_size(length: int, count: int, multiple_of: int) -> int:
    """The side of `count` equal tiles that cover `length`: no larger than they need be."""
    if count == 1:
        return length
    overlap = _round_up(OVERLAP, multiple_of)
    size = _round_up(-(-(length + (count - 1) * overlap) // count), multiple_of)
    return min(length, max(size, smallest_tile(multiple_of)))


def _largest_tile(length: int, limit: int, multiple_of: int) -> int | None:
    """The side of the fewest equal tiles that cover `length`, each at most `limit`, or none."""
    if limit >= length:
        return length
    largest = limit // multiple_of * multiple_of
    if largest < smallest_tile(multiple_of):
        return None
    return _tile_size(length, _count(length, largest, multiple_of), multiple_of)


def _spans(length: int, tile: int, multiple_of: int) -> tuple[Span, ...]:
    count = _count(length, tile, multiple_of)
    steps = (
        length - tile
    ) // multiple_of  # starts lie on the network's grid, as they do in the whole picture
    starts = [i * steps // max(count - 1, 1) * multiple_of for i in range(count)]
    ramps = [(0, 0)]
    for start, following in pairwise(starts):
        middle = (following + start + tile) // 2
        ramps.append((middle - RAMP // 2, middle + RAMP // 2))
    ramps.append((length, length))
    return tuple(
        Span(start, start + tile, fade_in, fade_out)
        for start, (fade_in, fade_out) in zip(starts, pairwise(ramps), strict=True)
    )
