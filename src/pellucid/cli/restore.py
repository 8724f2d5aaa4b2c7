"""`pellucid restore`."""

import dataclasses
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli._shared import (
    Actor,
    AsJson,
    Device,
    EngineName,
    Memory,
    Model,
    PrecisionName,
    Prompt,
    parse_path,
)
from pellucid.errors import InputError
from pellucid.weights import DEFAULT

if TYPE_CHECKING:
    from pellucid.cli._jobs import Job
    from pellucid.cli._progress import Bars
    from pellucid.image_io import Limits
    from pellucid.restoration import Report
    from pellucid.restorer import TorchRestorer
    from pellucid.strength import Strength


class Untouched(StrEnum):
    """What is done with pictures that are left alone."""

    COPY = "copy"
    LINK = "link"
    SKIP = "skip"


def restore(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Pictures, and folders of pictures; URLs and manifests too.", show_default=False),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A file, or a folder for several pictures, or its URL.")
    ],
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
    engine: EngineName = "torch",
    prompt: Prompt = None,
    guard: Annotated[
        bool,
        typer.Option(
            "--guard/--no-guard",
            help="Leave a picture alone in which nothing seems wrong, and its light where "
            "surely nothing changed it.",
        ),
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse larger pictures. Default: 250 million.", show_default=False),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Only pictures whose path or name fits, as '*.tif'; repeatable."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="But not those that fit; repeatable.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only those changed since a date, or so long ago, as 12h or 7d.")
    ] = None,
    untouched: Annotated[
        Untouched | None,
        typer.Option(help="What is done with pictures that are left alone. Default: copy."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed in an earlier run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be restored.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on the Ray cluster there (extra ray), or on a Ray of this machine's own: local. URLs "
            "(s3://...) imply local.",
        ),
    ] = None,
    actor: Actor = "cpu=1",
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False,
) -> None:
    """Restore photographs, or a film.

    A picture in which nothing seems wrong comes back as it is, and one that surely is but blurred or
    compressed keeps its light (--no-guard: both are restored like any other). A guided model finds out what
    is wrong, unless --prompt says it.

    One file goes to one file. A folder keeps its tree; its names and formats stay as they are. Hidden files,
    links and files that are no pictures are skipped. What can't be restored is listed at the end, with exit
    code 1.

    A journal in the output folder knows what was done: the same command again does only what is missing or
    changed, after a kill too. On a cluster (--ray) a report beside the pictures does; see docs/cluster.md.
    """
    from pellucid.cli._batch import Options, open_restorer, restore_several, select
    from pellucid.cli._jobs import plan_jobs
    from pellucid.cli._video import is_film, plan_film, restore_film
    from pellucid.image_io import IMAGE_SUFFIXES, Limits
    from pellucid.strength import Strength

    kept = Strength.parse(strength)  # refused before anything is loaded
    sources, target = [parse_path(text) for text in inputs], parse_path(output)
    limits = Limits() if max_pixels is None else Limits(max_pixels=max_pixels)
    options = Options(
        model,
        device,
        precision,
        memory,
        engine,
        prompt,
        kept,
        guard,
        limits,
        (untouched or Untouched.COPY).value,
        overwrite,
        retry_failed,
        as_json,
        quiet,
    )
    if ray is not None or any("://" in url for url in (*inputs, output)):
        from pellucid.cli._cluster import Place, restore_on_cluster

        if since is not None or dry_run:
            raise InputError("--since and --dry-run don't go with --ray and URLs. Leave them out.")
        place = Place(ray or "local", actor)
        if not restore_on_cluster(inputs, output, options, place, include or [], exclude or []):
            raise typer.Exit(1)
        return
    as_folder = output.endswith(("/", "\\"))
    film = len(sources) == 1 and is_film(sources[0])
    if film and (untouched is not None or retry_failed):
        raise InputError("--untouched and --retry-failed don't go with a film. Leave them out.")
    if film:
        plan = plan_film(sources[0], target, as_folder=as_folder)
    else:
        plan = plan_jobs(sources, target, IMAGE_SUFFIXES, as_folder=as_folder)
    select(plan, target, include or [], exclude or [], since)
    if not plan.single:
        if not restore_several(plan, target, options, dry_run=dry_run):
            raise typer.Exit(1)
        return
    from pellucid.cli._jobs import failing_as_json, print_restored, refuse_taken, tell
    from pellucid.cli._progress import Bars
    from pellucid.cli._shared import say
    from pellucid.image_io import check_format, read_header

    if not plan.jobs:
        if not quiet:
            say(f"0 restored, 0 failed; {sources[0]} is not among those that were chosen")
        return
    (job,) = plan.jobs
    if film:
        restore_film(job, options, dry_run=dry_run)
        return
    with failing_as_json(job.source, wanted=as_json):
        refuse_taken(job, overwrite=overwrite)
        if dry_run:
            tell(job, as_json=as_json)
            return
        check_format(read_header(job.source), job.target)
        restorer = open_restorer(options)
        with Bars([job.source], visible=not quiet) as bars:
            report = _restore_one(restorer, job, limits, prompt, kept, overwrite, bars)
    if as_json:
        print_restored(job.source, job.target, report.state, report.to_dict())
    if not quiet:
        say(
            "1 left alone, since nothing was found to mend (--no-guard restores it)"
            if report.guards.get("left_alone")
            else "1 restored, 0 failed; its light was kept, nothing seems to have changed it (see --no-guard)"
            if report.guards.get("light_kept")
            else "1 restored, 0 failed"
        )


def _restore_one(
    restorer: "TorchRestorer",
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
    start = time.perf_counter()
    image = restorer.read(job.source, limits=limits)
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
