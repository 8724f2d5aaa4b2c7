"""The restorer and its engines against both networks written down plainly: time, memory, closeness.

    make bench                                                           # all of it, an hour
    python benchmarks/bench.py --models daair --sizes 256 --repeats 3    # a quick look

The README beside this file says what is measured, and how.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import plain
import pyvips
import torch
from restore import peak, start_peak
from torch import Tensor, nn

from pellucid import engines, models
from pellucid.compute import probe_picture, processor_name
from pellucid.engines import FORMATS
from pellucid.evaluate.efficiency import count_gmac
from pellucid.restorer import TorchRestorer
from pellucid.runner import pad_picture
from pellucid.strips import Workspace

ENGINES = ("onnxruntime", "openvino")
VARIANTS = ("plain", "float32", "bf16", *ENGINES)
LARGE = (3000, 4000)
QUICK = 4.0  # seconds
WORK: list[Any] = []  # what a worker runs, and its picture
Run = Callable[[Tensor], Tensor]
Times = dict[str, list[float]]


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


def exported(variant: str, model: str, folder: Path) -> Path:
    """The file of a fresh network for an engine, made when it is first asked for."""
    path = folder / f"{model}{FORMATS[engines.ENGINES[variant]]}"
    if not path.exists():
        network, spec = fresh_network(model), models.get(model)
        header = TorchRestorer(network, spec, device="cpu", precision="float32").header()
        engines.export(network, spec, header, path)
    return path


def create(variant: str, model: str, folder: Path, memory: int | None = None) -> Run:
    """What takes a (3, H, W) and gives one, clamped."""
    network, spec = fresh_network(model), models.get(model)
    diagnosis = spec.config.prompts[0] if spec.guided else None
    if variant in ENGINES:
        engine, prompt = engines.open_engine(exported(variant, model, folder)), 0 if spec.guided else None
        return lambda picture: engine(picture[None], prompt)[0].clamp(0, 1)
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


class Worker:
    """A variant in a process of its own, so that none meets the memory and the settings of another.

    The plain network has what PyTorch sets; the others have pages of 2 MB besides, as the command line sets.
    """

    def __init__(self, variant: str, model: str, size: int, folder: Path) -> None:
        settings = {} if variant == "plain" else {"THP_MEM_ALLOC_ENABLE": "1"}
        arguments = variant, model, size, folder, torch.get_num_threads()
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), prepare_work, arguments)
        with patch.dict(os.environ, settings):
            self.result: Tensor = self._pool.submit(work).result()[1]

    def __call__(self) -> float:
        return self._pool.submit(time_work).result()

    def close(self) -> None:
        self._pool.shutdown()


def prepare_work(variant: str, model: str, size: int, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    WORK[:] = [create(variant, model, folder), picture_of(size, size)]


def work() -> tuple[float, Tensor]:
    run, picture = WORK
    start = time.perf_counter()
    result = run(picture)
    return time.perf_counter() - start, result


def time_work() -> float:
    return work()[0]


def timed(run: Callable[[Tensor], object], picture: Tensor) -> Callable[[], float]:
    """What takes the seconds of one run with a picture."""

    def measure() -> float:
        start = time.perf_counter()
        run(picture)
        return time.perf_counter() - start

    return measure


def measure_times(runs: Mapping[str, Callable[[], float]], repeats: int) -> Times:
    """Seconds of each variant, as it tells them, in turns, so that whatever else the machine does meets all.

    Quick ones run once more before each time that counts: another variant has left the caches.
    """
    seconds: Times = {variant: [] for variant in runs}
    order = list(runs)
    for repeat in range(repeats):
        for variant in order[repeat % len(order) :] + order[: repeat % len(order)]:
            taken = runs[variant]()
            seconds[variant].append(runs[variant]() if taken < QUICK else taken)
    return seconds


def psnr(restored: Tensor, expected: Tensor) -> float:
    return -10 * float((restored - expected).square().mean().clamp_min(1e-20).log10())


def measure_alone(variant: str, model: str, size: tuple[int, int], folder: Path) -> dict[str, float]:
    """Seconds of one run in a process of its own, and the bytes that it adds to the process' peak."""
    command = [sys.executable, __file__, "--alone", variant, "--models", model, "--sizes", *map(str, size)]
    done = subprocess.run([*command, "--folder", folder], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def run_alone(variant: str, model: str, size: list[int], folder: Path) -> dict[str, float]:
    run = create(variant, model, folder)
    run(picture_of(64, 64))
    picture = picture_of(*size)
    before = start_peak()
    start = time.perf_counter()
    run(picture)
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak() - before}


