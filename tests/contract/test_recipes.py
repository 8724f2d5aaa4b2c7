"""What every shipped recipe owes."""

import math
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch

from pellucid import models
from pellucid.checkpoint import Checkpoint
from pellucid.data import Mixer, load_shards
from pellucid.recipe import Recipe, load_recipe, shipped_recipes
from pellucid.train import train


@pytest.fixture(params=shipped_recipes())
def recipe(request) -> Recipe:
    return load_recipe(request.param)  # strict: a fault of any kind raises


def test_there_are_recipes() -> None:
    assert {"daair_s.5task", "smoke"} <= set(shipped_recipes())


def test_it_is_named_as_its_file_and_names_a_blind_model(recipe: Recipe) -> None:
    assert recipe.name in shipped_recipes()
    assert not models.get(recipe.model).guided


def test_its_head_states_command_cost_and_expected_result(recipe: Recipe) -> None:
    text = (resources.files("pellucid") / "recipes" / f"{recipe.name}.toml").read_text("utf-8")
    head = "\n".join(line for line in text.split("\nname", 1)[0].splitlines() if line.startswith("#"))
    command = re.search(r"^# Command: +(.+)$", head, re.MULTILINE)
    assert command and command[1].startswith(f"pellucid train {recipe.name} --data SHARDS")
    for word in ("Cost", "Expected"):
        assert re.search(rf"^# {word}: +\S.{{10}}", head, re.MULTILINE), f"the head lacks {word}"


def test_every_task_gives_pairs(recipe: Recipe, shards: Path) -> None:
    loaded = load_shards(shards, "train")
    mixer = Mixer(loaded, recipe.tasks)
    for task in recipe.tasks:
        rng = torch.Generator().manual_seed(0)
        degraded, clean = mixer.pairs(task, loaded.banks[task.source].crops(2, 32, rng), rng)
        assert degraded.shape == clean.shape == (2, 3, 32, 32), task
        assert degraded.min() >= 0 and degraded.max() <= 1 and degraded.isfinite().all(), task
        assert torch.equal(degraded, clean) == (task.kind == "clean"), task


def test_it_takes_a_step(recipe: Recipe, shards: Path, tmp_path: Path, capsys) -> None:
    patch = models.get(recipe.model).multiple_of
    short = replace(recipe, steps=1, patch=patch, batch=2)
    weights = train(short, shards, tmp_path, device="cpu", validation_limit=1)
    read = Checkpoint.read(weights)
    assert read.model == recipe.model
    assert read.provenance["recipe"]["name"] == recipe.name
    assert all(math.isfinite(row["output"]) for row in read.provenance["validation"].values())
    read.build()
    assert recipe.name in capsys.readouterr().err
