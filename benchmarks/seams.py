"""Does a picture that was restored in tiles show where they meet?

    python benchmarks/seams.py --model daair_s.5task --tile 208

A noisy photograph is restored whole in strips, in feathered tiles as where memory is short, and in tiles cut
edge to edge, which nobody should do. Printed is, for each, the mean absolute difference of neighboring pixels
across the borders of tiles over that of all other neighbors: of the picture, and of its difference to the
whole one, where no photograph hides a seam. 1 is no seam.
"""

import argparse

import skimage.data
import torch
from torch import Tensor

from pellucid import load
from pellucid.arrays import image_from_array
from pellucid.restorer import TorchRestorer
from pellucid.tiling import TilePlan, plan_tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="daair_s.5task")
    parser.add_argument("--tile", type=int, default=208, help="largest side of a tile, in pixels")
    parser.add_argument("--sigma", type=float, default=25.0, help="of the noise, in gray levels of 255")
    options = parser.parse_args()
    picture = image_from_array(skimage.data.astronaut()).pixels.float()
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    noisy = (picture + noise * options.sigma / 255).clamp(0, 1)
    restorer = load(options.model, device="cpu", precision="float32", guard=False)
    height, width = noisy.shape[1:]
    multiple = restorer.spec.multiple_of
    plan = plan_tiles(height, width, multiple_of=multiple, max_pixels=options.tile**2)
    assert plan is not None
    whole = restorer.run(noisy, diagnosis=prompt(restorer))
    for name, run in {
        "whole, in strips": None,
        "feathered tiles": feathered,
        "tiles edge to edge": cut,
    }.items():
        restored = whole if run is None else run(restorer, noisy, plan, options.tile)
        side = options.tile // multiple * multiple
        borders = [range(side, height, side), range(side, width, side)] if run is cut else middles(plan)
        change, most = restored - whole, float((restored - whole).abs().max()) * 255
        print(
            f"{name:<20}picture {seam(restored, *borders):.3f}, difference to the whole "
            f"{seam(change, *borders):.3f}, at most {most:.1f} gray levels"
        )


def prompt(restorer: TorchRestorer) -> str | None:
    return restorer.prompts[0] if restorer.prompts else None


def feathered(restorer: TorchRestorer, noisy: Tensor, plan: TilePlan, tile: int) -> Tensor:
    """As the restorer does it, where strips do not fit."""
    restorer.memory = int(tile**2 * restorer.probe.bytes_per_pixel) + 1
    # A network that is watched is not computed in strips.
    hook = restorer.network.register_forward_hook(lambda *_: None)
    done = restorer(noisy, diagnosis=prompt(restorer))
    hook.remove()
    restorer.memory = None
    assert done.report.tiles == len(plan)
    return done.tensor


def cut(restorer: TorchRestorer, noisy: Tensor, _: TilePlan, tile: int) -> Tensor:
    """Each tile alone, side by side."""
    side, result = tile // restorer.spec.multiple_of * restorer.spec.multiple_of, torch.empty_like(noisy)
    for top in range(0, noisy.shape[1], side):
        for left in range(0, noisy.shape[2], side):
            place = (slice(None), slice(top, top + side), slice(left, left + side))
            result[place] = restorer.run(noisy[place].contiguous(), diagnosis=prompt(restorer))
    return result


def middles(plan: TilePlan) -> list[list[int]]:
    """Where two feathered tiles weigh the same, in rows and columns."""
    return [[sum(span.fade_in) // 2 for span in spans[1:]] for spans in (plan.rows, plan.columns)]


def seam(x: Tensor, rows: "range | list[int]", columns: "range | list[int]") -> float:
    """Differences across borders over all others, of (3, H, W)."""
    across: list[Tensor] = []
    others: list[Tensor] = []
    for borders, steps in (
        (rows, x.diff(dim=1).abs().mean((0, 2))),
        (columns, x.diff(dim=2).abs().mean((0, 1))),
    ):
        chosen = torch.zeros(len(steps), dtype=torch.bool)
        chosen[[border - 1 for border in borders]] = True
        across.append(steps[chosen])
        others.append(steps[~chosen])
    return float(torch.cat(across).mean() / torch.cat(others).mean().clamp_min(1e-12))


if __name__ == "__main__":
    main()
