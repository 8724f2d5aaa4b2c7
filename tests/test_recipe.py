"""Recipes: strict, with every fault told at once, with nothing but the standard library."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pellucid.data import Task
from pellucid.degradations.gaussian_noise import GaussianNoise
from pellucid.errors import RecipeError, UnknownNameError
from pellucid.recipe import Recipe, load_recipe, parse_recipe, recipe_text, shipped_recipes

TASK: dict[str, Any] = {"kind": "noise", "source": "clean", "operator": "gaussian_noise", "weight": 1}
GOOD: dict[str, Any] = {"name": "n", "model": "daair_s", "tasks": [TASK]}


def faults(values: dict[str, Any]) -> list[str]:
    """What `parse_recipe` has against `values`, one entry per fault."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(values, "x.toml")
    head, *listed = str(caught.value).splitlines()
    assert head == f"x.toml has {len(listed)} fault{'s' if len(listed) > 1 else ''}:"
    assert all(line.startswith("  - ") for line in listed)
    return [line.removeprefix("  - ") for line in listed]


def test_a_learning_rate_that_no_number_survives_is_refused() -> None:
    values = tomllib.loads(recipe_text("smoke")) | {"learning_rate": 1e300}
    with pytest.raises(RecipeError, match=r"learning_rate is 1e.300; expected above zero, up to one"):
        parse_recipe(values, "mine")


def test_a_recipe_says_what_it_says() -> None:
    recipe = parse_recipe({**GOOD, "betas": [0.5, 0.6], "learning_rate": 1, "steps": 7}, "x.toml")
    assert recipe.tasks == (Task("noise", 1, "clean", "gaussian_noise"),)
    assert (recipe.betas, recipe.learning_rate, recipe.steps) == ((0.5, 0.6), 1, 7)


def test_what_it_leaves_out_is_the_default() -> None:
    assert parse_recipe(GOOD, "x.toml") == Recipe(
        "n", "daair_s", (Task("noise", 1, "clean", "gaussian_noise"),)
    )


def test_its_plain_values_make_it_again() -> None:
    recipe = load_recipe("daair_s.5task")
    values = recipe.to_dict()
    assert set(values) == {field.name for field in fields(Recipe)}
    values["tasks"] = [{k: v for k, v in task.items() if v is not None} for task in values["tasks"]]
    values["betas"] = list(values["betas"])
    assert parse_recipe(values, "again") == recipe


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", 3, "name is 3; expected str"),
        ("patch", 64.0, "patch is 64.0; expected int"),
        ("patch", "64", "patch is '64'; expected int"),
        ("patch", True, "patch is True; expected int"),
        ("patch", 0, "patch is 0; expected above zero"),
        ("patch", 100, "patch is 100; daair_s needs a multiple of 16"),
        ("batch", -4, "batch is -4; expected above zero"),
        ("batch", 6, "batch is 6; expected a multiple of lots, 4"),
        ("lots", 0, "lots is 0; expected above zero"),
        ("steps", 0, "steps is 0; expected above zero"),
        ("seed", -1, "seed is -1; expected zero or more, below 2^63"),
        ("seed", 2**63, f"seed is {2**63}; expected zero or more, below 2^63"),
        ("learning_rate", 0.0, "learning_rate is 0.0; expected above zero"),
        ("learning_rate", float("nan"), "learning_rate is nan; expected float"),
        ("clip_norm", float("inf"), "clip_norm is inf; expected float"),
        ("clip_norm", 10**400, "clip_norm is 1000"),
        ("warmup_steps", -1, "warmup_steps is -1; expected zero or more"),
        ("weight_decay", -0.1, "weight_decay is -0.1; expected zero or more"),
        ("fourier_weight", -0.1, "fourier_weight is -0.1; expected zero or more"),
        ("gray", 1.5, "gray is 1.5; expected a share, 0 to 1"),
        ("upright", -0.1, "upright is -0.1; expected a share, 0 to 1"),
        ("ema_decay", 1.0, "ema_decay is 1.0; expected zero or more, below one"),
        ("betas", [0.9], "betas is [0.9]; expected tuple[float, float]"),
        ("betas", 0.9, "betas is 0.9; expected tuple[float, float]"),
        ("betas", [0.9, "x"], "betas is [0.9, 'x']; expected tuple[float, float]"),
        ("betas", [0.9, 1.0], "betas is (0.9, 1.0); expected two values of zero or more, below one"),
        ("precision", "16-mixed", "There is no precision called '16-mixed'. Did you mean bf16-mixed?"),
        ("model", "daair_x", "There is no model called 'daair_x'."),
        ("epochs", 3, "There is no key called 'epochs'. Did you mean steps"),
        ("config", {"num_experts": "3"}, "config: num_experts is '3'; expected int"),
        (
            "config",
            {"encoder_blocks": [1, "x"]},
            "config: encoder_blocks is [1, 'x']; expected tuple[int, ...]",
        ),
        ("config", {"query": "x"}, "config: query is 'x'; expected 'learner' or 'controller'"),
        ("config", {"experts": 3}, "config: There is no key called 'experts'. Did you mean num_experts"),
        ("tasks", 3, "tasks is 3; expected list"),
        ("tasks", [], "tasks: at least one task with a weight above zero that starts at 0 is needed"),
        ("tasks", [3], "tasks.0: this is 3; expected a table"),
    ],
)
def test_a_fault_is_told(key: str, value: Any, said: str) -> None:
    told = faults({**GOOD, key: value})
    assert len(told) == 1
    assert told[0].startswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": -1.0}, "the weight is -1.0; expected zero or more"),
        ({"weight": "1"}, "weight is '1'; expected float"),
        ({"weight": float("nan")}, "weight is nan; expected float"),
        ({"loss_weight": 1e40}, "loss_weight is 1e+40; expected above 0, up to 1000"),
        ({"loss_weight": 0.0}, "loss_weight is 0.0; expected above 0, up to 1000"),
        ({"source": "clan"}, "There is no source called 'clan'. Did you mean clean?"),
        (
            {"operator": "gausian_noise"},
            "There is no degradation called 'gausian_noise'. Did you mean gaussian_noise",
        ),
        ({"kind": "fog"}, "There is no kind called 'fog'."),
        ({"streaks": True}, "streaks serve the operator 'rain_streaks' alone"),
        ({"streaks": 1}, "streaks is 1; expected bool"),
        ({"wait": 1}, "There is no key called 'wait'. Did you mean weight?"),
    ],
)
def test_a_fault_of_a_task_is_told_with_its_place(change: dict[str, Any], said: str) -> None:
    told = faults({**GOOD, "tasks": [TASK, {**TASK, **change}]})
    assert len(told) == 1
    assert told[0].startswith(f"tasks.1: {said}")


