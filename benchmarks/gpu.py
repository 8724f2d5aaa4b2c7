"""Tiles on a GPU: the plain network in float32, single tiles, and batches with copies aside and a graph.

    python benchmarks/gpu.py --models daair_s daair dfpir_s dfpir --size 2048 --tile 512

All restore the same picture with the same tiles, in turns in one process. `plain` is plain.py in float32,
`tiles` the restorer in bf16 with one tile at a time and no graph, `pipeline` what the restorer does itself.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import plain
import torch
from bench import fresh_network
from torch import Tensor

from pellucid import models
from pellucid.compute import probe_picture
from pellucid.restorer import TorchRestorer


class Tiled(TorchRestorer):
    """A restorer with tiles of `tile` x `tile` pixels, `at_once` of them in a batch."""

    tile, at_once = 512, 1
    _has_strips = False  # where this is tried on a CPU

    def _tile_pixels(self) -> int:
        return self.tile**2

    def _batch(self, plan: Any) -> int:
        return min(self.at_once, len(plan))


class Plain(Tiled):
    """The same with the network written down plainly."""

    @torch.inference_mode()
    def _run(self, degraded: Tensor, _: str, prompt: int | None = 0) -> Tensor:
        function, arguments = (plain.dfpir, (prompt,)) if self.spec.guided else (plain.daair, ())
        return function(dict(self.network.state_dict()), self.spec.config, degraded, *arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="+", default=["daair_s", "daair", "dfpir_s", "dfpir"])
    parser.add_argument("--size", type=int, default=2048, help="side of the square picture, in pixels")
    parser.add_argument("--tile", type=int, default=512, help="side of a tile, in pixels")
    parser.add_argument("--at-once", type=int, default=4, help="tiles of a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda", help="another one is for trying this script")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here. Run this where there is one, with a CUDA build of torch.")
    print(f"{torch.cuda.get_device_name() if options.device == 'cuda' else 'cpu'}, torch {torch.__version__}")
    Tiled.tile, picture = options.tile, probe_picture(options.size)[0]
    for model in options.models:
        compare(model, picture, options)


def compare(model: str, picture: Tensor, options: argparse.Namespace) -> None:
    """Print how the three compare for one network."""
    spec = models.get(model)

    def create(kind: type[Tiled], precision: str, at_once: int) -> Tiled:
        restorer = kind(fresh_network(model), spec, device=options.device, precision=precision)
        restorer.at_once = at_once
        return restorer

    runs = {
        "plain": create(Plain, "float32", 1),
        "tiles": create(Tiled, "bf16", 1),
        "pipeline": create(Tiled, "bf16", options.at_once),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Tensor] = {}
    for repeat in range(options.repeats + 1):  # the first one warms up
        for name, restorer in runs.items():
            plainly = patch("pellucid.pipeline.Replay", lambda run: run)
            with nullcontext() if name == "pipeline" else plainly:
                start = time.perf_counter()
                done = restorer(picture, diagnosis=spec.config.prompts[0] if spec.guided else None)
                taken = time.perf_counter() - start
            results[name] = done.tensor
            if repeat:
                seconds[name].append(taken)
    for name, taken in seconds.items():
        ratio = statistics.median(p / t for p, t in zip(seconds["plain"], taken, strict=True))
        difference = float((results[name] - results["plain"]).abs().max())
        print(f"{model:<8} {name:<9} {statistics.median(taken):.3f} s {ratio:.2f} x, off by {difference:.1e}")


if __name__ == "__main__":
    main()
