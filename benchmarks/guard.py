"""What the guard changes: how many pictures come back worse with it and without, and what recognizing costs.

    python benchmarks/guard.py --shards SHARDS [--limit 20]
    python benchmarks/guard.py --clean FOLDER

Each validation pair is restored once by the default weights and recognized once; with the guard, a picture in
which nothing seems wrong counts as it came, one in which surely nothing changed the light keeps it, and haze
is seen from afar.
With --clean, only what becomes of a folder's pictures, which are all taken to be clean.
"Worse" is a PSNR lower than the input's by more than 0.005 dB; a clean picture is worse if it changed at all.
"""

import argparse
import statistics
import time
from itertools import groupby
from pathlib import Path

import torch

from pellucid import load
from pellucid.data import (
    LEAST_SIDE,
    VALIDATION_KINDS,
    PictureBank,
    center_crop,
    load_shards,
    read_rgb8,
    validation_pairs,
)
from pellucid.diagnosis import Recognizer
from pellucid.errors import UnreadableImageError
from pellucid.evaluate.scores import TOLERANCE
from pellucid.labels import validation_shards
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.weights import DEFAULT

RUNS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", help="folder with manifest.json")
    source.add_argument("--clean", type=Path, help="folder with clean pictures")
    parser.add_argument("--model", default=DEFAULT, help="weights by name, or a file")
    parser.add_argument("--limit", type=int, default=20, help="pictures of each kind")
    options = parser.parse_args()
    restorer, recognizer = load(options.model, device="cpu", precision="float32"), Recognizer.load()
    if options.clean:
        files = sorted(file for file in options.clean.iterdir() if file.is_file())
        if not files:
            parser.error(f"{options.clean} holds no files.")
        try:
            pictures = [read_rgb8(file) for file in files]
        except UnreadableImageError as error:
            parser.error(str(error))
        bank = PictureBank.from_pictures(pictures, [file.name for file in files])
        measure_clean(restorer, recognizer, {options.clean.name: bank})
        return
    print(
        "| validation pairs | pictures | left alone | worse without guard | worse with guard "
        "| dB without | dB with |"
    )
    print("|---|---|---|---|---|---|---|")
    total = [0, 0, 0, 0]
    shards = load_shards(options.shards, "val")
    for kind, pairs in groupby(validation_pairs(shards, options.limit), lambda p: p[0]):
        rows = [measure(restorer, recognizer, degraded, clean) for _, degraded, clean in pairs]
        left = sum(alone for alone, *_ in rows)
        worse = [sum(worsened(row[1], row[i]) for row in rows) for i in (2, 3)]
        means = [statistics.fmean(min(row[i], 99.0) for row in rows) for i in (2, 3)]
        print(
            f"| {kind} | {len(rows)} | {left} | {worse[0]} | {worse[1]} | {means[0]:.2f} | {means[1]:.2f} |",
            flush=True,
        )
        if VALIDATION_KINDS[kind] != "clean":
            total = [a + b for a, b in zip(total, (len(rows), left, *worse), strict=True)]
    print(f"| all degraded | {' | '.join(map(str, total))} | | |\n")
    measure_clean(restorer, recognizer, validation_shards(shards).banks)
    picture = torch.rand(3, 1000, 1000)
    recognizer(picture)
    times = sorted(timed(recognizer, picture) for _ in range(RUNS))
    print(
        f"\nrecognizing 1000 x 1000 pixels: {1000 * statistics.median(times):.0f} ms (median of {RUNS}, "
        f"{1000 * times[0]:.0f} to {1000 * times[-1]:.0f}), {torch.get_num_threads()} threads"
    )


def measure_clean(restorer, recognizer, banks) -> None:
    """What becomes of every clean picture of the data: photographs by source, and drawings."""
    print("| clean pictures | n | left alone | least dB without guard | with guard | below 45 dB with it |")
    print("|---|---|---|---|---|---|")
    for source, bank in banks.items():
        least, guarded, left = [], [], 0
        for i in range(len(bank)):
            picture = center_crop(bank.picture(i)[None, :3], LEAST_SIDE)
            alone, _, restored, kept = measure(restorer, recognizer, picture, picture)
            left += alone
            least.append(min(restored, 99.0))
            guarded.append(min(kept, 99.0))
        row = (
            source,
            len(bank),
            left,
            f"{min(least):.1f}",
            f"{min(guarded):.1f}",
            sum(x < 45 for x in guarded),
        )
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def measure(restorer, recognizer, degraded, clean) -> tuple[bool, float, float, float]:
    """Whether the guard leaves it alone; PSNR of the input, of the restored, and with the guard."""
    restored = restorer.run(degraded[0])[None].clamp(0, 1)
    found = recognizer(degraded[0])
    alone, before, after = restorer.leaves_alone(found), psnr_rgb(degraded, clean), psnr_rgb(restored, clean)
    if alone:
        return alone, before, after, before
    rule = restorer.light_rule(found, *degraded.shape[2:])
    seen = rule.look(degraded[0], restorer.run)
    restored = rule.apply(degraded[0], restored[0], seen)[None].clamp(0, 1)
    return alone, before, after, psnr_rgb(restored, clean)


def worsened(before: float, after: float) -> bool:
    return after < before - TOLERANCE


def timed(recognizer, picture) -> float:
    start = time.perf_counter()
    recognizer(picture)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
