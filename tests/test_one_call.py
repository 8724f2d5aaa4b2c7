"""`pellucid.restore` and `Restorer.map`: what comes back has the type of what was given."""

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.toys import toy

import pellucid
from pellucid import ImageBuffer
from pellucid.arrays import image_from_array
from pellucid.errors import InputError, OutputExistsError, UnreadableImageError
from pellucid.image_io import decode_image, encode_image, read_image, write_image
from pellucid.restorer import IdentityRestorer


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 18, 3), dtype=np.uint8)


@pytest.fixture
def restore(small_weights):
    def call(image, *arguments, **options):
        options = {"model": small_weights, "device": "cpu", "precision": "float32", "guard": False} | options
        return pellucid.restore(image, *arguments, **options)

    return call


def test_each_type_comes_back_with_the_same_pixels(restore, array):
    restored = restore(array)
    assert (restored.dtype, restored.shape) == (array.dtype, array.shape)
    assert not np.array_equal(restored, array)
    picture = restore(Image.fromarray(array))
    assert (picture.mode, np.array_equal(np.asarray(picture), restored)) == ("RGB", True)
    tensor = restore(torch.from_numpy(array).permute(2, 0, 1).double() / 255)
    assert tensor.dtype == torch.float64
    assert np.array_equal((tensor.permute(1, 2, 0) * 255).round().numpy(), restored)
    buffer = restore(image_from_array(array))
    assert isinstance(buffer, pellucid.ImageBuffer)
    data = restore(encode_image(image_from_array(array), ".png"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), restored)


@pytest.mark.parametrize(("mode", "channels"), [("L", ()), ("RGBA", (4,)), ("I;16", ())])
def test_modes_of_pillow(restore, mode, channels):
    dtype = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.random.default_rng(0).integers(1, 255, (16, 17, *channels)).astype(dtype)
    given = Image.fromarray(pixels)
    given.info["dpi"] = (300, 300)
    restored = restore(given)
    assert (restored.mode, restored.size, restored.info) == (mode, given.size, given.info)
    assert np.array_equal(np.asarray(restored), restore(pixels))


def test_a_path_goes_to_a_path(restore, array, tmp_path):
    photo = write_image(image_from_array(array), tmp_path / "photo.png")
    result = restore(photo)
    assert result == tmp_path / "photo-restored.png"
    assert np.array_equal(np.asarray(Image.open(result)), restore(array))
    assert restore(str(photo), tmp_path / "named.png") == str(tmp_path / "named.png")
    with pytest.raises(OutputExistsError):
        restore(photo)
    assert restore(photo, overwrite=True) == result


def test_untouched_bytes_are_the_same_bytes(restore, array):
    data = encode_image(image_from_array(array), ".jpg")
    assert restore(data, strength=0) == data


