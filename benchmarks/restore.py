"""Time and peak memory of the restorer against the plain eager float32 network, in one run.

    python benchmarks/restore.py --sizes 256 512 1024 --repeats 7 --json benchmarks/results.json

The README beside this file says what is measured, and how.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid import models, weights
from pellucid.checkpoint import Checkpoint
from pellucid.compute import choose_device, probe_picture, processor_name
from pellucid.restorer import load

VARIANTS = ("eager", "restorer")
Run = Callable[[Tensor], Tensor]


def create(variant: str, model: str, device: str | None, precision: str | None) -> tuple[Run, dict[str, Any]]:
    """What takes a (3, H, W) on the CPU and gives one, and words about it."""
    if variant == "restorer":
        restorer = load(model, device=device, precision=precision, guard=False)
        report = restorer.describe()
        facts = {"device": report.device, "precision": report.precision}
        diagnosis = restorer.prompts[0] if restorer.prompts else None
        return lambda picture: restorer(picture, diagnosis=diagnosis).tensor, facts
    checkpoint = Checkpoint.read(weights.find(model).path)
    where = choose_device(device)  # as the restorer chooses
    network = checkpoint.build().eval().to(where)
    prompt = [torch.zeros(1, dtype=torch.long)] if models.get(checkpoint.model).guided else []

    @torch.no_grad()
    def eager(picture: Tensor) -> Tensor:
        arguments = [tensor.to(where) for tensor in (picture[None], *prompt)]
        return network(*arguments)[0].clamp(0, 1).cpu()

    return eager, {"device": where.type, "precision": "float32"}


def measure_times(runs: dict[str, Run], size: int, repeats: int) -> dict[str, Any]:
    """Both variants in turns, so that whatever else the machine does meets both alike."""
    picture = probe_picture(size)[0]
    for run in runs.values():
        run(picture)
    seconds: dict[str, list[float]] = {variant: [] for variant in runs}
    for repeat in range(repeats):
        for variant in VARIANTS[:: 1 if repeat % 2 else -1]:
            start = time.perf_counter()
            runs[variant](picture)
            seconds[variant].append(time.perf_counter() - start)
    ratios = sorted(e / r for e, r in zip(seconds["eager"], seconds["restorer"], strict=True))
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        **{variant: statistics.median(values) for variant, values in seconds.items()},
        "ratio": quartiles[1],
        "ratio_quartiles": [quartiles[0], quartiles[2]],
    }


def measure_memory(variant: str, options: argparse.Namespace, size: int, precision: str) -> int:
    """Bytes that one run adds to the peak of a fresh process, loaded and warmed up at 64 x 64."""
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        variant,
        "--model",
        options.model,
        "--sizes",
        str(size),
    ]
    command += ["--precision", precision]  # no probe, whose own runs would raise the peak beforehand
    command += ["--device", options.device] if options.device else []
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def start_peak() -> int:
    """Forget the peak so far, where the system can, and give what `peak` says from now on."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    elif (forget := Path("/proc/self/clear_refs")).exists():
        forget.write_text("5")
    return peak()


def peak() -> int:
    """Bytes that this process has held at most, on the GPU if it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if (status := Path("/proc/self/status")).exists():
        # Not ru_maxrss: on Linux a child starts with what its parent held.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default=weights.DEFAULT)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="of square pictures")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device")
    parser.add_argument("--precision", help="of the restorer; default: chosen by its probe")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)  # the subprocess' own door
    options = parser.parse_args()
    if any(size % 32 for size in options.sizes):
        parser.error("sizes must be multiples of 32: the eager network does not pad")
    if options.repeats < 2:
        parser.error("a spread takes at least two repeats")
    if options.memory_of:
        run, _ = create(options.memory_of, options.model, options.device, options.precision)
        run(probe_picture(64)[0])
        before = start_peak()
        run(probe_picture(options.sizes[0])[0])
        print(peak() - before)
        return
    runs, facts = {}, {}
    for variant in VARIANTS:
        runs[variant], facts[variant] = create(variant, options.model, options.device, options.precision)
    rows: list[dict[str, Any]] = []
    print(f"{options.model}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for variant in VARIANTS:
        print(f"{variant}: {facts[variant]['device']}, {facts[variant]['precision']}")
    print("   size     eager  restorer   times faster (quartiles)   peak eager  peak restorer")
    for size in options.sizes:
        row = {"size": size, **measure_times(runs, size, options.repeats)}
        peaks = {v: measure_memory(v, options, size, facts["restorer"]["precision"]) for v in VARIANTS}
        rows.append(row | {"peak_bytes": peaks})
        low, high = row["ratio_quartiles"]
        print(
            f"{size:>7} {row['eager']:>8.3f}s {row['restorer']:>8.3f}s"
            f" {row['ratio']:>13.2f}  ({low:.2f}-{high:.2f})"
            f" {peaks['eager'] / 1e6:>12.0f} MB {peaks['restorer'] / 1e6:>11.0f} MB",
            flush=True,
        )
    if options.json:
        setting = {
            "machine": processor_name(),
            "system": platform.system(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "model": options.model,
            "repeats": options.repeats,
            "variants": facts,
        }
        options.json.write_text(
            json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
