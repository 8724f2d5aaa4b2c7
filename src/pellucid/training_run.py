"""What all training runs share: their folder, their state, their log, their pace.

A run lives in one folder: `state.safetensors` (everything that `--resume` needs, replaced by renaming, so
that a kill at any moment costs at most the minutes since the last save), `weights.safetensors` (the averaged
weights as a checkpoint), `log.jsonl`, `lock`, by which one process at a time trains in it, and where
TensorBoard is installed its events.
"""

import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pellucid import __version__, compute, weights
from pellucid.checkpoint import Checkpoint, save_tensors
from pellucid.data import Shards, write_rgb8
from pellucid.errors import CheckpointError, InputError, OutputExistsError, RecipeError, TrainingError, reason
from pellucid.models import ModelSpec
from pellucid.recipe import Recipe, Task

_FREE_SPACE = (
    "Free some space or look at the permissions, then go on from the last saved state with --resume."
)
IMITATED = (
    "This processor has no bf16 arithmetic and would imitate it many times slower; float32 takes its place."
)


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps.
        samples: crops seen.
        seconds: spent in the loop over all its parts.
        scores: of the last validation.
        parts: what it was trained by, the first part first: the step before the part, the recipe, the hash of
            the data, and the minutes or steps that were given as its budget, if any. A part ends where a
            resumed run changes one.
    """

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    scores: dict[str, Any] = field(default_factory=dict[str, Any])
    parts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def done(self, recipe: Recipe, minutes: float | None) -> float:
        """The share of the budget that is used: of the minutes, or without them of the recipe's steps."""
        return self.seconds / (60 * minutes) if minutes else self.step / recipe.steps

    def go_on(
        self, recipe: Recipe, data_hash: str, minutes: float | None, steps: int | None = None
    ) -> tuple[Recipe, float | None, list[str]]:
        """Begin, or go on with what is given now: the recipe, the budget, and a sentence for each change.

        A run that was given minutes or steps keeps them when it is resumed with neither; minutes not, where
        the recipe has other steps. A run that has nothing left to do gets no new part.
        """
        last = self.parts[-1] if self.parts else None
        if last and minutes is None and steps is None:
            steps = last.get("steps")
            if recipe.steps == last["recipe"]["steps"]:
                minutes = last["minutes"]
        if steps is not None:
            recipe = replace(recipe, steps=steps)
        plain = _as_saved(recipe)
        part = {"from_step": self.step, "recipe": plain, "training_data_sha256": data_hash}
        part |= {"minutes": minutes, "steps": steps}
        if last is None:
            self.parts.append(part)
            return recipe, minutes, []
        if self.done(recipe, minutes) >= 1:
            spent = f"{minutes:g} minutes" if minutes else f"{self.step} of {recipe.steps} steps"
            return recipe, minutes, [f"Nothing is left to do: {spent} are over."]
        # A state from before a key existed was trained by that key's default.
        before = _as_saved(Recipe("", "", ())) | last["recipe"]
        before["tasks"] = [asdict(Task("", 0, "")) | task for task in before["tasks"]]
        differing = [key for key in plain if plain[key] != before[key]]
        changed = [f"{key} was {before[key]}, is {plain[key]}" for key in differing if key != "tasks"]
        if "tasks" in differing:
            changed.append("the mix of tasks differs")
        if data_hash != last["training_data_sha256"]:
            changed.append("the training pictures are others")
        if minutes != last["minutes"]:
            changed.append(f"the budget in minutes was {last['minutes']}, is {minutes}")
        if changed:
            self.parts.append(part)
        else:
            last["steps"] = steps
        return recipe, minutes, [f"From step {self.step} on: {words}." for words in changed]


def _as_saved(recipe: Recipe) -> dict[str, Any]:
    """A recipe's plain values as a saved state has them, with lists in place of tuples."""
    return json.loads(json.dumps(recipe.to_dict()))


