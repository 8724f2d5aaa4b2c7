"""`pellucid explain`."""

import json

import numpy as np
import pytest

from pellucid import read_image, write_image
from pellucid.arrays import image_from_array


@pytest.fixture
def options(small_weights) -> tuple[str, ...]:
    return ("--model", str(small_weights), "--device", "cpu", "--precision", "float32")


@pytest.fixture
def photo(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    write_image(image_from_array(noise), tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_picture_gives_a_figure_and_json(run, options, photo, tmp_path):
    target = tmp_path / "explained.png"
    result = run("explain", photo, "-o", target, *options, "--json")
    values = json.loads(result.out)
    assert (result.code, values["input"], values["output"]) == (0, str(photo), str(target))
    assert values["picture"] == {"width": 48, "height": 32}
    assert len(values["routing"]) == 16
    assert values["prompts"] is None
    assert 0 < values["change"]["ciede2000"] < 100
    assert read_image(target).width == 1240
    assert "is written" in result.err


def test_without_an_output_it_prints_lines(run, options, photo, tmp_path):
    result = run("explain", photo, *options)
    assert result.code == 0
    assert "encoder.0.0  expert" in result.out
    assert list(tmp_path.iterdir()) == [photo]


def test_an_existing_file_stays_unless_asked_and_the_photo_always(run, options, photo, tmp_path):
    target, before = tmp_path / "explained.png", photo.read_bytes()
    target.write_bytes(b"mine")
    assert run("explain", photo, "-o", target, *options).code == 2
    assert target.read_bytes() == b"mine"
    assert run("explain", photo, "-o", target, "--overwrite", *options).code == 0
    assert read_image(target).width == 1240
    result = run("explain", photo, "-o", photo, "--overwrite", *options)
    assert (result.code, photo.read_bytes()) == (2, before)
    assert "the picture to explain" in result.err


def test_kinds_in_folders_and_shards_give_a_table(run, options, photo, shards, tmp_path):
    for kind in ("noise", "rain"):
        folder = tmp_path / "kinds" / kind
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(photo.read_bytes())
    target = tmp_path / "table.png"
    result = run("explain", tmp_path / "kinds", "-o", target, *options, "--json")
    values = json.loads(result.out)
    assert (result.code, values["pictures"]) == (0, {"noise": 1, "rain": 1})
    assert all(block["bits"] == 0 for block in values["blocks"])  # one and the same picture
    assert read_image(target).width >= 1240
    result = run("explain", "--shards", shards, "--limit", 1, "--crop", 16, *options)
    assert result.code == 0
    assert "encoder.0.0  0.00 bits (by chance up to" in result.out or "bits (by chance up to" in result.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Neither a picture nor --shards"),
        (("PHOTO", "--shards", "x"), "Both a picture and --shards"),
        (("PHOTO", "--limit", 3), "--limit was given for one picture"),
        (("PHOTO", "--prompt", "rain"), "takes no diagnosis"),
        (("PHOTO", "-o", "figure.txt"), "Take .png"),
        (("PHOTO", "-o", "nowhere/figure.png"), "no folder nowhere"),
        (("missing.png",), "missing.png"),
        (("FOLDER", "--prompt", "rain"), "--prompt was given for a data set"),
        (("FOLDER",), "0 sub-folders with pictures"),
        (("--shards", "FOLDER"), "is no shard folder"),
    ],
)
def test_wrong_calls_end_in_a_sentence(run, options, photo, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    places = {"PHOTO": photo, "FOLDER": tmp_path}
    result = run("explain", *(places.get(a, a) for a in arguments), *options)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err
    assert "Traceback" not in result.err


def test_an_exported_file_says_that_it_hides_its_routing(run, photo, tiny_checkpoints, tmp_path):
    """It would pass for a network without routers."""
    assert run("export", tiny_checkpoints["daair_s"], "-o", tmp_path).code == 0
    model = ("--model", tmp_path / "daair_s.onnx")
    result = run("explain", photo, *model, "--json")
    assert (result.code, json.loads(result.out)["routing"]) == (0, None)
    assert "such a file shows neither its routing nor" in result.err
    (tmp_path / "kinds").mkdir()
    result = run("explain", tmp_path / "kinds", *model)
    assert (result.code, result.out) == (2, "")
    assert "run by onnxruntime, which does not show its routing" in result.err
    assert "shows neither" not in run("explain", photo, "--model", tiny_checkpoints["daair_s"]).err


def test_a_guided_network_wants_its_prompt(run, photo, tmp_path, monkeypatch):
    import torch

    from pellucid.checkpoint import Checkpoint
    from pellucid.models.dfpir import DFPIR, DFPIRConfig

    torch.manual_seed(0)
    config = DFPIRConfig(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, prompts=("rain", "haze"))
    Checkpoint.from_network("dfpir", DFPIR(config)).write(tmp_path / "told.safetensors")
    options = ("--model", tmp_path / "told.safetensors", "--device", "cpu", "--precision", "float32")
    with monkeypatch.context() as without:
        without.setattr("pellucid.restorer.RECOGNIZER", "no such weights")
        result = run("explain", photo, *options)
    assert (result.code, result.out) == (2, "")
    assert "Give one of its prompts, rain, haze" in result.err
    result = run("explain", photo, "--prompt", "haze", *options)
    assert result.code == 0
    assert "of the slots and" in result.out
    assert run("explain", "--shards", tmp_path, *options).code == 2
