"""`pellucid export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli._shared import parse_path
from pellucid.errors import InputError


class RunIn(StrEnum):
    """What a file is run in."""

    FLOAT32 = "float32"
    BF16 = "bf16"


class Format(StrEnum):
    """What can be exported to."""

    ONNX = "onnx"
    OPENVINO = "openvino"


def export(
    model: Annotated[
        str, typer.Argument(help="Name of weights (see: pellucid models), or a .safetensors file.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=parse_path, help="The folder to write to.")
    ],
    to: Annotated[Format, typer.Option("--format", help="onnx: one .onnx file; openvino: .xml and .bin.")] = (
        Format.ONNX
    ),
    precision: Annotated[
        RunIn, typer.Option("--precision", help="What it is run in; bf16 for openvino only.")
    ] = RunIn.FLOAT32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Export a network for ONNX Runtime or OpenVINO, for pictures of any size (extra export).

    The file is compared with the network on six pictures first, and not written if it is off by more than
    1e-4, or in bf16 below 60 dB PSNR (docs/adr/0013-engines.md). `pellucid restore --model FILE` runs it.
    """
    from pellucid import engines
    from pellucid.cli._shared import say
    from pellucid.restorer import load

    if engines.is_exported(model):
        raise InputError(
            f"{model} is an exported file already; expected a name of weights, or a .safetensors file. "
            "Export those it was made from."
        )
    output.mkdir(parents=True, exist_ok=True)
    restorer = load(model, device="cpu", precision="float32", guard=False)
    marked = restorer.name if precision is RunIn.FLOAT32 else f"{restorer.name}.{precision.value}"
    target = output / f"{marked}{engines.FORMATS[to.value]}"
    engines.check_target(target, overwrite=overwrite)
    say(f"exporting {restorer.name}; this takes from half a minute to several")
    header = restorer.header(precision.value)
    exported = engines.export(restorer.network, restorer.spec, header, target, overwrite=overwrite)
    parity = exported.header.parity
    typer.echo(
        f"{target}: {restorer.name} in {precision.value}, {parity['within']} of {parity['pictures']} "
        f"pictures within {parity['bound']:.0e}, largest difference {parity['largest_difference']:.1e}, "
        f"lowest PSNR {parity['lowest_psnr']:.1f} dB"
    )
