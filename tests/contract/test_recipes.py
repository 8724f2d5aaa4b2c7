"""What every shipped recipe owes."""

import math
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import datasets, models
from pellucid.checkpoint import Checkpoint
from pellucid.data import Mixer, load_shards
from pellucid.folders import FolderBank, load_folders
from pellucid.labels import with_drawn
from pellucid.recipe import Recipe, load_recipe, shipped_recipes
from pellucid.train import train
from pellucid.train_recognizer import train_recognizer


@pytest.fixture(params=shipped_recipes())
def recipe(request) -> Recipe:
    return load_recipe(request.param)  # strict: a fault of any kind raises


def test_there_are_recipes() -> None:
    papers = {f"{model}.{kinds}task" for model in ("daair", "dfpir") for kinds in (3, 5)}
    assert papers | {"daair_s.5task", "smoke"} <= set(shipped_recipes())


def test_the_papers_epochs_are_counted_as_they_count(folders: Path, monkeypatch) -> None:
    lengths = {
        "bsd400": 400,
        "wed": 4744,
        "rain100l": 200,
        "reside_ots": 72_135,
        "gopro": 2103,
        "lol_v1": 485,
    }
    monkeypatch.setattr(FolderBank, "__len__", lambda bank: lengths[bank.source])
    for name, epoch in {
        "daair.3task": 142_431,
        "daair.5task": 162_646,
        "dfpir.3task": 142_431,
        "dfpir.5task": 226_621,
    }.items():
        tasks = load_recipe(name).tasks
        assert Mixer(load_folders(folders, tasks), tasks, "counted").epoch == epoch, name


# What the structures are made of for one step: the recipes' own sizes would take minutes.
TINY = {
    "daair": {"dim": 8, "encoder_blocks": [1, 1, 1, 1], "decoder_blocks": [1, 1, 1], "rank": 2},
    "daair_s": {"dim": 8, "encoder_blocks": [1, 1, 1, 1], "decoder_blocks": [1, 1, 1], "rank": 2},
    "dfpir": {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1},
    "dfpir_s": {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1},
}


def uses_folders(recipe: Recipe) -> bool:
    return any(task.source in datasets.names() for task in recipe.tasks)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """The training split of every data set that a recipe names: its manifest's examples, tiny."""
    root = tmp_path_factory.mktemp("folders")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    sources = {task.source for name in shipped_recipes() for task in load_recipe(name).tasks}
    for source in sources & set(datasets.names()):
        layout = next(one for one in datasets.load_manifest(source).layouts if one.split == "train")
        for example in layout.examples:
            match = layout.pattern.fullmatch(example)
            assert match
            for path in (example, *layout.partners(match)[:1]):
                file = root / source / path
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels if path == example else pixels // 2).save(file)
    return root


def test_it_is_named_as_its_file(recipe: Recipe) -> None:
    assert recipe.name in shipped_recipes()


def test_its_head_states_command_cost_and_expected_result(recipe: Recipe) -> None:
    text = (resources.files("pellucid") / "recipes" / f"{recipe.name}.toml").read_text("utf-8")
    head = "\n".join(line for line in text.split("\nname", 1)[0].splitlines() if line.startswith("#"))
    command = re.search(r"^# Command: +(.+)$", head, re.MULTILINE)
    data = "DATASETS" if uses_folders(recipe) else "SHARDS"
    assert command and command[1].startswith(f"pellucid train {recipe.name} --data {data}")
    for word in ("Cost", "Expected"):
        assert re.search(rf"^# {word}: +\S.{{10}}", head, re.MULTILINE), f"the head lacks {word}"


def test_its_head_counts_the_crops_and_prices_them(recipe: Recipe) -> None:
    if recipe.steps == Recipe.steps or recipe.name in ("smoke", "recognizer"):
        pytest.skip("for a budget of minutes, or a minute")
    text = (resources.files("pellucid") / "recipes" / f"{recipe.name}.toml").read_text("utf-8")
    cost = re.search(
        r"^# Cost: +([\d,]+) crops of (\d+) px.*?([\d,.]+) GPU-hours", text, re.MULTILINE | re.DOTALL
    )
    assert cost, "the head states no crops and GPU-hours"
    assert int(cost[1].replace(",", "")) == recipe.steps * recipe.batch
    assert int(cost[2]) == recipe.patch


def test_every_task_gives_pairs(recipe: Recipe, shards: Path, folders: Path) -> None:
    by_folders = uses_folders(recipe)
    loaded = load_folders(folders, recipe.tasks) if by_folders else load_shards(shards, "train")
    if any(task.source == "drawn" for task in recipe.tasks):
        loaded = with_drawn(loaded, 9)
    mixer = Mixer(loaded, recipe.tasks)
    for task in recipe.tasks:
        rng = torch.Generator().manual_seed(0)
        degraded, clean = mixer.pairs(task, loaded.banks[task.source].crops(2, 32, rng), rng)
        assert degraded.shape == clean.shape == (2, 3, 32, 32), task
        assert degraded.min() >= 0 and degraded.max() <= 1 and degraded.isfinite().all(), task
        assert torch.equal(degraded, clean) == (task.kind == "clean"), task


def test_it_takes_a_step(recipe: Recipe, shards: Path, folders: Path, tmp_path: Path, capsys) -> None:
    if not models.get(recipe.model).restores:
        pytest.skip("test_a_recognizers_recipe_takes_a_step")
    patch, config = models.get(recipe.model).multiple_of, {**recipe.config, **TINY[recipe.model]}
    short = replace(recipe, steps=1, patch=patch, batch=recipe.lots, config=config)
    data = folders if uses_folders(recipe) else shards
    weights = train(short, data, tmp_path, device="cpu", validation_limit=1)
    read = Checkpoint.read(weights)
    assert read.model == recipe.model
    assert read.provenance["recipe"]["name"] == recipe.name
    assert all(math.isfinite(row["output"]) for row in read.provenance["validation"].values())
    assert bool(read.provenance["validation"]) == (data == shards)
    read.build()
    said = capsys.readouterr().err
    assert recipe.name in said
    assert ("Nothing is validated on" in said) == uses_folders(recipe)


def test_a_recognizers_recipe_takes_a_step(shards: Path, tmp_path: Path, monkeypatch) -> None:
    names = [name for name in shipped_recipes() if not models.get(load_recipe(name).model).restores]
    assert names
    for name, few in {"SETTLING": 1, "FITTING": 2, "EPOCHS": 1, "DRAWN": 11}.items():
        monkeypatch.setattr(f"pellucid.train_recognizer.{name}", few)
    monkeypatch.setattr("pellucid.labels.VALIDATION_DRAWN", 9)
    for name in names:
        short = replace(load_recipe(name), steps=1, patch=40, batch=8, config={"crop": 32})
        read = Checkpoint.read(train_recognizer(short, shards, tmp_path / name, device="cpu"))
        assert read.provenance["recipe"]["name"] == name
        assert read.provenance["recognition"]["n"] > 0
        assert len(read.config["slopes"]) == len(read.config["kinds"]) + 1
