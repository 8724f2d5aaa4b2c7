"""The training loop, top to bottom.

A run lives in a folder of `pellucid.training_run`, with `training_pictures.json` (hashes of the clean
pictures, which the weights carry) and `panel.png` beside the rest. A run that was cut off and resumed takes
the steps that it would have taken: by `steps`, in float32 on a CPU, it ends with the same bits.

Needs torch, numpy, safetensors and Lightning Fabric; TensorBoard and libvips (else Pillow) where installed.
"""

import math
import os
import re
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pellucid import datasets, models
from pellucid.checkpoint import Checkpoint
from pellucid.data import VALIDATION_KINDS, Mixer, Shards, load_shards, validation_pairs
from pellucid.datasets.training_pictures import KEY, hash_training_pictures
from pellucid.errors import InputError, RecipeError, TrainingError
from pellucid.labels import with_drawn
from pellucid.losses import picture_errors
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.models import ModelSpec
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

FINAL_LIMIT = 20  # pictures per kind in the last validation: all real pairs, and minutes instead of an hour
PANEL_SIDE = 256
LOG_EVERY = 100  # steps
PATIENCE = timedelta(hours=6)  # of processes that wait while the first hashes pictures or validates
STARTED = {"SLURM_NTASKS", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR"}  # set where a scheduler starts machines
DRAWN = 180  # training pictures that are no photographs, where a recipe asks for them


def train(
    recipe: Recipe,
    data: str | Path,
    run_folder: str | Path,
    *,
    validation_data: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    start_from: str | Path | None = None,
    validate_every: float = 15.0,
    save_every: float = 3.0,
    validation_limit: int = 4,
    device: str = "auto",
    processes: int = 1,
    nodes: int = 1,
) -> Path:
    """Train by a recipe; gives the path of the averaged weights.

    Args:
        recipe: what to train, on which mix.
        data: shard folder with its `manifest.json`; for recipes whose sources are data sets of
            `pellucid.datasets`, the folder below which they lie.
        validation_data: shard folder whose "val" split is looked at; by default that of `data`, if it is one.
            The papers chose their weights on the test sets; without this nothing is chosen.
        run_folder: made if missing; an existing run is only continued with `resume`.
        minutes: wall-clock budget of the whole run, resumed parts counted; it replaces the recipe's `steps`
            as the length of the schedule. May be changed at each resume; a run resumed without keeps its own.
        steps: optimizer steps of the whole run, in place of the recipe's; kept and changed as `minutes` are.
        resume: go on from the folder's last saved state.
        start_from: name of embedded weights, or path of a checkpoint, that a new run starts with; its
            optimizer starts fresh.
        validate_every, save_every: minutes.
        validation_limit: pictures per kind while training; the last validation takes `FINAL_LIMIT`.
        device: "auto", "cpu" or "cuda".
        processes: data-parallel processes that share the recipe's batch. On CPUs one process per core, each
            with one thread, is faster than one process with a thread per core, and much faster beside other
            work. On several machines: of each. Under torchrun its own numbers count.
        nodes: machines; their scheduler (SLURM) or torchrun starts this function on each.

    Raises:
        OutputExistsError: the folder holds a run and `resume` is false.
        UnknownNameError, CheckpointError: `start_from` or the saved state can't be used.
        InputError: there is no such device, no time, both minutes and steps are given, or there are
            several nodes that no scheduler has started.
        TrainingError: another process of the run ended, or the state or the log can't be written.
        RecipeError: the folder holds another recipe's run, the data don't serve the
            recipe, the weights are not finite anymore, or Fabric is missing.
    """
    # What can be refused is refused early, before there are several processes, of which one might wait.
    spec = models.get(recipe.model)
    if not spec.restores:
        raise RecipeError(f"{recipe.model} restores nothing; it is trained by pellucid.train_recognizer.")
    check_times(minutes, save_every, validate_every, steps)
    precision = training_precision(recipe, device)
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun made the processes already
        processes = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // processes
    elif nodes > 1 and not STARTED & set(os.environ):
        raise InputError(
            f"{nodes} machines are to train, but no scheduler has started this process on one of them: the "
            "variables of SLURM or torchrun are not set. See docs/distributed.md, or leave --nodes out."
        )
    world = processes * nodes
    if recipe.lots % world:
        raise RecipeError(
            f"The batch is drawn in {recipe.lots} lots, which {world} processes can't share alike. "
            f"Set lots, and batch, to multiples of {world} in the recipe."
        )
    run = RunFolder(Path(run_folder))
    resume = run.check(resume=resume)
    lacking: list[str] = []
    if any(task.source in datasets.names() for task in recipe.tasks):
        from pellucid.folders import incomplete, load_folders  # needs libvips, which shards can do without

        training = load_folders(data, recipe.tasks)
        lacking = incomplete(training.banks, data)
    else:
        training, validation_data = load_shards(data, "train"), validation_data or data
        if any(task.source == "drawn" for task in recipe.tasks):
            training = with_drawn(training, DRAWN, recipe.seed, textures=True)
    validation = load_shards(validation_data, "val") if validation_data else Shards({}, "none")
    Mixer(training, recipe.tasks)  # refuses tasks that the data don't serve
    torch.manual_seed(recipe.seed)
    config = spec.config_from({**asdict(spec.config), **recipe.config})
    start = read_start(start_from, spec, config) if start_from and not resume else None
    network = start.build() if start else _build(spec, config, recipe)

    fabric = _launch_fabric(precision, device, processes, nodes)
    training, validation = training.to(fabric.device), validation.to(fabric.device)
    shares = {"gray": recipe.gray, "tones": recipe.tones, "upright": recipe.upright}
    mixer = Mixer(training, recipe.tasks, recipe.mixing, recipe.seed, **shares)
    kinds = {"clean", *(task.kind for task in recipe.tasks)}
    prompts: tuple[str, ...] = config.prompts if spec.guided else ()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    average_function: Any = get_ema_multi_avg_fn(recipe.ema_decay)
    fabric_network, optimizer = fabric.setup(network, optimizer)
    average = AveragedModel(network, multi_avg_fn=average_function)
    if hasattr(network, "forward_train"):
        fabric_network.mark_forward_method("forward_train")

    progress = Progress()
    if resume:
        progress = load_state(run.state, recipe, network, average, optimizer)
    recipe, minutes, changes = progress.go_on(recipe, training.data_hash, minutes, steps)

    def keep() -> None:
        check_weights(network, progress.step)
        if not fabric.is_global_zero:
            return
        save_state(run.state, recipe, network, average, optimizer, progress)
        provenance = provenance_of(recipe, progress, validation, fabric.device) | {
            "validation": progress.scores,
            KEY: None if trained_on is None else trained_on.to_dict(),
        }
        Checkpoint.from_network(recipe.model, average.module, provenance).write(
            run.weights, dtype=torch.float16
        )

    def look(limit: int) -> None:
        check_weights(network, progress.step)
        if fabric.is_global_zero and validation.banks:
            progress.scores = validate(average.module, validation, limit, log, kinds, prompts)
            log.write(step=progress.step, validation=progress.scores, seconds=progress.seconds)
        fabric.barrier()

    with run.claimed(resumed=resume) if fabric.is_global_zero else nullcontext():
        log = RunLog(run.path, silent=not fabric.is_global_zero)
        if precision != recipe.precision:
            log.say(IMITATED)
        log.say(
            f"{recipe.name}: {sum(p.numel() for p in trainable):,} trainable parameters on {fabric.device}, "
            f"{fabric.world_size} x {torch.get_num_threads()} threads, {precision}; "
            f"from step {progress.step}"
        )
        for sentence in (*lacking, *changes):
            log.say(sentence)
        if not validation.banks:
            log.say("Nothing is validated on: no folder of shards with validation pictures is given.")
        trained_on = None
        if fabric.is_global_zero:
            trained_on = hash_training_pictures(
                run.path,
                training,
                [task.source for task in recipe.tasks],
                start=start and start.provenance,
                resumed=resume,
                say=log.say,
            )
        recent: list[Tensor] = []

        def tell(done: float) -> None:
            value = fabric.all_reduce(torch.stack(recent).mean(), reduce_op="mean").item()
            recent.clear()
            check_weights(network, progress.step)
            left = progress.seconds * (1 - done) / done if done > 0 else 0.0
            log.write(step=progress.step, loss=value, learning_rate=learning_rate, seconds=progress.seconds)
            log.say(f"step {progress.step} · {done:.0%} · loss {value:.4f} · {_clock(left)} left")

        last = time.monotonic()
        next_save, next_validation = (progress.seconds + 60 * m for m in (save_every, validate_every))
        with _telling_of_a_lost_process(fabric, run.path), watching_for_the_end() as is_asked_to_end:
            while True:
                done = progress.done(recipe, minutes)
                if done >= 1:
                    break
                learning_rate = learning_rate_at(recipe, progress.step, done)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate

                clean, degraded, loss_weights, *more = _draw_batch(
                    mixer, recipe, network, prompts, progress.step, done, fabric
                )
                degraded = degraded.contiguous(memory_format=torch.channels_last)
                extra: dict[str, Tensor] = {}
                if hasattr(network, "forward_train"):
                    restored, extra = fabric_network.forward_train(degraded, *more)
                else:
                    restored = fabric_network(degraded, *more)
                errors = picture_errors(restored, clean, recipe.fourier_weight, recipe.log_floor)
                loss = (loss_weights * errors).mean()
                if "balance" in extra:
                    loss = loss + recipe.balance_weight * extra["balance"].float()
                optimizer.zero_grad()
                fabric.backward(loss)
                if recipe.clip_norm:
                    fabric.clip_gradients(
                        fabric_network, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False
                    )
                optimizer.step()
                if hasattr(network, "after_step"):
                    network.after_step()  # type: ignore[operator]
                average.update_parameters(network)

                recent.append(loss.detach())
                progress.step += 1
                progress.samples += recipe.batch
                now = time.monotonic()
                seconds = progress.seconds + now - last
                (progress.seconds, ends), last = fabric.broadcast((seconds, is_asked_to_end())), now
                if ends:
                    keep()
                    log.end(progress.step, ends)
                if progress.step % LOG_EVERY == 0:
                    tell(done)
                if progress.seconds >= next_validation:
                    look(validation_limit)
                    next_validation = progress.seconds + 60 * validate_every
                    last = time.monotonic()  # looking at the result does not use up the budget
                if progress.seconds >= next_save:
                    keep()
                    next_save = progress.seconds + 60 * save_every

        if recent:
            tell(1.0)
        keep()  # before the long look, so that a kill meanwhile costs no training
        look(FINAL_LIMIT)
        keep()
        log.close()
    return run.weights


def validate(
    network: nn.Module,
    shards: Shards,
    limit: int | None,
    log: RunLog | None = None,
    kinds: Collection[str] | None = None,
    prompts: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Mean PSNR of input and output, `{"rain": {"n": 20, "input": 25.5, "output": 33.1}, ...}`.

    In float32 on the fixed pairs of `validation_pairs`, output clamped to [0, 1]. A "clean" input has no
    finite PSNR; its "input" is none. The first pair of each row goes to the panel. With `kinds`, only rows
    of these kinds. A guided network, of these `prompts`, is told the row's true kind; rows that it has no
    prompt for are left out.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    panel: list[list[Tensor]] = []
    with _evaluating(network), torch.inference_mode():
        for kind, degraded, clean in validation_pairs(shards, limit, kinds):
            guide = [p for p in (kind, VALIDATION_KINDS[kind]) if p in prompts][:1]
            if prompts and not guide:
                continue
            degraded = degraded.contiguous(memory_format=torch.channels_last)
            prompt = [torch.tensor([prompts.index(p)], device=degraded.device) for p in guide]
            restored = network(degraded, *prompt).float().clamp(0, 1)
            if kind not in rows:
                panel.append([_panel_tile(x[0]) for x in (degraded, restored, clean)])
            rows.setdefault(kind, []).append(
                (psnr_rgb(degraded, clean), min(psnr_rgb(restored, clean), 99.0))
            )
    scores: dict[str, Any] = {}
    for kind, pairs in rows.items():
        before, after = (round(sum(column) / len(pairs), 3) for column in zip(*pairs, strict=True))
        scores[kind] = {
            "n": len(pairs),
            "input": before if math.isfinite(before) else None,
            "output": after,
        }
    if log is not None:
        log.show_scores(scores)
        if panel:
            log.show_panel(torch.cat([torch.cat(row, dim=2) for row in panel], dim=1))
    return scores


def _panel_tile(x: Tensor) -> Tensor:
    """The upper left of one picture (3, H, W), as (3, PANEL_SIDE, PANEL_SIDE), black where there is none."""
    x = x[:, :PANEL_SIDE, :PANEL_SIDE].float().cpu()
    return F.pad(x, (0, PANEL_SIDE - x.shape[2], 0, PANEL_SIDE - x.shape[1]))


def _build(spec: ModelSpec, config: Any, recipe: Recipe) -> nn.Module:
    """A new network; numbers that make none are found by one crop, before there are several processes."""
    if not recipe.config:
        return spec.build(config)
    try:
        network = spec.build(config)
        prompt = [torch.zeros(1, dtype=torch.long)] if spec.guided else []
        with _evaluating(network), torch.inference_mode():
            network(torch.zeros(1, 3, recipe.patch, recipe.patch), *prompt)
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise RecipeError(
            f"The recipe's config gives no {spec.name}: {recipe.config} ({error}). "
            f"The numbers that it has by itself are {asdict(spec.config)}."
        ) from error
    return network


def _draw_batch(
    mixer: Mixer,
    recipe: Recipe,
    network: nn.Module,
    prompts: tuple[str, ...],
    step: int,
    done: float,
    fabric: Any,
) -> list[Tensor]:
    """This process' part of a step's batch: clean, degraded, loss weights, and what else the network takes.

    That is the noise of its routers, if it has routers, or its prompts' indices, if it is guided.

    Each lot is seeded by step and place, so that a resumed run draws what one that never stopped would draw,
    and two processes draw what one would.
    """
    size, share = recipe.batch // recipe.lots, recipe.lots // fabric.world_size
    rng = torch.Generator()
    lots: list[list[Tensor]] = []
    for lot in range(fabric.global_rank * share, (fabric.global_rank + 1) * share):
        rng.manual_seed(((recipe.seed * 1_000_003 + step) * 1_000_003 + lot) % 2**63)
        first = step * recipe.batch + lot * size
        degraded, clean, tasks = mixer.batch(size, recipe.patch, rng, done, first)
        loss_weights = torch.tensor([task.loss_weight for task in tasks], device=degraded.device)
        lots.append([clean, degraded, loss_weights])
        if prompts:
            names = [task.prompt or task.kind for task in tasks]
            lots[-1].append(torch.tensor([prompts.index(name) for name in names], device=degraded.device))
        if hasattr(network, "draw_noise"):
            lots[-1].append(network.draw_noise(size, rng))  # type: ignore[operator]
    return [torch.cat(parts) for parts in zip(*lots, strict=True)]


def _launch_fabric(precision: str, device: str, processes: int, nodes: int) -> Any:
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ImportError:
        try:
            # the same under the umbrella package's name
            from lightning.fabric import Fabric  # pyright: ignore[reportMissingImports]
            from lightning.fabric.strategies import DDPStrategy  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise RecipeError(
                "Training needs Lightning Fabric, which is not installed. Install it with: "
                "pip install 'pellucid[train]'"
            ) from error
    fabric: Any = Fabric(
        accelerator=training_device(device).type,
        devices=processes,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=PATIENCE) if processes * nodes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    if processes > 1 and fabric.device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    return fabric


@contextmanager
def _telling_of_a_lost_process(fabric: Any, run_folder: Path) -> Generator[None]:
    """Where a process ends, the others find out by a broken connection, told in the backend's words."""
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size == 1 or not re.search("connection|peer|gloo|nccl|timed out", str(error), re.I):
            raise
        raise TrainingError(
            f"Another of the {fabric.world_size} processes of this run ended. Look above for its reason, "
            f"then go on from the last state in {run_folder} with --resume."
        ) from error


@contextmanager
def _evaluating(network: nn.Module) -> Generator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def _clock(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