def measure_ceilings() -> dict[str, float]:
    """What the machine gives at best: matrix products in GFLOP/s, and copying in GB/s (read and written)."""
    ceilings: dict[str, float] = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.rand(2, 2048, 2048).to(dtype)
        ceilings[name] = 2 * 2048**3 / least_seconds(lambda a=a, b=b: a @ b) / 1e9
    source = torch.rand(2**26)
    target = torch.empty_like(source)
    ceilings["copy"] = 2 * source.nbytes / least_seconds(lambda: target.copy_(source)) / 1e9
    return ceilings


def least_seconds(run: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(model: str, size: int, repeats: int, variants: list[str], folder: Path) -> dict[str, Any]:
    """One row: a model on a square picture."""
    workers = {name: Worker(name, model, size, folder) for name in variants}
    results = {variant: worker.result for variant, worker in workers.items()}
    ceilings = measure_ceilings()
    seconds = measure_times(workers, repeats)
    for worker in workers.values():
        worker.close()
    spec = models.get(model)
    gmac = count_gmac(spec, spec.config, size)[1]
    row: dict[str, Any] = {"model": model, "size": [size, size], "ceilings": ceilings}
    for variant in variants:
        ratios = sorted(p / s for p, s in zip(seconds["plain"], seconds[variant], strict=True))
        median = statistics.median(seconds[variant])
        row[variant] = {
            "seconds": median,
            "gflops": 2 * gmac / median,
            "share_of_ceiling": 2 * gmac / median / ceilings["bf16" if variant == "bf16" else "float32"],
            "ratio": statistics.median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
            "psnr_to_plain": psnr(results[variant], results["plain"]),
            "difference": float((results[variant] - results["plain"]).abs().max()),
            "peak_bytes": measure_alone(variant, model, (size, size), folder)["peak_bytes"],
        }
    return row


def measure_large(model: str, per_pixel: float | None, folder: Path) -> dict[str, Any]:
    """Twelve megapixels once; the plain network's memory is reckoned from what a pixel took at 1024."""
    row: dict[str, Any] = {"model": model, "size": list(LARGE)}
    pixels = LARGE[0] * LARGE[1]
    for variant in ("float32", "bf16"):
        row[variant] = measure_alone(variant, model, LARGE, folder)
        if per_pixel:
            row[variant]["plain_peak_over_ours"] = per_pixel * pixels / row[variant]["peak_bytes"]
    return row


def measure_files(model: str, repeats: int, folder: Path) -> dict[str, Any]:
    """A JPEG file of twelve megapixels to another one, over the bare network on its pixels, in turns."""
    picture, spec = picture_of(*LARGE), models.get(model)
    source, target = folder / "large.jpg", folder / "restored.jpg"
    pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    pyvips.Image.new_from_array(pixels).jpegsave(str(source), Q=92)
    row: dict[str, Any] = {"model": model, "files": {}}
    sides = [-(-side // spec.multiple_of) * spec.multiple_of for side in LARGE]
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        restorer = TorchRestorer(fresh_network(model), spec, device="cpu", precision=precision)
        arguments = (0,) if spec.guided else ()

        def bare(
            picture: Tensor,
            network: Any = restorer.network,
            dtype: torch.dtype = dtype,
            arguments: tuple[int, ...] = arguments,
        ) -> Tensor:
            result = pad_picture(picture, *sides)
            with torch.inference_mode():
                network.forward_strips(result, Workspace(dtype), *arguments)
            return result

        def whole(picture: Tensor, restorer: TorchRestorer = restorer) -> Tensor:
            restored = restorer(
                restorer.read(source), diagnosis=spec.config.prompts[0] if spec.guided else None
            )
            assert restored.report.tiles == 1
            replace(restored, original=source).save(target, overwrite=True)
            return picture

        seconds = measure_times({"bare": timed(bare, picture), "files": timed(whole, picture)}, repeats)
        ratios = [f / b for f, b in zip(seconds["files"], seconds["bare"], strict=True)]
        row["files"][precision] = {
            "bare": statistics.median(seconds["bare"]),
            "files": statistics.median(seconds["files"]),
            "ratio": statistics.median(ratios),
        }
    return row


def measure_threads(model: str, repeats: int, folder: Path) -> dict[str, Any]:
    """The restorer's own speed-up by threads, at 512 x 512."""
    runs, picture, most = {}, picture_of(512, 512), torch.get_num_threads()
    for threads in (1, most):
        for precision in ("float32", "bf16"):
            run = create(precision, model, folder)

            def with_threads(picture: Tensor, run: Run = run, threads: int = threads) -> Tensor:
                torch.set_num_threads(threads)
                return run(picture)

            runs[f"{precision} {threads}"] = with_threads
    for run in runs.values():
        run(picture)
    seconds = measure_times({name: timed(run, picture) for name, run in runs.items()}, repeats)
    torch.set_num_threads(most)
    return {"model": model, "threads": {name: statistics.median(taken) for name, taken in seconds.items()}}


def show(row: dict[str, Any]) -> None:
    for variant in VARIANTS:
        if variant in row:
            part = row[variant]
            ratio = f"{part['ratio']:.2f} x" if "ratio" in part else ""
            speed = f"{part['gflops']:.0f} GFLOP/s" if "gflops" in part else ""
            share = f"{part['share_of_ceiling']:.0%}" if "gflops" in part else ""
            close = f"{part['psnr_to_plain']:.0f} dB" if "gflops" in part else ""
            size = f"{row['size'][1]} x {row['size'][0]}"
            print(
                f"{row['model']:<10}{size:>12}  {variant:<12}{part['seconds']:>9.3f} s {ratio:>8}"
                f" {speed:>12} {share:>5} {part['peak_bytes'] / 1e6:>8.0f} MB {close:>7}",
                flush=True,
            )
    for precision, part in row.get("files", {}).items():
        print(
            f"{row['model']} {precision}, 12 megapixels from file to file: {part['files']:.1f} s, "
            f"{part['ratio']:.2f} times the bare network's",
            flush=True,
        )
    if "threads" in row:
        print(row["model"], "512 x 512:", {k: f"{s:.3f} s" for k, s in row["threads"].items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="+", default=["daair_s", "daair", "dfpir"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 1024], help="of square pictures")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS[1:], default=VARIANTS[1:])
    parser.add_argument("--repeats", type=int, default=5, help="at 256; fewer at larger sizes")
    parser.add_argument("--large", action="store_true", help="also twelve megapixels, once")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--commit", help="what was measured, for the JSON")
    parser.add_argument("--alone", choices=VARIANTS, help=argparse.SUPPRESS)  # the subprocess' own door
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(run_alone(options.alone, options.models[0], options.sizes, options.folder)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {processor_name()}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in options.models:
            for variant in ENGINES:
                if variant in options.variants:
                    exported(variant, model, folder)
            per_pixel = None
            for size in options.sizes:
                repeats = max(2, options.repeats * 256 // size)
                rows.append(measure(model, size, repeats, ["plain", *options.variants], folder))
                show(rows[-1])
                per_pixel = rows[-1]["plain"]["peak_bytes"] / size**2
                write(rows, options)
            rows.append(measure_threads(model, 3, folder))
            show(rows[-1])
            if options.large:
                rows.append(measure_large(model, per_pixel, folder))
                show(rows[-1])
                if model == "daair_s":  # the fastest, which has the least to hide files behind
                    rows.append(measure_files(model, 3, folder))
                    show(rows[-1])
            write(rows, options)


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        setting = {
            "machine": processor_name(),
            "system": platform.system(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "commit": options.commit,
        }
        text = json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n"
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
