"""`pellucid degrade`: make a picture worse, and say how."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli._shared import parse_path, print_json
from pellucid.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from pellucid.degradations import Degradation, Params


def degrade(
    photo: Annotated[Path, typer.Argument(parser=parse_path, help="The clean picture.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", parser=parse_path, help="Where the degraded picture goes.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(help="noise, rain, haze, blur, low_light, jpeg, composite, or an operator's name."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Draw the same again. Default: by chance.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="Replay: the line that an earlier run printed, in quotes.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Add noise, rain, haze, blur, darkness or JPEG artifacts to a picture.

    Prints the parameters as one line of JSON; --params repeats them exactly, on this or another picture.
    """
    from dataclasses import asdict, replace

    from pellucid.image_io import check_writable, read_image, write_image

    check_writable(output, overwrite=overwrite)
    operator, drawn = _replayed(params, kind, seed) if params is not None else _drawn(kind, seed)
    image = read_image(photo)
    degraded = replace(image, pixels=operator.apply(image.pixels[None], drawn)[0])
    write_image(degraded, output, overwrite=overwrite)
    print_json({"name": operator.name, "params": asdict(drawn)})


def _drawn(kind: str | None, seed: int | None) -> "tuple[Degradation, Params]":
    """An operator of this kind or name, and parameters for one picture."""
    if kind is None:
        raise InputError("Neither --kind nor --params is given. Say what to add, for example --kind rain.")
    import torch

    from pellucid import degradations
    from pellucid.registry import unknown_name

    rng = torch.Generator()
    rng.seed() if seed is None else rng.manual_seed(seed)
    names = degradations.names()
    kinds = {name: degradations.get(name).kind for name in names}
    alike = [name for name in names if kind in (name, kinds[name])]
    if not alike:
        raise UnknownNameError(unknown_name("degradation", kind, sorted({*names, *kinds.values()})))
    # A name that is a kind too, like jpeg, means itself.
    chosen = kind if kind in names else alike[int(torch.randint(len(alike), (), generator=rng))]
    operator = degradations.get(chosen)
    return operator, operator.draw(rng, 1)


def _replayed(line: str, kind: str | None, seed: int | None) -> "tuple[Degradation, Params]":
    """The operator and the parameters that an earlier run printed."""
    import json

    from pellucid import degradations

    if seed is not None:
        raise InputError(f"--seed {seed} is given with --params, by which nothing is drawn. Leave out one.")
    try:
        values = json.loads(line)
        name, stored = values["name"], values["params"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f'--params is {line[:100]!r}; expected {{"name": ..., "params": {{...}}}}. '
            "Give the whole line that an earlier run printed, in quotes."
        ) from error
    operator = degradations.get(str(name))
    if kind not in (None, operator.name, operator.kind):
        raise InputError(f"--params are of {name} and --kind is {kind}. Leave out --kind.")
    drawn = operator.params_type.from_dict(stored)
    if len(drawn) != 1:
        raise InputError(f"--params are of {len(drawn)} pictures; expected 1. Give the row of one picture.")
    return operator, drawn
