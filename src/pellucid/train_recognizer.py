"""The recognizer's training: as `pellucid.train`, with labels in place of clean pictures, in one process.

A run lives in a folder of `pellucid.training_run`. By `steps` on a CPU, a run that was cut off and resumed
ends with the same bits.
"""

import itertools
import json
import math
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from pellucid import models
from pellucid.checkpoint import Checkpoint
from pellucid.data import load_shards
from pellucid.errors import RecipeError
from pellucid.evaluate.recognition import calibrate_checkpoint, judge
from pellucid.labels import LabelledPictures, validation_shards, with_drawn
from pellucid.models.recognizer import MOMENTUM, Answers, reduced
from pellucid.recipe import Recipe
from pellucid.training_run import (
    IMITATED,
    Progress,
    RunFolder,
    RunLog,
    check_times,
    check_weights,
    learning_rate_at,
    load_state,
    provenance_of,
    read_start,
    save_state,
    training_device,
    training_precision,
    watching_for_the_end,
)

LOG_EVERY = 20  # steps
DRAWN = 600  # training pictures that are no photographs, of eleven sorts
STRENGTH_WEIGHT = 1.0  # beside the cross entropy of presence
SETTLING = 80  # batches, for the statistics of the averaged weights
FITTING = 800  # batches, to fit the heads to
FINISHING = 10**9  # number of their first, beyond all steps
EPOCHS = 40  # of the heads' fit
HEAD_RATE, HEAD_DECAY, HEAD_BATCH = 1e-3, 0.05, 256
HEAD_NOISE = 0.1  # added to features, in units of their spread: they are few
BETA = 0.1  # of the smooth L1 on encoded strengths: below, the error counts squared


