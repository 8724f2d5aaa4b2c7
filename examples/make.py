"""Makes the degraded photographs of this folder from scikit-image's freely licensed ones.

Run with the test tools installed: python examples/make.py
Each picture is one call of a pellucid operator with fixed parameters, so the files can be rebuilt.
"""

from pathlib import Path

import skimage.data
import torch

from pellucid import ImageBuffer, degradations, write_image

FOLDER = Path(__file__).parent
# file, photograph, operator, seed of its parameters
EXAMPLES = (
    ("noisy_cat.png", "chelsea", "gaussian_noise", 4),
    ("rainy_cup.jpg", "coffee", "rain_streaks", 8),
    ("hazy_rocket.jpg", "rocket", "haze", 7),
    ("dark_astronaut.png", "astronaut", "low_light", 5),
    ("blurred_cup.jpg", "coffee", "motion_blur", 4),
    ("hazy_shaken_astronaut.jpg", "astronaut", "composite", 1),
)
PAGE = FOLDER.parent / "src" / "pellucid" / "app" / "examples"  # the page's, which come with the wheel
ON_PAGE = ("noisy_cat.png", "rainy_cup.jpg", "hazy_rocket.jpg", "dark_astronaut.png")


def main() -> None:
    for file, photograph, operator_name, seed in EXAMPLES:
        clean = torch.from_numpy(getattr(skimage.data, photograph)().copy()).permute(2, 0, 1)[None] / 255
        clean = (
            torch.nn.functional.interpolate(clean, scale_factor=0.8, mode="area")
            if photograph == "coffee"
            else clean
        )
        operator = degradations.get(operator_name)
        params = operator.draw(torch.Generator().manual_seed(seed), 1)
        degraded = ImageBuffer(operator.apply(clean, params)[0])
        write_image(degraded, FOLDER / file, overwrite=True)
        if file in ON_PAGE:
            write_image(degraded, (PAGE / file).with_suffix(".jpg"), overwrite=True, quality=90)
        print(file, operator_name, params.to_json())


if __name__ == "__main__":
    main()
