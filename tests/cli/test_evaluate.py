import json

import numpy as np
import pytest

from pellucid import write_image
from pellucid.arrays import image_from_array


@pytest.fixture
def options(small_weights) -> tuple[str, ...]:
    return ("--model", str(small_weights), "--device", "cpu", "--precision", "float32")


@pytest.fixture
def data(tmp_path):
    for side in ("clean", "degraded"):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            noise = np.random.default_rng(len(side)).integers(0, 30, (32, 48, 3), dtype=np.uint8)
            write_image(image_from_array(100 + noise), tmp_path / side / f"{name}.png")
    return tmp_path


def test_pairs(run, options, data):
    result = run("evaluate", *options, "--data", data, "--json")
    values = json.loads(result.out)
    assert (result.code, values["n"], values["model"]) == (0, 2, "small")
    assert len(values["weights_sha256"]) == 64
    assert 20 < values["input"]["psnr"] < 30
    assert 0 < values["output"]["ssim"] < 1
    assert "center crop to multiples of 16" in values["protocol"]


def test_noise_and_each_picture(run, options, data):
    values = json.loads(run("evaluate", *options, "--data", data, "--sigma", 25, "--per-image", "--json").out)
    assert [row["name"] for row in values["pictures"]] == ["a.png", "b.png"]
    assert values["input"]["psnr"] == pytest.approx(20.2, abs=0.5)
    text = run("evaluate", *options, "--data", data, "--sigma", 25, "--per-image").out
    assert f"{values['output']['psnr']:.2f} dB" in text
    assert text.count("PSNR") == 3


def test_wrong_calls_end_in_a_sentence(run, options, data):
    (data / "clean" / "a.png").unlink()
    result = run("evaluate", *options, "--data", data, "--json")
    assert (result.code, result.out) == (2, "")
    assert "without a partner: degraded/a.png" in result.err
    assert run("evaluate", *options, "--data", data, "--sigma", -1).code == 2
    assert "can't be listed" in run("evaluate", *options, "--data", data / "nowhere").err
