"""`pellucid restore` of a film."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TimeRemainingColumn

from pellucid.cli._batch import Options, open_restorer, remedies
from pellucid.cli._interrupt import stop_if_interrupted
from pellucid.cli._jobs import Job, Jobs, failing_as_json, print_restored, refuse_taken, tell
from pellucid.cli._shared import progress_bar, say
from pellucid.errors import InputError

if TYPE_CHECKING:
    from pellucid.video import VideoReport


def is_film(path: Path) -> bool:
    """Whether a path is named like a film."""
    from pellucid.video.container import READABLE_SUFFIXES

    return path.suffix.lower() in READABLE_SUFFIXES and not path.is_dir()


def plan_film(source: Path, output: Path, *, as_folder: bool) -> Jobs:
    """The job for one film, which goes to the file `output`, or under its name into that folder.

    Raises:
        InputError: there is no film.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist. Check the name.")
    target = output / source.name if as_folder or output.is_dir() else output
    return Jobs([Job(source, target)], single=True)


def restore_film(job: Job, options: Options, *, dry_run: bool = False) -> None:
    """Restore one film, and say so; or say only that it is to be done.

    Raises:
        PellucidError: whatever is foreseeable.
    """
    from pellucid.video import restore_video

    source, target = job.source, job.target
    with failing_as_json(source, wanted=options.as_json):
        refuse_taken(job, overwrite=options.overwrite)
        if dry_run:
            tell(job, as_json=options.as_json)
            return
        try:
            restorer = open_restorer(options)
            target.parent.mkdir(parents=True, exist_ok=True)
            columns = ("Frames", BarColumn(), "{task.completed}/{task.total}", TimeRemainingColumn())
            with progress_bar(*columns, visible=not options.quiet) as bar:
                task = bar.add_task("", total=None)

                def frame_done(done: int, total: int) -> None:
                    stop_if_interrupted()
                    bar.update(task, completed=done, total=max(done, total))

                report = restore_video(
                    restorer,
                    source,
                    target,
                    diagnosis=options.prompt,
                    strength=options.strength,
                    limits=options.limits,
                    overwrite=options.overwrite,
                    progress=frame_done,
                )
        except KeyboardInterrupt:
            if not options.quiet:
                say("what is done is kept; the same command goes on from there")
            raise
    if options.as_json:
        print_restored(source, target, "restored", report.to_dict())
    if not options.quiet:
        say(_summary(report))


def _summary(report: "VideoReport") -> str:
    alone = sum(shot["left_alone"] for shot in report.shots)
    parts = [f"{report.frames} frames in {len(report.shots)} shots ({alone} left alone)"]
    flicker = report.flicker
    if flicker["input_light"] is not None:
        parts.append(
            f"light flickers by {flicker['output_light']:.2f} gray levels where nothing moves, before by "
            f"{flicker['input_light']:.2f}"
        )
    for guard, count in report.guards.items():
        parts += [f"{count} frames {words}" for words in remedies((guard,)) if count]
    if report.interlaced:
        parts.append(f"{report.interlaced} interlaced frames, restored as they are: deinterlace them first")
    if report.film["hdr"]:
        parts.append("HDR, restored as it is coded; its tags are kept, mastering data is not")
    if report.not_copied:
        parts.append(f"not copied: {', '.join(report.not_copied)}")
    return "; ".join(parts)
