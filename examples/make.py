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
    ("hazy_rocket.jpg", "rocket", "haze", 11),
    ("dark_astronaut.png", "astronaut", "low_light", 5),
    ("blurred_cup.jpg", "coffee", "motion_blur", 4),
    ("hazy_shaken_astronaut.jpg", "astronaut", "composite", 1),
)
PAGE = FOLDER.parent / "src" / "pellucid" / "app" / "examples"  # the page's, which come with the wheel
ON_PAGE = (
    ("noisy_cat.jpg", "chelsea", "gaussian_noise", 4),
    ("rainy_cup.jpg", "coffee", "rain_streaks", 8),
    ("hazy_astronaut.jpg", "astronaut", "haze", 4),
    ("dark_cup.jpg", "coffee", "low_light", 6),
)


def degrade(photograph: str, operator_name: str, seed: int) -> ImageBuffer:
    """A photograph of scikit-image, degraded by an operator with parameters that it draws from `seed`."""
    clean = torch.from_numpy(getattr(skimage.data, photograph)().copy()).permute(2, 0, 1)[None] / 255
    if photograph == "coffee":
        clean = torch.nn.functional.interpolate(clean, scale_factor=0.8, mode="area")
    operator = degradations.get(operator_name)
    params = operator.draw(torch.Generator().manual_seed(seed), 1)
    print(photograph, operator_name, params.to_json())
    return ImageBuffer(operator.apply(clean, params)[0])


def main() -> None:
    for folder, examples in ((FOLDER, EXAMPLES), (PAGE, ON_PAGE)):
        for file, *recipe in examples:
            write_image(degrade(*recipe), folder / file, overwrite=True)


if __name__ == "__main__":
    main()