@pytest.mark.parametrize(
    ("key", "value"), [("loss_weight", 0.5), ("starts_at", 0.5), ("repeat", 2), ("prompt", "noise")]
)
def test_what_no_recognizer_heeds_is_refused(key: str, value: float | str) -> None:
    task = {**TASK, key: value}
    (told,) = faults({**GOOD, "model": "recognizer", "tasks": [TASK, task]})
    assert told == f"tasks.1: {key} has no meaning for recognizer, which restores nothing"


@pytest.mark.parametrize(
    ("recipe", "task", "said"),
    [
        ({}, {"operator": "jpeg"}, "the kind is 'noise'; jpeg shows 'jpeg'"),
        (
            {},
            {"operator": None, "source": "rain_pairs"},
            "the kind is 'noise'; rain_pairs shows 'rain'",
        ),
        (
            {},
            {"kind": "clean"},
            "the operator 'gaussian_noise' has no meaning for the kind 'clean'; leave it out",
        ),
        ({}, {"repeat": 2}, "repeat is for the mixing 'counted'; take weight"),
        (
            {"mixing": "counted"},
            {"weight": 2},
            "an epoch that is counted heeds no weight but 1 and no starts_at; take repeat",
        ),
        (
            {"mixing": "counted"},
            {"starts_at": 0.5},
            "an epoch that is counted heeds no weight but 1 and no starts_at; take repeat",
        ),
        ({}, {"prompt": "noise"}, "daair_s is told nothing, so that no prompt serves it; leave it out"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    recipe: dict[str, Any], task: dict[str, Any], said: str
) -> None:
    changed = {key: value for key, value in {**TASK, **task}.items() if value is not None}
    assert faults({**GOOD, "model": "daair_s", **recipe, "tasks": [{**TASK, "weight": 1}, changed]}) == [
        f"tasks.1: {said}"
    ]


@pytest.mark.parametrize("key", ["mixing", "log_floor", "fourier_weight", "balance_weight", "upright"])
def test_keys_of_a_restoring_loss_are_refused_for_a_recognizer(key: str) -> None:
    values = {**GOOD, "model": "recognizer", key: "counted" if key == "mixing" else 0.5}
    assert faults(values) == [f"{key} has no meaning for recognizer, which restores nothing"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "runs/"])
def test_a_name_that_no_folder_has_is_refused(name: str) -> None:
    assert faults({**GOOD, "name": name}) == [f"name is {name!r}; expected one that a folder may have"]


def test_an_operator_of_ones_own_brings_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GaussianNoise, "kind", "snow")
    task = {**TASK, "kind": "snow", "operator": "gaussian_noise"}
    assert parse_recipe({**GOOD, "model": "daair_s", "tasks": [task]}, "mine").tasks[0].kind == "snow"
    (told,) = faults({**GOOD, "model": "recognizer", "tasks": [task]})
    assert told.startswith("tasks.0: recognizer has no kind called 'snow'. Known: noise, rain")


