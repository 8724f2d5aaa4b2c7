"""What several commands need: sizes in words, JSON, the options that choose a model."""

import json
import math
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pellucid.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from pellucid.access import Tokens
    from pellucid.restoration import Report
    from pellucid.restorer import TorchRestorer

Model = Annotated[str, typer.Option(help="Name of weights (see: pellucid models), or a .safetensors file.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu. Default: the first that works.")]
PrecisionName = Annotated[
    str | None, typer.Option(help="float32 or bf16. Default: bf16 where it is faster and close enough.")
]
MeasuredIn = Annotated[
    str | None,
    typer.Option("--precision", help="float32 or bf16. Default: float32, so that calls can be compared."),
]
Memory = Annotated[
    str | None,
    typer.Option(help="What a restoration may take, for example 2GB. Default: half of what is free."),
]
EngineName = Annotated[
    str,
    typer.Option(
        help="What runs the network: torch, onnxruntime or openvino (extra export), or auto: the fastest."
    ),
]
Prompt = Annotated[str | None, typer.Option(help="For guided models: what is wrong with the pictures.")]
Actor = Annotated[
    str, typer.Option(help="What a process of a cluster takes of a machine, as cpu=4 or gpu=0.25,cpu=2.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for machines.")]

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Weights to offer, several if repeated; the first is the default."),
]
AllowOrigin = Annotated[
    list[str] | None, typer.Option(help="Origin of web pages that may use it; repeat for several.")
]
AllowHost = Annotated[
    list[str] | None, typer.Option(help="Name by which it may be called; repeat for several.")
]
Public = Annotated[
    bool, typer.Option("--public", help="Let everybody in who can reach the address, without a token.")
]

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


def parse_path(text: str) -> Path:
    """A path that is not empty: as a path, the empty text of an unset variable is the current folder.

    Raises:
        InputError: it is empty.
    """
    if not text:
        raise InputError("An empty path was given; expected a file or a folder. Check the variables in use.")
    return Path(text)


TOKEN_VARIABLE = "PELLUCID_TOKEN"
TokenFile = Annotated[
    Path | None,
    typer.Option(
        parser=parse_path, help=f"One token a line. Or one in {TOKEN_VARIABLE}.", show_default=False
    ),
]


def given_tokens(token_file: Path | None) -> "Tokens":
    """The tokens of a file or of the environment, which is left without it: other processes inherit that.

    Raises:
        InputError: both are given, the file can't be read, or a token is short.
    """
    from pellucid.access import Tokens, read_tokens

    token = os.environ.pop(TOKEN_VARIABLE, "")
    if token and token_file is not None:
        raise InputError(f"Both --token-file and {TOKEN_VARIABLE} are given; expected one of them.")
    return read_tokens(token_file) if token_file is not None else Tokens([token] if token else [])


def parse_size(text: str) -> int:
    """Bytes from "2GB", "500 MB", "1.5GiB" or "1000000".

    Raises:
        InputError: no such size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    size = 0.0 if match is None else float(match[1]) * _UNITS.get(match[2].lower(), 0)
    if not 1 <= size < math.inf:
        raise InputError(
            f"{text[:40]!r} is no size of memory; expected a number above 0 with a unit, for example 2GB or "
            "500MB. Leave --memory out to choose."
        )
    return int(size)


def load_restorer(
    model: str,
    device: str | None,
    precision: str | None,
    memory: str | None,
    *,
    guard: bool = False,
    engine: str = "torch",
) -> "TorchRestorer":
    """The restorer that the options ask for; with a guard, which leaves good pictures alone, if wanted."""
    size = None if memory is None else parse_size(memory)
    from pellucid.restorer import load

    return load(model, device=device, precision=precision, memory=size, guard=guard, engine=engine)


def precision_of_scores(model: str, precision: str | None) -> str | None:
    """What is measured in: what was asked for; else an exported file's own (none here), or float32.

    The probe by which pictures are restored is a stopwatch: by it, the same call could give other scores.
    """
    from pellucid.engines import is_exported

    return precision or (None if is_exported(model) else "float32")


def describe(report: "Report") -> str:
    """One line: model, device, threads, precision, and the engine if it is not torch or was chosen."""
    import torch

    device = torch.cuda.get_device_name() if report.device == "cuda" else report.device
    threads = f", {torch.get_num_threads()} threads" if report.device == "cpu" else ""
    by = f", by {report.engine}" if report.engine != "torch" or report.engine_seconds else ""
    if report.engine_seconds:
        times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in report.engine_seconds.items())
        by += f" (probe at 256 x 256: {times})"
    return f"{report.model} on {device}{threads}, {report.precision}{by}"


def progress_bar(*columns: "ProgressColumn | str", visible: bool = True) -> "Progress":
    """A bar on stderr that vanishes when done; none outside of a terminal, where it leaves an empty line."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal))


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print valid JSON on stdout, at once: whoever reads along must not wait for a buffer.

    JSON has no NaN and no infinity, which a checkpoint's scores may hold; they become null.
    """
    print(json.dumps(_finite(value), indent=indent, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in cast(dict[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in cast(list[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def wide_console() -> "Console":
    """A console for tables on stdout; in a file or a pipe, they are never folded to a terminal's width."""
    from rich.console import Console

    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 250)


def say(line: str) -> None:
    """Print a line on stderr: stdout belongs to results."""
    print(visible(line), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """The text with control characters, which a file's name may hold, written out; lines stay lines."""
    return "".join(c if c == "\n" or unicodedata.category(c) != "Cc" else repr(c)[1:-1] for c in text)
