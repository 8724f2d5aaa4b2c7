"""The training loop: it learns, keeps what it promises, resumes to the same bits, and needs few packages."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import pellucid
from pellucid import checkpoint, weights
from pellucid import train as training
from pellucid.checkpoint import Checkpoint
from pellucid.data import Mixer, Task, load_shards, read_rgb8
from pellucid.datasets.training_pictures import TrainingPictures
from pellucid.errors import (
    CheckpointError,
    InputError,
    OutputExistsError,
    RecipeError,
    TrainingError,
    UnknownNameError,
)
from pellucid.models.daair import DaAIR
from pellucid.models.dfpir import DFPIR
from pellucid.recipe import Recipe
from pellucid.train import PANEL_SIDE, train, validate
from pellucid.training_run import IMITATED, Progress, RunFolder, RunLog, learning_rate_at

RECIPE = Recipe(
    name="tiny",
    model="daair_s",
    tasks=(Task("noise", 1, "clean", "gaussian_noise"),),
    patch=16,
    batch=4,
    steps=5,
    learning_rate=2e-3,
    warmup_steps=2,
    ema_decay=0.5,
    precision="32-true",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, write_shards) -> Path:
    """A shard folder of three smooth photographs, two of them to train on."""
    y, x = np.mgrid[0:48, 0:64] / 60
    files = []
    for i, split in enumerate(("train", "train", "val")):
        waves = [np.sin((3 + i) * y + (4 + channel) * x) for channel in range(3)]
        pixels = (128 + 90 * np.stack(waves, axis=2)).astype(np.uint8)
        files.append(({"path": f"{i}.png", "split": split, "role": "clean"}, pixels))
    return write_shards(tmp_path_factory.mktemp("photos"), files)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train(RECIPE, photos, folder, device="cpu") == folder / "weights.safetensors"
    return folder


def state(folder: Path, part: str = "") -> dict[str, Tensor]:
    return {k: v for k, v in load_file(folder / "state.safetensors").items() if k.startswith(part)}


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A fresh interpreter, its stdout to be read."""
    source = Path(pellucid.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# What a run leaves


def test_weights_rebuild_their_network(whole: Path) -> None:
    checkpoint = Checkpoint.read(whole / "weights.safetensors")
    assert checkpoint.model == "daair_s"
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.float16}
    network = checkpoint.build().eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 16, 32)).isfinite().all()


def test_provenance_says_where_they_come_from(whole: Path, photos: Path) -> None:
    provenance = Checkpoint.read(whole / "weights.safetensors").provenance
    assert (provenance["steps"], provenance["samples"], provenance["seed"]) == (5, 20, 0)
    assert provenance["recipe"] == json.loads(json.dumps(RECIPE.to_dict()))
    for split, key in (("train", "training_data_sha256"), ("val", "validation_data_sha256")):
        assert provenance[key] == load_shards(photos, split).data_hash
    trained_on = {"noise_15", "noise_25", "noise_50", "film_grain", "clean"}
    assert set(provenance["validation"]) == trained_on
    assert provenance["validation"]["noise_25"]["n"] == 1


def test_weights_remember_their_training_pictures(whole: Path, photos: Path) -> None:
    known = TrainingPictures.from_provenance(Checkpoint.read(whole / "weights.safetensors").provenance)
    assert known == TrainingPictures.of(load_shards(photos, "train").banks["clean"].clean_pictures())
    assert known is not None and len(known) > 0


def test_log_ends_with_the_validation(whole: Path) -> None:
    last = log(whole)[-1]
    assert last["step"] == 5
    assert last["validation"] == Checkpoint.read(whole / "weights.safetensors").provenance["validation"]
    assert list(whole.glob("events.out.tfevents.*"))


def test_panel_shows_each_kind(whole: Path) -> None:
    panel = read_rgb8(whole / "panel.png")
    kinds = log(whole)[-1]["validation"]
    assert panel.shape == (len(kinds) * PANEL_SIDE, 3 * PANEL_SIDE, 3)
    row = list(kinds).index("noise_50") * PANEL_SIDE
    degraded, _, clean = panel[row : row + 48, :].split(PANEL_SIDE, dim=1)
    error = (degraded[:, :64].float() - clean[:, :64].float()).square().mean().sqrt().item()
    assert error == pytest.approx(50, rel=0.15)
    assert not degraded[:, 64:].any(), "black beside a small picture"


