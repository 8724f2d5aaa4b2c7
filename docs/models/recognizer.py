"""Draws recognizer.png, the reliability plot, and prints the tables of recognizer.md.

python docs/models/recognizer.py

From what the calibration at the end of training measured, which the checkpoint's header holds.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pellucid import weights
from pellucid.checkpoint import Checkpoint
from pellucid.models.recognizer import SCALES

SIDE, MARGIN = 320, 56


def draw(found: dict) -> Image.Image:
    """Two plots side by side: the kinds, and "nothing wrong"; bars below hold the numbers of labels."""
    image = Image.new("RGB", (2 * (SIDE + MARGIN) + MARGIN, SIDE + 2 * MARGIN + 40), "white")
    for i, (title, key) in enumerate((("kinds", ""), ("nothing wrong", "_nothing_wrong"))):
        corner = (MARGIN + i * (SIDE + MARGIN), MARGIN)
        error = found[f"calibration_error{key}"]
        _plot(ImageDraw.Draw(image), corner, f"{title}: error {error:.1%}", found[f"reliability{key}"])
    return image


def _plot(drawing: ImageDraw.ImageDraw, corner: tuple[int, int], title: str, bins: list) -> None:
    x, y = corner
    font = ImageFont.load_default(14)
    drawing.text((x, y - 26), title, fill="black", font=ImageFont.load_default(16))
    drawing.rectangle((x, y, x + SIDE, y + SIDE), outline="black")
    drawing.line((x, y + SIDE, x + SIDE, y), fill=(170, 170, 170))
    most = max(n for n, _, _ in bins)
    for n, said, true in bins:
        if n:
            cx, cy = x + said * SIDE, y + SIDE * (1 - true)
            size = 3 + 7 * (n / most) ** 0.5
            drawing.ellipse((cx - size, cy - size, cx + size, cy + size), fill=(46, 99, 166))
            drawing.text((cx + size + 1, cy - 7), str(n), fill=(90, 90, 90), font=ImageFont.load_default(11))
    for share in (0, 0.5, 1):
        drawing.text((x + share * SIDE - 8, y + SIDE + 4), f"{share:g}", fill="black", font=font)
        drawing.text((x - 28, y + SIDE * (1 - share) - 8), f"{share:g}", fill="black", font=font)
    drawing.text((x + SIDE / 2 - 60, y + SIDE + 24), "probability said", fill="black", font=font)


def tables(found: dict) -> list[str]:
    """The tables of recognizer.md."""
    lines = [
        "| kind | alone: F1 | hit | missed | false | off by | mixed: F1 | hit | missed | false | off by |"
    ]
    lines.append("|---" * 11 + "|")
    for kind, row in found["kinds"].items():
        cells: list[str] = []
        for part in ("single", "composite"):
            one = row[part]
            off = one["absolute_error"]
            cells += [f"{one['f1']:.3f}", *(str(one[key]) for key in ("hit", "missed", "false"))]
            cells.append("-" if off is None else f"{off:.2f}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    kinds = list(SCALES)
    lines += [
        "",
        f"| pictures | n | degraded | nothing wrong | unknown | {' | '.join(kinds)} |",
        "|---" * (5 + len(kinds)) + "|",
    ]
    for name, row in found["rows"].items():
        cells = [str(row[key]) for key in ("n", "degraded", "nothing wrong", "unknown", *kinds)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    found = Checkpoint.read(weights.find("recognizer").path).provenance["recognition"]
    draw(found).save(Path(__file__).with_suffix(".png"))
    print("\n".join(tables(found)))
