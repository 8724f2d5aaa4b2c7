"""Restores the photographs of this folder into restored/ and draws a before/after contact sheet.

Run by `make demo`.
"""

import subprocess
import sys
from pathlib import Path

import pyvips

FOLDER = Path(__file__).parent
WIDTH, HEIGHT, GAP, CAPTION = 400, 300, 8, 28


def main() -> None:
    target = FOLDER.parent / "restored"
    command = ["restore", str(FOLDER), "-o", str(target), "--overwrite"]
    status = subprocess.run([sys.executable, "-m", "pellucid", *command]).returncode
    if status:
        sys.exit(status)
    sheet = contact_sheet([(picture, target / picture.name) for picture in pictures()])
    sheet.write_to_file(str(target / "contact_sheet.png"))
    print(f"restored pictures: {target}\ncontact sheet:     {target / 'contact_sheet.png'}")


def pictures() -> list[Path]:
    """The degraded photographs of this folder."""
    return sorted(p for p in FOLDER.iterdir() if p.suffix in {".png", ".jpg"})


def contact_sheet(pairs: list[tuple[Path, Path]]) -> pyvips.Image:
    """Two columns of pairs, each pair before (left) and after (right) under its file name."""
    cells = [
        caption(before.name).join(
            pyvips.Image.arrayjoin([thumbnail(before), thumbnail(after)], across=2, shim=GAP, background=255),
            "vertical",
            expand=True,
            background=255,
        )
        for before, after in pairs
    ]
    return pyvips.Image.arrayjoin(cells, across=2, shim=3 * GAP, background=255)


def thumbnail(path: Path) -> pyvips.Image:
    image = pyvips.Image.thumbnail(str(path), WIDTH, height=HEIGHT).colourspace("srgb").extract_band(0, n=3)
    return image.gravity("centre", WIDTH, HEIGHT, extend="white")


def caption(text: str) -> pyvips.Image:
    letters = pyvips.Image.text(f"{text}: before, after", dpi=96, font="sans").invert()
    return (
        letters.embed(GAP, GAP, 2 * WIDTH + GAP, CAPTION, extend="white")
        .copy(interpretation="b-w")
        .colourspace("srgb")
    )


if __name__ == "__main__":
    main()
