"""What goes in comes out: size, depth, mode, alpha, profile and metadata, in files made here with libvips."""

import errno
import io
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import pyvips
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL.TiffImagePlugin import IFDRational

from pellucid import scratch
from pellucid.errors import (
    ImageTooLargeError,
    InputError,
    OutputExistsError,
    PellucidError,
    UnreadableImageError,
    UnsupportedImageError,
)
from pellucid.image import ImageBuffer, Source
from pellucid.image_io import (
    BY_SUFFIX,
    IMAGE_SUFFIXES,
    Limits,
    _write,
    check_writable,
    copy_image,
    decode_image,
    encode_image,
    link_image,
    move_file,
    read_header,
    read_image,
    strip_file,
    strip_image,
    write_bytes,
    write_image,
)
from pellucid.image_io import _exif as exif

SUFFIX = {"png": ".png", "tiff": ".tif", "webp": ".webp", "heif": ".avif", "jpeg": ".jpg"}
DEPTHS = {
    "png": ["uint8", "uint16"],
    "tiff": ["uint8", "uint16", "float32"],
    "webp": ["uint8"],
    "heif": ["uint8", "uint16"],
    "jpeg": ["uint8"],
}
LOSSLESS: dict[str, dict[str, Any]] = {
    "png": {},
    "tiff": {"compression": "lzw"},
    "webp": {"lossless": True, "exact": True, "effort": 0},
    "heif": {"compression": "av1", "lossless": True, "effort": 0},
    "jpeg": {"Q": 97},
}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'


def profile(name: str) -> bytes:
    return pyvips.Operation.call("profile_load", name)


def make(samples: np.ndarray, interpretation: str | None = None) -> pyvips.Image:
    height, width, bands = samples.shape
    kind = {"uint8": "uchar", "uint16": "ushort", "float32": "float"}[str(samples.dtype)]
    names = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16"), "float32": ("b-w", "scrgb")}
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(samples).tobytes(), width, height, bands, kind)
    return image.copy(interpretation=interpretation or names[str(samples.dtype)][bands > 2])


def save(image: pyvips.Image, file_format: str, **options: Any) -> bytes:
    return getattr(image, f"{file_format}save_buffer")(**{**LOSSLESS[file_format], **options})


def load(data: bytes, file_format: str) -> np.ndarray:
    image = getattr(pyvips.Image, f"{file_format}load_buffer")(data)
    return image.numpy().reshape(image.height, image.width, image.bands)


def meta(data: bytes, file_format: str) -> dict[str, Any]:
    image = getattr(pyvips.Image, f"{file_format}load_buffer")(data)
    return {name: image.get(name) for name in image.get_fields()}


def noise(seed: int, size: tuple[int, int], bands: int, depth: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if depth == "float32":
        return rng.random((*size, bands), dtype=np.float32)
    return rng.integers(0, np.iinfo(depth).max, (*size, bands), dtype=depth, endpoint=True)


def camera_exif(order: str = "<", orientation: int = 6, thumbnail: bytes = b"\xff\xd8small\xff\xd9") -> bytes:
    """An EXIF block as cameras write it: maker note, a tag no standard knows, and a thumbnail at the end."""
    make_name, note = b"Lens & Co\0", bytes(range(40))

    def directory(entries: list[tuple[int, int, int, bytes]], link: int) -> bytes:
        body = b"".join(struct.pack(order + "HHI", t, k, n) + v.ljust(4, b"\0") for t, k, n, v in entries)
        return struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", link)

    def number(value: int) -> bytes:
        return struct.pack(order + "I", value)

    def short(value: int) -> bytes:
        return struct.pack(order + "H", value)

    first = 8
    inner = first + 2 + 4 * 12 + 4
    second = inner + 2 + 3 * 12 + 4
    data = second + 2 + 2 * 12 + 4
    name_at, note_at, thumbnail_at = data, data + len(make_name), data + len(make_name) + len(note)
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + number(first)
        + directory(
            [
                (0x010F, 2, len(make_name), number(name_at)),
                (0x0112, 3, 1, short(orientation)),
                (0x8769, 4, 1, number(inner)),
                (0xFDE8, 3, 1, short(4242)),
            ],
            second,
        )
        + directory(
            [
                (0x927C, 7, len(note), number(note_at)),
                (0xA002, 4, 1, number(999)),
                (0xA003, 3, 1, short(888)),
            ],
            0,
        )
        + directory([(0x0201, 4, 1, number(thumbnail_at)), (0x0202, 4, 1, number(len(thumbnail)))], 0)
        + make_name
        + note
        + thumbnail
    )


def gray_profile(gamma: float) -> bytes:
    """An ICC profile, version 2, of gray with this gamma."""
    white = struct.pack(">iii", *(round(65_536 * value) for value in (0.9642, 1, 0.8249)))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"gray\0" + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + white,
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(256 * gamma), 0),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = (
        b"lcms" + struct.pack(">I", 0x0210_0000) + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28) + white
    )
    return (struct.pack(">I", 128 + len(table) + len(body)) + head).ljust(128, b"\0") + table + body


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(width: int, height: int, bits: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows)) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def with_exif(data: bytes, file_format: str, block: bytes) -> bytes:
    if file_format == "jpeg":
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]
    return data[:33] + chunk(b"eXIf", block) + data[33:]


# The round trip


