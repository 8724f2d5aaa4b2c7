"""Haze seen from afar: what it changes in photographs of a size, drawn hazy and in hazy mixes.

    python benchmarks/afar.py PHOTOGRAPHS [--long-side 768] [--limit 40]

Each clean photograph of the folder is reduced, degraded twice (`haze`, `composite`) from seeds of its own,
restored once by the default weights, and recognized. Counted are those in which the guard would see haze from
afar (`pellucid.light.take_light_from_afar`), were the picture large enough: haze alone or with JPEG, and haze
that noise, rain or blur hides. "Worse" is a PSNR lower than the input's by more than 0.005 dB.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

import pyvips
import torch

from pellucid import load
from pellucid.data import LEAST_SIDE, Mixer, PictureBank, Shards, Task, center_crop
from pellucid.evaluate.scores import TOLERANCE
from pellucid.light import take_light_from_afar, views_of
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.weights import DEFAULT

TASKS = (Task("haze", 1, "clean", "haze"), Task("composite", 1, "clean", "composite"))
MUCH = 0.5  # dB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path, help="folder with clean photographs")
    parser.add_argument("--model", default=DEFAULT, help="weights by name, or a file")
    parser.add_argument("--long-side", type=int, default=768, help="of the photographs, in pixels")
    parser.add_argument("--limit", type=int, help="the first photographs only")
    options = parser.parse_args()
    restorer = load(options.model, device="cpu", precision="float32")
    files = sorted(file for file in options.photographs.iterdir() if file.is_file())[: options.limit]
    if not files:
        parser.error(f"{options.photographs} holds no files.")
    found = defaultdict(list)
    for number, file in enumerate(files):
        bank = PictureBank.from_pictures([reduced(file, options.long_side)], [file.name])
        shards = Shards({"clean": bank}, "")
        for place, task in enumerate(TASKS):
            clean = center_crop(bank.picture(0)[None], LEAST_SIDE)
            rng = torch.Generator().manual_seed(len(TASKS) * number + place)
            degraded, clean = Mixer(shards, [task]).pairs(task, clean, rng)
            if row := measure(restorer, degraded, clean):
                found[row[0]].append(row[1:])
    print("| haze | n | dB as it came | at full size | worse (by > 0.5) | from afar | worse (by > 0.5) |")
    print("|---|---|---|---|---|---|---|")
    for group, rows in sorted(found.items()):
        before, alone, afar = (statistics.fmean(column) for column in zip(*rows, strict=True))
        losses = [[row[0] - row[i] for row in rows] for i in (1, 2)]
        worse = [f"{sum(x > TOLERANCE for x in some)} ({sum(x > MUCH for x in some)})" for some in losses]
        print(
            f"| {group} | {len(rows)} | {before:.2f} | {alone:.2f} | {worse[0]} | {afar:.2f} | {worse[1]} |"
        )


def reduced(file: Path, long_side: int) -> torch.Tensor:
    """(H, W, 3) uint8, its long side at most `long_side`."""
    image = pyvips.Image.thumbnail(str(file), long_side, height=long_side, size="down").colourspace("srgb")
    image = (image.flatten() if image.hasalpha() else image)[:3]
    return torch.from_numpy(image.numpy().copy())


def measure(restorer, degraded, clean) -> tuple[str, float, float, float] | None:
    """The group, and the PSNR of the input, of the restored, and of it with its light from afar."""
    found = restorer.recognizer(degraded[0])
    views = views_of(*degraded.shape[2:], hidden=True)
    if restorer.leaves_alone(found) or not found.is_hazy or not views:
        return None
    restored = restorer.run(degraded[0])
    scores = [degraded, restored[None].clamp(0, 1)]
    scores.append(take_light_from_afar(degraded[0], restored.clone(), views, restorer.run)[None].clamp(0, 1))
    group = "hidden" if found.hides_haze else "alone"
    return group, *(psnr_rgb(picture, clean) for picture in scores)


if __name__ == "__main__":
    main()
