"""Load, hostile bytes, kills, and schemathesis against the service; on loopback, bounded in count and time.

    python benchmarks/service.py load --requests 2000 --json benchmarks/results/service.json
    python benchmarks/service.py fuzz --inputs 20000
    python benchmarks/service.py kills --rounds 20
    python benchmarks/service.py schema        # needs schemathesis

The README beside this file says what is measured, and how.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from pellucid import load
from pellucid.arrays import image_from_array
from pellucid.compute import probe_picture, processor_name
from pellucid.image_io import decode_image, encode_image

CLIENTS = (1, 4, 16)
RAW = {"Content-Type": "application/octet-stream"}


class Service:
    """`pellucid serve` as a process of its own, on a free port of loopback."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.log = folder / "log"
        command = [sys.executable, "-m", "pellucid", "serve", "--port", "0", "--data", str(folder / "jobs")]
        with self.log.open("a") as log:
            start = log.tell()
            self.process = subprocess.Popen(
                [*command, "--device", "cpu", "--precision", "float32", *options], stderr=log
            )
        self.url = self._address(start)

    def _address(self, start: int) -> str:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.log.read_text()[start:].splitlines():
                if '"listening"' in line:
                    return json.loads(line)["address"]
            time.sleep(0.05)
        raise SystemExit(self.log.read_text()[start:])

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=300, trust_env=False)

    def end(self, with_signal: int = signal.SIGTERM) -> None:
        self.process.send_signal(with_signal)
        self.process.wait(120)

    def memory(self) -> dict[str, float]:
        """Resident MB of the service itself, and of all its processes (shared pages counted once)."""
        own = pss(self.process.pid)
        return {"service": own, "all": own + sum(pss(child) for child in below(self.process.pid))}


