import numpy as np
import pytest
import torch

from pellucid.arrays import array_from_image, image_from_array, image_from_tensor
from pellucid.errors import InputError


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4), (1, 1)])
def test_round_trip_is_exact(dtype, shape):
    rng = np.random.default_rng(0)
    array = rng.random(shape, np.float32)
    if dtype != "float32":
        array = (array * 1.2 * np.iinfo(dtype).max).clip(0, np.iinfo(dtype).max).astype(dtype)
    if shape[-1] == 4:
        array[:2, :, 3] = 0  # color under transparency survives, though it is not shown to the network
    image = image_from_array(array)
    assert image.pixels.shape == (3, *shape[:2])
    assert (image.alpha is not None) == (len(shape) == 3 and shape[2] == 4)
    back = array_from_image(image)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_every_16_bit_level_survives():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(array_from_image(image_from_array(levels)), levels)


def test_color_under_transparency_is_hidden_from_the_network():
    array = np.full((4, 4, 4), 200, np.uint8)
    array[1:3, 1:3] = 0
    assert float(image_from_array(array).pixels.min()) == pytest.approx(200 / 255)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 5, 7), np.uint8), "shape"),
        (np.zeros((2, 5, 7, 3), np.uint8), "shape"),
        (np.zeros((0, 7, 3), np.uint8), "shape"),
        (np.zeros((5, 7), np.int64), "int64"),
        (np.zeros((5, 7), bool), "bool"),
        (np.full((5, 7), 1.5), "1.5"),
        (np.full((5, 7), -0.1), "-0.1"),
        (np.full((5, 7), 1 + 1e-9), r" to 1\.000000001;"),
        (np.full((5, 7), np.nan, np.float32), "NaN"),
    ],
)
def test_bad_arrays_are_refused(array, words):
    with pytest.raises(InputError, match=words):
        image_from_array(array)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, 3, 4, 4),
        torch.zeros(4, 4, 3),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(3, 0, 4),
        torch.full((3, 4, 4), float("nan")),
        torch.full((3, 4, 4), 255.0),
    ],
)
def test_bad_tensors_are_refused(tensor):
    with pytest.raises(InputError, match="expected"):
        image_from_tensor(tensor)


def test_a_non_contiguous_array_is_read_right():
    array = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)[::-2, ::-1]
    assert np.array_equal(array_from_image(image_from_array(array)), array)


def test_a_masked_array_gives_its_samples():
    array = np.full((4, 5, 3), 51, np.uint8)
    image = image_from_array(np.ma.array(array, mask=True))
    assert torch.equal(image.pixels, image_from_array(array).pixels)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4, 5).to_sparse(),
        torch.zeros(3, 4, 5, device="meta"),
        torch.zeros(3, 4, 5).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "meta", "float8"],
)
def test_tensors_that_cannot_be_looked_at_are_refused(tensor):
    with pytest.raises(InputError, match="expected dense floating point"):
        image_from_tensor(tensor)