def train_recognizer(
    recipe: Recipe,
    data: str | Path,
    run_folder: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    start_from: str | Path | None = None,
    validate_every: float = 15.0,
    save_every: float = 3.0,
    validation_limit: int = 4,
    device: str = "auto",
    processes: int = 1,
) -> Path:
    """Train a recognizer by a recipe, calibrate it, and give the path of its averaged weights.

    At the end its probabilities are calibrated on the even validation pictures and measured on the odd ones
    (`pellucid.evaluate.recognition`); both go into the checkpoint's provenance.

    Args:
        recipe: what to train, on which mix.
        data: shard folder with its `manifest.json`.
        run_folder: made if missing; an existing run is only continued with `resume`.
        minutes: wall-clock budget of the whole run, resumed parts counted, in place of the recipe's `steps`.
        steps: optimizer steps of the whole run, in place of the recipe's; a resumed run keeps both.
        resume: go on from the folder's last saved state.
        start_from: name of embedded weights, or path of a checkpoint, that a new run starts with.
        validate_every, save_every: minutes.
        validation_limit: pictures per row while training; the end takes all.
        device: "auto", "cpu" or "cuda".
        processes: of these one trains and the others draw pictures, each with one thread. The pictures are
            the same whatever their number.

    Raises:
        OutputExistsError: the folder holds a run and `resume` is false.
        UnknownNameError, CheckpointError: `start_from` can't be used, or the saved state is damaged.
        TrainingError: the state can't be saved.
        InputError: there is no such device, no time, or both minutes and steps are given.
        RecipeError: the model restores pictures, the folder holds a run of another recipe or network,
            the data don't serve the recipe or hold nothing to calibrate by, or the weights are not finite
            anymore.
    """
    spec = models.get(recipe.model)
    if spec.restores:
        raise RecipeError(
            f"The recipe trains {recipe.model}, which restores pictures; expected a recognizer."
        )
    check_times(minutes, save_every, validate_every, steps)
    place = training_device(device)
    run = RunFolder(Path(run_folder))
    resume = run.check(resume=resume)
    training = with_drawn(load_shards(data, "train"), DRAWN, recipe.seed, textures=True)
    held_out = load_shards(data, "val")
    if not held_out.banks:
        raise RecipeError(
            f"{data} holds no validation pictures, by which a recognizer is calibrated; expected some of the "
            "split val. Add them."
        )
    validation = validation_shards(held_out)
    drawn = _Drawn(LabelledPictures(training, recipe.tasks, recipe.patch, recipe.gray, recipe.tones), recipe)
    torch.manual_seed(recipe.seed)
    config = spec.config_from({**asdict(spec.config), **recipe.config})
    network: Any = spec.build(config)
    if start_from and not resume:
        network.load_state_dict(read_start(start_from, spec, config).build().state_dict())
    network.to(place)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    average_function: Any = get_ema_multi_avg_fn(recipe.ema_decay)
    average = AveragedModel(network, multi_avg_fn=average_function)
    progress = Progress()
    if resume:
        progress = load_state(run.state, recipe, network, average, optimizer)
    recipe, minutes, changes = progress.go_on(recipe, training.data_hash, minutes, steps)

    def keep() -> None:
        check_weights(network, progress.step)
        save_state(run.state, recipe, network, average, optimizer, progress)
        publish()

    def publish() -> None:
        provenance = provenance_of(recipe, progress, validation, place)
        Checkpoint.from_network(recipe.model, average.module, provenance).write(
            run.weights, dtype=torch.float16
        )

    def write(**values: Any) -> None:
        log.write(step=progress.step, seconds=progress.seconds, **values)

    with run.claimed(resumed=resume):
        log = RunLog(run.path)
        log.say(
            f"{recipe.name}: {sum(p.numel() for p in network.parameters()):,} parameters on {place}, "
            f"{torch.get_num_threads()} threads; from step {progress.step}"
        )
        if (precision := training_precision(recipe, place.type)) != recipe.precision:
            log.say(IMITATED)
        for change in changes:
            log.say(change)
        last = time.monotonic()
        next_save, next_look = (progress.seconds + 60 * m for m in (save_every, validate_every))
        recent: list[Tensor] = []
        with watching_for_the_end() as is_asked_to_end:
            for x, presence, strengths in _loader(drawn, itertools.count(progress.step), processes - 1):
                done = progress.done(recipe, minutes)
                if done >= 1:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(recipe, progress.step, done)
                rng = torch.Generator().manual_seed(progress.step)
                with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                    features = _features(network, x.to(place), 1, rng)
                loss = _error(network.conclude(features), presence.to(place), strengths.to(place))
                optimizer.zero_grad()
                loss.sum().backward()
                if recipe.clip_norm:
                    torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
                optimizer.step()
                average.update_parameters(network)
                recent.append(loss.detach())
                progress.step += 1
                progress.samples += recipe.batch
                now = time.monotonic()
                progress.seconds, last = progress.seconds + now - last, now
                if ends := is_asked_to_end():
                    keep()
                    log.end(progress.step, ends)
                if progress.step % LOG_EVERY == 0:
                    entropy, error = torch.stack(recent).mean(0).tolist()
                    recent.clear()
                    write(presence_loss=entropy, strength_loss=error)
                    log.say(
                        f"step {progress.step} · {done:.0%} · presence {entropy:.4f} · strength {error:.4f}"
                    )
                if progress.seconds >= next_look:
                    progress.scores = judge(average.module, validation, validation_limit)
                    write(validation=progress.scores)
                    log.say(json.dumps(progress.scores))
                    next_look, last = progress.seconds + 60 * validate_every, time.monotonic()
                if progress.seconds >= next_save:
                    keep()
                    next_save = progress.seconds + 60 * save_every
        keep()  # before what comes last, so that a kill meanwhile costs no training
        _finish(average.module, drawn, place, processes - 1 and processes, log)
        publish()
        calibrated = calibrate_checkpoint(Checkpoint.read(run.weights), held_out)  # as rounded to float16
        calibrated.write(run.weights, dtype=torch.float16)
        write(validation=calibrated.provenance["recognition"])
        log.say(json.dumps(calibrated.provenance["recognition"]["macro_f1"]))
        log.close()
    return run.weights


