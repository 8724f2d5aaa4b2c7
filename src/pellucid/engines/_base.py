"""The protocol, the engines behind it, and the header of an exported file."""

import dataclasses
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.compute import Precision, tells_of_no_memory
from pellucid.errors import CheckpointError, InputError, UnsupportedDtypeError
from pellucid.registry import unknown_name

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
"""What can be exported, with the suffix of its file; OpenVINO's has another beside it, ending in .bin."""

ENGINES = {"torch": None, "onnxruntime": "onnx", "openvino": "openvino"}
"""Every engine, with the format of its files."""

_VERSION = 1


@dataclass(frozen=True)
class Header:
    """What an exported file says about itself, in its own metadata.

    Attributes:
        model: structure, for example "daair_s".
        config: the structure's configuration as plain values.
        name: of the weights.
        weights_sha256: of the file of weights, or none.
        provenance: where the weights come from, as their checkpoint has it.
        bytes_per_pixel: what a pixel of a whole picture takes in memory.
        parity: how far the file's output was from the network's, see `Parity.to_dict`.
        versions: of pellucid and of what exported it.
        precision: that it is run in.
    """

    model: str
    config: dict[str, Any]
    name: str
    weights_sha256: str | None
    provenance: dict[str, Any]
    bytes_per_pixel: float
    parity: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    versions: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    precision: Precision = "float32"

    def to_json(self) -> str:
        """As it stands in the file."""
        return json.dumps({"format": _VERSION, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None, path: Path) -> Self:
        """What `to_json` gave.

        Raises:
            CheckpointError: there is no such header, or a damaged one.
        """
        try:
            values = json.loads(text or "null")
            if values.pop("format") != _VERSION:
                raise ValueError
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{path} has no pellucid header of format {_VERSION}: it is another program's file or from "
                "another version. Export it again with: pellucid export MODEL -o DIR"
            ) from error


class Engine(Protocol):
    """Runs one network on the CPU, on whole pictures.

    Attributes:
        name: one of `ENGINES`.
    """

    name: str

    @property
    def header(self) -> Header | None:
        """That of the exported file; none if the network itself runs."""
        ...

    def __call__(self, degraded: Tensor, prompt: int | None) -> Tensor:
        """The restored picture, not clamped: (1, 3, H, W) float32.

        Args:
            degraded: (1, 3, H, W) float32 in [0, 1]; H and W multiples of what the network asks.
            prompt: index of a guided network's prompt, else none.

        Raises:
            MemoryError: there is no room for so large a picture; torch has a RuntimeError of its own for it.
        """
        ...


class TorchEngine:
    """The network itself."""

    name = "torch"
    header = None

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @torch.inference_mode()
    def __call__(self, degraded: Tensor, prompt: int | None) -> Tensor:
        """See `Engine`."""
        arguments = [] if prompt is None else [torch.tensor([prompt], device=degraded.device)]
        return self.network(degraded.contiguous(memory_format=torch.channels_last), *arguments)


class OnnxRuntimeEngine:
    """An .onnx file, run by ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, path: Path) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_mem_pattern = False  # a pattern is kept for each size of picture that was seen
        options.log_severity_level = 3
        with _reading(path):
            self._session = runtime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        self.header = Header.from_json(
            self._session.get_modelmeta().custom_metadata_map.get("pellucid"), path
        )

    def __call__(self, degraded: Tensor, prompt: int | None) -> Tensor:
        """See `Engine`."""
        with _allocating():
            return torch.from_numpy(self._session.run(None, _inputs(degraded, prompt))[0])


class OpenVinoEngine:
    """An .xml file with its .bin beside it, run by OpenVINO."""

    name = "openvino"

    def __init__(self, path: Path) -> None:
        core = require("openvino").Core()
        with _reading(path):
            model = core.read_model(path)
        text = model.get_rt_info("pellucid").astype(str) if model.has_rt_info("pellucid") else None
        self.header = Header.from_json(text, path)
        # On some processors it would take bf16 by itself.
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.header.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        with _reading(path):
            self._compiled = core.compile_model(model, "CPU", settings)

    def __call__(self, degraded: Tensor, prompt: int | None) -> Tensor:
        """See `Engine`."""
        with _allocating():
            # A copy: the next run writes to the same memory.
            return torch.from_numpy(np.array(self._compiled(_inputs(degraded, prompt))[0]))


def open_engine(path: Path) -> OnnxRuntimeEngine | OpenVinoEngine:
    """The engine that runs an exported file.

    Raises:
        CheckpointError: the file is missing, damaged, or not pellucid's.
        InputError: the package that runs it is not installed.
    """
    return OnnxRuntimeEngine(path) if path.suffix == FORMATS["onnx"] else OpenVinoEngine(path)


def check_engine(name: str) -> None:
    """Refuse what is neither the name of an engine nor "auto".

    Raises:
        InputError: it is not.
    """
    if name not in (*ENGINES, "auto"):
        raise InputError(unknown_name("engine", str(name), [*ENGINES, "auto"]))


def check_precision(engine: str, precision: Precision) -> None:
    """Refuse what an engine can't compute in.

    Raises:
        UnsupportedDtypeError: bf16, and the engine is ONNX Runtime.
    """
    if engine == OnnxRuntimeEngine.name and precision == "bf16":
        raise UnsupportedDtypeError(
            f"{engine} computes in float32 only; bf16 was asked for. Take openvino or torch for bf16."
        )


def is_installed(package: str) -> bool:
    """Whether a package of the extra `export` is there and works."""
    try:
        require(package)
    except InputError:
        return False
    return True


def require(name: str) -> Any:
    """A package of the extra `export`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name} is not installed ({error}). Install it with: pip install 'pellucid[export]'"
        ) from error


def version_of(name: str) -> str:
    """Of a package as it says itself: what it was installed as may be called otherwise (onnxruntime-gpu).

    Without what OpenVINO says of its build behind a hyphen, slashes included.

    Raises:
        InputError: it is not installed.
    """
    return str(require(name).__version__).partition("-")[0]


def _inputs(degraded: Tensor, prompt: int | None) -> dict[str, Any]:
    inputs = {"degraded": degraded.contiguous().numpy()}
    return inputs if prompt is None else inputs | {"prompt": np.array([prompt])}


def is_exported(model: str | os.PathLike[str]) -> bool:
    """Whether this names an exported file, by its suffix."""
    return Path(model).suffix in FORMATS.values()


@contextmanager
def _allocating() -> Generator[None]:
    """Turn each engine's own words for memory that it did not get into Python's."""
    try:
        yield
    except Exception as error:  # ONNX Runtime's are no RuntimeError
        if not tells_of_no_memory(str(error)):
            raise
        raise MemoryError(str(error)) from error


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Turn what an engine says about a file that it can't read into one sentence."""
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Check the path.")
    try:
        yield
    except Exception as error:  # each engine has exceptions of its own, without a root in common
        raise CheckpointError(
            f"{path} can't be run: {str(error).strip().splitlines()[0][:200]} "
            "Export it again with: pellucid export MODEL -o DIR"
        ) from error
