"""`pellucid train`."""

from pathlib import Path

import pytest

from pellucid.checkpoint import Checkpoint


def test_trains_by_a_shipped_recipe(run, shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--data", shards, "--run", folder, "--steps", 1, "--device", "cpu")
    result = run("train", "smoke", *options)
    assert (result.code, result.out.strip()) == (0, f"weights: {folder / 'weights.safetensors'}"), result.err
    assert "smoke: 2,2" in result.err and "noise_25" in result.err
    assert Checkpoint.read(folder / "weights.safetensors").provenance["steps"] == 1

    result = run("train", "smoke", *options)
    assert result.code == 2
    assert "already holds a run. Go on with it by --resume" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("smok",), "There is no recipe called 'smok'. Did you mean smoke?"),
        (("smoke", "--steps", 0), "Invalid value for '--steps'"),
        (("smoke", "--minutes", 0), "The budget is 0.0 minutes; expected more than zero."),
        (("smoke", "--processes", 0), "Invalid value for '--processes'"),
        (("smoke", "--device", "tpu"), "There is no device 'tpu' to train on."),
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
