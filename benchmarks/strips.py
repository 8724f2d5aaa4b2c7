"""Restoring in strips against both networks written down plainly: time, memory, closeness, in one run.

    python benchmarks/strips.py --json benchmarks/strips.json
    python benchmarks/strips.py --models daair --sizes 256 --repeats 3   # a quick look
    python benchmarks/strips.py --models dfpir --large 3000 4000         # also twelve megapixels, once

The README beside this file says what is measured, and how.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain
import torch
from restore import peak
from torch import Tensor, nn

from pellucid import models
from pellucid.compute import probe_picture
from pellucid.evaluate.efficiency import count_gmac
from pellucid.restorer import TorchRestorer

VARIANTS = ("plain", "float32", "bf16")
Run = Callable[[Tensor], Tensor]


def fresh_network(model: str) -> nn.Module:
    """A network with weights that change a picture a little: trained ones cost the same."""
    torch.manual_seed(0)
    spec = models.get(model)
    network = spec.build(spec.config).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if not parameter.any():  # what starts at zero would hide what is behind it
            nn.init.normal_(parameter, std=0.02)
        if name in ("output.weight", "head.weight"):
            parameter.mul_(0.1)
    return network


def create(variant: str, model: str, memory: int | None = None) -> Run:
    """What takes a (3, H, W) and gives one, clamped."""
    network, spec = fresh_network(model), models.get(model)
    diagnosis = spec.config.prompts[0] if spec.guided else None
    if variant != "plain":
        restorer = TorchRestorer(network, spec, device="cpu", precision=variant, memory=memory)

        def restore(picture: Tensor) -> Tensor:
            done = restorer(picture, diagnosis=diagnosis)
            assert done.report.tiles == 1  # as a whole: in strips, or in one piece where that is faster
            return done.tensor

        return restore
    state = dict(network.state_dict())
    function, arguments = (plain.dfpir, (0,)) if spec.guided else (plain.daair, ())

    @torch.inference_mode()
    def run(picture: Tensor) -> Tensor:
        return function(state, spec.config, picture[None], *arguments)[0].clamp(0, 1)

    return run


def picture_of(height: int, width: int) -> Tensor:
    return probe_picture(max(height, width))[0, :, :height, :width].contiguous()


def measure_times(runs: dict[str, Run], picture: Tensor, repeats: int) -> dict[str, list[float]]:
    """Seconds of each variant, in turns, so that whatever else the machine does meets all alike."""
    seconds: dict[str, list[float]] = {variant: [] for variant in runs}
    order = list(runs)
    for repeat in range(repeats):
        for variant in order[repeat % len(order) :] + order[: repeat % len(order)]:
            start = time.perf_counter()
            runs[variant](picture)
            seconds[variant].append(time.perf_counter() - start)
    return seconds


def psnr(restored: Tensor, expected: Tensor) -> float:
    return -10 * float((restored - expected).square().mean().clamp_min(1e-20).log10())


def measure_alone(variant: str, model: str, size: tuple[int, int], memory: int | None) -> dict[str, float]:
    """Seconds of one run in a process of its own, and the bytes that it adds to the process' peak."""
    command = [sys.executable, __file__, "--alone", variant, "--models", model, "--large", *map(str, size)]
    command += ["--memory", str(memory)] if memory else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def run_alone(variant: str, model: str, size: list[int], memory: int | None) -> dict[str, float]:
    run = create(variant, model, memory)
    run(picture_of(64, 64))
    picture, before = picture_of(*size), peak()
    start = time.perf_counter()
    run(picture)
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak() - before}


def measure(model: str, size: int, repeats: int) -> dict[str, Any]:
    """One row: a model on a square picture."""
    runs, picture = {variant: create(variant, model) for variant in VARIANTS}, picture_of(size, size)
    results = {variant: run(picture) for variant, run in runs.items()}
    seconds = measure_times(runs, picture, repeats)
    spec = models.get(model)
    gmac = count_gmac(spec, spec.config, size)[1]
    row: dict[str, Any] = {"model": model, "size": [size, size]}
    row["float32_difference"] = float((results["float32"] - results["plain"]).abs().max())
    row["bf16_psnr"] = psnr(results["bf16"], results["float32"])
    for variant in VARIANTS:
        ratios = sorted(p / s for p, s in zip(seconds["plain"], seconds[variant], strict=True))
        median = statistics.median(seconds[variant])
        row[variant] = {
            "seconds": median,
            "gflops": 2 * gmac / median,
            "ratio": statistics.median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
            "peak_bytes": measure_alone(variant, model, (size, size), None)["peak_bytes"],
        }
    return row


def show(row: dict[str, Any]) -> None:
    for variant in VARIANTS:
        if variant in row:
            part = row[variant]
            ratio = f"{part['ratio']:.2f} x" if "ratio" in part else ""
            speed = f"{part['gflops']:.0f} GFLOP/s" if "gflops" in part else ""
            size = f"{row['size'][1]} x {row['size'][0]}"
            print(
                f"{row['model']:<10}{size:>12}  {variant:<8}{part['seconds']:>9.3f} s {ratio:>8}"
                f" {speed:>12} {part['peak_bytes'] / 1e6:>8.0f} MB",
                flush=True,
            )
    if "bf16_psnr" in row:
        print(
            f"{'':<24}float32 off plain by {row['float32_difference']:.1e}, "
            f"bf16 {row['bf16_psnr']:.1f} dB to float32"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="+", default=["dfpir", "daair", "daair_s"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 1024], help="of square pictures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="in strips, once")
    parser.add_argument("--large-precisions", nargs="+", default=["float32", "bf16"], choices=VARIANTS[1:])
    parser.add_argument("--memory", type=int, help="bytes, for the large picture")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--alone", choices=VARIANTS, help=argparse.SUPPRESS)  # the subprocess' own door
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(run_alone(options.alone, options.models[0], options.large, options.memory)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {platform.processor()}")
    rows: list[dict[str, Any]] = []
    for model in options.models:
        for size in options.sizes:
            rows.append(measure(model, size, options.repeats))
            show(rows[-1])
        if options.large:
            row: dict[str, Any] = {"model": model, "size": options.large}
            for precision in options.large_precisions:
                row[precision] = measure_alone(precision, model, tuple(options.large), options.memory)
            rows.append(row)
            show(row)
    if options.json:
        setting = {
            "machine": platform.processor() or platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "repeats": options.repeats,
        }
        text = json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n"
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
