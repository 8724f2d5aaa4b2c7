"""A recipe: everything that makes a training repeatable, in one TOML file.

The check is strict and reports all faults together. It is our own, since a machine that trains may lack all
packages but those of training.
"""

import tomllib
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pellucid.data import PAIR_KINDS, SOURCES, Task
from pellucid.errors import RecipeError, UnknownNameError
from pellucid.registry import unknown_name
from pellucid.typed import fits

KINDS = ("noise", "rain", "haze", "blur", "low_light", "jpeg", "composite", "clean")
# The loop saves no gradient scaler, so float16 is not among them.
PRECISIONS = ("32-true", "bf16-mixed")
MIXINGS = ("weighted", "counted")
# keys that no recognizer heeds, which restores nothing and sees every picture upright
OF_RESTORERS = ("mixing", "fourier_weight", "balance_weight", "log_floor", "upright")
RESTORING = ("loss_weight", "starts_at", "repeat", "prompt")  # keys of tasks that no recognizer heeds
_RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("patch", "batch", "lots", "steps"), lambda v: v > 0, "above zero"),
    (("learning_rate",), lambda v: 0 < v <= 1, "above zero, up to one"),
    (
        ("final_learning_rate", "cosine_steps", "warmup_steps", "weight_decay", "clip_norm"),
        lambda v: v >= 0,
        "zero or more",
    ),
    (("fourier_weight", "balance_weight", "log_floor"), lambda v: v >= 0, "zero or more"),
    (("gray", "tones", "upright"), lambda v: 0 <= v <= 1, "a share, 0 to 1"),
    (("seed",), lambda v: 0 <= v < 2**63, "zero or more, below 2^63"),
    (("ema_decay",), lambda v: 0 <= v < 1, "zero or more, below one"),
    (("betas",), lambda v: all(0 <= beta < 1 for beta in v), "two values of zero or more, below one"),
)


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: name of the weights it makes.
        model: structure, known to `pellucid.models`.
        tasks: the mix.
        config: numbers of the structure that differ from its own, as `{"num_experts": 3}`.
        mixing: "weighted" or "counted", see `pellucid.data.Mixer`.
        seed: of weights, crops and degradations.
        patch: side of the square crops, in pixels.
        batch: crops per step, of all processes together.
        lots: a batch is drawn in so many equal lots, each with a seed of its own, so that every number of
            processes that divides it trains on the same pictures.
        steps: length in optimizer steps; a wall-clock budget (`--minutes`) replaces it.
        learning_rate: where the cosine begins; it falls with every step.
        final_learning_rate: at the end of the cosine.
        cosine_steps: where the cosine ends, if the run stops before; it then begins after the warm-up. With 0
            it takes the whole run, warm-up and all.
        warmup_steps: the cosine is multiplied by a linear rise from zero over so many steps.
        betas, weight_decay: of AdamW.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them as they are.
        ema_decay: of the averaged weights, which are the ones kept.
        fourier_weight, balance_weight: beside L1 with weight 1.
        log_floor: 0 takes the mean error of the batch; above zero, the mean of log(error + log_floor) over
            its pictures (`pellucid.losses.picture_errors`), for the last part of a training: a fresh network
            would learn to leave good pictures alone, and little else.
        gray: share of the pictures, clean and degraded, that lose their color (green in all channels).
        tones: share of the pictures that get paler or darker before they are degraded, but for real
            pairs and a recognizer's drawings.
        upright: share of the pictures whose top stays on top, since haze lies upright; the others are in any
            of eight flips and rotations.
        precision: one of `PRECISIONS`, Lightning Fabric's words. float32 replaces imitated bf16.
    """

    name: str
    model: str
    tasks: tuple[Task, ...]
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    mixing: str = "weighted"
    seed: int = 0
    patch: int = 128
    batch: int = 8
    lots: int = 4
    steps: int = 100_000
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    cosine_steps: int = 0
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    fourier_weight: float = 0.1
    balance_weight: float = 0.01
    log_floor: float = 0.0
    gray: float = 0.0
    tones: float = 0.0
    upright: float = 0.0
    precision: str = "bf16-mixed"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint's provenance holds them."""
        return asdict(self)


