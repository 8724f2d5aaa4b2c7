"""`pellucid restore`."""

from enum import StrEnum
from typing import Annotated

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
    say,
)
from pellucid.errors import InputError
from pellucid.weights import DEFAULT


class Untouched(StrEnum):
    """What is done with pictures that are left alone."""

    COPY = "copy"
    LINK = "link"
    SKIP = "skip"


class Stripped(StrEnum):
    """What is left out of metadata."""

    GPS = "gps"
    ALL = "all"


def restore(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, and folders of pictures; URLs and manifests too; or -: stdin.", show_default=False
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="A file, or a folder for several pictures, or its URL; or -: stdout."
        ),
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
            "surely nothing changed it; see the haze of a large one from afar.",
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
        typer.Option(help="What is done with pictures of a folder that are left alone. Default: copy."),
    ] = None,
    strip: Annotated[
        Stripped | None,
        typer.Option(
            help="Leave out metadata: the place (gps), or EXIF, XMP and IPTC (all). Default: all is kept.",
            show_default=False,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed in an earlier run over a folder.")
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
    compressed keeps its light; the haze of a large one is looked for in reduced copies, too (--no-guard: none
    of this). A guided model finds out what is wrong, unless --prompt says it.

    One file goes to one file; - is stdin, -o - stdout. A folder keeps its tree; its names and formats stay as
    they are. Hidden files, links and files that are no pictures are skipped. What can't be restored is listed
    at the end, with exit code 1.

    A journal in the output folder knows what was done: the same command again does only what is missing or
    changed, after a kill too. On a cluster (--ray) a report beside the pictures does; see docs/cluster.md.
    """
    from pellucid.cli._batch import Options, restore_several, select
    from pellucid.cli._jobs import plan_jobs
    from pellucid.cli._single import PIPE, restore_piped, restore_single
    from pellucid.cli._video import is_film, plan_film, restore_film
    from pellucid.image_io import IMAGE_SUFFIXES, Limits
    from pellucid.strength import Strength

    kept = Strength.parse(strength)  # refused before anything is loaded
    if strip is not None and untouched == Untouched.LINK:
        raise InputError(
            "--untouched link gives a picture's own file a second name, metadata included; "
            "with --strip expected copy or skip."
        )
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
        None if strip is None else strip.value,
        as_json,
        quiet,
    )
    piped = PIPE in (*inputs, output)
    on_cluster = not piped and (ray is not None or any("://" in url for url in (*inputs, output)))
    film = len(sources) == 1 and is_film(sources[0])
    single = len(sources) == 1 and not sources[0].is_dir()
    if (piped or (single and not on_cluster)) and (untouched is not None or retry_failed):
        found = "- (stdin or stdout)" if piped else f"one {'film' if film else 'picture'}, {sources[0]}"
        raise InputError(
            f"--untouched and --retry-failed were given with {found}; expected a folder or several pictures. "
            "Leave them out."
        )
    if piped:
        if urls := [text for text in (*inputs, output) if "://" in text]:
            raise InputError(
                f"{urls[0]} is a URL; with - (stdin or stdout) expected a file, or another -. "
                "Give a file, or leave - out."
            )
        if ray is not None or dry_run or since is not None or include or exclude:
            raise InputError(
                "--ray, --dry-run, --since, --include and --exclude don't go with - (stdin or stdout). "
                "Leave them out."
            )
        restore_piped(inputs, output, options)
        return
    if on_cluster:
        from pellucid.cli._cluster import Place, restore_on_cluster

        if since is not None or dry_run:
            raise InputError("--since and --dry-run don't go with --ray and URLs. Leave them out.")
        place = Place(ray or "local", actor)
        if not restore_on_cluster(inputs, output, options, place, include or [], exclude or []):
            raise typer.Exit(1)
        return
    as_folder = output.endswith(("/", "\\"))
    if film and strip is not None:
        raise InputError("--strip doesn't go with a film. Leave it out.")
    if film:
        plan = plan_film(sources[0], target, as_folder=as_folder)
    else:
        plan = plan_jobs(sources, target, IMAGE_SUFFIXES, as_folder=as_folder)
    select(plan, target, include or [], exclude or [], since)
    if not plan.single:
        if not restore_several(plan, target, options, dry_run=dry_run):
            raise typer.Exit(1)
        return
    if not plan.jobs:
        if not quiet:
            say(f"0 restored, 0 failed; {sources[0]} is not among those that were chosen")
        return
    restore_one = restore_film if film else restore_single
    restore_one(plan.jobs[0], options, dry_run=dry_run)