def below(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that these have."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from below(int(child))


def pss(pid: int) -> float:
    """MB of memory, pages that several processes share counted in shares; 0 for one that is gone."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
    return 0.0


def photo(size: int, seed: int, suffix: str = ".png") -> bytes:
    """The fixed picture of the probe with noise of its own."""
    rng = np.random.default_rng(seed)
    array = probe_picture(size)[0].permute(1, 2, 0).numpy() + rng.normal(0, 0.05, (size, size, 3))
    return encode_image(image_from_array(np.clip(array * 255, 0, 255).astype(np.uint8)), suffix)


def percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(seconds, p)), 4) for p in (50, 95, 99)} if seconds else {}


def run_load(service: Service, options: argparse.Namespace) -> dict[str, Any]:
    """Each number of clients sends its share, one request after the other; every reply is compared."""
    restorer = load(device="cpu", precision="float32")
    pictures = [photo(options.size, seed) for seed in range(8)]
    expected = []
    for data in pictures:
        restoration = restorer(decode_image(data))
        same = restoration.report.untouched
        expected.append(data if same else encode_image(restoration.image, ".png"))
    report: dict[str, Any] = {"size": options.size, "requests": options.requests, "clients": {}}
    with service.client() as client:
        for data in pictures * 3:  # warm
            client.post("/v1/restore", content=data, headers=RAW)
    report["memory_before"] = service.memory()
    for clients in CLIENTS:
        served, refused, wrong = [], [], Counter()
        share = max(1, options.requests // len(CLIENTS) // clients)
        deadline = time.monotonic() + options.minutes * 60 / len(CLIENTS)

        def work(first: int, share=share, served=served, refused=refused, wrong=wrong, deadline=deadline):
            with service.client() as client:
                for i in range(first, first + share):
                    if time.monotonic() > deadline:
                        wrong["left out"] += 1
                        continue
                    start = time.perf_counter()
                    reply = client.post("/v1/restore", content=pictures[i % 8], headers=RAW)
                    took = time.perf_counter() - start
                    if reply.status_code == 429:
                        refused.append(took)
                    elif reply.status_code != 200:
                        wrong[str(reply.status_code)] += 1
                    elif reply.content != expected[i % 8]:
                        wrong["other bytes"] += 1
                    else:
                        served.append(took)

        start = time.perf_counter()
        in_threads(work, clients)
        seconds = time.perf_counter() - start
        report["clients"][clients] = {
            "served": len(served),
            "refused": len(refused),
            "wrong": dict(wrong),
            "per_second": round(len(served) / seconds, 2),
            **percentiles(served),
            "refusal": percentiles(refused),
        }
    report["memory_after"] = service.memory()
    return report


def run_overload(service: Service, options: argparse.Namespace) -> dict[str, Any]:
    """More clients than places: how long a refusal takes while the network is busy."""
    data, refused, served = photo(options.size, 0), [], []
    gc.freeze()  # of this process, which measures
    ready = threading.Barrier(12)  # making a client takes tens of milliseconds of all others' time

    def work(_: int) -> None:
        with service.client() as client:
            client.get("/healthz")
            ready.wait()
            deadline = time.monotonic() + 20
            for _ in range(options.refusals // 12):
                if time.monotonic() > deadline:
                    return
                start = time.perf_counter()
                reply = client.post("/v1/restore", content=data, headers=RAW)
                (refused if reply.status_code == 429 else served).append(time.perf_counter() - start)
                time.sleep(0.05)

    in_threads(work, 12)
    slow = sum(seconds > 0.05 for seconds in refused)
    return {"refused": len(refused), "served": len(served), **percentiles(refused), "above 50 ms": slow}


def in_threads(work: Any, number: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def hostile(number: int) -> Iterator[tuple[str, bytes]]:
    """Kinds and bytes of inputs, the same ones each time."""
    rng = random.Random(0)
    small = np.random.default_rng(0)
    seeds: list[bytes] = []
    for suffix in (".png", ".jpg", ".tif", ".webp", ".avif"):
        for shape in ((9, 7, 3), (40, 33, 3), (1, 1, 3), (5, 6), *(() if suffix == ".jpg" else ((8, 8, 4),))):
            for dtype in (np.uint8, np.uint16):
                pixels = small.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
                seeds.append(encode_image(image_from_array(pixels), suffix))
    others = _others()
    for i in range(number):
        data = bytearray(rng.choice(seeds))
        kind = ("cut", "bits", "bytes", "header", "spliced", "doubled", "other", "random")[i % 8]
        if kind == "cut":
            data = data[: rng.randrange(len(data))]
        elif kind == "bits":
            for _ in range(rng.choice((1, 1, 2, 8, 64))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == "bytes":
            start = rng.randrange(len(data))
            data[start : start + rng.choice((1, 4, 64))] = rng.randbytes(rng.choice((0, 1, 4, 64)))
        elif kind == "header":  # where sizes, counts and offsets are
            for _ in range(rng.choice((1, 2, 4))):
                start = rng.randrange(min(len(data), 64))
                data[start : start + 4] = rng.choice(
                    (
                        b"\xff\xff\xff\xff",
                        b"\0\0\0\0",
                        b"\x7f\xff\xff\xff",
                        struct.pack(">I", 60_000),
                        b"\0\1\0\0",
                    )
                )
        elif kind == "spliced":
            other = rng.choice(seeds)
            data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
        elif kind == "doubled":
            data = data + rng.choice(seeds)
        elif kind == "other":
            data = bytearray(rng.choice(others))
        else:
            data = bytearray(
                rng.choice((b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"RIFF\0\0\0\0WEBP"))
            )
            data += rng.randbytes(rng.choice((0, 1, 100, 5000)))
        yield kind, bytes(data)


def _others() -> list[bytes]:
    """Bombs, animations, CMYK, other formats, and files that are two things at once."""
    import io

    from PIL import Image

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def png(width: int, height: int, rows: bytes, *before: bytes) -> bytes:
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        parts = (head, *before, chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
        image.save(buffer := io.BytesIO(), file_format, **options)
        return buffer.getvalue()

    tiny = Image.new("RGB", (16, 12), (10, 200, 90))
    frames = [Image.new("RGB", (16, 12), (i, i, i)) for i in (0, 90, 250)]
    more = {"save_all": True, "append_images": frames[1:]}
    good = png(8, 8, bytes(8 * 25))
    return [
        png(60_000, 60_000, b""),
        png(2**31 - 1, 2**31 - 1, b""),
        png(0, 0, b""),
        png(1, 1, bytes(4)),
        png(8, 8, bytes(30_000_000)),  # inflates to far more than the picture holds
        png(8, 8, bytes(200), chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(20_000_000)))),
        png(8, 8, bytes(200), *(chunk(b"tEXt", b"a\0" + bytes(100)) for _ in range(2000))),
        png(8, 8, bytes(200), chunk(b"acTL", struct.pack(">II", 100, 0))),
        saved(frames[0], "GIF", **more),
        saved(frames[0], "WEBP", **more),
        saved(frames[0], "PNG", **more),
        saved(frames[0], "TIFF", **more),
        saved(tiny.convert("CMYK"), "JPEG"),
        saved(tiny.convert("CMYK"), "TIFF"),
        saved(tiny.convert("1"), "PNG"),
        saved(tiny.convert("P"), "PNG"),
        saved(tiny, "JPEG", progressive=True),
        saved(Image.new("RGB", (1, 4000)), "PNG"),
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%PDF-1.4\n" + good,
        good + b"PK\x03\x04" + bytes(100),
        b"GIF89a" + good,
        good[:33] + good,
    ]


def run_fuzz(service: Service, options: argparse.Namespace) -> dict[str, Any]:
    """Every input to diagnose or restore; what is answered, how long it takes, and what memory does."""
    inputs = list(hostile(options.inputs))
    found: dict[str, Counter[str]] = {}
    seconds: list[float] = []
    lock = threading.Lock()
    deadline = time.monotonic() + options.minutes * 60
    with service.client() as client:
        for _, data in inputs[:200]:  # warm
            client.post("/v1/diagnose", content=data, headers=RAW)
    before = service.memory()

    def work(first: int) -> None:
        with service.client() as client:
            for i in range(first, len(inputs), 4):
                if time.monotonic() > deadline:
                    return
                kind, data = inputs[i]
                path = "/v1/restore?guard=false" if i % 10 == 0 else "/v1/diagnose"
                start = time.perf_counter()
                reply = client.post(path, content=data, headers=RAW)
                with lock:
                    seconds.append(time.perf_counter() - start)
                    found.setdefault(kind, Counter())[str(reply.status_code)] += 1
                if reply.status_code not in (200, 413, 415, 422):
                    print(kind, len(data), reply.status_code, reply.text[:300], data.hex(), flush=True)
                    identity = reply.headers.get("x-request-id", "none")
                    for line in service.log.read_text().splitlines():
                        if identity in line:
                            print(line, flush=True)

    in_threads(work, 4)
    with service.client() as client:
        lost = [line for line in client.get("/metrics").text.splitlines() if "lost_workers_total" in line]
    return {
        "inputs": len(seconds),
        "statuses": {kind: dict(counts) for kind, counts in found.items()},
        "slowest": round(max(seconds), 3),
        **percentiles(seconds),
        "lost_workers": [line for line in lost if not line.startswith("#")],
        "memory_before": before,
        "memory_after": service.memory(),
    }


def run_kills(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """kill -9 at random moments under load; then every accepted job is looked up."""
    moments, accepted = random.Random(0), list[str]()
    for _ in range(options.rounds):
        service = Service(folder)
        killer = threading.Timer(moments.uniform(0.2, 2.0), service.end, (signal.SIGKILL,))
        killer.start()
        with service.client() as client, contextlib.suppress(httpx.TransportError):
            for i in range(12):
                reply = client.post("/v1/jobs", content=photo(48, i), headers=RAW)
                if reply.status_code == 202:
                    accepted.append(reply.headers["location"])
        killer.join()
    service = Service(folder)
    states: Counter[str] = Counter()
    deadline = time.monotonic() + options.minutes * 60
    with service.client() as client:
        for path in accepted:
            while (reply := client.get(path)).status_code == 200 and reply.json()["finished"] is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            job = reply.json()
            states[job.get("state", "lost")] += 1
            if job.get("state") == "done" and client.get(f"{path}/result").status_code != 200:
                states["done without a result"] += 1
    service.end()
    return {"kills": options.rounds, "accepted": len(accepted), "states": dict(states)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("load", "fuzz", "kills", "schema"))
    parser.add_argument("--requests", type=int, default=2000, help="of load, over all numbers of clients")
    parser.add_argument("--refusals", type=int, default=1200, help="requests of the overload run")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    parser.add_argument("--inputs", type=int, default=20_000, help="of fuzz")
    parser.add_argument("--rounds", type=int, default=20, help="of kills")
    parser.add_argument("--examples", type=int, default=50, help="of schemathesis, for each operation")
    parser.add_argument("--minutes", type=float, default=30, help="after which the rest is left out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "kills":
            report = run_kills(folder, options)
        elif options.what == "schema":
            service = Service(folder)
            command = [Path(sys.executable).with_name("schemathesis"), "run", f"{service.url}/openapi.json"]
            # Bytes of a type that is taken need not be a picture, nor need a canceled job be gone.
            command += ["--exclude-checks", "positive_data_acceptance,use_after_free"]
            ended = subprocess.run([*command, "--max-examples", str(options.examples)], check=False)
            service.end()
            sys.exit(ended.returncode)
        else:
            service = Service(folder)
            report = {"load": run_load, "fuzz": run_fuzz}[options.what](service, options)
            service.end()
            if options.what == "load":
                service = Service(folder, "--queue", "2")
                report["overload"] = run_overload(service, options)
                service.end()
    report["machine"] = {"processor": processor_name(), "cores": os.cpu_count()}
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
