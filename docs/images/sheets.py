"""Makes restored.jpg, the pictures of examples/ before and after, and failures.jpg, some that fail.

    python docs/images/sheets.py

From freely licensed photographs that scikit-image ships (see examples/README.md), degraded by pellucid's
operators and restored by the default weights, with the guard, in float32.
"""

import sys
import tempfile
from pathlib import Path

from pellucid import load, write_image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "examples"))
from demo import contact_sheet, pictures  # noqa: E402
from make import degrade  # noqa: E402

# caption, photograph, operator, seed of its parameters
FAILURES = (
    ("shake, hardly less", "astronaut", "motion_blur", 0),
    ("dark, noisy and blurred, little comes back", "chelsea", "composite", 8),
    ("a scene at dusk, brightened to day", "rocket", "low_light", 2),
    ("dark and rainy, too bright and still rainy", "rocket", "composite", 5),
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        failing = []
        for caption, *recipe in FAILURES:
            failing.append(Path(folder) / f"{caption}.png")
            write_image(degrade(*recipe), failing[-1])
        draw(pictures(), HERE / "restored.jpg")
        draw(failing, HERE / "failures.jpg")


def draw(before: list[Path], target: Path) -> None:
    restorer = load(device="cpu", precision="float32", guard=True)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(path, Path(folder) / path.name) for path in before]
        for path, after in pairs:
            restorer(path).save(after)
        contact_sheet(pairs).jpegsave(str(target), Q=85)


if __name__ == "__main__":
    main()
