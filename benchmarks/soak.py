"""A folder of many pictures: throughput against the restorer without files, and runs that are killed.

    python benchmarks/soak.py speed --size 128 --blocks 10
    python benchmarks/soak.py kills --pictures 5000

The README beside this file says what is measured, and how.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from pellucid import load
from pellucid.batch.journal import Journal
from pellucid.batch.plan import Settings
from pellucid.batch.run import Batch, Job
from pellucid.compute import processor_name
from pellucid.image_io import decode_image, encode_image, read_image
from service import below, photo, pss

BAD = b"no picture"


def measure_speed(folder: Path, size: int, blocks: int, length: int, suffix: str) -> dict[str, Any]:
    """Blocks of pictures in turns: the network alone, the restorer in memory, a folder with its journal."""
    restorer = load(device="cpu", precision="float32", guard=False)
    files = [photo(size, seed, suffix) for seed in range(length)]
    pictures = [decode_image(data) for data in files]
    for number, data in enumerate(files):
        (folder / f"{number}{suffix}").write_bytes(data)
    tensors = [p.pixels[None].contiguous(memory_format=torch.channels_last) for p in pictures]
    rates: dict[str, list[float]] = {"network": [], "restorer": [], "folder": []}
    out, numbers = folder / "out", itertools.count()
    with Journal(out) as journal, closing(Batch(restorer, journal, Settings({}), out)) as batch:

        def network() -> None:
            with torch.inference_mode():
                for tensor in tensors:
                    restorer.network(tensor)

        def in_memory() -> None:
            for picture in pictures:
                restorer(picture)

        def in_folder() -> None:
            below_out = out / str(next(numbers))
            jobs = [
                Job(folder / f"{n}{suffix}", below_out / f"{n}{suffix}", "new") for n in range(len(files))
            ]
            assert all(outcome.state == "restored" for outcome in batch.run(jobs))

        runs = {"network": network, "restorer": in_memory, "folder": in_folder}
        for run in runs.values():
            run()
        for block in range(blocks):
            for name in list(runs)[:: 1 if block % 2 else -1]:
                start = time.perf_counter()
                runs[name]()
                rates[name].append(length / (time.perf_counter() - start))

    def share(of: str) -> float:
        return statistics.median(a / b for a, b in zip(rates["folder"], rates[of], strict=True))

    return {
        "size": size,
        "format": suffix,
        "pictures": blocks * length,
        "per_second": {name: statistics.median(values) for name, values in rates.items()},
        "share_of_restorer": share("restorer"),
        "share_of_network": share("network"),
    }


class Soak:
    """Runs of `pellucid restore` over one folder, killed at random, two at a time now and then."""

    def __init__(self, folder: Path, pictures: int, size: int, bad: int, seed: int) -> None:
        self.source, self.out, self.dice = folder / "in", folder / "out", random.Random(seed)
        self.bad = {f"{number}.png" for number in range(pictures) if number % bad == bad - 1}
        self.names = {f"{number}.png" for number in range(pictures)}
        self.source.mkdir()
        for name in self.names:
            data = BAD if name in self.bad else photo(size, int(Path(name).stem))
            (self.source / name).write_bytes(data)
        self.log, self.restored = folder / "log", Counter[str]()
        self.kills, self.anew, self.memory, self.restoring = 0, 0, list[tuple[int, float]](), 0.0
        self.written: dict[str, int] = {}

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pellucid", "restore", self.source, "-o", self.out, "--json"]
        with log.open("wb") as stdout:
            return subprocess.Popen(
                [*command, "--device", "cpu", "--precision", "float32", "--no-guard"],
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def run(self, kill_after: tuple[float, float]) -> None:
        """Go on until a run ends by itself; 1 is the exit code, since some files are no pictures."""
        while True:
            number = 1 + (self.dice.random() < 0.25)
            logs = [self.log.with_suffix(f".{i}") for i in range(number)]
            running = [self.start(log) for log in logs]
            waited = {process.pid: self.dice.uniform(*kill_after) for process in running}
            begun: float | None = None
            while any(process.poll() is None for process in running):
                time.sleep(0.05)
                now = time.monotonic()
                if begun is None and any('"restored"' in log.read_text() for log in logs):
                    begun = now  # the network is loaded
                for process in running:
                    if begun is not None and process.poll() is None and now - begun > waited[process.pid]:
                        process.kill()
                        self.kills += 1
                if number == 1:
                    self.look(running[0].pid)
            self.restoring += number * (time.monotonic() - begun) if begun else 0
            self.note(logs)
            if running[0].returncode >= 0 and len(self.restored) >= len(self.names - self.bad) - self.kills:
                return

    def look(self, pid: int) -> None:
        """The memory of the run, and of its processes, every 5 seconds."""
        now = time.monotonic()
        if not self.memory or now - self.memory[-1][0] > 5:
            used = (
                pss(pid) + sum(pss(child) for child in below(pid))
                if Path(f"/proc/{pid}/task").is_dir()
                else 0
            )
            if used:
                self.memory.append((round(now), used))

    def note(self, logs: list[Path]) -> None:
        """What the runs say that they restored, and what lies in the output."""
        for log in logs:
            for line in log.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # killed within the line
                    continue
                self.restored[Path(row["input"]).name] += row.get("state") == "restored"
        found = {path.name: path.stat().st_mtime_ns for path in self.out.glob("*.png")}
        self.anew += sum(self.written.get(name, time) != time for name, time in found.items())
        self.written = found

    def judge(self) -> dict[str, Any]:
        """What became of every picture, and whether its bytes are those of the restorer."""
        with Journal(self.out) as journal:
            entries, claims = journal.entries(), journal.claims()
        done = {name for name, entry in entries.items() if entry.state == "restored"}
        failed = {name for name, entry in entries.items() if entry.state == "failed"}
        restorer = load(device="cpu", precision="float32", guard=False)
        sample = self.dice.sample(sorted(self.names - self.bad), min(100, len(self.names - self.bad)))
        wrong = 0
        for name in sample:
            expected = encode_image(restorer(read_image(self.source / name)).image, ".png")
            wrong += (self.out / name).read_bytes() != expected
        used = [megabytes for _, megabytes in self.memory]
        return {
            "pictures": len(self.names),
            "kills": self.kills,
            "lost": len(self.names - done - failed) + len(done - set(self.written)),
            "failed": len(failed),
            "failed_wrongly": len(failed ^ self.bad),
            "restored_by_two_runs": sum(count > 1 for count in self.restored.values()),
            "made_anew_after_a_kill": self.anew,
            "claims_left": len(claims),
            "files_left": len(
                [p for p in self.out.rglob("*") if ".tmp" in p.name or p.name.startswith("run-")]
            ),
            "compared": len(sample),
            "wrong_bytes": wrong,
            "pictures_per_second": len(done) / self.restoring,
            "memory_mb": {"first": used[:3], "last": used[-3:], "most": max(used, default=0)},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--size", type=int, default=128)
    speed.add_argument("--blocks", type=int, default=10)
    speed.add_argument("--length", type=int, default=20, help="pictures in a block")
    speed.add_argument("--suffix", default=".png")
    kills = commands.add_parser("kills")
    kills.add_argument("--pictures", type=int, default=5000)
    kills.add_argument("--size", type=int, default=32)
    kills.add_argument("--bad", type=int, default=50, help="every so many is no picture")
    kills.add_argument("--kill-after", type=float, nargs=2, default=(0.5, 30), help="seconds of restoring")
    kills.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.command == "speed":
            torch.set_num_threads(1)
            result = measure_speed(Path(name), options.size, options.blocks, options.length, options.suffix)
        else:
            soak = Soak(Path(name), options.pictures, options.size, options.bad, options.seed)
            soak.run(tuple(options.kill_after))
            result = soak.judge()
    result = {"machine": processor_name(), "torch": torch.__version__, **result}
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
