import csv
import hashlib
import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import CliRunner

import pellucid
from pellucid import write_image
from pellucid.arrays import image_from_array
from pellucid.cli import create_app
from pellucid.data import center_crop
from pellucid.errors import ImageTooLargeError, InputError, UnknownNameError, UnreadableImageError
from pellucid.evaluate import add_noise, evaluate_denoising, evaluate_pairs
from pellucid.evaluate.report import origins
from pellucid.evaluate.scores import picture_table
from pellucid.image_io import Limits
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.metrics.psnr_y import psnr_y
from pellucid.metrics.ssim_y import ssim_y
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


def test_the_guides_example_gives_the_commands_numbers(pairs, monkeypatch, capsys):
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text("utf-8")
    example = re.findall(r"^network = .*\n|^print\(evaluate_pairs.*\n", guide, re.MULTILINE)
    monkeypatch.chdir(pairs)
    exec("".join(example).replace('"pairs"', '"."'), {"pellucid": pellucid, "evaluate_pairs": evaluate_pairs})
    psnr = float(capsys.readouterr().out)
    done = CliRunner().invoke(create_app(), ["evaluate", "--data", ".", "--model", "daair_s.5task", "--json"])
    assert json.loads(done.stdout)["output"]["psnr"] == pytest.approx(psnr, abs=1e-9)


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
    other = evaluate_denoising(IdentityRestorer(), pairs, 25, seed=1)
    assert other.seed == 1
    assert other.input != result.input


def test_the_noise_of_a_name_never_changes():
    noisy = add_noise(torch.full((3, 16, 16), 0.5), 25, "a")
    levels = (noisy[:, 0, :4] * 255).round().int().tolist()
    assert levels == [[149, 115, 139, 98], [127, 104, 120, 136], [165, 137, 183, 152]]  # truncated


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


def test_bitmaps_are_measured_like_their_copies(pairs):
    expected = evaluate_pairs(IdentityRestorer(), pairs)
    for path in [*(pairs / "clean").iterdir(), *(pairs / "degraded").iterdir()]:
        with Image.open(path) as copy:
            copy.save(path.with_name(f"{path.stem}.BMP"), "BMP")
        path.unlink()
    found = evaluate_pairs(IdentityRestorer(), pairs)
    assert (found.input, found.n, found.pictures[0].name) == (expected.input, 2, "a.BMP")
    noisy = evaluate_denoising(IdentityRestorer(), pairs, 25)
    assert noisy.n == 2


def test_pictures_that_can_not_be_read_are_not_left_out_in_silence(pairs):
    (pairs / "clean" / "notes.txt").write_text("no picture")
    (pairs / "clean" / ".thumb.gif").write_bytes(b"GIF8")
    assert evaluate_pairs(IdentityRestorer(), pairs).n == 2
    for side in ("degraded", "clean"):
        (pairs / side / "c.PPM").write_bytes(b"P6")
    with pytest.raises(InputError, match=r"can't be read here: c.PPM; expected .* Convert them to PNG"):
        evaluate_pairs(IdentityRestorer(), pairs)
    with pytest.raises(InputError, match=r"can't be read here: c.PPM"):
        evaluate_denoising(IdentityRestorer(), pairs, 25)


def test_unequal_and_tiny_pictures_are_refused(pairs):
    write_image(image_from_array(picture(0, (41, 60))), pairs / "degraded" / "a.tif", overwrite=True)
    with pytest.raises(InputError, match="60 x 41 and 52 x 41"):
        evaluate_pairs(IdentityRestorer(), pairs)
    write_image(image_from_array(picture(0, (9, 60))), pairs / "clean" / "a.png", overwrite=True)
    with pytest.raises(InputError, match="multiples of 16"):
        evaluate_denoising(IdentityRestorer(), pairs, 25)


def test_what_can_not_be_measured_is_found_before_any_picture_is_restored(pairs, monkeypatch):
    """It would lose the scores of all before it."""
    done = []

    def count(*progress):
        done.append(progress)

    with monkeypatch.context() as patch, pytest.raises(ImageTooLargeError, match=r"a.tif is 52 x 41 pixels"):
        patch.setattr("pellucid.evaluate.pairs.Limits", partial(Limits, 41 * 52 - 1))
        evaluate_pairs(IdentityRestorer(), pairs, progress=count)
    write_image(image_from_array(picture(1, (41, 60))), pairs / "degraded" / "b.x.tif", overwrite=True)
    with pytest.raises(InputError, match=r"'b.x.tif' in .* has the sizes 60 x 41 and 52 x 41"):
        evaluate_pairs(IdentityRestorer(), pairs, progress=count)
    write_image(image_from_array(picture(1, (9, 60))), pairs / "clean" / "b.x.png", overwrite=True)
    with pytest.raises(InputError, match=r"b.x.png is 60 x 9 pixels"):
        evaluate_denoising(IdentityRestorer(), pairs, 25, progress=count)
    (pairs / "clean" / "b.x.png").write_bytes((pairs / "clean" / "a.png").read_bytes()[:-20])
    with pytest.raises(UnreadableImageError, match=r"b.x.png is cut short"):
        evaluate_pairs(IdentityRestorer(), pairs, progress=count)
    assert done == []


