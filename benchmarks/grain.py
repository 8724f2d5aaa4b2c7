"""How well a film's grain is removed, and the noise of gray pictures, beside white noise in color.

    python benchmarks/grain.py --shards SHARDS [--model daair_s.5task ...] [--limit 20]

The first clean validation photographs, degraded, in 8 bits. Without guard; a guided network is told that it
is noise. PSNR in dB.
"""

import argparse
import statistics
from collections import defaultdict

from told import score

from pellucid import load
from pellucid.data import center_crop, load_shards, without_color
from pellucid.degradations.film_grain import FilmGrain, FilmGrainParams
from pellucid.degradations.gaussian_noise import GaussianNoise, GaussianNoiseParams
from pellucid.evaluate.pairs import choose_prompt
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
        for case, clean, noisy in cases(photograph, options.sigma, i):
            inputs[case].append(psnr_rgb(noisy[None], clean[None]))
            for restorer, found in zip(restorers, outputs, strict=True):
                prompt = choose_prompt(restorer, f"noise_{options.sigma:g}", "noise")
                found[case].append(score(restorer, noisy[None], clean[None], prompt))
    print(f"| picture, noise | input | {' | '.join(options.model)} |\n|---|---{'|---' * len(restorers)}|")
    for case, values in inputs.items():
        means = [statistics.fmean(row) for row in (values, *(found[case] for found in outputs))]
        print(f"| {case} | {' | '.join(f'{mean:.2f}' for mean in means)} |")


def cases(photograph, sigma, seed):
    """Name, clean and noisy (3, H, W) of each sort of noise, in color and in gray, in 8 bits."""
    for color, clean in (("color", photograph), ("gray", without_color(photograph))):
        white = GaussianNoise().apply(clean[None], GaussianNoiseParams((sigma,), (False,), (seed,)))[0]
        yield f"{color}, white noise", clean, in_8_bits(white if color == "color" else without_color(white))
        for softness in (0.0, 0.5, 0.8):
            params = FilmGrainParams((sigma,), (softness,), (0.0,), (seed,))
            grainy = FilmGrain().apply(clean[None], params)[0]
            yield f"{color}, film grain of softness {softness}", clean, in_8_bits(grainy)


def in_8_bits(picture):
    return (picture.clamp(0, 1) * 255).round() / 255


if __name__ == "__main__":
    main()