@dataclass(frozen=True)
class RunFolder:
    """Where a run lies."""

    path: Path

    @property
    def state(self) -> Path:
        """What a resumed run needs."""
        return self.path / "state.safetensors"

    @property
    def weights(self) -> Path:
        """The averaged weights."""
        return self.path / "weights.safetensors"

    def check(self, *, resume: bool) -> bool:
        """Whether there is a run to go on with; a run that was killed before its first save starts anew.

        Raises:
            OutputExistsError: there is one, and `resume` is false; or weights whose run is gone.
        """
        if self.state.exists() and not resume:
            raise OutputExistsError(
                f"{self.path} already holds a run. Go on with it by --resume, or name another folder with "
                "--run."
            )
        if self.weights.exists() and not self.state.exists():
            raise OutputExistsError(
                f"{self.path} holds weights, but no state to go on from. Name another folder with --run; to "
                f"train these weights further, start from them: --start-from {self.weights}."
            )
        return self.state.exists()

    @contextmanager
    def claimed(self, *, resumed: bool) -> Generator[None]:
        """Make it, hold it against other processes, and remove what a kill while saving has left.

        Raises:
            OutputExistsError: another process trains in it, or has since it was found to hold a run, or none.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / "lock", timeout=0):
                if self.state.exists() != resumed:
                    raise OutputExistsError(
                        f"Another process has trained in {self.path} meanwhile. Go on with it by --resume, "
                        "or name another folder with --run."
                    )
                self._clear()
                yield
        except Timeout as error:
            raise OutputExistsError(
                f"Another process trains in {self.path} now. Wait for it, or name another folder with --run."
            ) from error

    def _clear(self) -> None:
        for left_over in self.path.glob(".*.safetensors.*.tmp"):
            left_over.unlink()


@contextmanager
def watching_for_the_end() -> Generator[Callable[[], int]]:
    """Gives a function that says by which signal the process was asked to end (SIGTERM or SIGINT), or 0.

    A scheduler asks before it kills, a person by Ctrl-C, so that a run can save its last step; asked again,
    it ends. Only the main thread can be asked, and SIGINT that is ignored stays so.
    """
    asked = 0

    def note(number: int, *_: object) -> None:
        nonlocal asked
        asked = number
        give_back()

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)
    }
    if before[signal.SIGINT] == signal.SIG_IGN:
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        give_back()


def check_times(
    minutes: float | None, save_every: float, validate_every: float, steps: int | None = None
) -> None:
    """Refuse a budget, in minutes or optimizer steps, and intervals, in minutes, that can't be kept.

    Raises:
        InputError: not above zero and finite, or both; intervals below zero, or NaN.
    """
    if minutes is not None and steps is not None:
        raise InputError(f"The budget is {minutes} minutes and {steps} steps; expected one of the two.")
    if steps is not None and steps < 1:
        raise InputError(f"The budget is {steps} steps; expected one or more.")
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"The budget is {minutes} minutes; expected more than zero.")
    if not (save_every >= 0 and validate_every >= 0):  # so written, NaN is refused too
        raise InputError(
            f"Saving every {save_every} and validating every {validate_every} minutes can't be done; "
            "expected numbers, zero or more."
        )


def check_weights(network: nn.Module, step: int) -> None:
    """Refuse weights from which no training can go on, before they replace the last good ones.

    Raises:
        RecipeError: some are infinite or NaN.
    """
    if not all(bool(p.isfinite().all()) for p in network.parameters()):
        raise RecipeError(
            f"The weights became infinite or NaN before step {step}. Lower the learning rate, "
            "and go on from the last saved state with --resume."
        )


def learning_rate_at(recipe: Recipe, step: int, done: float) -> float:
    """Linear warm-up by steps, times a cosine over the run; with `cosine_steps`, a cosine after it."""
    if recipe.cosine_steps:
        falling = (step - recipe.warmup_steps) / max(recipe.cosine_steps - recipe.warmup_steps, 1)
        done = min(1.0, max(0.0, falling))
    low, high = recipe.final_learning_rate, recipe.learning_rate
    cosine = low + (high - low) * 0.5 * (1 + math.cos(math.pi * done))
    return cosine * min(1.0, (step + 1) / max(recipe.warmup_steps, 1))


def training_precision(recipe: Recipe, device: str = "auto") -> str:
    """What a recipe is computed in on "auto", "cpu" or "cuda": its precision; float32 for imitated bf16."""
    return "32-true" if compute.imitates_bf16(training_device(device)) else recipe.precision


def training_device(name: str) -> torch.device:
    """Where "auto", "cpu" or "cuda" trains; not on Apple's GPUs, which lack the float64 that draws need.

    Raises:
        InputError: there is no such device.
    """
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"There is no device {name!r} to train on. Choose auto, cpu or (with a GPU) cuda.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def provenance_of(
    recipe: Recipe, progress: Progress, validation: Shards, device: torch.device
) -> dict[str, Any]:
    """What a checkpoint says of the run that made it, as plain values; by its last part, which trained."""
    last = progress.parts[-1]
    return {
        "recipe": last["recipe"],
        **({"parts": progress.parts} if len(progress.parts) > 1 else {}),
        "steps": progress.step,
        "samples": progress.samples,
        "hours": round(progress.seconds / 3600, 3),
        "seed": last["recipe"]["seed"],
        "training_data_sha256": last["training_data_sha256"],
        "validation_data_sha256": validation.data_hash,
        "pellucid": __version__,
        "torch": torch.__version__,
        "device": str(device),
        "precision": training_precision(recipe, device.type),
    }


def save_state(
    file: Path,
    recipe: Recipe,
    network: nn.Module,
    average: AveragedModel,
    optimizer: Any,
    progress: Progress,
) -> None:
    """Weights, averages, optimizer state and progress in one safetensors file, replaced by renaming.

    Raises:
        TrainingError: it can't be written; the last one is left.
    """
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    header = {"recipe": recipe.name, "model": recipe.model, "progress": vars(progress)}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        save_tensors(tensors, file, {"run": json.dumps(header)})
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{file} can't be written: {error}. {_FREE_SPACE}") from error


def load_state(
    file: Path, recipe: Recipe, network: nn.Module, average: AveragedModel, optimizer: Any
) -> Progress:
    """Put a saved state into a run's parts; how far it had come.

    Raises:
        CheckpointError: the file is damaged.
        RecipeError: it is another recipe's, or of another network.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            header = json.loads(opened.metadata()["run"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is not the saved state of a run ({error}). Name another folder with --run."
        ) from error
    if (header["recipe"], header["model"]) != (recipe.name, recipe.model):
        raise RecipeError(
            f"{file.parent} holds a run of {header['recipe']} ({header['model']}), not of {recipe.name} "
            f"({recipe.model}). Name another folder with --run."
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        network.load_state_dict(part("network."))
        average.load_state_dict(part("average."))
    except RuntimeError as error:
        raise RecipeError(
            f"{file.parent} holds a run of a {header['model']} of other numbers, or of another version, than "
            f"{recipe.name} now gives it. Set the recipe's model and config as they were, or name another "
            "folder with --run."
        ) from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, slot = name.split(".", 1)
        state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**header["progress"])