def test_the_luma_protocol_takes_luma(pairs):
    result = evaluate_pairs(IdentityRestorer(), pairs, protocol="papers-y")
    clean = image_from_array(picture(0)).pixels[:, 4:36, 2:50]
    degraded = image_from_array(picture(0) // 2).pixels[:, 4:36, 2:50]
    first = result.pictures[0].output
    assert (first.psnr, first.ssim) == (psnr_y(degraded, clean), ssim_y(degraded, clean))
    assert (result.protocol_name, set(result.measures)) == ("papers-y", {"psnr_y", "ssim_y"})
    assert "Y of BT.601" in result.protocol


class Halver(IdentityRestorer):
    """Halves every value, so that an 8-bit picture leaves its grid."""

    def __call__(self, image, **options):
        restoration = super().__call__(image, **options)
        return replace(restoration, image=replace(restoration.image, pixels=restoration.image.pixels / 2))


class ByTwoEngines(IdentityRestorer):
    """Runs every other picture by ONNX Runtime, as it says."""

    done = 0

    def __call__(self, image, **options):
        self.done += 1
        restoration = super().__call__(image, **options)
        engine = "onnxruntime" if self.done % 2 else "torch"
        return replace(restoration, report=replace(restoration.report, engine=engine))


def test_results_name_the_engines_that_ran(pairs):
    both = evaluate_pairs(ByTwoEngines(), pairs)
    assert {picture.engine for picture in both.pictures} == {"onnxruntime", "torch"}
    assert both.engine == both.to_dict()["engine"] == both.origin["engine"] == "onnxruntime and torch"
    assert both.run_on == "cpu, float32, onnxruntime and torch"
    rows = csv.DictReader(picture_table({"set": both}).splitlines())
    assert [row["engine"] for row in rows] == [picture.engine for picture in both.pictures]
    assert "onnxruntime" in origins({"set": both})[1][-1]
    usual = evaluate_pairs(IdentityRestorer(), pairs)
    assert (usual.engine, usual.run_on) == ("torch", "cpu, float32")


def test_the_file_protocol_takes_whole_pictures_of_8_bits(pairs):
    seen = []
    result = evaluate_pairs(Halver(), pairs, protocol="files", witness=lambda *parts: seen.append(parts))
    scores, degraded, restored, clean = seen[0]
    assert [p.shape for p in (degraded, restored, clean)] == [(3, 41, 52)] * 3
    assert torch.equal(restored * 255, (restored * 255).round())
    assert scores == result.pictures[0]
    assert scores.output.psnr == psnr_rgb((degraded / 2 * 255).round() / 255, clean)
    unrounded = evaluate_pairs(Halver(), pairs).pictures[0].output.psnr
    assert unrounded != scores.output.psnr
    assert "rounded to 8 bits" in result.protocol


def test_more_measures_are_taken_beside_the_protocols_own(pairs):
    result = evaluate_pairs(Halver(), pairs, measures=["ciede2000", "psnr_y", "psnr_rgb"])
    assert list(result.measures) == ["psnr_rgb", "ssim_rgb", "ciede2000", "psnr_y"]
    summary = result.measures["ciede2000"]
    assert summary.output.low <= summary.output.mean <= summary.output.high
    assert summary.output.mean > summary.input.mean > 0
    values = result.to_dict(per_image=True)
    assert set(values["input"]) == set(values["output"]) == {"psnr", "ssim"}
    assert values["measures"]["psnr_rgb"]["output"]["mean"] == values["output"]["psnr"]
    assert values["pictures"][1]["measures"]["ciede2000"]["output"] > 0


def test_a_picture_that_a_measure_refuses_is_named(pairs):
    with pytest.raises(InputError, match=r"a.tif can't be measured.*at least 96"):
        evaluate_pairs(IdentityRestorer(), pairs, measures=["niqe"])


def test_unknown_names_are_refused_before_any_picture(pairs):
    for path in (pairs / "degraded").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(UnknownNameError, match="Did you mean papers"):
        evaluate_pairs(IdentityRestorer(), pairs, protocol="paper")
    with pytest.raises(UnknownNameError, match="ciede2000"):
        evaluate_pairs(IdentityRestorer(), pairs, measures=["ciede"])


def test_a_result_names_its_data_by_their_bytes(pairs):
    result = evaluate_pairs(IdentityRestorer(), pairs)
    again = evaluate_pairs(IdentityRestorer(), pairs)
    assert result == again
    lines = sorted(
        f"{side}/{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for side in ("clean", "degraded")
        for path in (pairs / side).iterdir()
    )
    assert result.data_sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    changed = picture(0)
    changed[0, 0] += 1  # cropped away, but another file
    write_image(image_from_array(changed), pairs / "clean" / "a.png", overwrite=True)
    assert evaluate_pairs(IdentityRestorer(), pairs).data_sha256 != result.data_sha256
