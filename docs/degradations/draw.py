"""Draws the pictures of this folder: `python docs/degradations/draw.py` (needs scikit-image).

Each shows the clean photograph on the left and one draw of the operator on the right. The photographs are
scikit-image's own, in the public domain (CC0): astronaut and rocket (NASA and SpaceX), coffee, chelsea.
"""

from pathlib import Path

import pyvips
import torch
from skimage import data
from torch import Tensor

from pellucid import degradations

SIZE = 200
# Operator: photograph, upper left corner of the crop, seed. Seeds were chosen for draws of middling strength.
PICTURES = {
    "gaussian_noise": ("chelsea", (30, 90), 3),
    "camera_noise": ("chelsea", (30, 90), 2),
    "film_grain": ("chelsea", (30, 90), 120),
    "rain_streaks": ("astronaut", (0, 120), 10),
    "haze": ("rocket", (190, 210), 36),
    "motion_blur": ("astronaut", (0, 120), 6),
    "frame_average": ("astronaut", (0, 120), 7),
    "defocus_blur": ("astronaut", (0, 120), 6),
    "low_light": ("coffee", (60, 200), 14),
    "underexposure": ("coffee", (60, 200), 5),
    "jpeg": ("chelsea", (30, 90), 15),
    "composite": ("astronaut", (0, 120), 19),
}


def photograph(name: str, corner: tuple[int, int]) -> Tensor:
    """(1, 3, SIZE, SIZE) in [0, 1]."""
    top, left = corner
    pixels = torch.from_numpy(getattr(data, name)()[top : top + SIZE, left : left + SIZE].copy())
    return pixels.permute(2, 0, 1)[None].float() / 255


def main() -> None:
    """Write one PNG per operator, and print what was drawn."""
    if missing := set(degradations.names()) - set(PICTURES):
        raise SystemExit(f"There is no picture for {sorted(missing)}. Add a row to PICTURES.")
    for name, (source, corner, seed) in PICTURES.items():
        operator = degradations.get(name)
        clean = photograph(source, corner)
        params = operator.draw(torch.Generator().manual_seed(seed), 1)
        pair = torch.cat([clean, operator.apply(clean, params)], dim=3)[0]
        pixels = (pair * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        pyvips.Image.new_from_array(pixels).write_to_file(str(Path(__file__).with_name(f"{name}.png")))
        print(name, params.to_json())


if __name__ == "__main__":
    main()