@st.composite
def pictures(draw: st.DrawFn) -> dict[str, Any]:
    file_format = draw(st.sampled_from(["png", "png", "tiff", "tiff", "webp", "heif", "jpeg"]))
    bands = [3] if file_format == "jpeg" else [3, 4]
    if file_format in ("png", "tiff", "jpeg"):
        bands = [1, 3] if file_format == "jpeg" else [1, 2, 3, 4]
    return {
        "format": file_format,
        "depth": draw(st.sampled_from(DEPTHS[file_format])),
        "bands": draw(st.sampled_from(bands)),
        "size": (draw(st.integers(1, 70)), draw(st.integers(1, 70))),
        "orientation": draw(st.integers(1, 8)),
        "profile": draw(st.sampled_from([None, "p3", "srgb"])),
        "xmp": draw(st.booleans()),
        "dpi": draw(st.sampled_from([None, 72.0, 300.0])),
        "seed": draw(st.integers(0, 2**16)),
    }


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pictures())
def test_an_unchanged_picture_comes_back_the_same(case: dict[str, Any]) -> None:
    file_format, depth, bands = case["format"], case["depth"], case["bands"]
    samples = noise(case["seed"], case["size"], bands, depth)
    if bands in (2, 4):
        samples[::2, ::3, -1] = 0  # holes with noise under them
    image = make(samples)
    icc = profile(case["profile"]) if case["profile"] and bands > 2 else None
    if icc:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    if case["xmp"]:
        image.set_type(pyvips.GValue.blob_type, "xmp-data", XMP)
    states_dpi = case["dpi"] and file_format in ("png", "tiff", "jpeg")
    if states_dpi:
        image = image.copy(xres=case["dpi"] / 25.4, yres=case["dpi"] / 25.4)
        image.set_type(pyvips.GValue.gstr_type, "resolution-unit", "in")
    image.set_type(pyvips.GValue.gint_type, "orientation", case["orientation"])
    options = {"bitdepth": 12 if depth == "uint16" else 8} if file_format == "heif" else {}
    stored = save(image, file_format, **options)
    # What is stored, turned upright by libvips (which turns an AVIF itself).
    loaded = getattr(pyvips.Image, f"{file_format}load_buffer")(stored)
    turned = loaded.autorot()
    expected = turned.numpy().reshape(turned.height, turned.width, bands)

    buffer = decode_image(stored)
    assert (buffer.height, buffer.width) == expected.shape[:2]
    assert buffer.source.depth == depth
    assert buffer.source.mode == ("gray" if bands < 3 else "rgb")
    assert (buffer.alpha is not None) == (bands in (2, 4))
    assert (buffer.source.icc, buffer.source.xmp) == (icc, XMP if case["xmp"] else None)
    assert float(buffer.pixels.min()) >= 0
    assert float(buffer.pixels.max()) <= 1

    written = encode_image(buffer, SUFFIX[file_format], quality=100 if file_format == "heif" else None)
    result, facts = load(written, file_format), meta(written, file_format)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    if file_format == "jpeg":
        assert np.abs(result.astype(int) - expected).mean() < 6  # noise is what JPEG is worst at
    else:
        assert np.array_equal(result, expected)
    assert facts.get("orientation", 1) == 1
    assert facts.get("icc-profile-data") == icc
    assert facts.get("xmp-data") == (XMP if case["xmp"] else None)
    again = decode_image(written)
    assert replace(again.source, exif=None) == replace(
        buffer.source, exif=None, dots_per_mm=again.source.dots_per_mm
    )
    assert again.source.exif == buffer.source.exif
    if states_dpi:
        assert again.source.dots_per_mm == pytest.approx((case["dpi"] / 25.4,) * 2, rel=2e-3)
    check_row_by_row(stored, SUFFIX[file_format], buffer, written)


