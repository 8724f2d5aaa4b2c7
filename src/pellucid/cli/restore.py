"""`pellucid restore`."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli._shared import AsJson, Device, Memory, Model, PrecisionName, Prompt, parse_path
from pellucid.weights import DEFAULT

if TYPE_CHECKING:
    from pellucid.cli._jobs import Job
    from pellucid.cli._progress import Bars
    from pellucid.image_io import Limits
    from pellucid.restorer import Report, Restorer
    from pellucid.strength import Strength


def restore(
    inputs: Annotated[
        list[Path],
        typer.Argument(parser=parse_path, help="Pictures, and folders of pictures.", show_default=False),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="A file, or a folder for several pictures.")],
    model: Model = DEFAULT,
    strength: Annotated[
        str,
        typer.Option(
            help="0: the input's own pixels, 1: the network's; or by kind, as haze=1,noise=0.3 (light and "
            "detail have one share each)."
        ),
    ] = "1",
    device: Device = None,
    precision: PrecisionName = None,
    memory: Memory = None,
    prompt: Prompt = None,
    guard: Annotated[
        bool,
        typer.Option("--guard/--no-guard", help="Leave a picture alone in which surely nothing is wrong."),
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse larger pictures. Default: 250 million.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False,
) -> None:
    """Restore photographs.

    A picture in which surely nothing is wrong comes back as it is (--no-guard: it is restored like any
    other). A guided model finds out what is wrong, unless --prompt says it.

    One file goes to one file. A folder keeps its tree; its names and formats stay as they are. Hidden files,
    links and files that are no pictures are skipped. What can't be restored is listed at the end, with exit
    code 1.
    """
    from pellucid.cli._interrupt import stop_if_interrupted
    from pellucid.cli._jobs import plan_jobs, refuse_taken
    from pellucid.cli._progress import Bars, print_failures
    from pellucid.cli._shared import describe, load_restorer, print_json, say
    from pellucid.errors import PellucidError
    from pellucid.image_io import IMAGE_SUFFIXES, Limits
    from pellucid.strength import Strength

    kept = Strength.parse(strength)  # refused before anything is loaded
    as_folder = output.endswith(("/", "\\"))
    plan = plan_jobs(inputs, parse_path(output), IMAGE_SUFFIXES, as_folder=as_folder)
    refused: dict[Job, PellucidError] = {}
    for job in plan.jobs:
        try:
            refuse_taken(job, overwrite=overwrite)
        except PellucidError as error:
            refused[job] = error
    restorer = None
    if len(refused) < len(plan.jobs):
        restorer = load_restorer(model, device, precision, memory, guard=guard)
        if not quiet:
            say(describe(restorer.describe()))
    limits = Limits() if max_pixels is None else Limits(max_pixels=max_pixels)
    failures = list(plan.unreadable)
    with Bars(plan.jobs, visible=not quiet) as bars:
        for job in plan.jobs:
            try:
                if restorer is None or job in refused:
                    raise refused[job]
                report = _restore_one(restorer, job, limits, prompt, kept, overwrite, bars)
                if as_json:
                    row = {"input": str(job.source), "output": str(job.target), "ok": True}
                    print_json(row | {"report": report.to_dict()})
            except PellucidError as error:
                if as_json:
                    problem = {"type": type(error).__name__, "message": str(error)}
                    print_json({"input": str(job.source), "output": None, "ok": False, "error": problem})
                if plan.single:
                    raise
                failures.append((job.source, str(error)))
            bars.picture_done(job)
            stop_if_interrupted()
    if as_json:
        for path, message in plan.unreadable:
            problem = {"type": "InputError", "message": message}
            print_json({"input": str(path), "output": None, "ok": False, "error": problem})
    if not quiet:
        skipped = f", {plan.skipped} other files skipped" if plan.skipped else ""
        restored = len(plan.jobs) + len(plan.unreadable) - len(failures)
        say(f"{restored} restored, {len(failures)} failed{skipped}")
    if failures:
        print_failures(failures)
        raise typer.Exit(1)


def _restore_one(
    restorer: "Restorer",
    job: "Job",
    limits: "Limits",
    prompt: str | None,
    strength: "Strength",
    overwrite: bool,
    bars: "Bars",
) -> "Report":
    """Read, restore and write one picture.

    Raises:
        PellucidError: whatever is foreseeable.
    """
    from pellucid.errors import InputError
    from pellucid.image_io import read_image

    start = time.perf_counter()
    image = read_image(job.source, limits=limits)
    seconds = {"read": time.perf_counter() - start}
    restoration = restorer(image, diagnosis=prompt, strength=strength, progress=bars.part_done)
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        # From the file, not from its pixels: strength 0 then copies it.
        dataclasses.replace(restoration, original=job.source).save(job.target, overwrite=overwrite)
    except OSError as error:
        raise InputError(
            f"{job.target} can't be written: {error.strerror}. Check permissions and free space."
        ) from error
    return dataclasses.replace(restoration.report, seconds=restoration.report.seconds | seconds)
