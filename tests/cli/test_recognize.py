import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid import write_image
from pellucid.arrays import image_from_array
from pellucid.checkpoint import Checkpoint
from pellucid.models.recognizer import RecognizerConfig, RecognizerNetwork


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    network = RecognizerNetwork(RecognizerConfig(crop=32, familiar=1e6))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    Checkpoint.from_network("recognizer", network).write(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in ("a.png", "b/a.png", "b/.hidden.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        write_image(image_from_array(pixels), path)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


def test_each_picture_is_one_line(run, photos, weights_file):
    result = run("recognize", photos / "a.png", photos, "--model", weights_file)
    assert result.code == 0
    names = [line.split(": ")[0] for line in result.out.splitlines()]
    assert names == [str(photos / name) for name in ("a.png", "a.png", "b/a.png")]


def test_json_holds_the_diagnosis(run, photos, weights_file):
    row = json.loads(run("recognize", photos / "a.png", "--json", "--model", weights_file).out)
    assert row["ok"] and row["input"] == str(photos / "a.png")
    found = row["diagnosis"]
    assert set(found["probabilities"]) == {"noise", "rain", "haze", "blur", "low_light", "jpeg"}
    assert found["verdict"] in ("degraded", "nothing wrong", "unknown")
    assert set(found["strengths"]) == set(found["present"])


def test_what_is_no_picture_is_listed_and_the_rest_goes_on(run, photos, weights_file):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    result = run("recognize", photos, "--model", weights_file)
    assert result.code == 1
    assert "broken.jpg" in result.err
    assert len(result.out.splitlines()) == 2


def test_a_folder_that_cant_be_listed_is_told(run, photos, weights_file, lock):
    lock("b")
    result = run("recognize", photos, "--model", weights_file)
    assert (result.code, len(result.out.splitlines())) == (1, 1)
    assert "b can't be listed: Permission denied" in result.err and "not recognized" in result.err


@pytest.mark.parametrize("arguments", [(), ("a.png", "--shards", "x")])
def test_pictures_or_shards(run, arguments):
    result = run("recognize", *arguments)
    assert result.code == 2
    assert "expected one of them" in result.err


def test_a_missing_picture_is_said_to_be_missing(run, tmp_path, weights_file):
    result = run("recognize", tmp_path / "nothing.png", "--model", weights_file)
    assert result.code == 2 and "does not exist" in result.err


def test_measures_go_to_results(run, shards, tmp_path, weights_file, monkeypatch):
    monkeypatch.setattr("pellucid.labels.VALIDATION_DRAWN", 9)
    arguments = ("recognize", "--shards", shards, "--results", tmp_path / "r", "--model", weights_file)
    result = run(*arguments)
    assert result.code == 0
    assert "macro F1" in result.out and "expected calibration error" in result.out
    assert (tmp_path / "r" / "tiny.csv").read_text().startswith("kind,pictures,f1,")
    again = run(*arguments)
    assert again.code == 2 and "tiny.csv" in again.err
