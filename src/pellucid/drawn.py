"""Pictures that are no photographs, and dark ones that are meant to be dark: nothing is wrong with them.

A recognizer that knows photographs alone calls a flat color hazy and a night sky too dark. Drawn with Pillow,
whose own font is used, so that the same seed gives the same pictures wherever Pillow is the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIDES = (256, 480)
WORDS = "the of and a light in to picture was it that for sun on are as with house they at be this river from"
NUMBERS = (
    "I have or by one had not but what all were when we there can said open 1 2 3 14 2024 3.5 % km (see)"
)


def draw_pictures(
    count: int, seed: int, photographs: Sequence[Tensor] = (), *, textures: bool = False
) -> list[Tensor]:
    """`count` pictures (H, W, 3) uint8, of each sort in turn.

    Args:
        count: how many.
        seed: of everything that is drawn.
        photographs: (H, W, 3) uint8; with them, screens that show a photograph and scenes in a spotlight
            join.
        textures: whether walls, slats and grass join.
    """
    rng = np.random.default_rng(seed)
    plain: list[Callable[[Any], Any]] = [_flat, _gradient, _page, _screen, _shapes, _night, _chart]
    plain += [_wall, _texture] if textures else []
    given = [photo.numpy() for photo in photographs]
    pictures: list[Tensor] = []
    for i in range(count):
        sort = i % (len(plain) + (2 if given else 0))
        if sort < len(plain):
            array = plain[sort](rng)
        else:
            photo = given[int(rng.integers(len(given)))]
            array = _screen(rng, photo) if sort == len(plain) else _spotlight(rng, photo)
        pictures.append(torch.from_numpy(np.array(array, dtype=np.uint8)))
    return pictures


def _size(rng: Any) -> tuple[int, int]:
    height, width = rng.integers(*SIDES, size=2)
    return int(height), int(width)


def _color(rng: Any, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(low, high, size=3))
    return (r, r, r) if rng.random() < 0.4 else (r, g, b)


def _flat(rng: Any) -> Any:
    """One color, or a few large areas of one color each."""
    height, width = _size(rng)
    array = np.full((height, width, 3), _color(rng), np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        array[y : y + int(rng.integers(20, 300)), x : x + int(rng.integers(20, 300))] = _color(rng)
    return array


def _gradient(rng: Any) -> Any:
    """A straight or round transition between two colors, in 8 bits with or without dither."""
    height, width = _size(rng)
    y, x = np.mgrid[0:height, 0:width]
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * math.pi)
        place = np.cos(angle) * x + np.sin(angle) * y
    else:
        place = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height))
    place = (place - place.min()) / (np.ptp(place) + 1e-6)
    first, second = np.array(_color(rng), float), np.array(_color(rng), float)
    array = first + (second - first) * place[..., None]
    return np.clip(np.floor(array + (rng.random(array.shape) if rng.random() < 0.3 else 0.5)), 0, 255)


def _canvas(color: tuple[int, int, int], size: tuple[int, int]) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size[1], size[0]), color)
    return image, ImageDraw.Draw(image)


def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _text(rng: Any, words: int) -> str:
    known = [*WORDS.split(), *NUMBERS.split(), "Total:"]
    return " ".join(known[int(i)] for i in rng.integers(len(known), size=words))


def _page(rng: Any) -> Any:
    """Lines of text, dark on light or light on dark."""
    paper, ink = _color(rng, 225), _color(rng, 0, 90)
    if rng.random() < 0.25:
        paper, ink = ink, paper
    height, width = _size(rng)
    image, draw = _canvas(paper, (height, width))
    size = int(rng.integers(9, 26))
    for y in range(int(rng.integers(5, 40)), height, int(size * rng.uniform(1.2, 2))):
        if rng.random() < 0.92:
            draw.text(
                (int(rng.integers(5, 20)), y), _text(rng, width // size // 2), fill=ink, font=_font(size)
            )
    return np.asarray(image)


def _screen(rng: Any, photo: Any = None) -> Any:
    """A window with bars, buttons and labels, light or dark; with a photograph, if one is given."""
    from PIL import Image

    dark = rng.random() < 0.5
    image, draw = _canvas(_color(rng, 0, 50) if dark else _color(rng, 215), _size(rng))
    width, height = image.size
    draw.rectangle((0, 0, width, int(rng.integers(14, 50))), fill=_color(rng))
    ink = _color(rng, 170) if dark else _color(rng, 0, 90)
    if photo is not None:
        h, w = min(photo.shape[0], height * 2 // 3), min(photo.shape[1], width * 2 // 3)
        image.paste(Image.fromarray(photo[:h, :w]), (int(rng.integers(8, 60)), int(rng.integers(50, 90))))
    for _ in range(int(rng.integers(4, 22))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        box = (x, y, x + int(rng.integers(20, 160)), y + int(rng.integers(10, 40)))
        if rng.random() < 0.5:
            draw.rounded_rectangle(box, int(rng.integers(0, 9)), fill=_color(rng), outline=_color(rng))
        draw.text(
            (x + 5, y + 3),
            _text(rng, int(rng.integers(1, 5))),
            fill=ink,
            font=_font(int(rng.integers(9, 20))),
        )
    return np.asarray(image)


def _shapes(rng: Any) -> Any:
    """A drawing: lines, ellipses and polygons, with hard or smooth edges."""
    from PIL import Image

    height, width = _size(rng)
    fine = 2 if rng.random() < 0.6 else 1  # drawn twice as large and reduced: smooth edges
    size = (height * fine, width * fine)
    image, draw = _canvas(_color(rng), size)
    for _ in range(int(rng.integers(4, 40))):
        points = [(int(rng.integers(size[1])), int(rng.integers(size[0]))) for _ in range(4)]
        sort = rng.random()
        if sort < 0.4:
            draw.line(points[: int(rng.integers(2, 5))], fill=_color(rng), width=int(rng.integers(1, 9)))
        elif sort < 0.7:
            (a, b), (c, d) = points[:2]
            box = (min(a, c), min(b, d), max(a, c), max(b, d))
            draw.ellipse(box, fill=_color(rng) if rng.random() < 0.6 else None, outline=_color(rng))
        else:
            draw.polygon(points[:3], fill=_color(rng))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def _night(rng: Any) -> Any:
    """Lights on a dark ground: stars, lamps with halos, a moon."""
    height, width = _size(rng)
    y, x = np.mgrid[0:height, 0:width]
    sky = np.array(_color(rng, 0, 22), float) * (0.4 + 0.6 * y / height)[..., None]
    for _ in range(int(rng.integers(5, 80))):
        cy, cx, size = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.5, 2.2) ** 3
        brightness, reach = rng.uniform(90, 255), math.ceil(1.5 * size)
        rows, columns = (slice(max(0, int(c) - reach), int(c) + reach + 1) for c in (cy, cx))
        distance = np.hypot(x[rows, columns] - cx, y[rows, columns] - cy)
        glow = np.clip(1.5 - distance / size, 0, 1) * brightness
        sky[rows, columns] += glow[..., None] * (0.75 + 0.25 * np.array(_color(rng), float) / 255)
    return np.clip(np.rint(sky), 0, 255)


def _chart(rng: Any) -> Any:
    """Bars or curves between axes."""
    height, width = _size(rng)
    image, draw = _canvas(_color(rng, 235), (height, width))
    draw.line([(30, 10), (30, height - 30), (width - 10, height - 30)], fill=(0, 0, 0), width=2)
    for _ in range(int(rng.integers(1, 4))):
        color, level = _color(rng, 0, 220), rng.uniform(0.2, 0.8) * height
        steps = rng.normal(0, height / 15, size=max(2, (width - 45) // 12)).cumsum() + level
        points = [(32 + 12 * i, int(np.clip(v, 10, height - 30))) for i, v in enumerate(steps)]
        if rng.random() < 0.5:
            draw.line(points, fill=color, width=int(rng.integers(1, 4)))
        else:
            for px, py in points:
                draw.rectangle((px, py, px + 8, height - 30), fill=color)
    draw.text((40, 8), _text(rng, 4), fill=(0, 0, 0), font=_font(14))
    return np.asarray(image)


def _wall(rng: Any) -> Any:
    """Courses of stones with light or dark joints: lines that are no rain."""
    size = _size(rng)
    return _painted(rng, _joints(rng, size))


def _texture(rng: Any) -> Any:
    """Slats, or blades of grass: likewise."""
    size = _size(rng)
    return _painted(rng, _slats(rng, size) if rng.random() < 0.5 else _blades(rng, size))


def _painted(rng: Any, lines: Any) -> Any:
    """Two colors by a pattern (H, W) in [0, 1], under uneven light; rough, but coarser than noise."""
    ground, line = (np.array(_color(rng, *ends), float) for ends in ((30, 120), (150, 240)))
    if rng.random() < 0.3:
        ground, line = line, ground
    array = ground + (line - ground) * lines[..., None]
    for scales in ((3, 8), (8, 60)):
        array *= 1 + rng.uniform(0, 0.12) * _waves(rng, lines.shape, int(rng.integers(*scales)))[..., None]
    return np.clip(np.rint(array), 0, 255)


def _joints(rng: Any, size: tuple[int, int]) -> Any:
    """(H, W) in [0, 1]: 1 on the joints between courses of stones, each of which has a tone of its own."""
    from PIL import Image

    side = 3 * max(size)  # drawn twice as large, half of it beyond the edges, upright or lying
    high, wide, joint = int(rng.integers(8, 60)), int(rng.integers(16, 130)), rng.uniform(0.08, 0.3)
    image, draw = _canvas((255, 255, 255), (side, side))
    gap = min(max(1, round(joint * high)), wide - 1)
    for row, y in enumerate(range(0, side, high)):
        for x in range(-(row % 2) * wide // 2, side, wide):
            tone = int(rng.integers(0, 110))
            left, top = (int(v + rng.integers(0, 1 + gap // 2)) for v in (x, y))
            draw.rectangle((left, top, left + wide - gap - 1, top + high - gap - 1), fill=(tone,) * 3)
    turn = rng.normal(0, 4) + 90 * (rng.random() < 0.2)
    image = image.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    left, top = image.width // 2 - size[1], image.height // 2 - size[0]
    box = (left, top, left + 2 * size[1], top + 2 * size[0])
    return np.asarray(image.resize(size[::-1], Image.Resampling.BOX, box))[..., 0] / 255


def _slats(rng: Any, size: tuple[int, int]) -> Any:
    """(H, W) in [0, 1]: parallel boards, bars or folds, sharp or round."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    angle = rng.choice((0, math.pi / 2)) + rng.normal(0, 0.15)
    phase = (np.cos(angle) * x + np.sin(angle) * y) / rng.uniform(5, 40)
    return np.clip(0.5 + rng.uniform(1.5, 6) * np.sin(2 * math.pi * phase), 0, 1)


