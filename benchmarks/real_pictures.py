"""Real degraded photographs, whose clean form nobody knows: what is found, NIQE before and after, a sheet.

    python benchmarks/real_pictures.py FOLDER [--sheet sheet.png] [--csv rows.csv]

FOLDER holds one folder for each kind. Each picture is recognized once and restored once; "left alone" counts
what the guard keeps as it came and `pellucid restore --no-guard` restores. NIQE needs two textured blocks of
96 px; a picture without them has no score. The sheet shows before and after, three pairs to a row.
"""

import argparse
import csv
import statistics
from itertools import groupby
from pathlib import Path

import numpy as np
import pyvips
from torch import Tensor

from pellucid import load
from pellucid.diagnosis import Recognizer
from pellucid.errors import InputError
from pellucid.evaluate.scores import code_commit
from pellucid.image_io import IMAGE_SUFFIXES, read_image
from pellucid.metrics.niqe import niqe

WIDTH, HEIGHT = 300, 225  # of a picture on the sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folders of pictures, one for each kind")
    parser.add_argument("--model", default="daair_s.5task", help="weights, or a file of them")
    parser.add_argument("--sheet", type=Path, help="PNG of all pairs")
    parser.add_argument("--csv", type=Path, help="a row for each picture")
    options = parser.parse_args()
    restorer = load(options.model, device="cpu", precision="float32")  # its guard is asked, not heeded
    recognizer = Recognizer.load()
    rows, pairs = [], []
    for path in sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
        before = read_image(path)
        diagnosis = recognizer(before)
        after = restorer.run(before.pixels, diagnosis=diagnosis.prompt(restorer.prompts))
        scores = naturalness(before.pixels), naturalness(after)
        rows.append(
            {"kind": path.parent.name, "picture": path.name, "verdict": diagnosis.verdict}
            | {"left_alone": restorer.leaves_alone(diagnosis)}
            | {"present": " ".join(diagnosis.present), "niqe_before": scores[0], "niqe_after": scores[1]}
            | {"weights": restorer.weights_sha256, "commit": code_commit()}
        )
        pairs.append(pyvips.Image.arrayjoin([cell(before.pixels), cell(after)], across=2))
    print_table(rows)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    if options.sheet:
        sheet = pyvips.Image.arrayjoin(pairs, across=3, shim=6, background=255)
        sheet.write_to_file(str(options.sheet))


def naturalness(pixels: Tensor) -> float | None:
    try:
        return round(niqe(pixels), 3)
    except InputError:
        return None


def cell(pixels: Tensor) -> pyvips.Image:
    samples = (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    small = pyvips.Image.new_from_array(samples, interpretation="srgb").thumbnail_image(WIDTH, height=HEIGHT)
    return small.gravity("centre", WIDTH, HEIGHT, extend="white")


def print_table(rows: list[dict]) -> None:
    verdicts = ("degraded", "nothing wrong", "unknown")
    print(f"| kind | pictures | {' | '.join(verdicts)} | left alone | NIQE before | after | lower in |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind, group in groupby(rows, lambda row: row["kind"]):
        pictures = list(group)
        counts = [sum(row["verdict"] == verdict for row in pictures) for verdict in verdicts]
        counts.append(sum(row["left_alone"] for row in pictures))
        scored = [
            (row["niqe_before"], row["niqe_after"])
            for row in pictures
            if None not in (row["niqe_before"], row["niqe_after"])
        ]
        means = [f"{statistics.fmean(values):.2f}" for values in zip(*scored, strict=True)] or ["-", "-"]
        lower = sum(after < before for before, after in scored)
        print(
            f"| {kind} | {len(pictures)} | {' | '.join(map(str, counts))} | {' | '.join(means)} "
            f"| {lower} of {len(scored)} |"
        )


if __name__ == "__main__":
    main()
