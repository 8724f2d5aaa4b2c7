"""Free wallpapers and a game's landscapes from packages of Debian and Ubuntu: to train on, and to ask about.

    python benchmarks/wallpapers.py DEBS --shards SHARDS --out FOLDER

DEBS holds the packages that `wallpapers.csv` beside this file names, as NAME_VERSION_all.deb; mirrors of
Debian and Ubuntu have them, or archives of old versions. FOLDER becomes the shard folder SHARDS with the
pictures for training added, photographs as "clean" and the others as "drawing"; those that are held out go
to FOLDER/held_out, for `benchmarks/guard.py --clean FOLDER/held_out`. SHARDS holds none of them.
"""

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyvips

LIST = Path(__file__).with_suffix(".csv")
LONG_SIDE, QUALITY = 768, 90  # as the photographs of the shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("debs", type=Path, help="folder with the packages")
    parser.add_argument("--shards", type=Path, required=True, help="folder with manifest.json")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--long-side", type=int, default=LONG_SIDE, help="of larger pictures, in pixels; the shards have 768"
    )
    options = parser.parse_args()
    rows = list(csv.DictReader(LIST.open(encoding="utf-8")))
    packages = {row["package"]: options.debs / f"{row['package']}_all.deb" for row in rows}
    if missing := [str(deb) for deb in packages.values() if not deb.is_file()]:
        names = ", ".join(missing)
        sys.exit(f"{len(missing)} packages are missing: {names}. Get them from a mirror of Debian or Ubuntu.")
    if options.out.exists():
        sys.exit(f"{options.out} exists. Name a new folder.")
    manifest = json.loads((options.shards / "manifest.json").read_text("utf-8"))
    for folder in (options.out / "wallpapers", options.out / "held_out"):
        folder.mkdir(parents=True)
    for entry in options.shards.iterdir():
        if entry.name != "manifest.json":
            (options.out / entry.name).symlink_to(entry.resolve())
    with tempfile.TemporaryDirectory() as unpacked:
        for package, deb in packages.items():
            subprocess.run(["dpkg-deb", "-x", deb, Path(unpacked) / package], check=True)
        for row in rows:
            encoded = reduced(Path(unpacked) / row["package"] / row["path"], options.long_side)
            name = f"{'wallpapers' if row['use'] == 'train' else 'held_out'}/{row['name']}"
            (options.out / name).write_bytes(encoded)
            digest = hashlib.sha256(encoded).hexdigest()
            if row["use"] == "train":
                file = {"path": name, "split": "train", "role": row["role"], "sha256": digest}
                manifest["files"].append(file)
    (options.out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def reduced(path: Path, long_side: int) -> bytes:
    """The picture as JPEG with full color, its long side at most so many pixels."""
    return thumbnail(path, long_side).jpegsave_buffer(Q=QUALITY, subsample_mode="off", keep="none")


def thumbnail(path: Path, long_side: int) -> pyvips.Image:
    """The picture in sRGB without transparency, its long side at most so many pixels."""
    image = pyvips.Image.thumbnail(str(path), long_side, height=long_side, size="down").colourspace("srgb")
    return (image.flatten() if image.hasalpha() else image)[:3]


if __name__ == "__main__":
    main()
