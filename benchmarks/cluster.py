"""What a picture costs one process of a cluster, what it costs besides the network, and what reports weigh.

Processor seconds are those of the process and of the two that decode and encode for it: where other programs
want the same cores, they mean more than the clock.
"""

import argparse
import json
import os
import platform
import random
import resource
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyvips
import skimage.data
import torch

from pellucid import weights
from pellucid.cluster.inputs import Inputs
from pellucid.cluster.report import SCHEMA, Known, Records, Row, now
from pellucid.cluster.run import BLOCK
from pellucid.cluster.worker import Task, Worker
from pellucid.strength import Strength


def make_pictures(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Noisy photographs of that width and height, as JPEG files."""
    photograph = pyvips.Image.new_from_array(skimage.data.astronaut())
    times = -(-max(size) // photograph.width)
    noise = pyvips.Image.gaussnoise(*size, sigma=25, mean=0)
    picture = (photograph.replicate(times, times).crop(0, 0, *size) + noise).cast("uchar")
    folder.mkdir(parents=True)
    for number in range(count):
        picture.copy(interpretation="srgb").jpegsave(str(folder / f"{number}.jpg"), Q=90)
    return [f"{number}.jpg" for number in range(count)]


def processor_seconds() -> float:
    """Of this process and its descendants that live."""
    parents, seconds = dict[int, int](), dict[int, float]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return sum(spent for pid, spent in seconds.items() if ours(pid))


def measure(task: Task, folder: Path, names: Sequence[str], known: Known | None = None) -> dict[str, Any]:
    """The cost of blocks of these pictures, when the process is warm."""
    worker = Worker(task, None, known)
    worker.restore([f"{folder}/{names[0]}"], ["warm.jpg"])
    start, before = time.perf_counter(), processor_seconds()
    states = set[str]()
    for begin in range(0, len(names), BLOCK):
        block = names[begin : begin + BLOCK]
        states |= {o.state for o in worker.restore([f"{folder}/{name}" for name in block], block)}
    seconds, spent = time.perf_counter() - start, processor_seconds() - before
    return {
        "pictures": len(names),
        "states": sorted(states),
        "seconds": seconds / len(names),
        "processor_seconds": spent / len(names),
    }


def measure_pictures(folder: Path, task: Task, count: int, size: tuple[int, int]) -> dict[str, Any]:
    """A picture restored; the same without a network (strength 0); and when it is done already."""
    names = make_pictures(folder / "in", count, size)
    restored = measure(replace(task, output=str(folder / "out")), folder / "in", names)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    untouched = replace(task, output=str(folder / "copies"), strength=Strength.of(0.0))
    copied = measure(untouched, folder / "in", names)
    records = Records(untouched.output)
    records.join_parts("all")
    done = measure(replace(untouched, run="again"), folder / "in", names, records.known())

    def size_of(where: str) -> float:
        return sum((folder / where / name).stat().st_size for name in names) / count

    report = folder / "copies" / "_pellucid" / "report" / "all.parquet"
    return {
        "size": size,
        "bytes_in": size_of("in"),
        "bytes_out": size_of("out"),
        "report_bytes_per_row": report.stat().st_size / (count + 1),
        "peak_bytes": peak,
        "restored": restored,
        "copied": copied,
        "done": done,
    }


def measure_report(folder: Path, rows: int) -> dict[str, Any]:
    """A report of so many rows, as one file, and what knowing it costs; a manifest of as many paths."""
    rng = random.Random(0)
    row = Row("", "", "restored", "0123456789abcdef", uuid.uuid4().hex, now(), model=weights.DEFAULT)
    row = replace(row, precision="bf16", device="cpu", strength="1.0", verdict="degraded")

    def plain_row(number: int) -> dict[str, Any]:
        name = f"{number // 1000:06}/{rng.randbytes(10).hex()}.jpg"
        return vars(row) | {
            "path": f"s3://bucket/{name}",
            "name": name,
            "sha256": rng.randbytes(32).hex(),
            "input_size": rng.randrange(10**5),
            "input_version": rng.randbytes(16).hex(),
            "output_size": rng.randrange(10**5),
            "output_version": rng.randbytes(16).hex(),
            "weights_sha256": "0" * 64,
            "kinds": [{"kind": "noise", "probability": rng.random(), "strength": rng.uniform(0, 50)}],
            "seconds": {name: rng.random() for name in ("read", "restore", "recognize", "write")},
        }

    plain = [plain_row(number) for number in range(rows)]
    names = [row["name"] for row in plain[:10_000]]
    table = pa.Table.from_pylist(plain, schema=SCHEMA)
    file, manifest = folder / "_pellucid" / "report" / "all.parquet", folder / "manifest.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(table, file, compression="zstd")
    pq.write_table(table.select(["path"]), manifest, compression="zstd")
    del table, plain
    start = time.process_time()
    known = Records(str(folder)).known()
    assert known is not None
    loaded = time.process_time() - start
    start = time.process_time()
    for name in names:
        assert known.row("", name) is not None
    looked = (time.process_time() - start) / len(names)
    start = time.process_time()
    assert Inputs([str(manifest)], str(folder / "out")).check() == rows
    return {
        "rows": rows,
        "report_bytes_per_row": file.stat().st_size / rows,
        "manifest_bytes_per_row": manifest.stat().st_size / rows,
        "known_bytes_per_row": known.nbytes / rows,
        "load_seconds_per_million": loaded / rows * 1e6,
        "look_up_seconds": looked,
        "check_seconds_per_million": (time.process_time() - start) / rows * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--small", type=int, default=96, help="pictures of 256 x 256")
    parser.add_argument("--large", type=int, default=2, help="pictures of 4000 x 3000")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of a report")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    digest = weights.find(weights.DEFAULT).sha256 or ""
    task = Task("", "run", {"run": 0.0}, "s", weights.DEFAULT, digest, "cpu", options.precision, guard=False)
    results: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "precision": options.precision,
        "model": weights.DEFAULT,
    }
    with tempfile.TemporaryDirectory() as name:
        for label, count, size in (
            ("small", options.small, (256, 256)),
            ("large", options.large, (4000, 3000)),
        ):
            results[label] = measure_pictures(Path(name) / label, task, count, size)
            print(json.dumps({label: results[label]}, indent=1), flush=True)
        results["report"] = measure_report(Path(name) / "report", options.rows)
        print(json.dumps(results["report"], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
