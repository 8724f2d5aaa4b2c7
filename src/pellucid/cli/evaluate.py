"""`pellucid evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli._shared import AsJson, Device, Memory, Model, PrecisionName, Prompt
from pellucid.weights import DEFAULT


def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with degraded/ and clean/ of the same names, or, with --sigma, of clean ones."
        ),
    ],
    model: Model = DEFAULT,
    sigma: Annotated[
        float | None, typer.Option(help="Add Gaussian noise to clean pictures, in gray levels of 255.")
    ] = None,
    prompt: Prompt = None,
    device: Device = None,
    precision: PrecisionName = None,
    memory: Memory = None,
    per_image: Annotated[bool, typer.Option("--per-image", help="With the scores of each picture.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on pictures whose clean originals are known.

    PSNR and SSIM over RGB, center crop to multiples of 16, means over pictures. Noise is added to 8-bit
    values, clipped and truncated; its seed is the file name.
    """
    from rich.console import Console
    from rich.progress import Progress

    from pellucid.cli._shared import describe, load_restorer, print_json, say
    from pellucid.evaluate import Scores, evaluate_denoising, evaluate_pairs

    restorer = load_restorer(model, device, precision, memory)
    say(describe(restorer.describe()))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Evaluating", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if sigma is None:
            result = evaluate_pairs(restorer, data, diagnosis=prompt, progress=progress)
        else:
            result = evaluate_denoising(restorer, data, sigma, diagnosis=prompt, progress=progress)
    if as_json:
        print_json(result.to_dict(per_image=per_image))
        return

    def line(name: str, before: Scores, after: Scores) -> str:
        psnr = f"PSNR {before.psnr:6.2f} -> {after.psnr:6.2f} dB"
        return f"{name}  {psnr}  SSIM {before.ssim:.4f} -> {after.ssim:.4f}"

    for picture in result.pictures if per_image else ():
        print(line(picture.name, picture.input, picture.output))
    print(line(f"mean of {result.n}", result.input, result.output))
    print(result.protocol)