def check_row_by_row(stored: bytes, suffix: str, expected: ImageBuffer, written: bytes) -> None:
    """A picture whose pixels are in a file is read and written as one in memory."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setattr(scratch, "TRIM_BYTES", 1500)  # bands of a few rows
        source, target = folder / f"source{suffix}", folder / f"target{suffix}"
        source.write_bytes(stored)
        buffer = read_image(source, create=partial(scratch.create, dtype=torch.float32, folder=folder))
        assert torch.equal(buffer.pixels, expected.pixels)
        assert buffer.source == expected.source
        if expected.alpha is not None and buffer.alpha is not None:
            assert torch.equal(buffer.alpha, expected.alpha)
            assert scratch.folder_of(buffer.alpha) == folder
        else:
            assert buffer.alpha is expected.alpha is None
        assert (scratch.folder_of(buffer.pixels) == folder) == (buffer.source.hidden is None)
        write_image(buffer, target, quality=100 if suffix == ".avif" else None)
        assert target.read_bytes() == written
        del buffer
        assert sorted(folder.iterdir()) == [source, target]


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_every_sample_value_survives(depth: str) -> None:
    count = np.iinfo(depth).max + 1
    samples = np.arange(count, dtype=depth).reshape(16, -1, 1).repeat(3, axis=2)
    for data, suffix in (
        (save(make(samples), "png"), ".png"),
        (save(make(samples[..., :1]), "tiff"), ".tif"),
    ):
        buffer = decode_image(data)
        assert torch.equal(buffer.pixels[0].flatten(), torch.arange(count) / (count - 1))
        written = encode_image(buffer, suffix)
        assert np.array_equal(
            load(written, "png" if suffix == ".png" else "tiff"),
            load(data, "png" if suffix == ".png" else "tiff"),
        )


@pytest.mark.parametrize(("bits", "row"), [(1, b"\0\xa0"), (2, b"\0\x1b"), (4, b"\0\x0f\x80")])
def test_shallow_gray_png_becomes_8_bit_gray(bits: int, row: bytes) -> None:
    data = png(3, 1, bits, 0, row)
    written = encode_image(decode_image(data), ".png")
    assert np.array_equal(load(written, "png"), load(data, "png"))
    assert meta(written, "png")["bits-per-sample"] == 8
    assert load(written, "png").shape == (1, 3, 1)


def test_palette_png_becomes_rgba_of_the_same_colors() -> None:
    palette = chunk(b"PLTE", bytes(range(100, 112))) + chunk(b"tRNS", b"\0\x80")
    data = png(4, 1, 2, 3, b"\0\x1b", palette)
    buffer = decode_image(data)
    assert buffer.source.mode == "palette"
    written = encode_image(buffer, ".png")
    assert load(written, "png").tolist() == [
        [[100, 101, 102, 0], [103, 104, 105, 128], [106, 107, 108, 255], [109, 110, 111, 255]]
    ]


def test_color_under_transparency_is_kept_from_the_network_and_put_back() -> None:
    samples = np.full((20, 30, 4), 200, np.uint8)
    samples[:, 10:] = (0, 255, 0, 0)
    buffer = decode_image(save(make(samples), "png"))
    assert float((buffer.pixels - 200 / 255).abs().max()) < 1e-5
    changed = replace(buffer, pixels=buffer.pixels * 0.5)
    result = load(encode_image(changed, ".png"), "png")
    assert np.array_equal(result[:, 10:], samples[:, 10:])
    assert np.array_equal(result[:, :10], np.full((20, 10, 4), (100, 100, 100, 200)))


def test_display_p3_passes_without_clipping() -> None:
    samples = np.zeros((2, 2, 3), np.uint8)
    samples[0, 0] = (255, 0, 0)  # outside sRGB
    image = make(samples)
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile("p3"))
    buffer = decode_image(save(image, "png"))
    assert buffer.pixels[:, 0, 0].tolist() == [1, 0, 0]
    assert np.array_equal(load(encode_image(buffer, ".png"), "png"), samples)


@pytest.mark.parametrize("file_format", SUFFIX)
def test_a_path_gives_what_its_bytes_give(file_format: str, tmp_path: Path) -> None:
    """Large enough that a reader comes back to the file for more."""
    samples = noise(1, (300, 400), 3, "uint8")
    data = save(make(samples), file_format)
    path = tmp_path / f"photo{SUFFIX[file_format]}"
    path.write_bytes(data)
    assert torch.equal(read_image(path).pixels, decode_image(data).pixels)


def linear_profile() -> bytes:
    """The built-in sRGB profile with straight tone curves."""
    icc = bytearray(profile("srgb"))
    (count,) = struct.unpack_from(">I", icc, 128)
    for place in range(132, 132 + 12 * count, 12):
        if icc[place : place + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            offset, length = struct.unpack_from(">II", icc, place + 4)
            icc[offset : offset + length] = b"curv".ljust(length, b"\0")  # no entries: identity
    return bytes(icc)


def test_linear_profile_is_seen_with_srgb_tones_and_written_back_exactly() -> None:
    samples = np.arange(65_536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    image = make(samples)
    icc = linear_profile()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    buffer = decode_image(save(image, "tiff"))
    middle = float(buffer.pixels[0].flatten()[round(0.2140 * 65_535)])
    assert middle == pytest.approx(0.5, abs=0.004)  # sRGB shows 21.4 % of the light as one half
    written = encode_image(buffer, ".tif")
    assert np.array_equal(load(written, "tiff"), samples)
    assert meta(written, "tiff")["icc-profile-data"] == icc


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_gray_keeps_its_tone_where_it_becomes_rgb(suffix: str) -> None:
    image = make(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(8, 0).repeat(8, 1))
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", gray_profile(1.8))
    data = save(image, "png")
    shown = pyvips.Image.new_from_buffer(data, "").icc_transform("srgb", embedded=True, intent="relative")
    written = load(encode_image(decode_image(data), suffix, quality=100), BY_SUFFIX[suffix])
    assert np.abs(written.astype(int) - shown.numpy()[..., :3]).max() <= 1
    kept = load(encode_image(decode_image(data), ".png"), "png")
    assert np.array_equal(kept, image.numpy().reshape(kept.shape))


@pytest.mark.parametrize("alpha", [False, True])
def test_cmyk_becomes_srgb(alpha: bool) -> None:
    samples = noise(1, (6, 5), 5 if alpha else 4, "uint8")
    samples[0, 0, :4] = 0  # paper
    image = make(samples, "cmyk")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile("cmyk"))
    data = save(image, "tiff")
    buffer = decode_image(data)
    assert (buffer.source.mode, buffer.source.icc) == ("cmyk", profile("srgb"))
    reference = (
        image[:4].copy(interpretation="cmyk").icc_transform("srgb", embedded=True, intent="relative").numpy()
    )
    result = load(encode_image(buffer, ".tif"), "tiff")
    assert np.abs(result[..., :3].astype(int) - reference).max() <= 1
    assert result[0, 0, :3].min() >= 250
    if alpha:
        assert np.array_equal(result[..., 3], samples[..., 4])


def test_cmyk_jpeg_is_read() -> None:
    image = make(np.zeros((8, 8, 4), np.uint8), "cmyk")
    buffer = decode_image(save(image, "jpeg"))
    assert buffer.source.mode == "cmyk"
    assert float(buffer.pixels.min()) > 0.97


def test_a_profile_for_another_kind_of_samples_is_dropped() -> None:
    image = make(noise(0, (4, 4), 3, "uint8"))
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile("cmyk"))
    assert decode_image(save(image, "tiff")).source.icc is None


def test_float_is_clamped_and_alpha_with_it() -> None:
    samples = np.array([[[-0.5, 0.25, 1.5, 1.25], [0.0, 1.0, 0.5, 0.5]]], np.float32)
    buffer = decode_image(save(make(samples), "tiff"))
    assert buffer.pixels[:, 0, 0].tolist() == [0, 0.25, 1]
    assert buffer.alpha is not None
    assert buffer.alpha[0, 0].tolist() == [1, 0.5]


@pytest.mark.parametrize("file_format", ["jpeg", "png"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_stays_byte_for_byte_but_for_what_became_false(file_format: str, order: str) -> None:
    block = camera_exif(order, orientation=6)
    data = with_exif(save(make(noise(2, (10, 24), 3, "uint8")), file_format, keep="none"), file_format, block)
    buffer = decode_image(data)
    assert (buffer.height, buffer.width) == (24, 10)
    written = encode_image(buffer, SUFFIX[file_format])
    kept = meta(written, file_format)["exif-data"].removeprefix(b"Exif\0\0")
    expected = bytearray(camera_exif(order, orientation=1, thumbnail=b""))
    inner = 8 + 2 + 4 * 12 + 4
    struct.pack_into(order + "I", expected, inner - 4, 0)  # no thumbnail directory
    struct.pack_into(order + "I", expected, inner + 2 + 12 + 8, 10)  # width
    struct.pack_into(order + "H", expected, inner + 2 + 24 + 8, 24)  # height
    second = inner + 2 + 3 * 12 + 4
    assert len(kept) == len(expected)
    assert kept[:second] == expected[:second]
    assert kept[second + 30 :] == expected[second + 30 :]
    assert b"small" not in written


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".avif", ".png"])
@pytest.mark.parametrize("alpha", [False, True])
def test_exif_travels_to_other_formats(suffix: str, alpha: bool, tmp_path: Path) -> None:
    """An independent reader finds it, in TIFF's own directories too."""
    block = camera_exif(">", orientation=3)
    samples = noise(2, (10, 24), 4 if alpha else 3, "uint8")
    buffer = decode_image(with_exif(save(make(samples), "png", keep="none"), "png", block))
    path = write_image(buffer, tmp_path / f"out{suffix}")
    assert read_header(path).has_alpha == alpha
    if suffix == ".avif":  # libvips rebuilds the block there
        assert b"Lens & Co" in path.read_bytes()
    else:
        with PillowImage.open(path) as seen:
            found = seen.getexif()
            assert found[0x010F] == "Lens & Co"
            assert found.get(0x0112, 1) == 1
            assert found.get_ifd(0x8769)[0x927C] == bytes(range(40))
            assert found.get_ifd(0x8769)[0xA002] == 24
    again = read_image(path)
    assert again.source.exif is not None
    assert b"Lens & Co" in again.source.exif
    rewritten = write_image(again, path, overwrite=True)
    assert read_image(rewritten).source.exif == again.source.exif


@pytest.mark.parametrize("order", ["<", ">"])
def test_fractions_keep_their_value_in_the_byte_order_of_a_tiff(order: str) -> None:
    tags = PillowImage.Exif()
    tags.endian = order
    tags.get_ifd(0x8769)[0x829A] = IFDRational(1, 250)
    data = with_exif(small("png"), "png", tags.tobytes().removeprefix(b"Exif\0\0"))
    with PillowImage.open(io.BytesIO(encode_image(decode_image(data), ".tif"))) as seen:
        assert seen.getexif().get_ifd(0x8769)[0x829A] == IFDRational(1, 250)


@pytest.mark.parametrize("length", [65_527, 65_528])
def test_exif_that_a_jpeg_cant_hold_is_left_out(length: int) -> None:
    block = camera_exif(orientation=1).ljust(length, b"\0")
    written = encode_image(replace(IMAGE, source=Source(exif=block)), ".jpg")
    assert (block in written) == (length == 65_527)
    assert decode_image(written).width == 6


def test_tags_that_share_their_bytes_fill_no_memory() -> None:
    tags = b"".join(struct.pack("<HHII", tag, 7, 2**20, 8) for tag in range(40))
    found = exif.first_directory(io.BytesIO(b"II*\0\x08\0\0\0" + struct.pack("<H", 40) + tags + bytes(2**20)))
    assert 0 < sum(len(value) for _, _, value in found.values()) <= 2**24


