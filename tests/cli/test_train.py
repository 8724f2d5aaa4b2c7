"""`pellucid train`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import pellucid
from pellucid.checkpoint import Checkpoint


def test_trains_by_a_shipped_recipe(run, shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--data", shards, "--run", folder, "--steps", 1, "--device", "cpu")
    result = run("train", "smoke", *options)
    assert (result.code, result.out.strip()) == (0, f"weights: {folder / 'weights.safetensors'}"), result.err
    assert "smoke: 2,4" in result.err and "noise_25" in result.err
    assert Checkpoint.read(folder / "weights.safetensors").provenance["steps"] == 1

    result = run("train", "smoke", *options)
    assert result.code == 2
    assert "already holds a run. Go on with it by --resume" in result.err
    assert len(result.err.splitlines()) == 1


def test_of_two_processes_the_first_alone_speaks(shards: Path, tmp_path: Path) -> None:
    source = Path(pellucid.__file__).parent.parent
    command = [
        sys.executable,
        "-m",
        "pellucid",
        "train",
        "smoke",
        "--data",
        shards,
        "--run",
        tmp_path / "run",
    ]
    ended = subprocess.run(
        [*command, "--steps", "1", "--device", "cpu", "--processes", "2"],
        env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("weights: ") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("smok",), "There is no recipe called 'smok'. Did you mean smoke?"),
        (("smoke", "--steps", 0), "Invalid value for '--steps'"),
        (("smoke", "--minutes", 0), "The budget is 0.0 minutes; expected more than zero."),
        (("smoke", "--processes", 0), "Invalid value for '--processes'"),
        (("smoke", "--device", "tpu"), "There is no device 'tpu' to train on."),
        (("recognizer", "--nodes", "2"), "--nodes does not go with recognizer, which one machine trains"),
        (("recognizer", "--validation", "x"), "--validation does not go with recognizer"),
    ],
)
def test_refuses_in_a_sentence(run, shards: Path, tmp_path: Path, arguments: tuple, said: str) -> None:
    result = run("train", *arguments, "--data", shards, "--run", tmp_path / "run")
    assert result.code == 2
    assert said in result.err
    assert not (tmp_path / "run").exists()


def test_data_must_be_shards(run, tmp_path: Path) -> None:
    result = run("train", "smoke", "--data", tmp_path, "--run", tmp_path / "run")
    assert result.code == 2
    assert "is no shard folder" in result.err


def test_a_test_picture_among_the_shards_is_refused_unless_allowed(run, shards: Path, tmp_path: Path) -> None:
    rows = json.loads((shards / "manifest.json").read_text())["files"]
    used = next(row["path"] for row in rows if row["split"] == "train" and row["role"] == "clean")
    with Image.open(shards / used) as picture:
        picture.save(tmp_path / "test.bmp")
    arguments = (
        "train",
        "smoke",
        "--data",
        shards,
        "--run",
        tmp_path / "run",
        "--steps",
        1,
        "--device",
        "cpu",
    )
    result = run(*arguments, "--test", tmp_path)
    assert result.code == 2
    assert "1 of 1 test pictures are training pictures: " in result.err and used in result.err
    assert "say --allow-leak." in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()

    result = run(*arguments, "--test", tmp_path, "--allow-leak")
    assert result.code == 0, result.err
    assert "leak check: 1 of 1 test pictures are training pictures: " in result.err


def test_a_test_picture_saved_again_is_refused(run, shards: Path, tmp_path: Path) -> None:
    """As evaluate would find it among the training pictures, after the training."""
    rows = json.loads((shards / "manifest.json").read_text())["files"]
    used = next(row["path"] for row in rows if row["split"] == "train" and row["role"] == "clean")
    with Image.open(shards / used) as picture:
        picture.convert("RGB").resize((84, 72)).save(tmp_path / "test.jpg", quality=70)
    result = run("train", "smoke", "--data", shards, "--run", tmp_path / "run", "--test", tmp_path)
    assert result.code == 2
    assert "1 of 1 test pictures are training pictures: " in result.err and f"{used} (near)" in result.err


def test_of_data_sets_only_the_training_files_are_compared(run, tmp_path: Path) -> None:
    """Test pictures below the same root are no leak; those in the training folder are."""
    for i in (1, 2):
        for folder, name, level in (("rainy", f"rain-{i}", i), ("gt", f"norain-{i}", 9 * i)):
            path = tmp_path / f"data/Train/Derain/{folder}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 40), (level, 0, 0)).save(path)
    test = tmp_path / "test/derain/Rain100L/target"
    test.mkdir(parents=True)
    Image.new("RGB", (48, 40), (0, 200, 0)).save(test / "1.png")
    arguments = ("train", "daair.rain", "--data", tmp_path, "--run", tmp_path / "run", "--test", test)
    # Refused for its device, which is looked at after the leak check and before any network is built.
    result = run(*arguments, "--device", "tpu")
    assert "leak check: none of the 1 test pictures is among the 4 training pictures" in result.err

    Image.new("RGB", (48, 40), (18, 0, 0)).save(test / "2.bmp")
    result = run(*arguments, "--device", "tpu")
    assert result.code == 2 and "norain-2.png (pixels)" in result.err and "leak check" not in result.err
