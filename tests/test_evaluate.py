import json
import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pellucid import write_image
from pellucid.arrays import image_from_array
from pellucid.data import center_crop
from pellucid.errors import InputError
from pellucid.evaluate import add_noise, evaluate_denoising, evaluate_pairs
from pellucid.restorer import IdentityRestorer, load


def picture(seed: int, size=(41, 52)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.linspace(0, 150, size[0]), np.linspace(0, 80, size[1]))[..., None]
    return (smooth + rng.integers(0, 20, (*size, 3))).astype(np.uint8)


@pytest.fixture
def pairs(tmp_path):
    for side in ("degraded", "clean"):
        (tmp_path / side).mkdir()
    for seed, name in enumerate(("a", "b.x")):
        clean = picture(seed)
        write_image(image_from_array(clean), tmp_path / "clean" / f"{name}.png")
        write_image(image_from_array(clean // 2), tmp_path / "degraded" / f"{name}.tif")
    return tmp_path


def test_pairs_agree_with_scikit_image(pairs, small_weights):
    restorer = load(small_weights, device="cpu", precision="float32")
    result = evaluate_pairs(restorer, pairs)
    expected: dict[str, list[tuple[float, float]]] = {"input": [], "output": []}
    for seed in (0, 1):
        clean = picture(seed)[4:36, 2:50]  # 41 x 52 about its center: 32 x 48
        degraded = (clean // 2).astype(np.float32) / 255
        restored = restorer(degraded).tensor.permute(1, 2, 0).numpy()
        for side, image in (("input", degraded), ("output", restored)):
            reference = clean.astype(np.float64) / 255
            expected[side].append(
                (
                    peak_signal_noise_ratio(reference, image.astype(np.float64), data_range=1),
                    structural_similarity(reference, image.astype(np.float64), channel_axis=2, data_range=1),
                )
            )
    for side in ("input", "output"):
        psnr, ssim = np.mean(expected[side], axis=0)
        assert getattr(result, side).psnr == pytest.approx(psnr, abs=1e-4)
        assert getattr(result, side).ssim == pytest.approx(ssim, abs=1e-5)
    assert result.n == 2
    assert result.weights_sha256 == restorer.weights_sha256
    assert [p.name for p in result.pictures] == ["a.tif", "b.x.tif"]


def test_equal_pictures_give_valid_json(pairs):
    for path in (pairs / "degraded").iterdir():
        path.unlink()
    for path in (pairs / "clean").iterdir():
        (pairs / "degraded" / path.name).write_bytes(path.read_bytes())
    result = evaluate_pairs(IdentityRestorer(), pairs)
    assert math.isinf(result.output.psnr)
    values = json.loads(json.dumps(result.to_dict(per_image=True), allow_nan=False))
    assert values["output"] == {"psnr": None, "ssim": 1.0}
    assert len(values["pictures"]) == 2
    assert "pictures" not in result.to_dict()


def test_noise_follows_the_papers(pairs):
    seen = []
    progress = []
    result = evaluate_denoising(
        IdentityRestorer(), pairs, 25, progress=lambda done, total: progress.append((done, total))
    )
    for seed, name in enumerate(("a", "b.x")):
        clean = center_crop(image_from_array(picture(seed)).pixels, 16)
        seen.append(add_noise(clean, 25, name))
        assert torch.equal(seen[-1] * 255, (seen[-1] * 255).round())  # an 8-bit grid
    reference = center_crop(image_from_array(picture(0)).pixels, 16)
    error = (seen[0] - reference).numpy() * 255
    assert error.std() == pytest.approx(25, abs=1.5)
    assert error.mean() == pytest.approx(-0.5, abs=1.5)  # truncation takes half a level
    assert not torch.equal(seen[0] - reference, seen[1] - reference)
    assert result.pictures[0].input.psnr == pytest.approx(20.2, abs=0.4)
    assert result.input == result.output
    assert "sigma 25" in result.protocol
    assert progress == [(1, 2), (2, 2)]
    assert evaluate_denoising(IdentityRestorer(), pairs / "clean", 25) == result


def test_the_noise_of_a_name_never_changes():
    noisy = add_noise(torch.full((3, 16, 16), 0.5), 25, "a")
    levels = (noisy[:, 0, 0] * 255).round().int().tolist()
    assert levels == [149, 127, 165]


def test_noise_for_a_name_that_is_no_text():
    clean = torch.full((3, 16, 16), 0.5)
    assert not torch.equal(add_noise(clean, 25, "\udcff"), add_noise(clean, 25, "\udcfe"))


@pytest.mark.parametrize("sigma", [0, -1, 256, float("nan")])
def test_a_sigma_out_of_range_is_refused(pairs, sigma):
    with pytest.raises(InputError, match="Sigma"):
        evaluate_denoising(IdentityRestorer(), pairs, sigma)


def test_pictures_without_a_partner_are_named(pairs):
    (pairs / "clean" / "b.x.png").rename(pairs / "clean" / "c.png")
    with pytest.raises(InputError, match=r"degraded/b.x.tif, clean/c.png"):
        evaluate_pairs(IdentityRestorer(), pairs)


def test_bad_folders_are_refused(pairs, tmp_path):
    with pytest.raises(InputError, match="can't be listed"):
        evaluate_pairs(IdentityRestorer(), tmp_path / "nowhere")
    write_image(image_from_array(picture(0)), pairs / "clean" / "a.jpg")
    with pytest.raises(InputError, match=r"a.jpg and a.png"):
        evaluate_pairs(IdentityRestorer(), pairs)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        evaluate_denoising(IdentityRestorer(), tmp_path / "empty", 25)


def test_unequal_and_tiny_pictures_are_refused(pairs):
    write_image(image_from_array(picture(0, (41, 60))), pairs / "degraded" / "a.tif", overwrite=True)
    with pytest.raises(InputError, match="60 x 41 and 52 x 41"):
        evaluate_pairs(IdentityRestorer(), pairs)
    write_image(image_from_array(picture(0, (9, 60))), pairs / "clean" / "a.png", overwrite=True)
    with pytest.raises(InputError, match="multiples of 16"):
        evaluate_denoising(IdentityRestorer(), pairs, 25)