def test_metadata_is_left_out_where_a_type_has_any(restore, array, tmp_path, monkeypatch):
    image = image_from_array(array)
    image = replace(image, source=replace(image.source, format="png", xmp=b"<a/>"))
    photo = write_image(image, tmp_path / "photo.png")
    for strip, xmp in ((None, b"<a/>"), ("all", None)):
        buffer, data, path = (
            restore(one, strip=strip, overwrite=True) for one in (image, photo.read_bytes(), photo)
        )
        assert buffer.source.xmp == decode_image(data).source.xmp == read_image(path).source.xmp == xmp
    monkeypatch.setattr("pellucid.one_call._load", lambda *_: pytest.fail("loaded"))
    for one in (array, torch.zeros(3, 4, 4), Image.fromarray(array)):
        with pytest.raises(InputError, match="strip was given for a picture of type"):
            restore(one, strip="gps")
    with pytest.raises(InputError, match="strip is 'exif'"):
        restore(photo, strip="exif")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (7, "type int"),
        (bytearray(b"text"), "type bytearray"),
        (Image.new("P", (4, 4)), "mode P"),
        (b"text", "not a picture"),
        (Path("missing.png"), "no file"),
        ("", "no file ''"),
        (Path(), "is a folder"),
        ("/", "is a folder"),
    ],
)
def test_what_is_no_picture(restore, image, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        restore(image)


@pytest.mark.parametrize("strength", [0, 1])
def test_a_buffer_comes_back_in_memory_of_its_own(restore, strength):
    given = ImageBuffer(torch.rand(3, 20, 18), torch.rand(1, 20, 18))
    pixels, alpha = given.pixels.clone(), given.alpha.clone()
    restored = restore(given, strength=strength)
    assert torch.equal(restored.pixels, pixels) == (strength == 0)
    assert torch.equal(restored.alpha, alpha)
    restored.pixels.zero_()
    restored.alpha.zero_()
    assert torch.equal(given.pixels, pixels)
    assert torch.equal(given.alpha, alpha)


def test_an_output_is_for_paths(restore, array):
    with pytest.raises(InputError, match="for paths only"):
        restore(array, "out.png")
    with pytest.raises(InputError, match="The target is of type int"):
        restore("photo.png", 3)


def test_what_is_no_model_is_refused(restore, array):
    with pytest.raises(InputError, match="The model is of type list"):
        restore(array, model=["daair_s.5task"])


def test_a_second_call_has_the_model_loaded(restore, array, monkeypatch):
    restore(array)
    monkeypatch.setattr("pellucid.one_call.load", lambda *_, **__: pytest.fail("loaded again"))
    restore(array)


def test_a_changed_file_of_weights_and_another_of_the_same_name_are_loaded(array, tmp_path, monkeypatch):
    loaded: list[Path] = []

    def load(model, **_):
        loaded.append(Path(model).absolute())
        return IdentityRestorer()

    def restore(file: Path) -> Path:
        monkeypatch.chdir(file.parent)
        pellucid.restore(array, model=file.name)
        return file

    monkeypatch.setattr("pellucid.one_call.load", load)
    files = [tmp_path / folder / "w.safetensors" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(b"some")
        restore(restore(file))
    files[1].write_bytes(b"others")
    restore(files[1])
    assert loaded == [*files, files[1]]


def test_a_model_that_is_no_name_is_refused(array):
    with pytest.raises(InputError, match="type list; expected the name of weights or a path"):
        pellucid.restore(array, model=["daair_s"])


def test_a_stream_keeps_its_order_and_runs_no_further_than_one_ahead(tmp_path):
    taken = []

    def images():
        for number in range(6):
            taken.append(number)
            yield np.full((4, 4), number, np.uint8)

    for number, restoration in enumerate(IdentityRestorer().map(images())):
        assert restoration.array[0, 0] == number
        assert len(taken) <= number + 2
    assert len(taken) == 6


@pytest.mark.parametrize("strength", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stream_may_come_in_one_buffer(dtype, strength):
    frames = np.random.default_rng(0).random((5, 40, 30, 3)).astype(dtype)

    def images():
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    restored = [restoration.array for restoration in toy().map(images(), strength=strength)]
    assert all(map(np.array_equal, restored, [toy()(frame, strength=strength).array for frame in frames]))


def test_a_stream_reads_while_the_network_works(tmp_path, array, monkeypatch):
    paths = [write_image(image_from_array(array), tmp_path / f"{number}.png") for number in range(3)]
    opened = []
    read = pellucid.restorer.read_image
    monkeypatch.setattr(
        "pellucid.restorer.read_image", lambda path: opened.append(threading.current_thread()) or read(path)
    )
    restorations = list(IdentityRestorer().map(paths))
    assert [restoration.original for restoration in restorations] == paths
    assert threading.main_thread() not in opened


def test_a_stream_tells_how_long_reading_took(array, tmp_path, monkeypatch):
    def slow(picture):
        time.sleep(0.05)
        return pellucid.picture.open_picture(picture)

    restorer = IdentityRestorer()
    monkeypatch.setattr(restorer, "open", slow)
    assert all(restoration.report.seconds["read"] >= 0.05 for restoration in restorer.map([array] * 2))


def test_a_stream_may_go_on_after_a_bad_picture(array):
    failed = {}
    images = [array, b"text", array]
    assert len(list(IdentityRestorer().map(images, on_error=failed.__setitem__))) == 2
    assert list(failed) == [b"text"]
    assert isinstance(failed[b"text"], UnreadableImageError)
    with pytest.raises(UnreadableImageError):
        list(IdentityRestorer().map(images))