def _blades(rng: Any, size: tuple[int, int]) -> Any:
    """(H, W) in [0, 1]: short lines of many tones, in all directions about one."""
    from PIL import Image

    height, width = size
    image, draw = _canvas((60, 60, 60), (2 * height, 2 * width))
    upright, spread, length = rng.uniform(0, math.pi), rng.uniform(0.2, 1), rng.uniform(10, 70)
    for _ in range(4 * height * width // 300):
        x, y, angle = rng.uniform(0, 2 * width), rng.uniform(0, 2 * height), rng.normal(upright, spread)
        end = (x + length * math.cos(angle), y + length * math.sin(angle))
        draw.line((x, y, *end), fill=(int(rng.integers(0, 256)),) * 3, width=int(rng.integers(1, 5)))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))[..., 0] / 255


def _waves(rng: Any, size: tuple[int, int], scale: int) -> Any:
    """(H, W) of mean 0 and standard deviation about 1, which changes over about `scale` pixels."""
    from PIL import Image

    small = rng.normal(size=[n // scale + 2 for n in size]).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _spotlight(rng: Any, photo: Any) -> Any:
    """A photograph of which a soft spot keeps its light and the rest is dark, as on a stage."""
    light = (photo.astype(float) / 255) ** 2.2
    height, width = light.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    center = rng.uniform(0.2, 0.8, size=2) * (height, width)
    reach = rng.uniform(0.12, 0.3) * min(height, width)
    distance = np.hypot(y - center[0], x - center[1])
    lit = 1 / (1 + np.exp((distance - reach) / (0.15 * reach)))
    lit = rng.uniform(0.002, 0.02) + lit
    light *= lit[..., None]
    light /= max(np.percentile(light.max(2), 99.5), 0.02)
    return np.rint(np.clip(light, 0, 1) ** (1 / 2.2) * 255)
