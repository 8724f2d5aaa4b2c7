"""Test sets in the layout of the suites."""

from pathlib import Path

import numpy as np
import pytest

from pellucid import write_image
from pellucid.arrays import image_from_array


def add_set(root: Path, name: str, sides: tuple[str, ...] = ("degraded", "clean"), count: int = 2) -> None:
    for side in sides:
        (root / name / side).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng(number)
            pixels = (100 + rng.integers(0, 60, (34, 50, 3))).astype(np.uint8)
            if side == "degraded":
                pixels //= 2 + number
            write_image(image_from_array(pixels), root / name / side / f"{number}.png")


@pytest.fixture
def root(tmp_path) -> Path:
    """The sets of the suite 3task, tiny."""
    add_set(tmp_path, "sots_outdoor")
    add_set(tmp_path, "rain100l", count=5)
    add_set(tmp_path, "cbsd68", ("clean",))
    return tmp_path
