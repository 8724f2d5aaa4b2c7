"""What engines need once per machine, in the user's cache folder: exported files, and which was fastest."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from pellucid import __version__
from pellucid.compute import processor_name
from pellucid.engines._base import (
    ENGINES,
    FORMATS,
    Engine,
    Header,
    check_precision,
    is_installed,
    open_engine,
    require,
    version_of,
)
from pellucid.engines._export import export, to_onnx
from pellucid.errors import CheckpointError, ExportError, InputError
from pellucid.image_io import write_bytes
from pellucid.models import ModelSpec

RUNS = 3  # of each engine, after one that warms up


@dataclass(frozen=True)
class Choice:
    """What a probe has shown.

    Attributes:
        engine: the fastest.
        seconds: per engine, the least of a few runs on one picture.
    """

    engine: str
    seconds: dict[str, float]


def cache_folder() -> Path:
    """The user's folder for what can be made again, created if it is missing.

    Raises:
        InputError: it can't be made, or the extra `export` is missing.
    """
    folder = Path(require("platformdirs").user_cache_dir("pellucid", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The cache folder {folder} can't be made: {error.strerror}. Let XDG_CACHE_HOME name another."
        ) from error
    return folder


def prepare(name: str, network: nn.Module, spec: ModelSpec, header: Header) -> dict[str, Engine]:
    """The engine of that name, or with "auto" all that are installed and pass the gate, but not torch.

    They compute in the header's precision.

    A network that this machine has not exported yet is exported now, which takes from half a minute to
    several.

    Raises:
        ExportError: the engine asked for does not give the network's result.
        InputError: it is not installed.
        UnsupportedDtypeError: it can't compute in the header's precision.
    """
    formats = {engine: kind for engine, kind in ENGINES.items() if kind and name in (engine, "auto")}
    if name == "auto":
        formats = {engine: kind for engine, kind in formats.items() if is_installed(engine)}
        if header.precision == "bf16":
            formats.pop("onnxruntime", None)
        if not (formats and is_installed("platformdirs")):
            return {}
    else:
        check_precision(name, header.precision)
    folder, engines, onnx_model = cache_folder(), dict[str, Engine](), None
    # The weights' hash, as one name may stand for other bytes later; torch's version, as it does the export.
    versions = f"{__version__}-{version_of('torch')}"
    stem = f"{Path(header.name).name}-{(header.weights_sha256 or '')[:16]}-{versions}-{header.precision}"
    with FileLock(folder / f"{stem}.lock"):
        for engine, kind in formats.items():
            path = folder / f"{stem}{FORMATS[kind]}"
            with suppress(CheckpointError):  # missing, cut short, or of another version: made anew
                engines[engine] = open_engine(path)
                continue
            refused = folder / f"{stem}-{engine}-{version_of(engine)}.refused"
            if name == "auto" and (refused.exists() or not all(map(is_installed, ("onnx", "onnxscript")))):
                continue
            onnx_model = to_onnx(network, spec) if onnx_model is None else onnx_model
            try:
                export(network, spec, header, path, onnx_model=onnx_model, overwrite=True)
                engines[engine] = open_engine(path)
            except ExportError as error:
                write_bytes(str(error).encode(), refused, overwrite=True)
                if name != "auto":
                    raise
    return engines


def choose(
    runs: Mapping[str, Callable[[], object]], weights_sha256: str | None, precision: str | None
) -> Choice:
    """The fastest of several engines, as measured once on this machine and remembered in the cache folder.

    Args:
        runs: per engine, restores one picture.
        weights_sha256: of the weights.
        precision: that the user asked for; torch may take bf16 otherwise.
    """
    if len(runs) == 1:
        return Choice(next(iter(runs)), {})
    facts = {
        "engines": {name: version_of(name) for name in runs},
        "weights": weights_sha256,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "pellucid": __version__,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / f"choice-{key}.json"
    try:
        known = Choice(**json.loads(path.read_bytes())["choice"])
        if known.engine in runs:
            return known
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not measured yet, or damaged
    for run in runs.values():
        run()
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(RUNS):  # in turns, so that whatever else the machine does meets all alike
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    choice = Choice(min(seconds, key=seconds.__getitem__), seconds)
    text = json.dumps({"facts": facts, "choice": asdict(choice)}, indent=1) + "\n"
    write_bytes(text.encode(), path, overwrite=True)
    return choice
