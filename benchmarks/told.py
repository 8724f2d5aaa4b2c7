"""What it costs a guided network to be told nothing: the true kind against the one recognized.

    python benchmarks/told.py --shards SHARDS [--model dfpir_s.5task] [--limit 10]

The validation pairs whose kind the network has a prompt for, each restored with that prompt and, where
another of the network's prompts is more probable to the recognizer, with that one. Without guard. PSNR in dB.
"""

import argparse
import statistics
from collections import defaultdict

from pellucid import load
from pellucid.data import VALIDATION_KINDS, load_shards, validation_pairs
from pellucid.diagnosis import Recognizer
from pellucid.evaluate.pairs import choose_prompt
from pellucid.metrics.psnr_rgb import psnr_rgb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True, help="folder with manifest.json")
    parser.add_argument("--model", default="dfpir_s.5task", help="guided weights by name, or a file")
    parser.add_argument("--limit", type=int, default=10, help="pictures of each row")
    options = parser.parse_args()
    restorer, recognizer = load(options.model, device="cpu", precision="float32"), Recognizer.load()
    if not restorer.prompts:
        parser.error(f"{options.model} is blind: nothing tells it what is wrong. Give guided weights.")
    rows: dict[str, list[tuple[bool, float, float]]] = defaultdict(list)
    for row, degraded, clean in validation_pairs(load_shards(options.shards, "val"), options.limit):
        true = choose_prompt(restorer, row, VALIDATION_KINDS[row])
        if true is None:
            continue
        named = recognizer(degraded[0]).prompt(restorer.prompts)
        told = score(restorer, degraded, clean, true)
        recognized = told if named == true else score(restorer, degraded, clean, named)
        rows[row].append((named == true, told, recognized))
    if not rows:
        parser.error(f"no validation pair shows a kind that {options.model} has a prompt for.")
    print("| row | pictures | true one most probable | dB told | dB recognized |\n|---|---|---|---|---|")
    every = [picture for pictures in rows.values() for picture in pictures]
    for row, pictures in (*rows.items(), ("all", every)):
        right, told, recognized = zip(*pictures, strict=True)
        print(
            f"| {row} | {len(pictures)} | {sum(right)} | {statistics.fmean(told):.2f} "
            f"| {statistics.fmean(recognized):.2f} |"
        )


def score(restorer, degraded, clean, prompt) -> float:
    return psnr_rgb(restorer.run(degraded[0], diagnosis=prompt)[None].clamp(0, 1), clean)


if __name__ == "__main__":
    main()
