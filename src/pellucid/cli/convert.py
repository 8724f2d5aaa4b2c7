"""`pellucid convert`: official weights become pellucid's own."""

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli._shared import parse_path


def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT", parser=parse_path, help="The authors' file (.pth, .ckpt, .safetensors)."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=parse_path, help="File to write, ending in .safetensors.")
    ],
    model: Annotated[str, typer.Option(help="Structure of the weights.")] = "dfpir",
    prompt_codes: Annotated[
        str | None,
        typer.Option(
            metavar="CODES|clip",
            help="Safetensors with a tensor `codes` (prompts, 512) and the prompts' names in its metadata; "
            "or `clip`, to compute the authors' seven (extra `clip`).",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Convert an official checkpoint to pellucid's safetensors.

    Nothing of a pickle is run. Sizes are read from the tensors, and every tensor must be known and present.
    """
    from pellucid.convert import convert_file

    converted = convert_file(checkpoint, output, model=model, prompt_codes=prompt_codes, overwrite=overwrite)
    prompts = ", ".join(f"{index} {name}" for index, name in enumerate(converted.config["prompts"]))
    typer.echo(f"{output}: {model}, {len(converted.tensors)} tensors; prompts: {prompts}.")
