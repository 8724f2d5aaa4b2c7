"""What each idea of the papers is worth at equal training pixels, with plain networks of equal cost beside.

    python benchmarks/ablation.py --shards SHARDS --group daair --json benchmarks/results/ablation.json

Every variant starts from one seed, sees the same crops in the same order with the same degradations (noise,
rain, haze), takes as many steps with the same learning rates, and is scored on the same validation pictures
with its averaged weights. A variant that the JSON holds already is not trained again. The README beside this
file tells the variants.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from pellucid import models
from pellucid.compute import imitates_bf16
from pellucid.data import VALIDATION_KINDS, Mixer, Shards, Task, load_shards, validation_pairs
from pellucid.evaluate.scores import code_commit
from pellucid.losses import fourier_l1, l1
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.models.daair import DaAIR, DecoderBlock, DegradationAwareLearner
from pellucid.models.dfpir import DFPIR, PerturbationBlock

TASKS = (
    Task("noise", 1, "clean", operator="gaussian_noise"),
    Task("rain", 1, "rain_pairs"),
    Task("haze", 1, "depth", operator="haze"),
)
ROWS = ("noise_25", "rain", "haze_depth")
PATCH, BATCH, EMA, WARMUP = 64, 16, 0.99, 50
# daair_s as it was when the table began, with the multiply-adds of the plain networks.
SMALL = replace(models.get("daair_s").config, encoder_blocks=(1, 2, 4, 2))
GUIDED = models.get("dfpir_s").config


def ones(x: Tensor, _: Tensor, *, rank: int) -> Tensor:
    """An expert that says nothing: the factor one in rank space."""
    return x.new_ones(len(x), rank, *x.shape[2:])


def daair(without: str = "", **config: Any) -> DaAIR:
    """Small DaAIR; `without` "agnostic", "routed", "controller", or "learner" (with its controller)."""
    network = DaAIR(replace(SMALL, **config))
    nn.init.zeros_(network.head.weight)  # all start as the identity, as small DFPIR does
    network.routes = without != "learner"
    silent = partial(ones, rank=network.config.rank)
    for module in network.modules():
        if isinstance(module, DegradationAwareLearner):
            if without == "learner":
                module.forward = lambda x, _: x
            elif without == "agnostic":
                module.agnostic.forward = silent
            elif without == "routed":
                module.specialized.forward = silent
        if isinstance(module, DecoderBlock) and without in ("controller", "learner"):
            module.controller.forward = lambda x: x
    return network


def dfpir(without: str = "", **config: Any) -> DFPIR:
    """Small DFPIR; `without` "shuffle" (all prompts keep the order) or "perturbation" (no such blocks)."""
    network = DFPIR(replace(GUIDED, **config))
    for module in network.modules():
        if isinstance(module, PerturbationBlock):
            if without == "shuffle":
                module.permutations.copy_(
                    torch.arange(module.permutations.shape[1]).expand_as(module.permutations)
                )
            elif without == "perturbation":
                module.forward = lambda x, _: x
    return network


VARIANTS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "daair": {
        "daair_s": daair,
        "no agnostic expert": partial(daair, "agnostic"),
        "no routed experts": partial(daair, "routed"),
        "no controller": partial(daair, "controller"),
        "no learner, no controller": partial(daair, "learner"),
        "plain U-Net of gated convolutions": partial(daair, "learner", dim=34),
        "plain U-Net of transposed attention": partial(daair, "learner", dim=26, mixer="attention"),
        "no Fourier loss": daair,
        "1 expert": partial(daair, num_experts=1),
        "3 experts": partial(daair, num_experts=3),
        "rank 4": partial(daair, rank=4),
        "rank 16": partial(daair, rank=16),
    },
    "dfpir": {
        "dfpir_s": dfpir,
        "no residual (the paper's block)": partial(dfpir, residual=False),
        "no mask": partial(dfpir, keep_tenths=10),
        "no shuffle": partial(dfpir, "shuffle"),
        "no perturbation": partial(dfpir, "perturbation"),
        "learned shuffle": partial(dfpir, shuffle="learned"),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True, help="folder with manifest.json")
    parser.add_argument("--group", choices=VARIANTS, required=True)
    parser.add_argument("--steps", type=int, default=600, help=f"of {BATCH} crops of {PATCH} px")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="a training of each variant for each"
    )
    parser.add_argument("--limit", type=int, default=10, help="validation pictures of each kind")
    parser.add_argument("--json", type=Path, required=True, help="the trainings, kept and added to")
    options = parser.parse_args()
    rows = json.loads(options.json.read_text("utf-8")) if options.json.exists() else []
    train, val = load_shards(options.shards, "train"), load_shards(options.shards, "val")
    for seed in options.seeds:
        for name, build in VARIANTS[options.group].items():
            row = {"group": options.group, "variant": name, "seed": seed, "steps": options.steps}
            if any(row.items() <= done.items() for done in rows):
                continue
            torch.manual_seed(seed)
            network = build().to(memory_format=torch.channels_last)
            start = time.perf_counter()
            fourier = 0.0 if name == "no Fourier loss" else 0.1
            average = fit(network, train, options.steps, options.learning_rate, seed, fourier)
            row |= {"minutes": round((time.perf_counter() - start) / 60, 1)} | cost(network)
            row |= {
                "learning_rate": options.learning_rate,
                "batch": BATCH,
                "patch": PATCH,
                "limit": options.limit,
            }
            row |= {"psnr": score(average, val, options.limit), "commit": code_commit()}
            rows.append(row | {"data": train.data_hash, "torch": torch.__version__})
            options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
            print(name, seed, row["psnr"], flush=True)
    print_table([row for row in rows if row["group"] == options.group and row["steps"] == options.steps])


def fit(network: nn.Module, data: Shards, steps: int, peak: float, seed: int, fourier: float) -> nn.Module:
    """The averaged network after `steps`, trained as `pellucid train` does, in bf16 or float32."""
    mixer, rng = Mixer(data, TASKS), torch.Generator()
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad], lr=peak, betas=(0.9, 0.99)
    )
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(EMA))
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = peak * cosine * min(1, (step + 1) / WARMUP)
        degraded, clean, tasks = mixer.batch(BATCH, PATCH, rng.manual_seed(seed * 1_000_003 + step))
        degraded = degraded.contiguous(memory_format=torch.channels_last)
        balance = torch.zeros(())
        with torch.autocast("cpu", torch.bfloat16, enabled=not imitates_bf16(torch.device("cpu"))):
            if isinstance(network, DFPIR):
                prompts = [network.config.prompts.index(task.kind) for task in tasks]
                restored = network(degraded, torch.tensor(prompts))
            elif network.routes:
                restored, extra = network.forward_train(degraded, network.draw_noise(BATCH, rng))
                balance = extra["balance"]
            else:
                restored = network(degraded)
        loss = l1(restored.float(), clean) + fourier * fourier_l1(restored.float(), clean) + 0.01 * balance
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if isinstance(network, DaAIR):
            network.after_step()
        average.update_parameters(network)
    return average.module.eval()


def score(network: nn.Module, data: Shards, limit: int) -> dict[str, float]:
    """Mean PSNR in dB of each row; a guided network is told the kind."""
    values: dict[str, list[float]] = {row: [] for row in ROWS}
    with torch.inference_mode():
        for row, degraded, clean in validation_pairs(data, limit, {task.kind for task in TASKS}):
            if row in ROWS:
                kind = VALIDATION_KINDS[row]
                prompt = [network.config.prompts.index(kind)] if isinstance(network, DFPIR) else []
                restored = network(degraded, *map(torch.tensor, prompt)).clamp(0, 1)
                values[row].append(psnr_rgb(restored, clean))
    return {row: round(statistics.fmean(found), 3) for row, found in values.items()}


def cost(network: nn.Module) -> dict[str, float]:
    """Parameters that train, and billions of multiply-adds on 256 x 256 pixels as training runs them."""
    prompt = [torch.tensor(0)] if isinstance(network, DFPIR) else []
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 256, 256), *prompt)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return {"parameters": parameters, "gmac": round(counter.get_total_flops() / 2e9, 2)}


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"\n| variant | parameters | GMAC at 256 | {' | '.join(ROWS)} | mean | minutes |")
    print(f"|---|---|---|{'---|' * len(ROWS)}---|---|")
    for row in rows:
        values = [row["psnr"][name] for name in ROWS]
        shown = " | ".join(f"{value:.2f}" for value in [*values, statistics.fmean(values)])
        print(
            f"| {row['variant']} (seed {row['seed']}) | {row['parameters']:,} | {row['gmac']:.2f} | {shown} "
            f"| {row['minutes']} |"
        )


if __name__ == "__main__":
    main()
