"""Draws training_curves.png from the logs in training/, one `log.jsonl` of `pellucid train` for each part.

    pip install matplotlib
    python docs/models/training_curves.py

The loss is each run's own, so only its shape compares. Scores are those of the averaged weights on a few
validation pictures of a kind (the log says how many; the last validation takes more, other pictures with it,
and is left out); a run that was stopped before it validated has none.
"""

import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
ROWS = ("noise_25", "rain", "haze_depth", "low_light", "blur_camera", "blur_motion")


def natural(name: str) -> list[str]:
    """Sorts part 10 behind part 9."""
    return [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def main() -> None:
    logs = sorted((HERE / "training").glob("*.jsonl"), key=lambda path: natural(path.stem))
    figure, axes = plt.subplots(len(logs), 2, figsize=(11, 3.2 * len(logs)), squeeze=False)
    for (left, right), path in zip(axes, logs, strict=True):
        entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        losses = [entry for entry in entries if "loss" in entry]
        scores = [entry for entry in entries if "validation" in entry]
        left.plot([entry["step"] for entry in losses], [entry["loss"] for entry in losses], linewidth=1)
        left.set(title=path.stem, xlabel="step", ylabel="loss")
        right.set_visible(bool(scores))
        for row in ROWS:
            found = [(e["step"], e["validation"][row]) for e in scores if row in e["validation"]]
            found = [(step, score) for step, score in found if score["n"] == found[0][1]["n"]]
            gains = [score["output"] - score["input"] for _, score in found]
            right.plot([step for step, _ in found], gains, marker=".", label=row)
        right.set(title="gain on validation, dB", xlabel="step")
        right.legend(fontsize=7)
        right.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(HERE / "training_curves.png", dpi=80)


if __name__ == "__main__":
    main()
