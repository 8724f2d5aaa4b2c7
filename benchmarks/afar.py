"""Haze seen from afar: what it changes in photographs of a size, drawn hazy and in hazy mixes.

    python benchmarks/afar.py PHOTOGRAPHS [--long-side 1600] [--limit 40]

Each clean photograph of the folder is reduced, degraded twice (`haze`, `composite`) from seeds of its own,
recognized, and where the guard sees its haze from afar (`pellucid.light.take_light_from_afar`) restored by
the default weights twice: so, and at full size alone. Noise, rain or blur may lie over the haze. "Worse" is a
PSNR lower than the input's by more than 0.005 dB.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from wallpapers import thumbnail

from pellucid import load
from pellucid.data import LEAST_SIDE, Mixer, PictureBank, Shards, Task, center_crop
from pellucid.evaluate.scores import TOLERANCE
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.weights import DEFAULT

TASKS = (Task("haze", 1, "clean", "haze"), Task("composite", 1, "clean", "composite"))
MUCH = 0.5  # dB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path, help="folder with clean photographs")
    parser.add_argument("--model", default=DEFAULT, help="weights of a blind network by name, or a file")
    parser.add_argument("--long-side", type=int, default=1600, help="of the photographs, in pixels")
    parser.add_argument("--limit", type=int, help="the first photographs only")
    options = parser.parse_args()
    restorer = load(options.model, device="cpu", precision="float32")
    files = sorted(file for file in options.photographs.iterdir() if file.is_file())[: options.limit]
    if not files:
        parser.error(f"{options.photographs} holds no files.")
    found = defaultdict(list)
    for number, file in enumerate(files):
        pixels = torch.from_numpy(thumbnail(file, options.long_side).numpy().copy())
        bank = PictureBank.from_pictures([pixels], [file.name])
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


def measure(restorer, degraded, clean) -> tuple[str, float, float, float] | None:
    """The group, and the PSNR of the input, of the restored, and of it with its light from afar."""
    found = restorer.recognizer(degraded[0])
    rule = restorer.light_rule(found, *degraded.shape[2:])
    if restorer.leaves_alone(found) or not rule.views:
        return None
    restored = restorer.run(degraded[0])
    afar = restorer.run(degraded[0], light=rule)
    group = "alone" if set(found.present) <= {"haze", "jpeg"} else "beneath others"
    return group, *(psnr_rgb(picture, clean) for picture in (degraded, restored[None], afar[None]))


if __name__ == "__main__":
    main()
