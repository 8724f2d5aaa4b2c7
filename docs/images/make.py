"""Makes restored.jpg, the pictures of examples/ before and after, and failures.jpg, some that fail.

    python docs/images/make.py

From freely licensed photographs that scikit-image ships (see examples/README.md), degraded by pellucid's
operators and restored by the default weights, with the guard, in float32.
"""

import sys
import tempfile
from pathlib import Path

import skimage.data
import torch

from pellucid import ImageBuffer, degradations, load, write_image

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
from demo import contact_sheet  # noqa: E402

# caption, photograph, operator, seed of its parameters
FAILURES = (
    ("shake, hardly less", "astronaut", "motion_blur", 0),
    ("dark, noisy and blurred, little comes back", "chelsea", "composite", 8),
    ("a scene at dusk, brightened to day", "rocket", "low_light", 2),
    ("dark and rainy, too bright and still rainy", "rocket", "composite", 5),
)


def main() -> None:
    restorer = load(device="cpu", precision="float32", guard=True)
    with tempfile.TemporaryDirectory() as folder:
        examples = sorted(p for p in EXAMPLES.iterdir() if p.suffix in {".png", ".jpg"})
        pairs = []
        for before in examples:
            after = Path(folder) / before.name
            restorer(before).save(after)
            pairs.append((before, after))
        contact_sheet(pairs).jpegsave(str(HERE / "restored.jpg"), Q=85)
        pairs = []
        for caption, photograph, operator, seed in FAILURES:
            pixels = torch.from_numpy(getattr(skimage.data, photograph)().copy()).permute(2, 0, 1)[None] / 255
            chosen = degradations.get(operator)
            pixels = chosen.apply(pixels, chosen.draw(torch.Generator().manual_seed(seed), 1))
            before, after = Path(folder) / f"{caption}.png", Path(folder) / "after" / f"{caption}.png"
            after.parent.mkdir(exist_ok=True)
            write_image(ImageBuffer(pixels[0]), before)
            restorer(before).save(after)
            pairs.append((before, after))
        contact_sheet(pairs).jpegsave(str(HERE / "failures.jpg"), Q=85)


if __name__ == "__main__":
    main()