class RunLog:
    """Lines on stderr, `log.jsonl`, and TensorBoard and the panel where their packages are installed."""

    def __init__(self, folder: Path, *, silent: bool = False) -> None:
        self.folder, self.silent = folder, silent
        self.step = 0
        self.board: Any = None
        if silent:  # only the first of several processes speaks and writes
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.board = SummaryWriter(str(folder))

    def say(self, line: str) -> None:
        """A line on stderr."""
        if not self.silent:
            print(line, file=sys.stderr, flush=True)

    def write(self, *, step: int, **values: Any) -> None:
        """A line of `log.jsonl`; numbers go to TensorBoard, too.

        Raises:
            TrainingError: it can't be written.
        """
        self.step = step
        if self.silent:
            return
        path = self.folder / "log.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise TrainingError(f"{path} can't be written: {reason(error)}. {_FREE_SPACE}") from error
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self.board.add_scalar(name, value, step)

    def show_scores(self, scores: dict[str, Any]) -> None:
        """PSNR by kind, as `pellucid.train.validate` gives it."""
        for kind, row in scores.items():
            before = "" if row["input"] is None else f"{row['input']:.2f} -> "
            self.say(f"  {kind:14} {before}{row['output']:.2f} dB ({row['n']})")
            if self.board is not None:
                self.board.add_scalar(f"psnr/{kind}", row["output"], self.step)

    def show_panel(self, panel: Tensor) -> None:
        """Rows of degraded, restored, clean: (3, H, W) in [0, 1]. A disk without room for them is told."""
        if self.board is not None:
            self.board.add_image("panel", panel, self.step)
        file, beside = self.folder / "panel.png", self.folder / ".panel.png"
        try:
            write_rgb8((panel * 255).round().byte().permute(1, 2, 0), beside)
            beside.replace(file)
        except OSError as error:
            beside.unlink(missing_ok=True)
            self.say(f"{file} can't be written ({reason(error)}); the training goes on without it.")

    def end(self, step: int, number: int) -> NoReturn:
        """Say that a run that was asked to end, by a signal, has saved this step, and leave the process."""
        self.say(f"Asked to end: step {step} is saved. Go on from it with --resume.")
        self.close()
        raise SystemExit(128 + number)  # as shells have it

    def close(self) -> None:
        """Write what is buffered."""
        if self.board is not None:
            self.board.close()


def read_start(path: str | Path, spec: ModelSpec, config: Any) -> Checkpoint:
    """A checkpoint to start from, of the structure `spec` with the numbers `config`.

    Raises:
        UnknownNameError: no such weights.
        CheckpointError: they can't be read, or are of another structure.
    """
    file = weights.find(path)
    checkpoint = Checkpoint.read(file.path, sha256=file.sha256)
    if checkpoint.model != spec.name:
        raise CheckpointError(
            f"{path} holds a {checkpoint.model}; the recipe trains {spec.name}. "
            "Start from weights of that structure."
        )
    found, wanted = asdict(spec.config_from(checkpoint.config)), asdict(config)
    measured = {one.name for one in fields(config) if one.metadata.get("added") == "by calibration"}
    differing = [
        f"{k} {found[k]}, not {wanted[k]}" for k in wanted if k not in measured and found[k] != wanted[k]
    ]
    if differing:
        raise CheckpointError(
            f"{path} holds a {spec.name} of other numbers than the recipe gives it: {'; '.join(differing)}. "
            "Set the recipe's config to these, or start from other weights."
        )
    return checkpoint
