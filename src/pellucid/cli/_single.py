"""One picture on the command line, from file to file."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.cli._batch import Options, open_restorer
from pellucid.cli._jobs import Job, failing_as_json, print_restored, refuse_taken, tell
from pellucid.cli._progress import Bars
from pellucid.cli._shared import say
from pellucid.errors import InputError
from pellucid.image_io import check_format, read_header
from pellucid.restoration import Report, Restoration

if TYPE_CHECKING:
    from pellucid.restorer import TorchRestorer


def restore_single(job: Job, options: Options, *, dry_run: bool = False) -> None:
    """Restore one file, and say so; or say only that it is to be done.

    Raises:
        PellucidError: whatever is foreseeable.
    """
    with failing_as_json(job.source, wanted=options.as_json):
        refuse_taken(job, overwrite=options.overwrite)
        if dry_run:
            tell(job, as_json=options.as_json)
            return
        check_format(read_header(job.source), job.target)
        restoration = _restore(open_restorer(options), job.source, options)
        _save(restoration, job.target, options)
    _tell_done(job.source, job.target, restoration.report, options)


def _restore(restorer: "TorchRestorer", source: Path, options: Options) -> Restoration:
    """Read and restore one picture."""
    with Bars([source], visible=not options.quiet) as bars:
        start = time.perf_counter()
        image = restorer.read(source, limits=options.limits)
        seconds = {"read": time.perf_counter() - start}
        restoration = restorer(
            image, diagnosis=options.prompt, strength=options.strength, progress=bars.part_done
        )
    report = replace(restoration.report, seconds=restoration.report.seconds | seconds)
    # From the file, not from its pixels: strength 0 then copies it.
    return replace(restoration, report=report, original=source)


def _save(restoration: Restoration, target: Path, options: Options) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        restoration.save(target, overwrite=options.overwrite, strip=options.strip)
    except OSError as error:
        raise InputError(
            f"{target} can't be written: {error.strerror}. Check permissions and free space."
        ) from error


def _tell_done(source: Path, target: Path, report: Report, options: Options) -> None:
    if options.as_json:
        print_restored(source, target, report.state, report.to_dict())
    if not options.quiet:
        say(
            "1 left alone, since nothing was found to mend (--no-guard restores it)"
            if report.guards.get("left_alone")
            else "1 restored, 0 failed; its light was kept, nothing seems to have changed it (see --no-guard)"
            if report.guards.get("light_kept")
            else "1 restored, 0 failed"
        )