def test_nothing_else_is_left(whole: Path) -> None:
    names = {path.name for path in whole.iterdir() if not path.name.startswith(("events", "lock"))}
    assert names == {
        "state.safetensors",
        "weights.safetensors",
        "training_pictures.json",
        "log.jsonl",
        "panel.png",
    }


def test_every_hundred_steps_are_logged_and_the_last_ones(
    photos: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """With a network of one weight, a hundred steps take no time."""

    class Gain(nn.Module):
        def __init__(self, config: object) -> None:
            super().__init__()
            self.config = config
            self.gain = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain

    spec = training.models.get("daair_s")
    monkeypatch.setattr(training.models, "get", lambda _: replace(spec, build=Gain))
    recipe = replace(RECIPE, tasks=(Task("clean", 1, "clean"),), steps=210, learning_rate=0.01, ema_decay=0.9)
    train(recipe, photos, tmp_path / "run", device="cpu")
    first, second, last = (row for row in log(tmp_path / "run") if "loss" in row)
    assert (first["step"], second["step"], last["step"]) == (100, 200, 210)
    assert last["loss"] < second["loss"] < 0.7 * first["loss"]
    assert 0 < last["learning_rate"] < second["learning_rate"] < first["learning_rate"] < 0.01
    assert "step 100 · 47% · loss" in capsys.readouterr().err


# Learning


def test_a_few_steps_restore_a_little(photos: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=30, learning_rate=4e-3)  # the network starts as the identity
    scores = Checkpoint.read(train(recipe, photos, tmp_path / "run", device="cpu")).provenance["validation"]
    assert scores["noise_50"]["output"] > scores["noise_50"]["input"] + 0.05


def test_apples_gpus_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert training._launch_fabric("32-true", "auto", 1, 1).device.type == "cpu"


def test_a_recipes_shares_reach_the_mix(photos: Path, tmp_path: Path, monkeypatch) -> None:
    mixes: list[Mixer] = []

    def noted(*arguments: Any, **keywords: Any) -> Mixer:
        mixes.append(Mixer(*arguments, **keywords))
        return mixes[-1]

    monkeypatch.setattr(training, "Mixer", noted)
    train(replace(RECIPE, steps=1, gray=0.1, tones=0.2, upright=0.3), photos, tmp_path / "run", device="cpu")
    assert (mixes[-1].gray, mixes[-1].tones, mixes[-1].upright) == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(("noise", "clean", "counts"), [(1.0, 1e-9, True), (1e-9, 1.0, False)])
def test_a_tasks_errors_count_by_its_loss_weight(
    noise: float, clean: float, counts: bool, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    """A fresh network changes nothing, so that all error of its first step is the noise."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    tasks = (
        Task("noise", 1, "clean", "gaussian_noise", loss_weight=noise),
        Task("clean", 1, "clean", loss_weight=clean),
    )
    recipe = replace(RECIPE, tasks=tasks, steps=1, balance_weight=0.0)
    train(recipe, photos, tmp_path / "run", device="cpu")
    loss = log(tmp_path / "run")[0]["loss"]
    assert loss > 0.01 if counts else 0 < loss < 1e-7


def test_the_routers_balance_counts_by_its_weight(photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    losses: list[float] = []
    for weight in (0.0, 1.0):
        folder = tmp_path / str(weight)
        train(replace(RECIPE, steps=1, balance_weight=weight), photos, folder, device="cpu")
        losses.append(log(folder)[0]["loss"])
    assert losses[1] > losses[0]


def test_gradients_are_scaled_down_to_the_recipes_norm(photos: Path, tmp_path: Path, monkeypatch) -> None:
    norms: list[float] = []

    def measure(network: DaAIR) -> None:
        gradients = [p.grad.norm() for p in network.parameters() if p.grad is not None]
        norms.append(torch.stack(gradients).norm().item())

    monkeypatch.setattr(DaAIR, "after_step", measure)
    for norm in (1e-3, 0.0):
        train(replace(RECIPE, steps=1, clip_norm=norm), photos, tmp_path / str(norm), device="cpu")
    assert norms[0] == pytest.approx(1e-3, rel=0.01)
    assert norms[1] > 2e-3


def test_average_follows_the_weights(photos: Path, tmp_path: Path, monkeypatch) -> None:
    seen: list[Tensor] = []
    genuine = training.AveragedModel.update_parameters

    def update(self, network) -> None:
        seen.append(network.head.weight.detach().clone())
        genuine(self, network)

    monkeypatch.setattr(training.AveragedModel, "update_parameters", update)
    train(replace(RECIPE, ema_decay=0.75, steps=4), photos, tmp_path / "run", device="cpu")
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    averaged = state(tmp_path / "run")["average.module.head.weight"]
    torch.testing.assert_close(averaged, expected, rtol=0, atol=1e-7)
    assert not torch.allclose(averaged, seen[-1], rtol=0, atol=1e-5)
    kept = Checkpoint.read(tmp_path / "run" / "weights.safetensors").tensors["head.weight"]
    assert torch.equal(kept, averaged.half())


def test_controllers_follow_while_training(whole: Path) -> None:
    network = {k.removeprefix("network."): v for k, v in state(whole, "network.").items()}
    own, source = network["decoder.0.0.controller.expert.mix"], network["encoder.0.0.learner.agnostic.mix"]
    torch.manual_seed(RECIPE.seed)
    fresh = training.models.get("daair_s")
    start = fresh.build(fresh.config).state_dict()["encoder.0.0.learner.agnostic.mix"]
    moved, travelled = (own - start).norm(), (source - start).norm()
    assert 0 < moved < 0.01 * travelled  # 5 steps of momentum 0.999


@pytest.mark.parametrize(
    ("step", "done", "expected"),
    [(0, 0.0, 0.1), (4, 0.0, 0.5), (9, 0.0, 1.0), (99, 0.5, 0.5005), (99, 1.0, 0.001)],
)
def test_learning_rate_warms_up_and_falls(step: int, done: float, expected: float) -> None:
    recipe = replace(RECIPE, learning_rate=1.0, final_learning_rate=0.001, warmup_steps=10)
    assert learning_rate_at(recipe, step, done) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(4, 0.5), (10, 1.0), (60, 0.5), (110, 0.0), (200, 0.0)])
def test_a_cosine_longer_than_the_run_begins_after_the_warm_up(step: int, expected: float) -> None:
    recipe = replace(
        RECIPE, learning_rate=1.0, final_learning_rate=0.0, warmup_steps=10, cosine_steps=110, steps=80
    )
    assert learning_rate_at(recipe, step, done=0.7) == pytest.approx(expected, abs=1e-9)


def test_minutes_replace_steps(photos: Path, tmp_path: Path, monkeypatch) -> None:
    clock = iter(range(0, 10_000, 10))  # each look at the clock finds ten seconds gone
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    weights = train(RECIPE, photos, tmp_path / "run", minutes=0.5, device="cpu")
    assert Checkpoint.read(weights).provenance["steps"] == 3
    again = train(RECIPE, photos, tmp_path / "run", minutes=0.6, resume=True, device="cpu")
    provenance = Checkpoint.read(again).provenance
    assert (provenance["steps"], provenance["hours"]) == (4, round(40 / 3600, 3))


def test_validation_measures_input_and_output(photos: Path) -> None:
    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    network = Identity().train()
    scores = validate(network, load_shards(photos, "val"), None)
    assert network.training
    assert scores["clean"] == {"n": 1, "input": None, "output": 99.0}
    assert all(row["output"] == row["input"] for kind, row in scores.items() if kind != "clean")
    assert scores["noise_25"]["input"] == pytest.approx(20 * math.log10(255 / 25), abs=0.5)
    network.forward = lambda x: x + 1  # type: ignore[method-assign]  # beyond white
    assert 0 < validate(network, load_shards(photos, "val"), None)["clean"]["output"] < 20


# Stopping and going on

KILLED = """
import sys, time
from pathlib import Path
import torch
from pellucid.recipe import load_recipe
from pellucid.train import train

torch.set_num_threads(1)
genuine, saves = Path.replace, 0

def hang_at_third(self, target):
    global saves
    if "state" in self.name:
        saves += 1
        if saves == 3:
            print("saving", flush=True)
            time.sleep(600)
    return genuine(self, target)

Path.replace = hang_at_third
train(load_recipe(sys.argv[1]), sys.argv[2], sys.argv[3], device="cpu", save_every=0)
"""


def as_toml(recipe: Recipe) -> str:
    values = {**recipe.to_dict(), "betas": list(recipe.betas)}
    (task,) = values.pop("tasks")
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    lines += [
        "[[tasks]]",
        *(f"{key} = {json.dumps(value)}" for key, value in task.items() if value is not None),
    ]
    return "\n".join(lines)


def test_a_run_killed_while_saving_ends_with_the_same_bits(whole: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(as_toml(RECIPE))
    folder = tmp_path / "run"
    child = run_python(KILLED, tmp_path / "tiny.toml", photos, folder)
    said = child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    _, errors = child.communicate()
    assert said == "saving\n", errors
    assert child.returncode == -signal.SIGKILL
    assert list(folder.glob(".state.safetensors.*.tmp")), "it was killed before the renaming"

    train(RECIPE, photos, folder, device="cpu", resume=True)
    assert not list(folder.glob(".*")), "the half-done file is swept away"
    resumed, straight = state(folder), state(whole)
    assert resumed.keys() == straight.keys()
    assert [name for name in straight if not torch.equal(resumed[name], straight[name])] == []
    ours, theirs = (Checkpoint.read(f / "weights.safetensors") for f in (folder, whole))
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
    assert ours.provenance["steps"] == 5


# Guided networks


def test_a_guided_network_is_told_what_is_wrong(photos: Path, tmp_path: Path, monkeypatch) -> None:
    told: list[Tensor] = []
    genuine = DFPIR.forward

    def forward(network: DFPIR, x: Tensor, prompt: Tensor) -> Tensor:
        told.append(prompt)
        return genuine(network, x, prompt)

    monkeypatch.setattr(DFPIR, "forward", forward)
    tasks = (
        Task("noise", 1, "clean", "gaussian_noise"),
        Task("noise", 1, "clean", "gaussian_noise", prompt="rain"),
    )
    recipe = replace(RECIPE, model="dfpir_s", tasks=tasks, steps=4)
    checkpoint = Checkpoint.read(train(recipe, photos, tmp_path / "run", device="cpu"))
    in_training, in_validation = told[:4], told[4:]
    assert all(prompt.shape == (4,) for prompt in in_training)
    assert set(torch.cat(in_training).tolist()) == {0, 1}  # noise and rain
    assert {prompt.item() for prompt in in_validation} == {0}
    assert set(checkpoint.provenance["validation"]) == {"noise_15", "noise_25", "noise_50", "film_grain"}


# Several processes

PROCESSES = """
import os
import signal
import sys

from pellucid import train as training
from pellucid.errors import PellucidError
from pellucid.recipe import load_recipe

recipe, data, run, processes, lost_at = sys.argv[1:]
training.LOG_EVERY = 1
genuine = training.learning_rate_at

def rate(recipe, step, done):
    if step == int(lost_at) and os.environ.get("LOCAL_RANK") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(recipe, step, done)

training.learning_rate_at = rate
try:
    training.train(
        load_recipe(recipe), data, run, device="cpu", processes=int(processes), save_every=0, resume=True
    )
except PellucidError as error:
    sys.exit(f"pellucid: {error}")
"""


def run_processes(
    folder: Path, data: Path, processes: int, lost_at: int = -1, launcher: tuple[str, ...] = ()
) -> tuple[int, str]:
    """A run of 20 steps in `folder / "run"`, by a script, since each process starts it anew."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.toml").write_text(as_toml(replace(RECIPE, steps=20, learning_rate=1e-4)))
    (folder / "script.py").write_text(PROCESSES)
    source = Path(pellucid.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "script.py", "tiny.toml", data, "run", str(processes), str(lost_at)]
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return ended.returncode, ended.stderr


def losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "run" / "log.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def test_two_processes_learn_as_one_and_outlive_a_lost_one(photos: Path, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    for name, launcher in (("one", ()), ("two", torchrun)):
        code, said = run_processes(tmp_path / name, photos, 1, launcher=launcher)
        assert code == 0, said
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20
    assert two == pytest.approx(one, abs=1e-5)

    code, said = run_processes(tmp_path / "lost", photos, 2, lost_at=12)
    assert code not in (0, None)
    # Which of the two sees it first is chance: the loop, or the launcher that watches its children.
    assert "Another of the 2 processes of this run ended" in said or "terminated with code -9" in said
    assert run_processes(tmp_path / "lost", photos, 2)[0] == 0
    resumed, straight = state(tmp_path / "lost" / "run"), state(tmp_path / "two" / "run")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


@pytest.mark.parametrize("imitated", [True, False])
def test_imitated_bf16_gives_way_to_float32(
    photos: Path, tmp_path: Path, monkeypatch, capsys, imitated
) -> None:
    monkeypatch.setattr("pellucid.compute.imitates_bf16", lambda device: imitated)
    recipe = replace(RECIPE, precision="bf16-mixed", steps=1)
    weights = train(recipe, photos, tmp_path / "run", device="cpu")
    provenance = Checkpoint.read(weights).provenance
    assert provenance["precision"] == ("32-true" if imitated else "bf16-mixed")
    assert provenance["recipe"]["precision"] == "bf16-mixed"
    assert (IMITATED in "".join(capsys.readouterr())) == imitated


def test_a_finished_run_has_nothing_to_go_on_with(whole: Path, photos: Path) -> None:
    before = (whole / "weights.safetensors").stat().st_mtime_ns, state(whole)
    gone = whole / "start.safetensors"  # which only a new run needs
    train(RECIPE, photos, whole, device="cpu", resume=True, start_from=gone)
    assert (whole / "weights.safetensors").stat().st_mtime_ns > before[0]
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in state(whole).items())


