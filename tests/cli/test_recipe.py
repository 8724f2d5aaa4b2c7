import json
import subprocess
import sys
import tomllib

import pytest

from pellucid.recipe import load_recipe, parse_recipe, recipe_text, shipped_recipes


def test_every_shipped_recipe_is_listed(run):
    rows = json.loads(run("recipe", "list", "--json").out)
    assert [row["name"] for row in rows] == shipped_recipes()
    text = run("recipe", "list").out
    for row in rows:
        assert row["name"] in text and row["model"] in text
    assert {"noise", "rain", "haze", "blur", "low_light"} <= {
        kind for row in rows if row["name"] == "daair_s.5task" for kind in row["kinds"]
    }


def test_a_copy_is_the_recipe_and_can_be_trained_by(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("recipe", "copy", "smoke").out == "smoke.toml\n"
    assert (tmp_path / "smoke.toml").read_text() == run("recipe", "show", "smoke").out
    assert load_recipe("smoke.toml") == load_recipe("smoke")
    assert run("recipe", "copy", "smoke", "-o", "new/mine.toml").code == 0
    assert load_recipe("new/mine.toml") == load_recipe("smoke")


def test_a_copy_never_replaces_a_file(run, tmp_path):
    (tmp_path / "mine.toml").write_text("kept")
    result = run("recipe", "copy", "smoke", "-o", tmp_path / "mine.toml")
    assert result.code == 2
    assert "mine.toml exists already. Name another file with -o." in result.err
    assert (tmp_path / "mine.toml").read_text() == "kept"


def test_a_copy_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("kept")
    command = [sys.executable, "-m", "pellucid", "recipe", "copy", "smoke", "-o", tmp_path / "file/mine.toml"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"pellucid: {tmp_path / 'file'} can't be used: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("action", ["show", "copy"])
def test_an_unknown_recipe_offers_the_nearest(run, action):
    result = run("recipe", action, "smok")
    assert result.code == 2
    assert "Did you mean smoke" in result.err


def test_a_shipped_recipe_names_itself():
    for name in shipped_recipes():
        assert parse_recipe(tomllib.loads(recipe_text(name)), name).name == name
