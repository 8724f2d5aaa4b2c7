"""Pictures, and the command in a process of its own: Ray starts threads and keeps state."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pellucid.arrays import image_from_array
from pellucid.image_io import write_image

Save = Callable[..., Path]


class Ended(NamedTuple):
    """What a run of the command left behind."""

    code: int
    rows: list[dict[str, Any]]
    err: str

    @property
    def states(self) -> dict[str, str]:
        return {row["input"].rsplit("/", 1)[-1]: row["state"] for row in self.rows}


@pytest.fixture
def save() -> Save:
    def write(path: Path, seed: int = 0, size: tuple[int, int] = (40, 33)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        return write_image(image_from_array(pixels), path, overwrite=True)

    return write


@pytest.fixture
def folder(tmp_path, save) -> Path:
    """Seven pictures, and one that is none."""
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.tif", "sub/d.png", "e.webp", "f.png", "g.jpg")):
        save(tmp_path / "in" / name, number)
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "in"


@pytest.fixture
def options(small_weights) -> tuple[str, ...]:
    return "--model", str(small_weights), "--device", "cpu", "--precision", "float32", "--no-guard"


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """`start("restore", ...)` begins that command."""

    def begin(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pellucid", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "200"} | environment,
        )

    return begin


@pytest.fixture
def run(start) -> Callable[..., Ended]:
    """`run("restore", ..., "--json")` gives exit code, rows of stdout and stderr of that command."""

    def call(*arguments: object, **environment: str) -> Ended:
        process = start(*arguments, **environment)
        out, err = process.communicate(timeout=300)
        return Ended(process.returncode, [json.loads(line) for line in out.splitlines()], err)

    return call


@pytest.fixture
def processes() -> Callable[[str], list[int]]:
    """`processes("MapWorker")` finds those so named that this one has started, by way of others."""

    def find(name: str) -> list[int]:
        parents, names = dict[int, int](), dict[int, bytes]()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                pid = int(folder.name)
                parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                names[pid] = (folder / "cmdline").read_bytes()

        def ours(pid: int) -> bool:
            return pid == os.getpid() or (pid in parents and ours(parents[pid]))

        return [pid for pid, found in names.items() if name.encode() in found and ours(pid)]

    return find
