"""Picture files of data sets: sizes from headers, pixels, bitmaps, and folders with links."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.datasets.files import picture_size, read_pixels, walk
from pellucid.errors import ImageTooLargeError, InputError, UnreadableImageError, UnsupportedImageError


def noise(height: int = 11, width: int = 17, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def stored(data: bytes, folder: Path) -> Path:
    (folder / "a.bmp").write_bytes(data)
    return folder / "a.bmp"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("width", [16, 17, 18, 19])
def test_lossless_pictures_keep_their_pixels(kind: str, width: int, tmp_path: Path) -> None:
    pixels = noise(width=width)
    (tmp_path / "a").write_bytes(encoded(pixels, kind))
    assert np.array_equal(read_pixels(tmp_path / "a").numpy(), pixels)
    assert picture_size(tmp_path / "a") == (width, 11)


def test_a_bitmap_may_have_alpha_or_begin_at_the_top(tmp_path: Path) -> None:
    pixels = noise(channels=4)
    assert np.array_equal(read_pixels(stored(encoded(pixels, "BMP"), tmp_path)).numpy(), pixels[..., :3])
    upside_down = bytearray(encoded(noise(), "BMP"))
    upside_down[22:26] = (-11).to_bytes(4, "little", signed=True)
    assert np.array_equal(read_pixels(stored(bytes(upside_down), tmp_path)).numpy(), noise()[::-1])


def test_a_bitmap_with_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    large = bytearray(encoded(noise(), "BMP"))
    large[18:26] = struct.pack("<ii", 20_000, 20_000)
    with pytest.raises(ImageTooLargeError, match=r"a\.bmp is 20,000 x 20,000 pixels .*limit is 250 Mpx"):
        read_pixels(stored(bytes(large), tmp_path))


def test_a_jpeg_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "JPEG", exif=exif))
    assert picture_size(tmp_path / "a.jpg") == (11, 17)
    assert read_pixels(tmp_path / "a.jpg").shape == (17, 11, 3)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG"])
def test_a_file_cut_short_is_known_from_its_end(kind: str, tmp_path: Path) -> None:
    whole = encoded(noise(200, 300), kind)  # as a JPEG longer than the tail that is looked at
    (tmp_path / "a").write_bytes(whole[:-5000])
    with pytest.raises(UnreadableImageError, match="cut short"):
        picture_size(tmp_path / "a")


def test_a_film_may_follow_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail's end \xff\xd9"  # which is not the picture's
    whole = encoded(noise(200, 300), "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(whole + bytes(100_000))
    assert picture_size(tmp_path / "a.jpg") == (300, 200)
    (tmp_path / "a.jpg").write_bytes(whole[:-5000] + bytes(100_000))
    with pytest.raises(UnreadableImageError, match="cut short"):
        picture_size(tmp_path / "a.jpg")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(UnreadableImageError):
        picture_size(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match="cut short"):
        read_pixels(stored(b"BM", tmp_path))
    with pytest.raises(UnsupportedImageError, match="a bitmap of 8 bits, compression 0; expected 24 or 32"):
        read_pixels(stored(encoded(noise()[..., 0], "BMP"), tmp_path))
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("nothing.png", "pipe.png"):
        with pytest.raises(UnreadableImageError, match="not a regular file, or leads nowhere"):
            picture_size(tmp_path / name)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "deep").mkdir(parents=True)
    (real / "deep" / "a.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(real)
    (real / "deep" / "up").symlink_to(tmp_path / "set")
    assert [path.relative_to(tmp_path / "set").as_posix() for path in walk(tmp_path / "set")] == [
        "link/deep/a.png"
    ]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere can't be listed: .*Give an existing folder"):
        list(walk(tmp_path / "nowhere"))
