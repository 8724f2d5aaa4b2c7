"""A large TIFF restored within a memory limit of the system, and its time per pixel beside a small one's.

The limit (RLIMIT_DATA, `ulimit -d`) holds for all private memory of the process: what it can't get, it can't
use. Pixels and features in files are not part of it; the system keeps of them what it has room for.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyvips
import skimage.data
import torch

PEAKS = ("VmHWM", "RssAnon", "RssFile")


def make_picture(path: Path, side: int) -> None:
    """A noisy photograph of side x side pixels, 8 bits, as a TIFF file."""
    photograph = pyvips.Image.new_from_array(skimage.data.astronaut())
    times = -(-side // photograph.width)
    noise = pyvips.Image.gaussnoise(side, side, sigma=25, mean=0)
    picture = photograph.replicate(times, times).crop(0, 0, side, side) + noise
    picture.cast("uchar").copy(interpretation="srgb").tiffsave(str(path), compression="deflate")


def restore(source: Path, target: Path, memory: int, limit: int | None, precision: str) -> dict[str, Any]:
    """Run the command, and watch what its process has in memory."""
    command = [sys.executable, "-m", "pellucid", "restore", str(source), "-o", str(target)]
    command += ["--memory", str(memory), "--precision", precision, "--json", "--quiet"]

    def confine() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=confine)
    peaks = dict.fromkeys(PEAKS, 0)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
            except OSError:
                return
            for name, value in (line.split(":") for line in lines if line.startswith(PEAKS)):
                peaks[name] = max(peaks[name], int(value.split()[0]) * 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    ended.set()
    watcher.join()
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"pellucid restore ended with {process.returncode}: {output.decode()}")
    report = json.loads(output)["report"]
    return {
        "seconds": seconds,
        "restore_seconds": report["seconds"]["restore"],
        "read_seconds": report["seconds"]["read"],
        "peaks": peaks,
        "strips": report["strips"],
        "tiles": report["tiles"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--megapixels", type=int, default=100)
    parser.add_argument("--memory", type=int, default=2 * 10**9, help="--memory of the command, in bytes")
    parser.add_argument("--limit", type=int, default=2 * 10**9, help="RLIMIT_DATA, in bytes")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    side = round((options.megapixels * 10**6) ** 0.5)
    sides, rows = (1000, side, 1000), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        for number, side in enumerate(sides):  # the small one before and after, as the machine may change
            make_picture(folder / "picture.tif", side)
            limit = options.limit if side > 1000 else None
            row = restore(
                folder / "picture.tif", folder / f"{number}.tif", options.memory, limit, options.precision
            )
            row |= {"side": side, "per_megapixel": row["restore_seconds"] / side**2 * 1e6}
            rows.append(row)
            print(
                f"{side} x {side}: {row['per_megapixel']:.2f} s a megapixel in the network, "
                f"{row['seconds']:.0f} s in all, peak {row['peaks']['RssAnon'] / 1e6:,.0f} MB private and "
                f"{row['peaks']['VmHWM'] / 1e6:,.0f} MB with pages of files",
                flush=True,
            )
    small = (rows[0]["per_megapixel"] + rows[2]["per_megapixel"]) / 2
    ratio = rows[1]["per_megapixel"] / small
    print(f"time a pixel, large over small: {ratio:.2f}")
    if options.json:
        setting = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "system": platform.platform(),
            "memory": options.memory,
            "limit": options.limit,
            "precision": options.precision,
        }
        text = json.dumps({"setting": setting, "ratio": ratio, "rows": rows}, indent=1) + "\n"
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
