import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pellucid import train_recognizer as module
from pellucid.checkpoint import Checkpoint
from pellucid.data import Task
from pellucid.errors import CheckpointError, InputError, OutputExistsError, RecipeError
from pellucid.recipe import Recipe, load_recipe
from pellucid.train import train
from pellucid.train_recognizer import train_recognizer

RECIPE = Recipe(
    name="tiny",
    model="recognizer",
    tasks=(
        Task("noise", 1, "clean", "gaussian_noise"),
        Task("clean", 1, "drawn"),
        Task("blur", 1, "blur_pairs"),
    ),
    config={"crop": 32, "widths": [4, 4, 8, 8], "hidden": 8},
    patch=40,
    batch=4,
    steps=4,
    precision="32-true",
)


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    for name, few in {"SETTLING": 1, "FITTING": 2, "EPOCHS": 2, "DRAWN": 11}.items():
        monkeypatch.setattr(module, name, few)
    monkeypatch.setattr("pellucid.labels.VALIDATION_DRAWN", 9)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.read(path).tensors


def test_a_run_leaves_calibrated_weights_and_a_log(shards, tmp_path):
    read = Checkpoint.read(train_recognizer(RECIPE, shards, tmp_path / "a", device="cpu"))
    assert read.provenance["steps"] == 4 and read.provenance["samples"] == 16
    assert len(read.config["slopes"]) == 7 and read.config["familiar"] < 1e9
    assert read.provenance["recognition"]["n"] > 0
    assert read.tensors["axes"].any() and read.tensors["residue"] != 1
    assert '"validation"' in (tmp_path / "a" / "log.jsonl").read_text()
    read.build()


def test_a_run_that_was_cut_off_ends_with_the_same_bits(shards, tmp_path):
    whole = weights(train_recognizer(RECIPE, shards, tmp_path / "whole", device="cpu"))
    half = replace(RECIPE, steps=2, final_learning_rate=RECIPE.learning_rate)
    constant = replace(RECIPE, final_learning_rate=RECIPE.learning_rate)
    straight = weights(train_recognizer(constant, shards, tmp_path / "straight", device="cpu"))
    train_recognizer(half, shards, tmp_path / "cut", device="cpu")
    resumed = weights(train_recognizer(constant, shards, tmp_path / "cut", device="cpu", resume=True))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not all(torch.equal(straight[name], whole[name]) for name in straight)


def test_other_processes_draw_the_same_pictures(shards, tmp_path):
    alone = weights(train_recognizer(RECIPE, shards, tmp_path / "1", device="cpu"))
    helped = weights(train_recognizer(RECIPE, shards, tmp_path / "2", device="cpu", processes=2))
    assert all(torch.equal(alone[name], helped[name]) for name in alone)


def test_a_run_is_only_continued_on_purpose(shards, tmp_path):
    train_recognizer(RECIPE, shards, tmp_path, device="cpu")
    with pytest.raises(OutputExistsError, match="already holds a run"):
        train_recognizer(RECIPE, shards, tmp_path, device="cpu")
    with pytest.raises(RecipeError, match="holds a run of tiny"):
        train_recognizer(replace(RECIPE, name="other"), shards, tmp_path, device="cpu", resume=True)


def test_each_network_is_trained_by_its_own_loop(shards, tmp_path):
    with pytest.raises(RecipeError, match="expected a recognizer"):
        train_recognizer(load_recipe("smoke"), shards, tmp_path)
    with pytest.raises(RecipeError, match="restores nothing"):
        train(RECIPE, shards, tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [("minutes", 0), ("minutes", math.inf), ("save_every", math.nan), ("device", "abacus")],
)
def test_what_can_not_be_is_refused(shards, tmp_path, option, value):
    with pytest.raises(InputError):
        train_recognizer(RECIPE, shards, tmp_path, **{option: value})


def test_the_state_of_another_version_is_refused_in_words(shards, tmp_path):
    train_recognizer(RECIPE, shards, tmp_path / "a", device="cpu")
    file = tmp_path / "a" / "state.safetensors"
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
        tensors = {k: opened.get_tensor(k) for k in opened.keys() if not k.endswith("axes")}  # noqa: SIM118
    save_file(tensors, file, header)
    with pytest.raises(RecipeError, match="another version"):
        train_recognizer(RECIPE, shards, tmp_path / "a", device="cpu", resume=True)


def test_without_validation_pictures_nothing_is_trained(shards, tmp_path):
    for file in (shards / "manifest.json").parent.iterdir():
        (tmp_path / "training").mkdir(exist_ok=True)
        if file.name != "manifest.json":
            (tmp_path / "training" / file.name).symlink_to(file)
    rows = json.loads((shards / "manifest.json").read_text("utf-8"))["files"]
    rows = [row for row in rows if row["split"] == "train"]
    (tmp_path / "training" / "manifest.json").write_text(json.dumps({"files": rows}), "utf-8")
    with pytest.raises(RecipeError, match="holds no validation pictures, by which a recognizer"):
        train_recognizer(RECIPE, tmp_path / "training", tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_starts_with_the_weights_of_a_calibrated_one_and_no_others(shards, tmp_path):
    first = train_recognizer(RECIPE, shards, tmp_path / "first", device="cpu")
    still = replace(RECIPE, steps=1, learning_rate=1e-12, final_learning_rate=0.0, seed=1)
    again = weights(train_recognizer(still, shards, tmp_path / "again", device="cpu", start_from=first))
    assert torch.equal(again["trunk.stem.0.weight"], weights(first)["trunk.stem.0.weight"])
    with pytest.raises(CheckpointError, match="holds a daair_s; the recipe trains recognizer"):
        train_recognizer(RECIPE, shards, tmp_path / "other", device="cpu", start_from="daair_s.5task")
    with pytest.raises(CheckpointError, match=r"of other numbers .* hidden 192, not 8"):
        train_recognizer(RECIPE, shards, tmp_path / "other", device="cpu", start_from="recognizer")
