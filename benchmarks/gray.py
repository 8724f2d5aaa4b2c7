"""How well noise without color is removed: gray pictures, and grain that is alike in all channels.

    python benchmarks/gray.py --shards SHARDS [--model daair_s.5task] [--limit 20]

Clean validation photographs with Gaussian noise in 8 bits, in color and in gray, the noise with or without
color. Without guard; a guided network is told that it is noise. PSNR in dB.
"""

import argparse
import statistics
from collections import defaultdict

import torch

from pellucid import load
from pellucid.data import center_crop, load_shards, without_color
from pellucid.metrics.psnr_rgb import psnr_rgb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True, help="folder with manifest.json")
    parser.add_argument("--model", default=["daair_s.5task"], nargs="+", help="weights by name, or files")
    parser.add_argument("--limit", type=int, default=20, help="pictures")
    parser.add_argument("--sigma", type=float, default=25, help="of the noise, in gray levels of 255")
    options = parser.parse_args()
    restorers = [load(model, device="cpu", precision="float32") for model in options.model]
    bank = load_shards(options.shards, "val").banks["clean"]
    inputs, outputs = defaultdict(list), [defaultdict(list) for _ in restorers]
    for i in range(min(options.limit, len(bank))):
        photograph = center_crop(bank.picture(i)[:3], 16)
        for case, clean, noisy in cases(photograph, options.sigma, torch.Generator().manual_seed(i)):
            inputs[case].append(psnr_rgb(noisy[None], clean[None]))
            for restorer, found in zip(restorers, outputs, strict=True):
                restored = restorer.run(noisy, diagnosis="noise" if restorer.prompts else None)
                found[case].append(psnr_rgb(restored[None].clamp(0, 1), clean[None]))
    print(f"| picture, noise | input | {' | '.join(options.model)} |\n|---|---{'|---' * len(restorers)}|")
    for case, values in inputs.items():
        means = [statistics.fmean(row) for row in (values, *(found[case] for found in outputs))]
        print(f"| {case} | {' | '.join(f'{mean:.2f}' for mean in means)} |")


def cases(photograph, sigma, rng):
    """Name, clean and noisy (3, H, W), the same noise in each."""
    noise = torch.randn(photograph.shape, generator=rng) * sigma / 255
    for color, clean in (("color", photograph), ("gray", without_color(photograph))):
        yield f"{color}, in color", clean, in_8_bits(clean + noise)
        yield f"{color}, alike in all channels", clean, in_8_bits(clean + noise[1:2])


def in_8_bits(picture):
    return (picture.clamp(0, 1) * 255).round() / 255


if __name__ == "__main__":
    main()
