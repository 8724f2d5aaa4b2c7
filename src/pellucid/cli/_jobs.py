"""Which picture goes where: files and folders on the command line, turned into a list of jobs."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pellucid.cli._shared import print_json, say
from pellucid.errors import InputError, OutputExistsError, PellucidError, reason
from pellucid.image_io import check_writable


@dataclass(frozen=True)
class Job:
    """One picture: where it is, where it goes."""

    source: Path
    target: Path


@dataclass
class Jobs:
    """All pictures, and what was left aside.

    Attributes:
        jobs: in the order of the command line, folders sorted by name.
        skipped: number of files in folders that are hidden, links, or no pictures by their suffix.
        unreadable: folders below the inputs that can't be listed, with the reason.
        single: one file was asked for, and its target is a file.
    """

    jobs: list[Job] = field(default_factory=list[Job])
    skipped: int = 0
    unreadable: list[tuple[Path, str]] = field(default_factory=list[tuple[Path, str]])
    single: bool = False


def plan_jobs(inputs: list[Path], output: Path, suffixes: tuple[str, ...], *, as_folder: bool) -> Jobs:
    """The jobs for `inputs` towards `output`.

    A file goes to the file `output`, unless that is a folder, has no suffix, or there are several inputs. A
    folder keeps its tree below `output`; one of several inputs does so below its own name.
    Names stay as they are, so a.jpg and a.png do not meet.

    Args:
        inputs: files and folders.
        output: file or folder, which need not exist.
        suffixes: of pictures, lower case.
        as_folder: `output` is a folder, whatever its name says.

    Raises:
        InputError: an input is missing or can't be listed, nothing is left to do, two inputs share a target,
            or is itself an input, or `output` is neither a picture's name nor a folder's.
    """
    result = Jobs()
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path} does not exist. Check the name.")
    result.single = len(inputs) == 1 and not inputs[0].is_dir()
    if result.single:
        to_file = not as_folder and not output.is_dir() and output.suffix.lower() in suffixes
        if not to_file and _is_no_folder(output, as_folder=as_folder):
            raise InputError(
                f"The output {output} is neither a folder nor a picture that can be written; expected a name "
                f"ending in {', '.join(suffixes)}. A new folder with a dot in its name is given with a slash "
                "at its end."
            )
        result.jobs.append(Job(inputs[0], output if to_file else output / inputs[0].name))
        return result
    if output.exists() and not output.is_dir():
        raise InputError(f"The output {output} is a file; several pictures need a folder. Name one.")
    for path in inputs:
        if path.is_dir():
            # Resolved, since the last part of "." or ".." is no name.
            below = output if len(inputs) == 1 else output / path.resolve().name
            for source in walk(path, suffixes, result, output):
                result.jobs.append(Job(source, below / source.relative_to(path)))
        else:
            result.jobs.append(Job(path, output / path.name))
    _refuse_collisions(result.jobs)
    if not result.jobs and not result.unreadable:
        raise InputError(
            f"There are no pictures in {', '.join(map(str, inputs))} ({result.skipped} other files); "
            f"expected files ending in {', '.join(suffixes)}."
        )
    return result


def _is_no_folder(output: Path, *, as_folder: bool) -> bool:
    """Whether `output` is something else already, or is more likely meant as a file, like photo.gif."""
    return not output.is_dir() if output.exists() else bool(output.suffix) and not as_folder


def walk(folder: Path, suffixes: tuple[str, ...], result: Jobs, output: Path | None = None) -> Iterator[Path]:
    """Pictures below `folder`, sorted; never those of the output folder, which would be restored twice.

    What is left aside is counted in `result`.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        result.unreadable.append(
            (folder, f"{folder} can't be listed: {error.strerror}. Check its permissions.")
        )
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            # Not Path.resolve, which raises on an output that is a link to itself.
            own = output is not None and os.path.realpath(path) == os.path.realpath(output)
            if not entry.name.startswith(".") and not own:
                yield from walk(path, suffixes, result, output)
        elif (
            entry.name.startswith(".")
            or path.suffix.lower() not in suffixes
            or not entry.is_file(follow_symlinks=False)
        ):
            result.skipped += 1
        else:
            yield path


@contextmanager
def failing_as_json(source: Path, *, wanted: bool) -> Generator[None]:
    """A line of JSON about an error, if that is wanted, before it goes on its way."""
    try:
        yield
    except PellucidError as error:
        if wanted:
            problem = {"type": type(error).__name__, "message": str(error)}
            print_json({"input": str(source), "output": None, "ok": False, "error": problem})
        raise


def print_restored(source: Path, target: Path, state: str, report: dict[str, Any]) -> None:
    """A line of JSON about one file that was restored, or left alone."""
    print_json({"input": str(source), "output": str(target), "ok": True, "state": state, "report": report})


def print_planned(source: Path, target: Path, why: str | None = None, *, as_json: bool) -> None:
    """A line about one file that a dry run would restore."""
    if as_json:
        print_json({"input": str(source), "output": str(target), "why": why})
    else:
        print(f"{source} -> {target}" + (f" ({why})" if why else ""))


def tell(job: Job, *, as_json: bool) -> None:
    """What would be done with one file, as a dry run says it."""
    print_planned(job.source, job.target, as_json=as_json)
    say("1 would be restored; nothing was done")


def refuse_taken(job: Job, *, overwrite: bool) -> None:
    """Check, before any work, that nothing stands where the picture goes.

    Raises:
        OutputExistsError: something does, and `overwrite` is false; or a link does.
        InputError: nothing can be written there.
    """
    try:
        job.target.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"{job.target} can't be written: {reason(error)}. Choose another output.") from error
    if overwrite:
        check_writable(job.target, overwrite=True)
        return
    itself = job.target.exists() and job.target.samefile(job.source)
    what = "the input itself" if itself else "an existing file"
    raise OutputExistsError(
        f"{job.target} is {what} and was left as it is. "
        "Choose another output, or replace it with --overwrite."
    )


def _refuse_collisions(jobs: list[Job]) -> None:
    # Not Path.resolve, which raises on a link to itself.
    inputs = {os.path.realpath(job.source): job.source for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        source, target = os.path.realpath(job.source), os.path.realpath(job.target)
        if job.target in seen:
            if os.path.realpath(seen[job.target]) == source:
                raise InputError(f"{job.source} is given twice; expected each picture once. Leave one out.")
            raise InputError(
                f"{seen[job.target]} and {job.source} would both be written to {job.target}. "
                "Restore them in two runs, to different folders."
            )
        if target in inputs and target != source:
            raise InputError(
                f"{job.source} would be written to {inputs[target]}, which is to be restored too. "
                "Choose another output folder."
            )
        seen[job.target] = job.source
