from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.toys import ToyConfig, toy

from pellucid import ImageBuffer, read_image, scratch, write_image
from pellucid.arrays import image_from_array
from pellucid.errors import InputError, OutputExistsError
from pellucid.image import Source
from pellucid.image_io import decode_image
from pellucid.restorer import IdentityRestorer


@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3), (9, 11, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_arrays_come_back_as_they_went(shape, dtype):
    array = np.random.default_rng(0).random(shape)
    array = (array * np.iinfo(dtype).max).astype(dtype) if dtype[0] == "u" else array.astype(dtype)
    restored = toy()(array).array
    assert (restored.shape, restored.dtype) == (array.shape, array.dtype)
    assert not np.array_equal(restored, array)
    if shape[-1] == 4:
        assert np.array_equal(restored[..., 3], array[..., 3])
    assert np.array_equal(toy()(array, strength=0).array, array)


def test_tensors_come_back_in_their_dtype():
    picture = torch.rand(3, 9, 9, dtype=torch.float64, requires_grad=True)
    assert toy()(picture).tensor.dtype == torch.float64
    assert torch.equal(toy()(picture, strength=0).tensor, picture.detach())


def test_results_are_kept_in_lists_and_sets():
    first, second = toy().map([np.zeros((9, 11), np.uint8)] * 2)
    assert second in [first, second]
    assert len({first, second, first.image, second.image}) == 4
    assert first != second


@pytest.mark.parametrize("strength", [0, 1])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_a_result_stays_when_its_input_changes(dtype, strength):
    rng = np.random.default_rng(0)
    scale = np.iinfo(dtype).max if dtype[0] == "u" else 1
    buffer = (rng.random((9, 11, 4)) * scale).astype(dtype)
    restoration = toy()(buffer, strength=strength)
    before = restoration.array
    buffer[:] = 0
    assert np.array_equal(restoration.array, before)
    assert before[..., 3].any()
    if dtype[0] == "f":
        picture = torch.from_numpy(rng.random((3, 9, 11)).astype(dtype))
        restoration = toy()(picture, strength=strength)
        pixels, before = restoration.image.pixels.clone(), restoration.tensor.clone()
        picture.zero_()
        assert torch.equal(restoration.tensor, before)
        assert torch.equal(restoration.image.pixels, pixels)
        assert before.any()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files(tmp_path, suffix):
    array = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    path, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    write_image(image_from_array(array), path)
    restoration = toy()(path)
    restoration.save(out)
    assert read_image(out).pixels.shape == (3, 21, 30)
    if suffix == "png":
        assert np.array_equal(toy()(str(path)).array, toy()(array).array)
    with pytest.raises(OutputExistsError):
        restoration.save(out)
    for kept in (restoration, toy()(path, strength=0)):
        with pytest.raises(InputError, match="The target is of type NoneType; expected a path"):
            kept.save(None)
    toy()(path, strength=0).save(out, overwrite=True)
    assert out.read_bytes() == path.read_bytes()  # JPEG included: it is not encoded again
    toy()(path, strength=0).save(tmp_path / "other.tif")
    assert torch.equal(read_image(tmp_path / "other.tif").pixels, read_image(path).pixels)
    toy()(path.read_bytes(), strength=0).save(out, overwrite=True)
    assert out.read_bytes() == path.read_bytes()
    toy()(path.read_bytes(), strength=0).save(tmp_path / "other.tif", overwrite=True)
    assert torch.equal(read_image(tmp_path / "other.tif").pixels, read_image(path).pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_gray_picture_is_the_same_in_an_array_and_in_a_file(dtype, tmp_path):
    class Tinting(torch.nn.Module):
        config = ToyConfig()

        def forward(self, x):
            return x * torch.tensor([1.0, 0.8, 0.3])[:, None, None]

    array = np.random.default_rng(0).random((9, 11), np.float32)
    array = (array * np.iinfo(dtype).max).astype(dtype) if dtype[0] == "u" else array
    restoration = toy(Tinting())(array)
    restoration.save(tmp_path / "gray.tif")
    assert np.array_equal(toy()(tmp_path / "gray.tif", strength=0).array, restoration.array)
    share = 0.2126 + 0.7152 * 0.8 + 0.0722 * 0.3
    assert restoration.array.mean() == pytest.approx(array.mean() * share, rel=5e-3)


def test_an_untouched_picture_is_saved_as_it_was_read_whatever_became_of_its_file(tmp_path, monkeypatch):
    arrays = np.random.default_rng(0).integers(0, 256, (2, 21, 30, 3), dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    write_image(image_from_array(arrays[0]), "in.jpg")
    stored, pixels = Path("in.jpg").read_bytes(), read_image("in.jpg").pixels
    called, (mapped,) = toy()("in.jpg", strength=0), toy().map(["in.jpg"], strength=0)
    Path("below").mkdir()
    monkeypatch.chdir("below")
    for restoration in (called, mapped):
        restoration.save("copied.jpg", overwrite=True)
        assert Path("copied.jpg").read_bytes() == stored
    write_image(image_from_array(arrays[1]), tmp_path / "in.jpg", overwrite=True)
    called.save("replaced.jpg")
    assert float((read_image("replaced.jpg").pixels - pixels).abs().mean()) < 0.02
    assert called.encode(".jpg") == Path("replaced.jpg").read_bytes()
    (tmp_path / "in.jpg").unlink()
    mapped.save("removed.png")
    assert torch.equal(read_image("removed.png").pixels, pixels)
    mapped.save("removed.jpg")


@pytest.mark.parametrize("strength", [0, 1])
def test_bytes_are_what_is_saved(tmp_path, strength):
    image = ImageBuffer(torch.rand(3, 9, 9), source=Source(xmp=b"<a/>"))
    path, out = write_image(image, tmp_path / "in.jpg"), tmp_path / "out.jpg"
    for strip, xmp in ((None, b"<a/>"), ("all", None)):
        restorations = [toy()(given, strength=strength) for given in (path, path.read_bytes())]
        for restoration in restorations:
            restoration.save(out, overwrite=True, strip=strip)
            assert (
                restoration.encode(strip=strip)
                == restoration.encode(".JPEG", strip=strip)
                == out.read_bytes()
            )
            assert read_image(out).source.xmp == xmp
            assert restoration.encode(".png", strip=strip)[:4] == b"\x89PNG"
    assert (restorations[0].encode() == path.read_bytes()) is (strength == 0)


def test_a_file_is_kept_towards_its_format_and_the_one_it_is_named_after(tmp_path):
    path = write_image(ImageBuffer(torch.rand(3, 9, 9)), tmp_path / "in.png").rename(tmp_path / "in.jpg")
    stored = path.read_bytes()
    untouched, restored = (toy()(path, strength=strength) for strength in (0, 1))
    assert [untouched.keeps_file(suffix) for suffix in (".JPEG", ".png", ".tif", "")] == [1, 1, 0, 0]
    assert not restored.keeps_file(".png")
    untouched.save(tmp_path / "out.jpg")
    assert (tmp_path / "out.jpg").read_bytes() == stored
    given = toy()(stored, strength=0)
    assert [given.keeps_file(suffix) for suffix in (".jpg", ".png", "")] == [0, 1, 0]
    assert given.keeps_file(".jpg", "in.jpg")
    path.write_bytes(b"another")
    assert not untouched.keeps_file(".png")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_untouched_picture_is_stripped_without_its_file_in_memory(suffix, tmp_path, monkeypatch):
    image = ImageBuffer(torch.rand(3, 9, 9), source=Source(xmp=b"<a/>"))
    path = write_image(image, tmp_path / f"in{suffix}").rename(tmp_path / "in.png")
    large = read_image(path, create=lambda shape: scratch.create(shape, torch.float32, tmp_path))
    restoration = replace(toy()(large, strength=0), original=path)
    expected = decode_image(restoration.encode(".png", strip="all"))
    monkeypatch.delattr("pellucid.restoration.read_bytes")
    if suffix == ".tif":
        monkeypatch.delattr("pellucid.image_io._write._encode")  # which holds the whole picture
    restoration.save(tmp_path / "out.png", strip="all")
    written = read_image(tmp_path / "out.png")
    assert (written.source, written.source.xmp) == (expected.source, None)
    assert torch.equal(written.pixels, large.pixels)


def test_an_array_is_encoded_to_a_suffix_alone():
    restoration = IdentityRestorer()(np.full((2, 3), 7, np.uint8))
    assert decode_image(restoration.encode(".png")).pixels.shape == (3, 2, 3)
    with pytest.raises(InputError, match=r"was given as no file.*encode\(\"\.png\"\)"):
        restoration.encode()