@pytest.mark.parametrize("source", ["clean", "depth", "drawn"])
def test_a_source_without_pairs_needs_an_operator_or_stays_clean(source: str) -> None:
    bare = {key: value for key, value in TASK.items() if key != "operator"} | {"source": source}
    assert faults({**GOOD, "tasks": [bare]})[0].startswith(f"tasks.0: the source '{source}' has no degraded")
    parse_recipe({**GOOD, "tasks": [{**bare, "kind": "clean"}, TASK]}, "mine")


def test_what_is_missing_is_told() -> None:
    assert faults({}) == ["name is missing", "model is missing", "tasks is missing"]
    assert faults({**GOOD, "tasks": [{}]}) == [
        "tasks.0: kind is missing",
        "tasks.0: weight is missing",
        "tasks.0: source is missing",
    ]


def test_tasks_without_weight_are_refused() -> None:
    assert faults({**GOOD, "tasks": [{**TASK, "weight": 0}]}) == [
        "tasks: at least one task with a weight above zero that starts at 0 is needed"
    ]


def test_a_task_may_start_later_but_not_all_of_them() -> None:
    later = {**TASK, "starts_at": 0.25}
    assert parse_recipe({**GOOD, "tasks": [TASK, later]}, "mine").tasks[1].starts_at == 0.25
    assert faults({**GOOD, "tasks": [later]}) == [
        "tasks: at least one task with a weight above zero that starts at 0 is needed"
    ]
    assert faults({**GOOD, "tasks": [TASK, {**TASK, "starts_at": 1.5}]}) == [
        "tasks.1: starts_at is 1.5; expected a share of the run, 0 to 1"
    ]


def test_a_guided_networks_tasks_name_its_prompts() -> None:
    guided = {**GOOD, "model": "dfpir", "patch": 128}
    assert parse_recipe({**guided, "tasks": [{**TASK, "prompt": "noise_25"}]}, "mine").tasks[0].prompt
    (told,) = faults({**guided, "tasks": [TASK]})
    assert told.startswith("tasks.0: There is no prompt called 'noise'. Did you mean noise_")


def test_a_sigma_serves_gaussian_noise_alone() -> None:
    said = "sigma is {}; expected above 0, up to 255, and the operator 'gaussian_noise'"
    noise = {**TASK, "operator": "gaussian_noise"}
    assert parse_recipe({**GOOD, "tasks": [{**noise, "sigma": 25}]}, "mine").tasks[0].sigma == 25
    assert faults({**GOOD, "tasks": [{**noise, "sigma": 0}]}) == ["tasks.0: " + said.format(0)]
    assert faults({**GOOD, "tasks": [{**TASK, "kind": "jpeg", "operator": "jpeg", "sigma": 25}]}) == [
        "tasks.0: " + said.format(25)
    ]


def test_all_faults_are_told_at_once() -> None:
    values = {
        "model": "daair_x",
        "patch": "big",
        "steps": 0,
        "epochs": 3,
        "tasks": [{**TASK, "source": "clan", "operator": "fog"}, 5, {**TASK, "weight": -1}],
    }
    told = "\n".join(faults(values))
    for part in ("name is", "daair_x", "'big'", "steps is 0", "'epochs'", "'clan'", "'fog'", "tasks.1", "-1"):
        assert part in told


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\nmodel = "daair_s"\ntasks = [{kind = "clean", source = "clean", weight = 1}]\n'
    )
    assert load_recipe(str(file)).name == "mine"


def test_an_unknown_name_offers_the_nearest() -> None:
    assert "smoke" in shipped_recipes()
    with pytest.raises(UnknownNameError, match=r"no recipe called 'smok'\. Did you mean smoke\?"):
        load_recipe("smok")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name = ", r"bad\.toml is not valid TOML: .*Correct that line"),
        (b"\xff", "can't be read: .*utf-8"),
        (b"steps = " + b"9" * 5000, r"bad\.toml is not valid TOML: .*Correct that line"),
        (b"steps = " + b"[" * 5000, r"bad\.toml is not valid TOML: .*Correct that line"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=said):
        load_recipe(str(tmp_path / "bad.toml"))