def test_resume_without_a_run_starts_one(photos: Path, tmp_path: Path) -> None:
    weights = train(replace(RECIPE, steps=1), photos, tmp_path / "new", device="cpu", resume=True)
    assert Checkpoint.read(weights).provenance["steps"] == 1


def test_a_run_of_other_numbers_is_not_continued(whole: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes((whole / "state.safetensors").read_bytes())
    with pytest.raises(
        RecipeError, match=r"holds a run of a daair_s of other numbers, .* than tiny now gives it"
    ):
        train(replace(RECIPE, config={"num_experts": 3}), photos, tmp_path, device="cpu", resume=True)


def test_a_full_disk_is_told_and_leaves_no_half_state(photos: Path, tmp_path: Path, monkeypatch) -> None:
    def full(tensors: dict[str, Tensor], file: Path, header: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match=r"can't be written: I/O error: No space left .* with --resume"):
        train(replace(RECIPE, steps=1), photos, tmp_path / "run", device="cpu")
    assert not list((tmp_path / "run").rglob("*.safetensors*"))


def test_a_disk_without_room_for_the_panel_ends_no_training(tmp_path: Path, monkeypatch, capsys) -> None:
    def full(_: pyvips.Image, file: str) -> None:
        Path(file).write_bytes(b"half")
        raise pyvips.Error("unable to call VipsForeignSavePngFile", "No space left on device")

    monkeypatch.setattr(pyvips.Image, "write_to_file", full)
    (tmp_path / "panel.png").write_bytes(b"the last one")
    RunLog(tmp_path).show_panel(torch.zeros(3, 16, 16))
    assert "panel.png can't be written (" in capsys.readouterr().err
    assert (tmp_path / "panel.png").read_bytes() == b"the last one"
    assert not list(tmp_path.glob(".panel*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk")
def test_a_disk_without_room_for_the_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"log.jsonl can't be written: No space left .* with --resume"):
        RunLog(tmp_path).write(step=1, loss=0.5)


def test_what_a_resumed_run_changes_is_said_and_stands_in_its_weights(
    photos: Path, tmp_path: Path, capsys
) -> None:
    train(replace(RECIPE, steps=1), photos, tmp_path / "run", device="cpu")
    capsys.readouterr()
    weights = train(replace(RECIPE, steps=2, seed=7), photos, tmp_path / "run", device="cpu", resume=True)
    said = capsys.readouterr().err
    assert "From step 1 on: seed was 0, is 7." in said
    assert "From step 1 on: steps was 1, is 2." in said
    provenance = Checkpoint.read(weights).provenance
    assert [(part["from_step"], part["recipe"]["seed"]) for part in provenance["parts"]] == [(0, 0), (1, 7)]
    train(replace(RECIPE, steps=2, seed=7), photos, tmp_path / "run", device="cpu", resume=True)
    assert "From step" not in capsys.readouterr().err


def test_a_resumed_run_keeps_its_minutes_unless_it_gets_others_or_other_steps() -> None:
    progress = Progress(step=3)
    assert progress.go_on(RECIPE, "data", 5.0) == (RECIPE, 5.0, [])
    assert progress.go_on(RECIPE, "data", None) == (RECIPE, 5.0, [])
    assert progress.go_on(RECIPE, "data", 6.0) == (
        RECIPE,
        6.0,
        ["From step 3 on: the budget in minutes was 5.0, is 6.0."],
    )
    assert progress.go_on(RECIPE, "more", None) == (
        RECIPE,
        6.0,
        ["From step 3 on: the training pictures are others."],
    )
    assert progress.go_on(RECIPE, "more", None, steps=RECIPE.steps) == (
        RECIPE,
        None,
        ["From step 3 on: the budget in minutes was 6.0, is None."],
    )
    progress.go_on(RECIPE, "more", 6.0)
    _, minutes, changes = progress.go_on(replace(RECIPE, steps=9), "more", None)
    assert minutes is None
    assert len(changes) == 2


def test_a_state_from_before_a_key_was_trained_by_its_default() -> None:
    progress = Progress()
    progress.go_on(RECIPE, "data", 5.0)
    del progress.parts[0]["recipe"]["upright"]
    del progress.parts[0]["recipe"]["tasks"][0]["loss_weight"]
    assert progress.go_on(RECIPE, "data", None) == (RECIPE, 5.0, [])
    _, _, changes = progress.go_on(replace(RECIPE, upright=0.3), "data", None)
    assert changes == ["From step 0 on: upright was 0.0, is 0.3."]


def test_a_resumed_run_keeps_its_steps() -> None:
    progress = Progress()
    longer = replace(RECIPE, steps=9)
    assert progress.go_on(RECIPE, "data", None, steps=9) == (longer, None, [])
    progress.step = 7
    assert progress.go_on(RECIPE, "data", None) == (longer, None, [])
    assert len(progress.parts) == 1


def test_what_makes_no_step_is_not_in_the_provenance(photos: Path, tmp_path: Path, capsys) -> None:
    train(RECIPE, photos, tmp_path / "run", device="cpu", steps=2)
    other = replace(RECIPE, seed=7)
    weights = train(other, photos, tmp_path / "run", device="cpu", steps=1, resume=True)
    assert "Nothing is left to do: 2 of 1 steps are over." in capsys.readouterr().err
    provenance = Checkpoint.read(weights).provenance
    assert (provenance["steps"], provenance["recipe"]["steps"], provenance["seed"]) == (2, 2, 0)
    assert "parts" not in provenance


def test_minutes_and_steps_contradict_each_other(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"5 minutes and 3 steps; expected one of the two"):
        train(RECIPE, photos, tmp_path / "run", device="cpu", minutes=5, steps=3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_saves_its_last_step(
    photos: Path, tmp_path: Path, monkeypatch, request, number: signal.Signals
) -> None:
    before = signal.default_int_handler  # a process in the background ignores Ctrl-C
    outside = signal.signal(number, before)
    request.addfinalizer(lambda: signal.signal(number, outside))
    monkeypatch.setattr(DaAIR, "after_step", lambda _: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        train(RECIPE, photos, tmp_path / "run", device="cpu", save_every=60)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert Checkpoint.read(tmp_path / "run" / "weights.safetensors").provenance["steps"] == 1


def test_weights_may_be_read_by_whom_the_umask_lets(photos: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        weights = train(replace(RECIPE, steps=1), photos, tmp_path / "run", device="cpu")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (weights, weights.with_name("state.safetensors"))} == {
        0o640
    }


def test_start_from_starts_with_these_weights(whole: Path, photos: Path, tmp_path: Path) -> None:
    still = replace(RECIPE, steps=1, learning_rate=1e-12, final_learning_rate=0.0)
    weights = train(still, photos, tmp_path / "run", device="cpu", start_from=whole / "weights.safetensors")
    before, after = (Checkpoint.read(file).tensors for file in (whole / "weights.safetensors", weights))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert all(".controller.expert." in name for name in changed), "only what follows others may move"


def test_start_from_takes_the_name_of_shipped_weights(photos: Path, tmp_path: Path) -> None:
    shipped = weights.find("daair_s.5task")
    first = Checkpoint.read(shipped.path)
    recipe = replace(RECIPE, steps=1, learning_rate=1e-12, final_learning_rate=0.0, config=first.config)
    trained = Checkpoint.read(train(recipe, photos, tmp_path / "run", device="cpu", start_from=shipped.name))
    same = [name for name in first.tensors if torch.equal(trained.tensors[name], first.tensors[name])]
    assert len(same) > len(first.tensors) / 2
    with pytest.raises(UnknownNameError, match=r"daair_s\.5task"):
        train(recipe, photos, tmp_path / "other", device="cpu", start_from="daair_s.5tasks")


# What is refused


def test_an_existing_run_is_not_overwritten(whole: Path, photos: Path) -> None:
    before = (whole / "state.safetensors").read_bytes()
    with pytest.raises(OutputExistsError, match=r"already holds a run\. Go on with it by --resume"):
        train(RECIPE, photos, whole, device="cpu")
    assert (whole / "state.safetensors").read_bytes() == before


def test_weights_whose_run_is_gone_are_not_overwritten(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"kept")
    for resume in (False, True):
        with pytest.raises(OutputExistsError, match=r"holds weights, but no state .* --start-from"):
            train(RECIPE, photos, tmp_path, device="cpu", resume=resume)
    assert (tmp_path / "weights.safetensors").read_bytes() == b"kept"


def test_one_folder_serves_one_training(photos: Path, tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).claimed(resumed=False),
        pytest.raises(OutputExistsError, match="Another process trains in"),
    ):
        train(RECIPE, photos, tmp_path, device="cpu")
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_run_that_came_between_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"kept")
    with pytest.raises(OutputExistsError, match="meanwhile"), RunFolder(tmp_path).claimed(resumed=False):
        (tmp_path / "state.safetensors").unlink()
    assert (tmp_path / "state.safetensors").read_bytes() == b"kept"


def test_another_recipes_run_is_not_continued(whole: Path, photos: Path) -> None:
    with pytest.raises(RecipeError, match=r"holds a run of tiny \(daair_s\), not of other \(daair_s\)"):
        train(replace(RECIPE, name="other"), photos, whole, device="cpu", resume=True)


@pytest.mark.parametrize("content", ["cut", "words", "weights"])
def test_a_damaged_state_is_refused(whole: Path, photos: Path, tmp_path: Path, content: str) -> None:
    bytes_of = {
        "cut": lambda: (whole / "state.safetensors").read_bytes()[:-1],
        "words": lambda: b"no tensors here",
        "weights": lambda: (whole / "weights.safetensors").read_bytes(),
    }
    (tmp_path / "state.safetensors").write_bytes(bytes_of[content]())
    with pytest.raises(CheckpointError, match=r"state.safetensors is not the saved state of a run"):
        train(RECIPE, photos, tmp_path, device="cpu", resume=True)


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        ({}, {"device": "tpu"}, InputError, "no device 'tpu' to train on. Choose auto, cpu or"),
        ({}, {"minutes": 0}, InputError, "The budget is 0 minutes; expected more than zero"),
        ({}, {"minutes": float("nan")}, InputError, "The budget is nan minutes"),
        ({}, {"save_every": float("nan")}, InputError, "Saving every nan and validating every 15.0 minutes"),
        ({}, {"validate_every": -1.0}, InputError, "validating every -1.0 minutes"),
        (
            {},
            {"processes": 3},
            RecipeError,
            "The batch is drawn in 4 lots, which 3 processes can't share alike. Set lots, and batch, to",
        ),
        (
            {"tasks": (Task("rain", 1, "rain_pairs"),)},
            {},
            RecipeError,
            "task 'rain' asks for the source 'rain_pairs', which the data lacks",
        ),
        ({"config": {"dim": -1}}, {}, RecipeError, "The recipe's config gives no daair_s: {'dim': -1}"),
        ({"config": {"dim": 7}}, {}, RecipeError, "The recipe's config gives no daair_s: {'dim': 7}"),
        ({"config": {"num_experts": 0}}, {}, RecipeError, "(division by zero)"),
        ({"config": {"encoder_blocks": (1,)}}, {}, RecipeError, "is out of range"),
        ({}, {"start_from": "nowhere.safetensors"}, CheckpointError, "nowhere.safetensors can't be read"),
    ],
)
def test_what_can_not_be_done_leaves_no_folder(
    photos: Path, tmp_path: Path, change: dict, options: dict, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        train(replace(RECIPE, **change), photos, tmp_path / "run", **{"device": "cpu", **options})
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_several_machines_need_a_scheduler(photos: Path, tmp_path: Path, monkeypatch) -> None:
    for name in training.STARTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(training, "_launch_fabric", lambda *_: pytest.fail("it waits for the other machine"))
    recipe = replace(RECIPE, lots=2)
    with pytest.raises(InputError, match=r"no scheduler has started .* See docs/distributed\.md"):
        train(recipe, photos, tmp_path / "run", device="cpu", nodes=2)


def test_a_gpu_that_is_not_there(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no device 'cuda'"):
        train(RECIPE, photos, tmp_path / "run", device="cuda")


def test_a_device_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no device"):
        train(RECIPE, tmp_path / "nowhere", tmp_path / "run", device="gpu")


def test_weights_of_another_structure_are_no_start(photos: Path, tmp_path: Path) -> None:
    spec = training.models.get("daair")
    small = replace(spec.config, dim=4, encoder_blocks=(1, 1), decoder_blocks=(1,), num_heads=(1, 1))
    Checkpoint.from_network("daair", spec.build(small)).write(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"holds a daair; the recipe trains daair_s"):
        train(RECIPE, photos, tmp_path / "run", device="cpu", start_from=tmp_path / "other.safetensors")


def test_weights_of_other_numbers_are_no_start(whole: Path, photos: Path, tmp_path: Path) -> None:
    other = replace(RECIPE, config={"num_experts": 3})
    with pytest.raises(CheckpointError, match=r"holds a daair_s of other numbers .*: num_experts 5, not 3\."):
        train(other, photos, tmp_path, device="cpu", start_from=whole / "weights.safetensors")


def test_without_fabric_the_remedy_is_named(photos: Path, tmp_path: Path, monkeypatch) -> None:
    for package in ("lightning_fabric", "lightning", "lightning.fabric"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RecipeError, match=r"needs Lightning Fabric.*pip install 'pellucid\[train\]'"):
        train(RECIPE, photos, tmp_path / "run", device="cpu")


def test_broken_weights_never_replace_good_ones(photos: Path, tmp_path: Path, monkeypatch) -> None:
    measured = [training.picture_errors] * 2

    def turns_bad(restored: Tensor, *more: Any) -> Tensor:
        good = measured.pop() if measured else None
        return good(restored, *more) if good else restored.sum(dim=(1, 2, 3)) * float("nan")

    monkeypatch.setattr(training, "picture_errors", turns_bad)
    with pytest.raises(
        RecipeError, match=r"infinite or NaN before step 3\. Lower the learning rate.*--resume"
    ):
        train(RECIPE, photos, tmp_path / "run", device="cpu", save_every=0)
    assert all(tensor.isfinite().all() for tensor in state(tmp_path / "run").values())
    monkeypatch.undo()
    weights = train(RECIPE, photos, tmp_path / "run", device="cpu", resume=True)
    assert Checkpoint.read(weights).provenance["steps"] == 5


# A machine that has little

BARE = """
import sys
from importlib.abc import MetaPathFinder

# What a machine made for training may lack.
MISSING = {"pyvips", "tensorboard", "tensorboardX", "rich", "typer", "torchmetrics", "scipy"}

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import torch
from pellucid.recipe import load_recipe
from pellucid.train import train

torch.set_num_threads(1)
train(load_recipe(sys.argv[1]), sys.argv[2], sys.argv[3], device="cpu")
"""


def test_a_bare_machine_trains_alike(whole: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "tiny.toml").write_text(as_toml(RECIPE))
    folder = tmp_path / "run"
    child = run_python(BARE, tmp_path / "tiny.toml", photos, folder)
    _, errors = child.communicate()
    assert child.returncode == 0, errors
    assert {path.name for path in folder.iterdir() if path.name != "lock"} == {
        "state.safetensors",
        "weights.safetensors",
        "training_pictures.json",
        "log.jsonl",
        "panel.png",
    }
    assert torch.equal(read_rgb8(folder / "panel.png"), read_rgb8(whole / "panel.png"))
    rich = state(whole)
    assert all(torch.equal(tensor, rich[name]) for name, tensor in state(folder).items())
