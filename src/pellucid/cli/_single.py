"""One picture on the command line, of a file or from stdin, to a file or to stdout."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.cli._batch import Options, open_restorer, remedies
from pellucid.cli._jobs import Job, failing_as_json, print_restored, refuse_taken, tell
from pellucid.cli._progress import Bars
from pellucid.cli._shared import parse_path, say
from pellucid.cli._video import is_film
from pellucid.errors import InputError, UnreadableImageError, write_refusal
from pellucid.image_io import (
    IMAGE_SUFFIXES,
    check_format,
    check_writable,
    decode_header,
    decode_image,
    read_header,
)
from pellucid.restoration import Report, Restoration

if TYPE_CHECKING:
    from pellucid.restorer import TorchRestorer

PIPE = "-"


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


def restore_piped(inputs: Sequence[str], output: str, options: Options) -> None:
    """Restore the picture that stdin holds, or to stdout, where input or output is "-".

    Raises:
        InputError: several inputs, a folder or a film, an output that names no format, or stdout that is a
            terminal or wanted for JSON. Else whatever is foreseeable.
    """
    if len(inputs) > 1:
        raise InputError(
            f"{len(inputs)} inputs were given together with -; expected one picture. Leave the others out."
        )
    source = Path(PIPE) if inputs[0] == PIPE else parse_path(inputs[0])
    if inputs[0] != PIPE and (source.is_dir() or is_film(source)):
        what = "folder" if source.is_dir() else "film"
        raise InputError(f"{source} is a {what}; stdout takes one picture. Name an output with -o.")
    target = None if output == PIPE else parse_path(output)
    if target is None:
        _check_stdout(options)
    elif target.suffix.lower() not in IMAGE_SUFFIXES or target.is_dir():
        raise InputError(
            f"The output {output} is no name of a picture, and one from stdin has none; expected a name "
            f"ending in {', '.join(IMAGE_SUFFIXES)}. Give the whole name."
        )
    with failing_as_json(source, wanted=options.as_json):
        if target is not None and os.path.lexists(target):
            check_writable(target, overwrite=options.overwrite)
        given = _read_stdin() if inputs[0] == PIPE else source
        header = decode_header(given) if isinstance(given, bytes) else read_header(given)
        if target is not None:
            check_format(header, target)
        restoration = _restore(open_restorer(options), given, options)
        if target is not None:
            _save(restoration, target, options)
        else:
            sys.stdout.buffer.write(restoration.encode(strip=options.strip))
            sys.stdout.buffer.flush()
    _tell_done(source, Path(output), restoration.report, options)


def _check_stdout(options: Options) -> None:
    if options.as_json:
        raise InputError("--json prints on stdout, where -o - puts the picture. Leave one of them out.")
    if sys.stdout is None or sys.stdout.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        raise InputError(
            "stdout is a terminal, or closed, and takes no picture; expected a pipe or a file. "
            "Name an output with -o, or send it on with | or >."
        )


def _read_stdin() -> bytes:
    stream = getattr(sys.stdin, "buffer", None)  # none where stdin is closed
    data: bytes = b"" if stream is None else stream.read()
    if not data:
        raise UnreadableImageError(
            "stdin is empty (0 bytes); expected the bytes of a picture. Check the command before the pipe."
        )
    return data


def _restore(restorer: "TorchRestorer", given: Path | bytes, options: Options) -> Restoration:
    """Read and restore one picture."""
    source = Path(PIPE) if isinstance(given, bytes) else given
    with Bars([source], visible=not options.quiet) as bars:
        start = time.perf_counter()
        if isinstance(given, bytes):
            image = decode_image(given, limits=options.limits)
        else:
            image = restorer.read(given, limits=options.limits)
        seconds = {"read": time.perf_counter() - start}
        restoration = restorer(
            image, diagnosis=options.prompt, strength=options.strength, progress=bars.part_done
        )
    report = replace(restoration.report, seconds=restoration.report.seconds | seconds)
    # From what was given, not from its pixels: strength 0 then copies it.
    return replace(restoration, report=report, original=given)


def _save(restoration: Restoration, target: Path, options: Options) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        restoration.save(target, overwrite=options.overwrite, strip=options.strip)
    except OSError as error:
        raise write_refusal(target, error) from error


_RESTORED = "1 restored, 0 failed"
_DONE = {
    "left_alone": "1 left alone, since nothing was found to mend (--no-guard restores it)",
    "light_kept": f"{_RESTORED}; its light was kept, nothing seems to have changed it (see --no-guard)",
    "light_from_afar": f"{_RESTORED}; its haze was looked for in reduced copies, too (see --no-guard)",
}


def _tell_done(source: Path, target: Path, report: Report, options: Options) -> None:
    if options.as_json:
        print_restored(source, target, report.state, report.to_dict())
    if not options.quiet:
        told = next((words for guard, words in _DONE.items() if report.guards.get(guard)), _RESTORED)
        say("; ".join([told, *remedies(report.held)]))
