"""What a leak of clean test pictures into denoising is worth for deraining, in dB.

    python benchmarks/leak.py --shards SHARDS --steps 600

The published recipes train denoising on pictures that hold the ground truth of rain test pictures. Here the
validation pictures of rain play the test pictures' part: two trainings by one recipe start from the same
leak-free weights and differ in the pictures that noise is put on, which hold the rain validation's ground
truth in one and as many other photographs in the other. The README beside this file says what is measured.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from pellucid import weights
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.data import Task, load_shards, read_rgb8, validation_pairs, write_rgb8
from pellucid.evaluate.scores import mean_interval
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.recipe import Recipe
from pellucid.train import train

KINDS = ("rain", "noise")


def recipe_of(start: Checkpoint, steps: int, seed: int) -> Recipe:
    """Denoising and deraining in equal parts, from the weights that the recipe's network starts with."""
    tasks = (
        Task("noise", 1, "clean", operator="gaussian_noise"),
        Task("rain", 1, "rain_pairs"),
    )
    return Recipe(
        "leak", start.model, tasks, steps=steps, seed=seed, patch=96, batch=8, learning_rate=5e-4,
        ema_decay=0.98, precision="32-true",
    )  # fmt: skip


def write_shards(shards: Path, folder: Path, *, leak: bool, share: float) -> int:
    """A shard folder whose clean pictures are, to a share, the ground truth of rain validation, or others.

    Returns the number of pictures in that share. Leaked pictures are written anew, as PNG, so that no hash of
    a file gives them away: in the field's lists they are JPEG copies, too.
    """
    files: list[dict[str, Any]] = json.loads((shards / "manifest.json").read_text("utf-8"))["files"]
    train_files = [f for f in files if f["split"] == "train"]
    truth = sorted({f["gt"] for f in files if f["split"] == "val" and f["role"] == "rain-streak"})
    clean = [f for f in train_files if f["role"] == "clean"]
    rain = [f for f in train_files if f["role"] == "rain-streak"]
    others, rest = clean[: len(truth)], clean[len(truth) :]
    # The share is made by how many other pictures stay beside these.
    kept = rest[: round(len(truth) * (1 - share) / share)]
    chosen = [f["path"] for f in others] if not leak else truth
    listed = [*kept, *rain]
    for file in listed:
        for path in {file["path"], file.get("gt", file["path"])}:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shards / path, folder / path)
    for number, path in enumerate(chosen):
        name = f"part/{number:03}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        write_rgb8(read_rgb8(shards / path), folder / name)
        listed.append({"path": name, "split": "train", "role": "clean", "sha256": hash_file(folder / name)})
    (folder / "manifest.json").write_text(json.dumps({"files": listed}), encoding="utf-8")
    return len(chosen)


def train_arm(
    shards: Path, start: Path, leak: bool, share: float, steps: int, seed: int
) -> dict[str, list[float]]:
    """One training, and its PSNR on each validation picture of rain and noise."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder, "data"), Path(folder, "run")
        data.mkdir()
        write_shards(shards, data, leak=leak, share=share)
        recipe = recipe_of(Checkpoint.read(start), steps, seed)
        trained = train(recipe, data, run, start_from=start, save_every=1e9, validate_every=1e9)
        return measure(trained, shards)


def measure(file: Path, shards: Path) -> dict[str, list[float]]:
    """PSNR of every restored rain picture, and of the same pictures with noise of sigma 25."""
    network = Checkpoint.read(file).build().eval()
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    validation = load_shards(shards, "val")
    with torch.inference_mode():
        for _, degraded, clean in validation_pairs(validation, None, ["rain"]):
            rng = torch.Generator().manual_seed(len(scores["rain"]))
            noisy = (clean + torch.randn(clean.shape, generator=rng) * (25 / 255)).clamp(0, 1)
            for kind, picture in (("rain", degraded), ("noise", noisy)):
                scores[kind].append(psnr_rgb(network(picture).clamp(0, 1), clean))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--start", default=weights.DEFAULT, help="weights that both arms start from")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--share",
        type=float,
        default=75 / 400,
        help="of the leaked pictures among the noisy ones (BSD400: 75 of 400)",
    )
    options = parser.parse_args()
    start = Path(weights.find(options.start).path)
    before = measure(start, options.shards)
    differences: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for seed in range(options.seeds):
            arms = [
                pool.submit(train_arm, options.shards, start, leak, options.share, options.steps, seed)
                for leak in (False, True)
            ]
            without, with_leak = (arm.result() for arm in arms)
            for kind in KINDS:
                gains = [b - a for a, b in zip(without[kind], with_leak[kind], strict=True)]
                differences[kind].append(gains)
                means = [statistics.mean(scores[kind]) for scores in (before, without, with_leak)]
                print(
                    "seed {}, {}: start {:.3f} dB, leak-free {:.3f}, with the leak {:.3f}".format(
                        seed, kind, *means
                    ),
                    flush=True,
                )
    for kind, rows in differences.items():
        pictures = [statistics.mean(values) for values in zip(*rows, strict=True)]
        effect = mean_interval(pictures, 0)
        print(
            f"{kind}: the leak is worth {effect.mean:+.3f} dB (95% interval {effect.low:+.3f} to "
            f"{effect.high:+.3f}, {len(pictures)} pictures, {options.steps} steps, "
            f"share {options.share:.3f})"
        )


if __name__ == "__main__":
    main()
