"""Crops a second of a training step, and what each recipe costs by them.

    python benchmarks/train.py --json benchmarks/results/train.json

Every recipe's network is timed at its crop size and precision, in turns with the same step in float32 and
torch's default memory layout, and with a plain matrix product, whose speed is the machine's ceiling. By the
share of it that a step reaches, hours of a GPU are estimated. The README beside this file says what is
measured, and how.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid import models
from pellucid.compute import processor_name
from pellucid.evaluate.efficiency import measure_efficiency
from pellucid.evaluate.scores import code_commit
from pellucid.losses import fourier_l1, l1
from pellucid.recipe import PRECISIONS, Recipe, load_recipe, shipped_recipes
from pellucid.training_run import training_precision

FLOP_PER_MAC = 2 * 3  # a product and a sum, forward once and backward about twice
CEILING_SIDE = 2048  # of the matrix product that shows what the machine can do
GPU, GPU_FLOP = "A100", 19.5e12  # float32 operations a second outside its tensor cores, by its data sheet


@dataclass(frozen=True)
class Setting:
    """What decides how long a step takes."""

    model: str
    patch: int
    precision: str

    @classmethod
    def of(cls, recipe: Recipe, device: str, precision: str | None = None) -> "Setting":
        return cls(recipe.model, recipe.patch, precision or training_precision(recipe, device))


def create_step(setting: Setting, device: torch.device, batch: int, *, plain: bool) -> Callable[[], None]:
    """One optimizer step on random crops: as the loop takes it, or plainly."""
    spec = models.get(setting.model)
    layout = torch.contiguous_format if plain else torch.channels_last
    network = spec.build(spec.config).to(device, memory_format=layout)  # type: ignore[call-overload]
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    clean = torch.rand(batch, 3, setting.patch, setting.patch, device=device)
    degraded = (clean + 0.1 * torch.randn_like(clean)).contiguous(memory_format=layout)
    more = [torch.zeros(batch, dtype=torch.long, device=device)] if spec.guided else []
    bf16 = setting.precision == "bf16-mixed" and not plain

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            if hasattr(network, "forward_train"):
                restored, extra = network.forward_train(degraded, *more)  # type: ignore[operator]
            else:
                restored, extra = network(degraded, *more), {}
        loss: Tensor = l1(restored, clean) + 0.1 * fourier_l1(restored, clean)
        loss = loss + sum(0.01 * value.float() for value in extra.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def create_product(device: torch.device) -> Callable[[], None]:
    """A matrix product in float32, of 2 * CEILING_SIDE**3 operations."""
    a, b = (torch.randn(CEILING_SIDE, CEILING_SIDE, device=device) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return product


def measure(setting: Setting, device: torch.device, repeats: int, batch: int) -> dict[str, Any]:
    """Both steps and the product in turns, so that whatever else the machine does meets all alike."""
    steps = {name: create_step(setting, device, batch, plain=name == "plain") for name in ("plain", "ours")}
    steps["ceiling"] = create_product(device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name in ("plain", "ours", "ceiling") if repeat % 2 else ("ceiling", "ours", "plain"):
            start = time.perf_counter()
            steps[name]()
            if repeat:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    ratios = [p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)]
    speeds = [o / c for o, c in zip(seconds["ours"], seconds["ceiling"], strict=True)]
    flop = flop_per_crop(setting)
    return {
        "flop_per_crop": flop,
        "share_of_ceiling": batch * flop / (2 * CEILING_SIDE**3) / statistics.median(speeds),
        "crops_per_second": batch / statistics.median(seconds["ours"]),
        "plain_crops_per_second": batch / statistics.median(seconds["plain"]),
        "ratio": statistics.median(ratios),
    }


def flop_per_crop(setting: Setting) -> float:
    """Of one crop in one training step, by the multiply-adds of the figure's steps."""
    cost = measure_efficiency(setting.model, (setting.patch,), runs=0).costs[0]
    return cost.gmac * 1e9 * FLOP_PER_MAC


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4, help="crops of a timed step")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="instead of what `pellucid train` would take here"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error("a median takes at least two repeats")
    device = torch.device(options.device)
    recipes = {
        name: load_recipe(name) for name in shipped_recipes() if load_recipe(name).model in models.restoring()
    }
    rows: dict[Setting, dict[str, Any]] = {}
    threads = torch.get_num_threads()
    print(f"{device}, {threads} threads, torch {torch.__version__}, batches of {options.batch}")
    print(
        f"{'network':<9}{'crop':>5}  {'precision':<11}{'crops/s':>8}{'over plain':>12}{'GFLOP/crop':>12}"
        f"{'of ceiling':>12}"
    )
    settings = {
        name: Setting.of(recipe, options.device, options.precision) for name, recipe in recipes.items()
    }
    for setting in dict.fromkeys(settings.values()):
        rows[setting] = measure(setting, device, options.repeats, options.batch)
        row = rows[setting]
        print(
            f"{setting.model:<9}{setting.patch:>5}  {setting.precision:<11}{row['crops_per_second']:>8.2f}"
            f"{row['ratio']:>11.2f}x{row['flop_per_crop'] / 1e9:>12.1f}{row['share_of_ceiling']:>12.0%}",
            flush=True,
        )
    print(f"\n{'recipe':<26}{'crops':>12}{'hours here':>12}{'FLOP':>10}{GPU + ' hours':>12}")
    costs: dict[str, Any] = {}
    for name, recipe in recipes.items():
        if recipe.steps == Recipe.steps:  # not its own: it is meant for a budget of minutes
            continue
        row, crops = rows[settings[name]], recipe.steps * recipe.batch
        costs[name] = {
            "crops": crops,
            "hours": crops / row["crops_per_second"] / 3600,
            "flop": crops * row["flop_per_crop"],
            "gpu_hours": crops * row["flop_per_crop"] / (row["share_of_ceiling"] * GPU_FLOP) / 3600,
        }
        print(
            f"{name:<26}{crops:>12,}{costs[name]['hours']:>12,.1f}{costs[name]['flop']:>10.1e}"
            f"{costs[name]['gpu_hours']:>12,.1f}"
        )
    if options.json:
        setting_facts = {
            "machine": processor_name(),
            "cores": os.cpu_count(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "threads": threads,
            "torch": torch.__version__,
            "commit": code_commit(),
            "batch": options.batch,
            "repeats": options.repeats,
        }
        table = [vars(setting) | row for setting, row in rows.items()]
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"setting": setting_facts, "steps": table, "recipes": costs}, indent=2) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