@pytest.mark.parametrize("cut", [0, 3, 8, 9, 20, 60, 100])
def test_damaged_exif_does_no_harm(cut: int) -> None:
    block = camera_exif()[:cut] + b"\xff" * 8
    data = with_exif(save(make(noise(0, (5, 4), 3, "uint8")), "jpeg", keep="none"), "jpeg", block)
    buffer = decode_image(data)
    assert (buffer.height, buffer.width) in ((5, 4), (4, 5))
    for suffix in (".jpg", ".png", ".webp", ".tif", ".avif"):
        again = decode_image(encode_image(buffer, suffix))
        assert (again.height, again.width) == (buffer.height, buffer.width)  # turned once, not twice


@pytest.mark.parametrize("target", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF"])
def test_a_resolution_is_kept_without_exif(name: str, target: str) -> None:
    stream = io.BytesIO()
    PillowImage.new("RGB", (8, 9)).save(stream, name, dpi=(300, 150))
    written = encode_image(decode_image(stream.getvalue()), target)
    with PillowImage.open(io.BytesIO(written)) as seen:
        assert tuple(map(float, seen.info["dpi"])) == pytest.approx((300, 150), rel=1e-3)


def test_a_resolution_turns_with_the_picture() -> None:
    image = make(noise(0, (4, 6), 3, "uint8")).copy(xres=300 / 25.4, yres=150 / 25.4)
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    dots = decode_image(save(image, "tiff", resunit="inch")).source.dots_per_mm
    assert dots == pytest.approx((150 / 25.4, 300 / 25.4), rel=1e-3)


def test_a_resolution_of_nothing_is_none() -> None:
    data = png(1, 1, 8, 0, b"\0\0", chunk(b"pHYs", struct.pack(">IIB", 0, 0, 1)))
    assert decode_image(data).source.dots_per_mm is None


def test_a_resolution_that_jpeg_cant_state_is_its_nearest() -> None:
    image = replace(IMAGE, source=Source(dots_per_mm=(1e-3, 1e5)))
    with PillowImage.open(io.BytesIO(encode_image(image, ".jpg"))) as seen:
        assert seen.info["dpi"] == (1, 65_535)


@pytest.mark.parametrize(
    "form", [b'<a tiff:Orientation="%d"/>', b"<tiff:Orientation> %d </tiff:Orientation>"]
)
def test_xmp_says_that_the_picture_is_upright(form: bytes) -> None:
    image = make(noise(2, (10, 24), 3, "uint8"))
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    image.set_type(pyvips.GValue.blob_type, "xmp-data", form % 6)
    buffer = decode_image(save(image, "jpeg"))
    assert (buffer.height, buffer.source.xmp) == (24, form % 1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_no_resolution_is_invented_in_the_exif_of_an_avif(order: str) -> None:
    block = camera_exif(order)
    buffer = decode_image(with_exif(small("jpeg"), "jpeg", block))
    assert buffer.source.dots_per_mm is None
    with PillowImage.open(io.BytesIO(encode_image(buffer, ".avif"))) as seen:
        assert not {0x011A, 0x011B, 0x0128} & set(seen.getexif())
        assert seen.getexif()[0x010F] == "Lens & Co"
    assert decode_image(encode_image(buffer, ".avif")).source.dots_per_mm is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_no_resolution_is_invented(suffix: str) -> None:
    data = encode_image(ImageBuffer(torch.rand(3, 4, 4)), suffix)
    with PillowImage.open(io.BytesIO(data)) as seen:
        assert "dpi" not in seen.info or suffix == ".tif"
        assert len(seen.getexif()) == 0 or suffix == ".tif"
    assert decode_image(data).source.dots_per_mm is None


def test_iptc_stays_in_its_own_format() -> None:
    record = b"\x1c\x02\x05\0\x05Title"
    stream = io.BytesIO()
    PillowImage.new("RGB", (8, 8)).save(stream, "tiff", tiffinfo={33723: record})
    buffer = decode_image(stream.getvalue())
    assert buffer.source.iptc == record
    with PillowImage.open(io.BytesIO(encode_image(buffer, ".tif"))) as seen:
        assert seen.tag_v2[33723] == record
    assert decode_image(encode_image(buffer, ".jpg")).source.iptc is None
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0a" + record
    image = make(noise(0, (8, 8), 3, "uint8"))
    image.set_type(pyvips.GValue.blob_type, "iptc-data", resource)
    buffer = decode_image(save(image, "jpeg"))
    assert meta(encode_image(buffer, ".jpg"), "jpeg")["iptc-data"] == resource
    assert decode_image(encode_image(buffer, ".tif")).source.iptc is None


# Converting on the way


def test_depth_falls_to_what_the_format_holds() -> None:
    samples = noise(5, (9, 8), 3, "float32")
    buffer = decode_image(save(make(samples), "tiff"))
    assert np.array_equal(
        load(encode_image(buffer, ".png"), "png"), np.rint(samples * 65_535).astype(np.uint16)
    )
    assert load(encode_image(buffer, ".jpg"), "jpeg").dtype == np.uint8
    assert meta(encode_image(buffer, ".avif"), "heif")["bits-per-sample"] == 12


def test_an_avif_of_10_bits_keeps_them() -> None:
    samples = noise(5, (16, 12), 3, "uint16")
    buffer = decode_image(save(make(samples), "heif", bitdepth=10))
    assert meta(encode_image(buffer, ".avif"), "heif")["bits-per-sample"] == 10


def test_quality_100_is_lossless_webp_and_avif() -> None:
    samples = noise(5, (16, 12), 4, "uint8")
    buffer = decode_image(save(make(samples), "png"))
    for suffix, file_format in ((".webp", "webp"), (".avif", "heif")):
        assert np.array_equal(load(encode_image(buffer, suffix, quality=100), file_format), samples)
        assert not np.array_equal(load(encode_image(buffer, suffix, quality=50), file_format), samples)


def test_jpeg_keeps_full_color_resolution_from_quality_90() -> None:
    buffer = ImageBuffer(torch.rand(3, 32, 32))
    assert meta(encode_image(buffer, ".jpg"), "jpeg")["jpeg-chroma-subsample"] == "4:4:4"
    assert meta(encode_image(buffer, ".jpg", quality=80), "jpeg")["jpeg-chroma-subsample"] == "4:2:0"


def test_color_from_a_network_becomes_gray_by_luminance() -> None:
    buffer = decode_image(save(make(noise(0, (2, 2), 1, "uint8")), "png"))
    green = torch.zeros(3, 2, 2)
    green[1] = 1
    assert load(encode_image(replace(buffer, pixels=green), ".png"), "png").ravel().tolist() == [182] * 4


def test_header_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    image = make(noise(0, (10, 24), 1, "uint8"))
    image.set_type(pyvips.GValue.gint_type, "orientation", 8)
    path.write_bytes(save(image, "jpeg")[:-30])  # the pixels are cut short, the header isn't
    header = read_header(path)
    assert (header.width, header.height, header.format) == (10, 24, "jpeg")
    assert (header.depth, header.mode, header.has_alpha) == ("uint8", "gray", False)


# Refusals


def small(file_format: str) -> bytes:
    return save(make(noise(0, (64, 64), 3, "uint8")), file_format)


def frames(file_format: str) -> bytes:
    image = make(noise(0, (8, 4), 3, "uint8"))
    image.set_type(pyvips.GValue.gint_type, "page-height", 4)
    return save(image, file_format)


def moving_avif() -> bytes:
    stream = io.BytesIO()
    first, second = (PillowImage.new("RGB", (16, 16), color) for color in ("red", "blue"))
    first.save(stream, "AVIF", save_all=True, append_images=[second])
    return stream.getvalue()


def tiff_with(tag: int, value: int, instead_of: int = 274) -> bytes:
    """A TIFF one of whose tags (orientation, if not told) was made into another (LONG) one."""
    data = bytearray(small("tiff"))
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    places = range(first + 2, first + 2 + 12 * count, 12)
    place = next(p for p in places if data[p : p + 2] == struct.pack("<H", instead_of))
    struct.pack_into("<HHII", data, place, tag, 4, 1, value)
    return bytes(data)


def with_a_selection() -> bytes:
    """A TIFF with a channel beside its colors that is no alpha."""
    data = bytearray(make(noise(0, (4, 4), 4, "uint8")).tiffsave_buffer())
    exif.set_tag(data, 338, 0)
    return bytes(data)


BAD: list[tuple[str, Callable[[], bytes], type[InputError], str]] = [
    ("text.jpg", lambda: b"Dear diary, today\n" * 9, UnreadableImageError, "is not a picture"),
    ("empty.png", lambda: b"", UnreadableImageError, "is empty"),
    ("cut.png", lambda: small("png")[:4000], UnreadableImageError, "cut short or damaged"),
    ("cut.jpg", lambda: small("jpeg")[:-200], UnreadableImageError, "cut short or damaged"),
    ("cut.tif", lambda: small("tiff")[:-200], UnreadableImageError, "cut short or damaged"),
    ("cut.webp", lambda: small("webp")[:-200], UnreadableImageError, "cut short or damaged"),
    ("cut.avif", lambda: small("heif")[:-200], UnreadableImageError, "cut short or damaged"),
    ("head.jpg", lambda: b"\xff\xd8\xff\xe0", UnreadableImageError, "cut short or damaged"),
    ("head.png", lambda: small("png")[:20], UnreadableImageError, "cut short or damaged"),
    (
        "wrong_sum.png",
        lambda: small("png")[:200] + b"\0" * 40 + small("png")[240:],
        UnreadableImageError,
        "damaged",
    ),
    (
        "huge.png",
        lambda: png(60_000, 60_000, 8, 2, b""),
        ImageTooLargeError,
        r"60,000 x 60,000 .*3.6 Gpx.* Split it, .* there is --max-pixels \(in Python: Limits\)",
    ),
    ("moving.gif", lambda: b"GIF89a" + bytes(40), UnsupportedImageError, "is a GIF"),
    ("drawing.svg", lambda: b' <svg xmlns="http://www.w3.org/2000/svg"/>', UnsupportedImageError, "SVG"),
    ("paper.pdf", lambda: b"%PDF-1.7", UnsupportedImageError, "is a PDF"),
    (
        "phone.heic",
        lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        UnsupportedImageError,
        "is a HEIC, a camera raw",
    ),
    ("camera.cr3", lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", UnsupportedImageError, "a camera raw"),
    ("clip.mp4", lambda: b"\0\0\0\x18ftypisom\0\0\2\0isommp42", UnsupportedImageError, "is a film; .* alone"),
    ("clip.mkv", lambda: b"\x1a\x45\xdf\xa3" + bytes(20), UnsupportedImageError, "is a film"),
    ("clip.avi", lambda: b"RIFF\0\0\0\0AVI LIST", UnsupportedImageError, "is a film"),
    (
        "animated.png",
        lambda: png(1, 1, 8, 0, b"\0\0", chunk(b"acTL", struct.pack(">II", 2, 0))),
        UnsupportedImageError,
        "animated PNG",
    ),
    ("animated.avif", moving_avif, UnsupportedImageError, "an animated AVIF"),
    (
        "animated.webp",
        lambda: frames("webp"),
        UnsupportedImageError,
        "2 pages or frames",
    ),
    (
        "pages.tif",
        lambda: frames("tiff"),
        UnsupportedImageError,
        "2 pages or frames",
    ),
    (
        "double.tif",
        lambda: make(noise(0, (4, 4), 3, "float32")).cast("double").tiffsave_buffer(),
        UnsupportedImageError,
        "64-bit floating-point samples",
    ),
    (
        "lab.tif",
        lambda: make(noise(0, (4, 4), 3, "uint8")).colourspace("lab").tiffsave_buffer(),
        UnsupportedImageError,
        r"stores L\*a\*b\* colors \(CIELAB\); expected gray, RGB or CMYK\. Convert it to RGB",
    ),
    (
        "lab_of_8_bits.tif",
        lambda: make(noise(0, (4, 4), 3, "uint8")).colourspace("lab").colourspace("labq").tiffsave_buffer(),
        UnsupportedImageError,
        r"stores L\*a\*b\* colors",
    ),
    (
        "one_of_three.tif",  # RGB, but nothing says of how many samples
        lambda: tiff_with(0x0315, 3, instead_of=277),
        UnsupportedImageError,
        "1 channels of multiband",
    ),
    (
        "selection.tif",
        with_a_selection,
        UnsupportedImageError,
        "no alpha",
    ),
    ("raw.nef", lambda: tiff_with(254, 1), UnsupportedImageError, "camera raw"),
    ("raw.dng", lambda: tiff_with(50706, 0x0104), UnsupportedImageError, "camera raw"),
    (
        "nan.tif",
        lambda: save(make(np.full((2, 2, 3), np.nan, np.float32)), "tiff"),
        UnsupportedImageError,
        "NaN",
    ),
    (
        "scale.tif",
        lambda: save(make(np.full((2, 2, 3), 200, np.float32)), "tiff"),
        UnsupportedImageError,
        "scale from 0 to 1",
    ),
]


@pytest.mark.parametrize(("name", "content", "error", "words"), BAD, ids=[row[0] for row in BAD])
def test_a_bad_file_ends_in_one_sentence_that_names_it(
    name: str, content: Callable[[], bytes], error: type[InputError], words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(error, match=words) as caught:
        read_image(path)
    assert type(caught.value) is error
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=r"^The picture "):
        decode_image(content())


def test_hdr_avif_is_refused_and_p3_by_code_points_gets_its_profile() -> None:
    data = small("heif")
    place = data.index(b"colrnclx") + 8
    with pytest.raises(UnsupportedImageError, match="HDR"):
        decode_image(data[:place] + struct.pack(">HH", 9, 16) + data[place + 4 :])
    p3 = decode_image(data[:place] + struct.pack(">HH", 12, 13) + data[place + 4 :])
    assert p3.source.icc == profile("p3")
    assert decode_image(data).source.icc is None


def test_hdr_png_is_refused_and_p3_by_code_points_gets_its_profile() -> None:
    def coded(*codes: int) -> bytes:
        return png(1, 1, 8, 2, b"\0abc", chunk(b"cICP", bytes([*codes, 0, 1])))

    for codes in ((9, 16), (9, 18), (1, 16), (9, 1)):
        with pytest.raises(UnsupportedImageError, match=r"HDR or BT\.2020 PNG"):
            decode_image(coded(*codes))
    assert decode_image(coded(12, 13)).source.icc == profile("p3")
    assert decode_image(coded(1, 13)).source.icc is None


def test_the_limit_is_on_pixels_and_checked_before_decoding() -> None:
    data = small("png")
    assert decode_image(data, limits=Limits(max_pixels=64 * 64)).width == 64
    with pytest.raises(ImageTooLargeError, match=r"4,096 px\); the limit is 4,095 px"):
        decode_image(data[:200], limits=Limits(max_pixels=64 * 64 - 1))


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(UnreadableImageError, match="There is no file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UnreadableImageError, match="can't be opened"):
        read_image("nul\0.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.png").write_bytes(small("png"))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # permissions mean nothing where tests run as root
    with pytest.raises(UnreadableImageError, match=r"can't be opened: Permission denied"):
        read_image(tmp_path / "secret.png")


def test_names_that_libvips_would_misread(tmp_path: Path) -> None:
    for name in ("photo[page=1].png", "a b.png", os.fsdecode(b"\xff.png"), "wrong_suffix.jpg"):
        path = tmp_path / name
        path.write_bytes(small("png"))
        assert read_image(path).width == 64


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "same.png"
    for value in (10, 20):
        path.write_bytes(save(make(np.full((4, 4, 3), value, np.uint8)), "png"))
        assert float(read_image(path).pixels[0, 0, 0]) == pytest.approx(value / 255)


# Writing

IMAGE = ImageBuffer(torch.full((3, 8, 6), 0.5))


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_is_written_and_read(suffix: str, tmp_path: Path) -> None:
    path = write_image(IMAGE, tmp_path / f"out{suffix.upper()}")
    image = read_image(path)
    assert (image.height, image.width, image.alpha) == (8, 6, None)
    assert float((image.pixels - 0.5).abs().max()) < 0.01
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_unknown_suffix_alpha_and_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedImageError, match=r"\.gif names no known format\. Choose one of \.avif, \.jpeg"
    ):
        write_image(IMAGE, tmp_path / "out.gif")
    with pytest.raises(UnsupportedImageError, match="no suffix"):
        write_image(IMAGE, tmp_path / "out")
    with pytest.raises(UnsupportedImageError, match=r"holds no transparency.*\.png"):
        write_image(replace(IMAGE, alpha=torch.ones(1, 8, 6)), tmp_path / "out.jpg")
    with pytest.raises(UnsupportedImageError, match="at most 16,383 a side"):
        encode_image(ImageBuffer(torch.zeros(3, 1, 16_384)), ".webp")
    with pytest.raises(InputError, match="quality is 0"):
        encode_image(IMAGE, ".jpg", quality=0)
    with pytest.raises(InputError, match="NaN"):
        encode_image(ImageBuffer(torch.full((3, 2, 2), torch.nan)), ".png")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_left_alone_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"precious")
    for write in (write_image, lambda *_: copy_image(path, path)):
        with pytest.raises(OutputExistsError, match="exists already"):
            write(IMAGE, path)
    assert path.read_bytes() == b"precious"
    write_image(IMAGE, path, overwrite=True)
    assert read_image(path).width == 6
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(OutputExistsError):
        write_image(IMAGE, tmp_path / "dangling.png")


def test_an_overwritten_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "private.png"
    path.touch()
    for mode in (0o600, 0o640, 0o444, 0o666):
        path.chmod(mode)
        write_image(IMAGE, path, overwrite=True)
        assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("folder", [None, "scratch"])
def test_a_private_picture_is_private_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    path, modes, publish = tmp_path / "private.tif", list[int](), _write._publish
    path.touch(0o600)
    monkeypatch.setattr(
        _write,
        "_publish",
        lambda temporary, *rest: (modes.append(temporary.stat().st_mode & 0o777), publish(temporary, *rest)),
    )
    image = IMAGE
    if folder is not None:
        (tmp_path / "in.png").write_bytes(small("png"))
        create = partial(scratch.create, dtype=torch.float32, folder=tmp_path)
        image = read_image(tmp_path / "in.png", create=create)
    write_image(image, path, overwrite=True)
    assert modes == [0o600]


def test_links_and_pipes_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious.png").write_bytes(b"precious")
    (tmp_path / "link.png").symlink_to("precious.png")
    (tmp_path / "dangling.png").symlink_to("absent.png")
    for name in ("link.png", "dangling.png"):
        with pytest.raises(OutputExistsError, match=f"{name} is a link to"):
            write_image(IMAGE, tmp_path / name, overwrite=True)
        assert (tmp_path / name).is_symlink()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OutputExistsError, match="not a regular file"):
        write_image(IMAGE, tmp_path / "pipe.png", overwrite=True)
    assert (tmp_path / "precious.png").read_bytes() == b"precious"
    names = ["dangling.png", "link.png", "pipe.png", "precious.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "out.png", os.link

    def late(source: Path, target: Path) -> None:
        path.write_bytes(b"another's")
        if not links:
            raise OSError(errno.EPERM, "no links here")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(OutputExistsError):
        write_image(IMAGE, path)
    assert path.read_bytes() == b"another's"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_many_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    path, won = tmp_path / "out.png", list[int]()

    def write(value: int) -> None:
        try:
            write_image(ImageBuffer(torch.full((3, 40, 40), value / 255)), path)
        except OutputExistsError:
            return
        won.append(value)

    threads = [threading.Thread(target=write, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert bool((load(path.read_bytes(), "png") == won[0]).all())
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_file_systems_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert read_image(write_image(IMAGE, tmp_path / "out.png")).width == 6
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_without_links_a_name_that_was_taken_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match="can't be written"):
        write_image(IMAGE, tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


def test_a_moved_file_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole.mp4").write_bytes(b"film")

    def full(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="Input/output error"):
        move_file(tmp_path / "whole.mp4", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.mp4"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_half_way_leaves_nothing(
    failure: BaseException, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.png"
    if overwrite:
        path.write_bytes(b"old")

    def fail(_: int) -> None:
        assert len(list(tmp_path.iterdir())) == 1 + overwrite  # the temporary file is there
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        write_image(IMAGE, path, overwrite=overwrite)
    if isinstance(failure, OSError):
        assert "No space left on device" in str(caught.value)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"] * overwrite


def test_targets_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        write_image(IMAGE, tmp_path / "missing" / "out.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_image(IMAGE, tmp_path / "folder.png", overwrite=True)
    for nothing in (None, 3, b"out.png", io.BytesIO()):
        with pytest.raises(InputError, match=r"The target is of type .*; expected a path"):
            write_image(IMAGE, nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EROFS, "Choose another folder: this disk is read-only."),
        (errno.EACCES, "Change the permissions of the file and its folder, or"),
        (errno.ENOSPC, "Free some space or"),
        (errno.ENAMETOOLONG, "Choose another name or"),
    ],
)
def test_the_reason_why_nothing_is_written_decides_what_is_advised(
    code: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError) as caught:
        write_image(IMAGE, tmp_path / "out.png")
    sentence = f"{tmp_path / 'out.png'} can't be written: {os.strerror(code)}. {remedy}"
    assert str(caught.value).startswith(sentence)


def test_copies_are_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(small("jpeg"))
    assert copy_image(tmp_path / "in.jpg", tmp_path / "out.jpg").read_bytes() == small("jpeg")
    with pytest.raises(UnreadableImageError, match="There is no file"):
        copy_image(tmp_path / "none.jpg", tmp_path / "out2.jpg")


def test_a_link_to_a_picture_is_linked_as_its_file(tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(small("jpeg"))
    (tmp_path / "link.jpg").symlink_to("in.jpg")
    (tmp_path / "out").mkdir()
    made = link_image(tmp_path / "link.jpg", tmp_path / "out" / "link.jpg")
    assert (made.is_symlink(), made.samefile(tmp_path / "in.jpg")) == (False, True)


# Without metadata

SECRET = 4_242_424_242  # a number of the place
PLACE_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description dc:format="a>b"'
    b"%s xmp:Rating='3'>%s<dc:title>Atlantis</dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
)
PLACE_ATTRIBUTES = (
    b' exif:GPSLatitude="4,2\'N"\n photoshop:City=\'Atlantis\'  drone-dji:GpsLongtitude = "4>2"'
)
PLACE_ELEMENTS = (
    b'<exif:GPSMapDatum q="/>">Atlantis</exif:GPSMapDatum ><photoshop:State/><Iptc4xmpExt:LocationShown>'
    b"<rdf:Bag><rdf:li Iptc4xmpExt:City='Atlantis'/></rdf:Bag></Iptc4xmpExt:LocationShown>"
)


def placed_exif(order: str, orientation: int = 1, dpi: int = 0) -> bytes:
    """A camera's block whose first directory moved to its end, with a GPS directory, and a resolution."""
    block = camera_exif(order, orientation, b"")
    start = 10
    entries = [block[start + 12 * i : start + 12 * i + 12] for i in range(4)]
    gps, values = len(block), len(block) + 2 + 3 * 12 + 4

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack(order + "HHII", tag, kind, count, value)

    gps_directory = (
        struct.pack(order + "H", 3)
        + struct.pack(order + "HHI4s", 1, 2, 2, b"N\0")
        + entry(2, 5, 3, values)
        + entry(29, 2, 11, values + 24)
        + bytes(4)
        + struct.pack(order + "6I", SECRET, 1, SECRET, 1, SECRET, 1)
        + b"2042:04:02\0\0"
    )
    entries.append(entry(0x8825, 4, 1, gps))
    first = gps + len(gps_directory)
    if dpi:
        at = first + 2 + 12 * 8 + 4
        entries += [entry(0x011A, 5, 1, at), entry(0x011B, 5, 1, at), entry(0x0128, 3, 1, 0)[:8]]
        entries[-1] += struct.pack(order + "HH", 2, 0)
    entries.sort(key=lambda e: struct.unpack_from(order + "H", e))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    directory += struct.pack(order + "II", dpi, 1)
    return block[:4] + struct.pack(order + "I", first) + block[8:] + gps_directory + directory


def datasets(*values: tuple[int, bytes]) -> bytes:
    return b"".join(b"\x1c\2" + bytes([n]) + len(value).to_bytes(2) + value for n, value in values)


TITLE, CITY, LONG = (5, b"Atlantis"), (90, b"Atlantis, City"), b"\x1c\2\x78\x80\x04\0\0\0\3abc"


def resources(*pairs: tuple[int, bytes]) -> bytes:
    return b"Photoshop 3.0\0" + b"".join(
        b"8BIM" + kind.to_bytes(2) + b"\2no\0" + len(data).to_bytes(4) + data + bytes(len(data) & 1)
        for kind, data in pairs
    )


def described(
    file_format: str, order: str = "<", orientation: int = 1, dpi: int = 0, quality: int | None = None
) -> bytes:
    """A picture file with a place in all metadata that its format holds."""
    iptc = datasets(TITLE, CITY) + LONG
    source = Source(
        format=file_format,
        icc=profile("p3"),
        exif=placed_exif(order, orientation, dpi),
        xmp=PLACE_XMP % (PLACE_ATTRIBUTES, PLACE_ELEMENTS),
        iptc=resources((0x040B, b"url"), (0x0404, iptc), (0x0422, b"x")) if file_format == "jpeg" else iptc,
        dots_per_mm=(4.0, 4.0) if file_format in ("jpeg", "png", "tiff") else None,
    )
    pixels = torch.from_numpy(noise(3, (24, 40), 3, "uint8")).permute(2, 0, 1) / 255
    return encode_image(ImageBuffer(pixels, source=source), SUFFIX[file_format], quality=quality)


def tags(data: bytes) -> dict[int, Any]:
    """What Pillow reads of EXIF, but for places and the picture's size."""
    exif = PillowImage.open(io.BytesIO(data)).getexif()
    own = {tag: exif[tag] for tag in (0x010F, 0x0112, 0xFDE8, 0x011A) if tag in exif}
    inner = dict(exif.get_ifd(0x8769))
    return own | {tag: inner[tag] for tag in inner if tag not in (0xA002, 0xA003)}


def has_place(data: bytes) -> bool:
    numbers = (struct.pack(order + "I", SECRET) in data for order in "<>")
    gps = PillowImage.open(io.BytesIO(data)).getexif().get_ifd(0x8825)
    return any(numbers) or bool(gps) or any(w in data for w in (b"City", b"GPS", b"Gps", b"Location"))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("file_format", SUFFIX)
def test_a_stripped_picture_has_no_place_and_keeps_all_else(file_format: str, order: str) -> None:
    data = described(file_format, order)
    image = decode_image(data)
    assert has_place(data)
    suffix, quality = SUFFIX[file_format], 100 if file_format == "heif" else None
    kept, placeless, bare = (
        encode_image(strip_image(image, what), suffix, quality=quality) for what in (None, "gps", "all")
    )
    assert has_place(kept)
    assert not has_place(placeless)
    assert tags(placeless) == tags(kept)
    assert tags(bare).keys() <= ({0x0112, 0x011A} if file_format == "tiff" else set())  # a TIFF's own
    before, facts, nothing = (decode_image(d).source for d in (kept, placeless, bare))
    assert facts.xmp == PLACE_XMP % (b"", b"")
    if file_format == "jpeg":
        assert facts.iptc == resources((0x040B, b"url"), (0x0404, datasets(TITLE) + LONG))
    if file_format == "tiff":
        assert facts.iptc == datasets(TITLE) + LONG
    assert (nothing.exif, nothing.xmp, nothing.iptc) == (None, None, None)
    for source in (facts, nothing):
        assert (source.icc, source.dots_per_mm) == (before.icc, before.dots_per_mm)
    for written in (placeless, bare):
        assert np.array_equal(load(written, file_format), load(kept, file_format))


@pytest.mark.parametrize("what", ["gps", "all"])
@pytest.mark.parametrize(
    ("file_format", "quality"),
    [("jpeg", 80), ("webp", 80), ("webp", 100), ("heif", 50), ("png", None), ("tiff", None)],
)
def test_a_file_is_stripped_without_a_change_of_its_samples(
    file_format: str, quality: int | None, what: Literal["gps", "all"]
) -> None:
    data = described(file_format, quality=quality)
    stripped = strip_file(data, decode_image(data), what)
    assert has_place(data)
    assert not has_place(stripped)
    assert np.array_equal(load(stripped, file_format), load(data, file_format))
    before, after = decode_image(data).source, decode_image(stripped).source
    assert (after.icc, after.dots_per_mm) == (before.icc, before.dots_per_mm)
    if what == "all":
        assert (after.exif, after.xmp, after.iptc) == (None, None, None)
    else:
        placeless = strip_image(decode_image(data), "gps").source
        assert replace(after, exif=None, lossless=False) == replace(placeless, exif=None, lossless=False)
        assert tags(stripped) == tags(data)
        if file_format in ("jpeg", "webp"):  # their coded samples are never touched
            assert strip_file(stripped, decode_image(stripped), "gps") == stripped
    assert strip_file(data, decode_image(data), None) is data


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("file_format", ["jpeg", "webp"])
def test_a_stripped_file_keeps_its_orientation_and_resolution(file_format: str, order: str) -> None:
    data = described(file_format, order, 6, 300)
    image = decode_image(data)
    stripped = strip_file(data, image, "all")
    again = decode_image(stripped)
    assert tags(stripped) == {0x0112: 6, 0x011A: 300}
    assert torch.equal(again.pixels, image.pixels)
    assert (again.height, again.width) == (40, 24)
    restored = encode_image(strip_image(image, "all"), SUFFIX[file_format])
    assert tags(restored) == ({} if file_format == "jpeg" else {0x011A: 300})
    if file_format == "jpeg":
        assert decode_image(restored).source.dots_per_mm == pytest.approx((300 / 25.4,) * 2, rel=1e-3)


def segment(kind: int, payload: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(payload) + 2).to_bytes(2) + payload


def test_further_pictures_of_a_jpeg_take_their_places_along() -> None:
    data = described("jpeg")
    plain = strip_file(data, decode_image(data), "gps")
    comment, others = segment(0xFE, b"Hello"), segment(0xE5, b"maker's own")
    more = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + PLACE_ATTRIBUTES) + segment(
        0xE2, b"MPF\0II*\0"
    )
    full = data[:2] + comment + others + more + data[2:] + data
    assert strip_file(full, decode_image(full), "gps") == plain[:2] + comment + others + plain[2:]
    bare = strip_file(full, decode_image(full), "all")
    assert bare == strip_file(data, decode_image(data), "all")


def test_scans_of_a_progressive_and_a_cmyk_jpeg_are_kept() -> None:
    for samples, kind in ((noise(5, (40, 40), 3, "uint8"), None), (noise(5, (40, 40), 4, "uint8"), "cmyk")):
        data = save(make(samples, kind), "jpeg", interlace=True, restart_interval=1)
        for what in ("gps", "all"):
            stripped = strip_file(data, decode_image(data), what)
            assert np.array_equal(load(stripped, "jpeg"), load(data, "jpeg"))
        assert strip_file(data, decode_image(data), "gps") == data


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("exif", placed_exif("<")[:4] + b"\xff\xff\0\0"),
        ("exif", b"MM*\0nonsense"),
        ("xmp", b"<exif:GPSLatitude>Atlantis"),
        ("xmp", '<a exif:GPSLatitude="Atlantis"/>'.encode("utf-16-le")),
        ("iptc", b"\x05nonsense Atlantis"),
        ("iptc", b"Photoshop 3.0\0Atlantis"),
        ("iptc", datasets(CITY)[:-3]),
    ],
)
def test_metadata_that_cannot_be_followed_goes(name: str, block: bytes) -> None:
    image = ImageBuffer(torch.zeros(3, 2, 2), source=Source("jpeg", **{name: block}))
    assert getattr(strip_image(image, "gps").source, name) is None


def test_a_picture_keeps_its_orientation_where_its_place_cant_be_followed() -> None:
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x8825, 4, 1, 9999)
    data = with_exif(small("jpeg"), "jpeg", b"II*\0\x08\0\0\0\x02\0" + tags + bytes(4))
    image = decode_image(data)
    assert decode_image(strip_file(data, image, "gps")).pixels.equal(image.pixels)