def shipped_recipes() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files("pellucid") / "recipes"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """The file of a shipped recipe.

    Raises:
        UnknownNameError: no shipped recipe has this name.
    """
    if name not in shipped_recipes():
        raise UnknownNameError(unknown_name("recipe", name, shipped_recipes()))
    return (resources.files("pellucid") / "recipes" / f"{name}.toml").read_text("utf-8")


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by its shipped name, or from a .toml file.

    Raises:
        UnknownNameError: neither a shipped name nor a file.
        RecipeError: every fault of the recipe, in one message.
    """
    try:
        file = Path(name_or_path)
        shipped = name_or_path in shipped_recipes() or not file.is_file()
        values = tomllib.loads(recipe_text(name_or_path) if shipped else file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name_or_path} can't be read: {error}. Give a TOML file in UTF-8.") from error
    except (ValueError, RecursionError) as error:  # of TOML, of a number's length, of nesting
        raise RecipeError(f"{name_or_path} is not valid TOML: {error}. Correct that line.") from error
    return parse_recipe(values, name_or_path)


def parse_recipe(values: dict[str, Any], origin: str) -> Recipe:
    """A recipe from plain values, as TOML gives them; `origin` is named in the message of an error.

    Raises:
        RecipeError: every fault of the recipe, in one message.
    """
    faults: list[str] = []
    good = _fitting(Recipe, values, "", faults)
    tables: list[Any] | None = good.pop("tasks", None)
    tasks = [_fitting(Task, table, f"tasks.{i}: ", faults) for i, table in enumerate(tables or [])]
    faults += _recipe_faults(good)
    for i, task in enumerate(tasks):
        faults += [f"tasks.{i}: {fault}" for fault in _task_faults(task)]
    if "name" in good and (good["name"] in ("", "..") or Path(good["name"]).name != good["name"]):
        faults.append(f"name is {good['name']!r}; expected one that a folder may have")
    if tables is not None and not any(
        task.get("weight", 1) > 0 and task.get("starts_at", 0) <= 0 for task in tasks
    ):
        faults.append("tasks: at least one task with a weight above zero that starts at 0 is needed")
    if not faults:
        faults = _unheeded(good["model"], OF_RESTORERS, good) + [
            f"tasks.{i}: {fault}" for i, task in enumerate(tasks) for fault in _faults_beside(good, task)
        ]
    if faults:
        listing = "".join(f"\n  - {fault}" for fault in faults)
        raise RecipeError(f"{origin} has {len(faults)} fault{'s' * (len(faults) > 1)}:{listing}")
    return Recipe(**good, tasks=tuple(Task(**task) for task in tasks))


def _unheeded(model: str, keys: tuple[str, ...], given: dict[str, Any]) -> list[str]:
    """Which of the `keys`, that serve restoring alone, are given to a model that restores nothing."""
    from pellucid import models

    if models.get(model).restores:
        return []
    return [f"{key} has no meaning for {model}, which restores nothing" for key in keys if key in given]


def _faults_beside(good: dict[str, Any], task: dict[str, Any]) -> list[str]:
    """What a task without faults of its own says that its recipe's model, or mixing, can't do."""
    from pellucid import models

    model = good["model"]
    spec, config, faults = models.get(model), good.get("config", {}), _unheeded(model, RESTORING, task)
    if not spec.restores:
        if task["kind"] not in KINDS:
            faults.append(f"{model} has no kind called {task['kind']!r}. Known: {', '.join(KINDS)}.")
        return faults
    if good.get("mixing", Recipe.mixing) == "counted":
        if task["weight"] != 1 or task.get("starts_at"):
            faults.append("an epoch that is counted heeds no weight but 1 and no starts_at; take repeat")
    elif task.get("repeat", 1) != 1:
        faults.append("repeat is for the mixing 'counted'; take weight")
    if not spec.guided and "prompt" in task:
        faults.append(f"{model} is told nothing, so that no prompt serves it; leave it out")
    prompts = config.get("prompts", spec.config.prompts) if spec.guided else ()
    if prompts and (name := task.get("prompt") or task["kind"]) not in prompts:
        faults.append(unknown_name("prompt", name, list(prompts)))
    return faults


def _fitting(of: type, values: Any, where: str, faults: list[str]) -> dict[str, Any]:
    """Those of `values` that fit the fields of the dataclass `of`; what is wrong goes to `faults`."""
    if not isinstance(values, dict):
        faults.append(f"{where}this is {values!r}; expected a table")
        return {}
    hints = get_type_hints(of)
    good: dict[str, Any] = {}
    faults += [where + unknown_name("key", str(key), list(hints)) for key in values if key not in hints]
    for one in fields(of):
        name, hint = one.name, list if one.name == "tasks" else hints[one.name]  # whose tables come later
        if name not in values:
            if one.default is MISSING and one.default_factory is MISSING:
                faults.append(f"{where}{name} is missing")
        elif fits(values[name], hint):
            listed = isinstance(values[name], list) and hint is not list
            good[name] = tuple(values[name]) if listed else values[name]
        else:
            faults.append(f"{where}{name} is {values[name]!r}; expected {_words(hint)}")
    return good


def _recipe_faults(good: dict[str, Any]) -> list[str]:
    """What the values of a recipe say that can't be done."""
    from pellucid import models

    faults = [
        f"{name} is {good[name]}; expected {expected}"
        for names, allows, expected in _RANGES
        for name in names
        if name in good and not allows(good[name])
    ]
    batch, lots = good.get("batch", Recipe.batch), good.get("lots", Recipe.lots)
    if lots > 0 and batch % lots:
        faults.append(f"batch is {batch}; expected a multiple of lots, {lots}")
    if good.get("precision", PRECISIONS[0]) not in PRECISIONS:
        faults.append(unknown_name("precision", good["precision"], list(PRECISIONS)))
    if good.get("mixing", MIXINGS[0]) not in MIXINGS:
        faults.append(unknown_name("mixing", good["mixing"], list(MIXINGS)))
    if "model" in good:
        if good["model"] not in models.names():
            faults.append(unknown_name("model", good["model"], models.names()))
        elif (patch := good.get("patch", Recipe.patch)) % models.get(good["model"]).multiple_of:
            multiple = models.get(good["model"]).multiple_of
            faults.append(f"patch is {patch}; {good['model']} needs a multiple of {multiple}")
    return faults + _config_faults(good)


