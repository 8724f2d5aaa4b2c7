"""What runs a network: torch, or a file that was exported from it, by ONNX Runtime or OpenVINO.

An `Engine` takes one whole picture. `export` writes a network for the others and refuses what does not give
the network's result; `prepare` does so once for this machine, in its user's cache folder; `choose` measures
which is fastest here. Decision record 13 tells why.
"""

from pellucid.engines._base import (
    ENGINES,
    FORMATS,
    Engine,
    Header,
    TorchEngine,
    check_engine,
    is_exported,
    is_installed,
    open_engine,
)
from pellucid.engines._cache import Choice, choose, prepare
from pellucid.engines._export import Exported, Parity, check_target, export, measure_parity, to_onnx

__all__ = [
    "ENGINES",
    "FORMATS",
    "Choice",
    "Engine",
    "Exported",
    "Header",
    "Parity",
    "TorchEngine",
    "check_engine",
    "check_target",
    "choose",
    "export",
    "is_exported",
    "is_installed",
    "measure_parity",
    "open_engine",
    "prepare",
    "to_onnx",
]
