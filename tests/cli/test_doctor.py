import json

import pytest

from pellucid import weights


@pytest.fixture
def folder(tmp_path, monkeypatch, small_weights):
    """A weights folder with a fresh network as the default."""
    (tmp_path / "index.json").write_text("{}")
    path = tmp_path / f"{weights.DEFAULT}.safetensors"
    path.write_bytes(small_weights.read_bytes())
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    weights.register(path)
    return tmp_path


def test_a_healthy_installation(run, folder):
    result = run("doctor", "--device", "cpu", "--json")
    values = json.loads(result.out)
    assert (result.code, values["problems"]) == (0, [])
    assert values["device"] == "cpu"
    assert values["weights"][weights.DEFAULT]["verified"]
    assert values["run"]["seconds"] > 0
    assert set(values["run"]["probe"]["seconds"]) == {"float32", "bf16"}
    text = run("doctor", "--device", "cpu")
    assert text.code == 0
    for words in ("device: cpu", "verified", "probe at", "run: 256 x 256"):
        assert words in text.out


def test_altered_weights_are_a_problem(run, folder):
    path = folder / f"{weights.DEFAULT}.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    result = run("doctor", "--device", "cpu", "--json")
    values = json.loads(result.out)
    assert result.code == 1
    assert "SHA-256" in values["problems"][0]
    assert values["run"] is None
    assert "can't be used" in run("doctor", "--device", "cpu").out


def test_missing_default_weights_are_a_problem(run, folder):
    (folder / "index.json").write_text("{}")
    result = run("doctor", "--device", "cpu")
    assert result.code == 1
    assert "problem: The default weights" in result.out