class _Drawn(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The batch of each step, a function of the recipe's seed and the step's number."""

    def __init__(self, pictures: LabelledPictures, recipe: Recipe) -> None:
        self.pictures, self.recipe = pictures, recipe

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = torch.Generator().manual_seed((self.recipe.seed * 1_000_003 + step) % 2**63)
        return self.pictures.draw(self.recipe.batch, rng)


def _loader(batches: Dataset[tuple[Tensor, Tensor, Tensor]], indices: Iterable[int], workers: int) -> Any:
    """The batches of some indices, made by other processes if there are any."""
    order: Any = indices
    return DataLoader(
        batches, batch_size=None, sampler=order, num_workers=workers, worker_init_fn=_leave_interrupts
    )


def _leave_interrupts(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the one that trains saves its step and ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _features(network: Any, x: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """(B, F) from `count` crops of each picture, at places of JPEG's grid that all of the batch share."""
    side = network.config.crop
    room = max(0, x.shape[-1] - side) // 8 + 1
    crops: list[Tensor] = []
    for _ in range(count):
        top, left = (8 * int(torch.randint(room, (), generator=rng)) for _ in range(2))
        crops.append(x[:, :, top : top + side, left : left + side])
    return network.features(torch.stack(crops, dim=1), reduced(x, network.config.view))


def _error(answers: Answers, presence: Tensor, strengths: Tensor) -> Tensor:
    """(2,): cross entropy of presence, and the error of strengths, each over what has a label."""
    known, told = ~presence.isnan(), ~strengths.isnan()
    entropy = F.binary_cross_entropy_with_logits(answers.logits, presence.nan_to_num(), reduction="none")
    error = F.smooth_l1_loss(answers.strengths, strengths.nan_to_num(), beta=BETA, reduction="none")
    parts = ((entropy * known).sum() / known.sum(), (error * told).sum() / told.sum().clamp_min(1))
    return torch.stack((parts[0], STRENGTH_WEIGHT * parts[1]))


def _finish(network: Any, drawn: _Drawn, place: torch.device, workers: int, log: RunLog) -> None:
    """Settle batch normalization for the averaged weights, then fit the heads alone to many pictures.

    The heads cost next to nothing, while features cost a picture and a pass each: so they are computed once,
    and the heads see them in many epochs. Their main axes are kept, for novelty.
    """
    _settle(network, drawn, place)
    network.requires_grad_(False).eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in _loader(_Described(drawn, network.cpu()), range(FITTING), workers):
        found.append(part)
        if len(found) % LOG_EVERY == 0:
            log.say(f"features of {len(found)} of {FITTING} batches")
    network.to(place).requires_grad_(True)
    features, presence, strengths = (torch.cat(column).to(place) for column in zip(*found, strict=True))
    network.norm.running_mean.copy_(features.mean(0))
    network.norm.running_var.copy_(features.var(0))
    network.learn_axes(features)
    _fit_heads(network, features, presence, strengths, drawn.recipe.seed)


def _settle(network: Any, drawn: _Drawn, place: torch.device) -> None:
    """Take batch normalization's statistics anew for the averaged weights, which no step has run with."""
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # type: ignore[assignment]  # the mean over all batches
    network.train()
    with torch.no_grad():
        for i in range(SETTLING):
            step = FINISHING + FITTING + i
            _features(network, drawn[step][0].to(place), 1, torch.Generator().manual_seed(step))
    for layer in layers:
        layer.momentum = MOMENTUM


class _Described(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of features in place of pictures."""

    def __init__(self, drawn: _Drawn, network: Any) -> None:
        self.drawn, self.network = drawn, network

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        x, presence, strengths = self.drawn[FINISHING + index]
        with torch.no_grad():
            features = _features(self.network, x, 2, torch.Generator().manual_seed(index))
        return features, presence, strengths


def _fit_heads(network: Any, features: Tensor, presence: Tensor, strengths: Tensor, seed: int) -> None:
    """Train what comes after the features; all of them are at hand."""
    parameters = [*network.presence.parameters(), *network.strength.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=HEAD_DECAY)
    rng = torch.Generator().manual_seed(seed)
    spread = network.norm.running_var.sqrt()
    network.eval()  # the statistics of the features stay
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = HEAD_RATE * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
        for chosen in torch.randperm(len(features), generator=rng).split(HEAD_BATCH):
            noise = torch.randn(features[chosen].shape, generator=rng).to(features)
            answers = network.conclude(features[chosen] + HEAD_NOISE * spread * noise)
            optimizer.zero_grad()
            _error(answers, presence[chosen], strengths[chosen]).sum().backward()
            optimizer.step()
