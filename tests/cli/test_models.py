import json
import math
from dataclasses import replace

from pellucid import models, weights
from pellucid.checkpoint import Checkpoint


def test_models_lists_everything(run):
    result = run("models")
    assert result.code == 0
    for name in (*models.names(), *weights.names()):
        assert name in result.out
    assert "noise_25 +" in result.out


def test_models_for_machines(run):
    values = json.loads(run("models", "--json").out)
    assert [row["name"] for row in values["structures"]] == models.names()
    assert [row["name"] for row in values["weights"]] == weights.names()
    for row in values["weights"]:
        if models.get(row["structure"]).restores:
            assert row["validation"]["noise_25"]["output"] > row["validation"]["noise_25"]["input"]
        assert len(row["sha256"]) == 64
        assert row["parameters"] == models.get(row["structure"]).parameters


def test_scores_that_json_does_not_know_become_null(run, tmp_path, monkeypatch, small_weights):
    checkpoint = Checkpoint.read(small_weights)
    scores = {"clean": {"input": math.inf, "gain": math.nan}, "rain": {"gain": 2.5}}
    replace(checkpoint, provenance={"validation": scores}).write(tmp_path / "small.test.safetensors")
    (tmp_path / "index.json").write_text("{}")
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    weights.register(tmp_path / "small.test.safetensors")
    row = json.loads(run("models", "--json").out)["weights"][0]
    assert row["validation"] == {"clean": {"input": None, "gain": None}, "rain": {"gain": 2.5}}


def test_embedded_weights_are_listed_with_their_facts(run, tmp_path, monkeypatch, small_weights):
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "small.test.safetensors").write_bytes(small_weights.read_bytes())
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    assert "No weights" in run("models").out
    file = weights.register(tmp_path / "small.test.safetensors")
    out = run("models").out
    assert file.sha256 is not None
    for words in ("small.test", "daair_s", "Apache-2.0", file.sha256[:16]):
        assert words in out