def test_an_unknown_word_of_what_to_strip() -> None:
    for call in (strip_image, lambda image, what: strip_file(b"", image, what)):
        with pytest.raises(InputError, match="strip is 'GPS'; expected 'gps' or 'all'"):
            call(IMAGE, "GPS")  # type: ignore[arg-type]


# Manners


def test_nothing_is_printed_and_pyvips_is_imported_late(tmp_path: Path) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(png(1, 1, 8, 2, b"\0abc", chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))))
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    code = (
        "import sys, pellucid, pellucid.image_io; assert 'pyvips' not in sys.modules\n"
        f"image = pellucid.read_image({str(path)!r}); assert image.source.icc is None, image\n"
        "import pyvips\n"
        f"drawing = {drawing!r}\n"
        "try: pyvips.Image.svgload_buffer(drawing)\n"
        "except pyvips.Error: print('blocked', end='')\n"
    )
    root = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "blocked", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python: forking with threads is dangerous
def test_a_forked_process_is_told_so_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    path = write_image(ImageBuffer(torch.rand(3, 140, 160)), tmp_path / "a.png")
    read_image(path)
    if (child := os.fork()) == 0:
        signal.alarm(5)
        try:
            read_image(path)
        except PellucidError as error:
            os._exit(7 if 'Start workers by "spawn"' in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_no_file_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(small("png"))
    (tmp_path / "cut.png").write_bytes(small("png")[:500])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
        for _ in range(20):
            read_image(tmp_path / "in.png")
            read_header(tmp_path / "in.png")
            with pytest.raises(UnreadableImageError):
                read_image(tmp_path / "cut.png")
        after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    assert after <= before + 2


def test_other_files_are_written_whole_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    check_writable(path)
    assert write_bytes(b"one", path) == path
    for refused in (lambda: check_writable(path), lambda: write_bytes(b"two", path)):
        with pytest.raises(OutputExistsError, match="exists already"):
            refused()
    assert path.read_bytes() == b"one"
    check_writable(path, overwrite=True)
    write_bytes(b"two", path, overwrite=True)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="no folder"):
        check_writable(tmp_path / "nowhere" / "table.csv")
