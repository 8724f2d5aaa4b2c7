"""What several commands need: sizes in words, JSON, the options that choose a model."""

import json
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.errors import InputError

if TYPE_CHECKING:
    from pellucid.restorer import Report, TorchRestorer

Model = Annotated[str, typer.Option(help="Name of weights (see: pellucid models), or a .safetensors file.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu. Default: the first that works.")]
PrecisionName = Annotated[
    str | None, typer.Option(help="float32 or bf16. Default: bf16 where it is faster and close enough.")
]
Memory = Annotated[
    str | None, typer.Option(help="What a tile may take, for example 2GB. Default: half of what is free.")
]
Prompt = Annotated[str | None, typer.Option(help="For guided models: what is wrong with the pictures.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for machines.")]

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_size(text: str) -> int:
    """Bytes from "2GB", "500 MB", "1.5GiB" or "1000000".

    Raises:
        InputError: no such size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    if (
        match is None
        or match[2].lower() not in _UNITS
        or (size := int(float(match[1]) * _UNITS[match[2].lower()])) < 1
    ):
        raise InputError(
            f"{text!r} is no size of memory; expected a number with a unit, for example 2GB or 500MB."
        )
    return size


def load_restorer(
    model: str, device: str | None, precision: str | None, memory: str | None
) -> "TorchRestorer":
    """The restorer that the options ask for."""
    size = None if memory is None else parse_size(memory)
    from pellucid.restorer import load

    return load(model, device=device, precision=precision, memory=size)


def describe(report: "Report") -> str:
    """One line: model, device, threads, precision."""
    import torch

    device = torch.cuda.get_device_name() if report.device == "cuda" else report.device
    threads = f", {torch.get_num_threads()} threads" if report.device == "cpu" else ""
    return f"{report.model} on {device}{threads}, {report.precision}"


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print valid JSON on stdout, at once: whoever reads along must not wait for a buffer."""
    print(json.dumps(value, indent=indent, allow_nan=False), flush=True)


def say(line: str) -> None:
    """Print a line on stderr: stdout belongs to results."""
    print(line, file=sys.stderr, flush=True)