def _config_faults(good: dict[str, Any]) -> list[str]:
    """What a recipe's `config` says that its structure does not know, or has as another type."""
    from pellucid import models

    if good.get("model") not in models.names():
        return []
    hints = get_type_hints(type(models.get(good["model"]).config))
    config: dict[str, Any] = good.get("config", {})
    return ["config: " + unknown_name("key", key, list(hints)) for key in config if key not in hints] + [
        f"config: {key} is {value!r}; expected {_words(hints[key])}"
        for key, value in config.items()
        if key in hints and not fits(value, hints[key])
    ]


def _words(hint: Any) -> str:
    """A type as a message names it."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("pellucid.data.", "")


def _task_faults(task: dict[str, Any]) -> list[str]:
    """What the values of one task say that can't be done."""
    from pellucid import datasets, degradations

    faults: list[str] = []
    source, operator = task.get("source"), task.get("operator")
    sources = [*SOURCES, *datasets.names()]
    if source is not None and source not in sources:
        faults.append(unknown_name("source", source, sources))
    if operator is not None and operator not in degradations.names():
        faults.append(unknown_name("degradation", operator, degradations.names()))
    kind = task.get("kind", KINDS[0])
    shown = PAIR_KINDS.get(source, kind) if source is not None else kind
    if operator in degradations.names():
        shown = degradations.get(operator).kind
    if kind not in KINDS and kind != shown:
        faults.append(unknown_name("kind", kind, list(KINDS)))
    elif kind == "clean" and operator is not None:
        faults.append(f"the operator {operator!r} has no meaning for the kind 'clean'; leave it out")
    elif kind not in ("clean", shown):
        faults.append(f"the kind is {kind!r}; {operator or source} shows {shown!r}")
    if task.get("repeat", 1) < 1:
        faults.append(f"repeat is {task['repeat']}; expected one or more")
    if task.get("weight", 0) < 0:
        faults.append(f"the weight is {task['weight']}; expected zero or more")
    if not 0 < task.get("loss_weight", 1) <= 1000:
        faults.append(f"loss_weight is {task['loss_weight']}; expected above 0, up to 1000")
    if (sigma := task.get("sigma")) is not None and (operator != "gaussian_noise" or not 0 < sigma <= 255):
        faults.append(f"sigma is {sigma}; expected above 0, up to 255, and the operator 'gaussian_noise'")
    if not 0 <= task.get("starts_at", 0) <= 1:
        faults.append(f"starts_at is {task['starts_at']}; expected a share of the run, 0 to 1")
    if source in ("clean", "depth", "drawn") and operator is None and task.get("kind") != "clean":
        faults.append(
            f"the source {source!r} has no degraded pictures; expected an operator, or the kind 'clean'"
        )
    if task.get("streaks") and operator != "rain_streaks":
        faults.append("streaks serve the operator 'rain_streaks' alone")
    return faults
