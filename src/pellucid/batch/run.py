"""The run: while the network has a picture, other processes read the next one and encode the last.

A process that a broken file takes down costs that picture alone. What is written is, byte for byte, what a
restoration without all this writes.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pellucid import errors
from pellucid.batch.journal import Entry, FileState, Journal
from pellucid.batch.plan import Reason, Settings, is_same_file, judge
from pellucid.codec.pool import CodecLimits, CodecPool
from pellucid.codec.worker import ReadFile
from pellucid.errors import OutputExistsError, PellucidError, write_refusal
from pellucid.image_io import Header, Limits, Strip, link_image, remove_leftovers, strip_image, write_bytes
from pellucid.restoration import Report, Restoration
from pellucid.restorer import TorchRestorer, ahead
from pellucid.runner import Progress
from pellucid.strength import Strength

Untouched = Literal["copy", "link", "skip"]
State = Literal["restored", "left alone", "done", "failed", "taken", "elsewhere"]

MOST_LANES = 8  # beside a GPU
SECONDS = 600.0  # that one picture may take to be read or encoded


@dataclass(frozen=True)
class Job:
    """One picture: where it is, where it goes, and why it is to be restored."""

    source: Path
    target: Path
    reason: Reason


@dataclass(frozen=True)
class Outcome:
    """What became of a picture.

    Attributes:
        job: the picture.
        state: "restored"; "left alone" (by the guard); "done" by another run meanwhile; "failed";
            "taken": another file stands there; "elsewhere": another run has it.
        report: the restorer's, if there is one.
        error: why it failed.
    """

    job: Job
    state: State
    report: Report | None = None
    error: PellucidError | None = None


class Batch:
    """A run over pictures into one output folder.

    Args:
        restorer: what restores.
        journal: of the output folder.
        settings: of the restorer and of this run, as the journal keeps them.
        output: the folder.
        limits: of a picture.
        untouched: what is done with a picture that is left alone: its file is copied, or linked
            (copied where the file system can't), or there is no output; an earlier one becomes a copy.
        overwrite, retry_failed: as for `pellucid.batch.plan.judge`.
        strip: metadata that is left out, as for `Restoration.save`; not of what is linked.
    """

    def __init__(
        self,
        restorer: TorchRestorer,
        journal: Journal,
        settings: Settings,
        output: Path,
        *,
        prompt: str | None = None,
        strength: Strength | None = None,
        limits: Limits | None = None,
        untouched: Untouched = "copy",
        overwrite: bool = False,
        retry_failed: bool = False,
        strip: Strip | None = None,
    ) -> None:
        self._restorer, self._journal, self._output = restorer, journal, output
        self._prompt, self._strength, self._untouched = prompt, strength or Strength(), untouched
        self._overwrite, self._retry_failed, self._hash = overwrite, retry_failed, settings.hash
        self._limits = limits or Limits()
        self._strip: Strip | None = strip
        self._lanes = count_lanes(restorer.describe().device)
        self._codec = CodecPool(codec_limits(self._lanes, self._limits.max_pixels))
        self._writer = ThreadPoolExecutor(self._lanes, thread_name_prefix="writer")
        self._unrecorded: deque[tuple[Future[Outcome], _Claimed]] = deque()
        journal.describe(settings.hash, settings.values)

    def close(self) -> None:
        """End the processes; what was written by then is kept in the journal."""
        self._writer.shutdown(cancel_futures=True)
        self._codec.stop()
        while self._unrecorded:
            future, claimed = self._unrecorded.popleft()
            if future.done() and not future.cancelled() and future.exception() is None:
                self._record(future.result(), claimed)

    def run(self, steps: "Iterable[Job | Outcome]", progress: Progress | None = None) -> Iterator[Outcome]:
        """The outcome of each job, and those that are known already, in their order.

        `progress` is told of the picture on the network.
        """
        begun = ahead((self._begin(s) if isinstance(s, Job) else s for s in steps), self._lanes)
        for result in ahead((self._restore(step, progress) for step in begun), self._lanes):
            if isinstance(result, Outcome):
                yield result
                continue
            outcome = result.result()
            _, claimed = self._unrecorded.popleft()
            self._record(outcome, claimed)
            yield outcome

    def _begin(self, job: Job) -> "Outcome | tuple[_Claimed, Future[ReadFile | Header]]":
        name = key(job.target, self._output)
        claim = self._journal.claim(name)
        if claim is None:
            return Outcome(job, "elsewhere")
        if claim.broken_since is not None:
            remove_leftovers(job.target)
        reason = judge(
            job.source,
            job.target,
            claim.entry,
            self._hash,
            overwrite=self._overwrite,
            retry_failed=self._retry_failed,
            broken_since=claim.broken_since,
        )
        if reason == "taken":
            sentence = f"{job.target} has appeared meanwhile and was left as it is. Choose another output."
            return Outcome(job, "taken", error=OutputExistsError(sentence))
        if reason == "done":  # by another run, since this one looked
            settle(self._journal, job, self._output, self._hash)
            return Outcome(job, "done")
        if reason == "failed" and claim.entry is not None:  # likewise
            return failed_before(replace(job, reason=reason), claim.entry)
        found = FileState.of(job.target)
        known = None if claim.entry is None else claim.entry.output
        earlier = known if reason == "asked" else found  # else what stands there is an earlier run's
        state = FileState.of(job.source, followed=True)
        claimed = _Claimed(replace(job, reason=reason), name, state, found is not None, earlier)
        return claimed, self._codec.read(job.source, self._restorer.room)

    def _restore(
        self, step: "Outcome | tuple[_Claimed, Future[ReadFile | Header]]", progress: Progress | None
    ) -> "Outcome | Future[Outcome]":
        if isinstance(step, Outcome):
            return step
        claimed, reading = step
        try:
            file = reading.result()
            if isinstance(file, Header):  # read now: its files may take all of the disk
                claimed.large, folder = True, self._restorer.folder_for(file.width * file.height)
                file = self._codec.read_large(claimed.job.source, file, folder).result()
            restoration = self._restorer(
                file.image, diagnosis=self._prompt, strength=self._strength, progress=progress
            )
        except PellucidError as error:
            future: Future[Outcome] = Future()
            future.set_result(Outcome(claimed.job, "failed", error=error))
        else:
            claimed.sha256, claimed.read_seconds = file.sha256, file.seconds
            future = self._writer.submit(self._write, claimed, restoration)
        self._unrecorded.append((future, claimed))
        return future

    def _write(self, claimed: "_Claimed", restoration: Restoration) -> Outcome:
        job, report, overwrite = claimed.job, restoration.report, claimed.replaces
        start, written = time.perf_counter(), True
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            alone, suffix = report.guards.get("left_alone"), job.target.suffix
            given = replace(restoration, original=job.source)
            keeps = given.keeps_file(suffix)
            if alone and self._untouched == "skip" and not _is_stale(claimed):
                written = is_same_file(job.source, job.target)
            elif alone and self._untouched == "link" and keeps:
                link_image(job.source, job.target, overwrite=overwrite)
            elif keeps or claimed.large:
                given.save(job.target, overwrite=overwrite, strip=self._strip)
            else:
                data = self._codec.encode(strip_image(restoration.image, self._strip), suffix).result()
                write_bytes(data, job.target, overwrite=overwrite)
        except OSError as error:
            refusal = write_refusal(job.target, error)
            refusal.__cause__ = error
            return Outcome(job, "failed", error=refusal)
        except PellucidError as error:
            return Outcome(job, "failed", error=error)
        if written:  # looked at now: what is saved there while the next picture is restored is not this run's
            claimed.output = FileState.of(job.target)
        seconds = report.seconds | {"read": claimed.read_seconds, "write": time.perf_counter() - start}
        return Outcome(job, report.state, replace(report, seconds=seconds))

    def _record(self, outcome: Outcome, claimed: "_Claimed") -> None:
        if claimed.input is None:  # it vanished before it was read: nothing to know it again by
            return
        if isinstance(outcome.error and outcome.error.__cause__, OSError):
            return  # a full disk's fault, say, not the picture's: the next run tries again
        # Where nothing was written, an earlier output stays as it is, and known.
        state = FileState.of(claimed.job.target)
        error = outcome.error and {"type": type(outcome.error).__name__, "message": str(outcome.error)}
        self._journal.record(
            Entry(
                claimed.name,
                outcome.state,
                self._hash,
                text(claimed.job.source),
                claimed.input,
                claimed.sha256,
                claimed.output or (state if state == claimed.earlier else None),
                outcome.report and outcome.report.to_dict(),
                error,
            )
        )


@dataclass
class _Claimed:
    job: Job
    name: str
    input: FileState | None
    replaces: bool  # something stands there, which this run may replace
    earlier: FileState | None  # the output of an earlier run, as it stood there
    output: FileState | None = None  # as this run wrote it
    sha256: str | None = None
    read_seconds: float = 0.0
    large: bool = False  # more than memory has room for: this process writes it


def _is_stale(claimed: _Claimed) -> bool:
    """Whether an earlier run's output still stands there, of its own and no link to the input."""
    source, target = claimed.job.source, claimed.job.target
    stands = claimed.earlier is not None and FileState.of(target) == claimed.earlier
    return stands and not is_same_file(source, target)


def failed_before(job: Job, entry: Entry) -> Outcome:
    """What an earlier run said of a picture that it could not restore."""
    error = entry.error or {"type": "PellucidError", "message": f"{job.source} failed before."}
    return Outcome(job, "failed", error=getattr(errors, error["type"], PellucidError)(error["message"]))


def settle(journal: Journal, job: Job, output: Path, settings_hash: str) -> None:
    """Record a picture that is done although a killed run claims it.

    What is saved there later would else be taken for that run's for ever.
    """
    claim, state = journal.claim(name := key(job.target, output)), FileState.of(job.target)
    if claim is None or claim.broken_since is None:
        return
    if claim.entry is not None and claim.entry.output == state:
        journal.record(claim.entry)
    elif state is not None:  # restored in place: its input is gone
        journal.record(Entry(name, "restored", settings_hash, text(job.source), state, None, state))


def count_lanes(device: str) -> int:
    """How many pictures are read, and how many written, beside the one on the network.

    A network on the CPU has its cores to itself but for one picture each way; a GPU is faster than one core
    reads and writes.
    """
    return 1 if device == "cpu" else min(MOST_LANES, max(1, (os.cpu_count() or 1) // 2))


def codec_limits(lanes: int, pixels: int) -> CodecLimits:
    """Limits of the processes that read and write so many lanes of pictures of at most so many pixels."""
    # What decoding takes, and some to spare; a file that promises less than it takes is stopped there.
    return CodecLimits(2 * lanes, SECONDS, 2**30 + 80 * pixels, pixels, 2**40)


def key(target: Path, output: Path) -> str:
    """A target's name in the journal: its path below the output folder."""
    return text(target.relative_to(output))


def text(path: Path) -> str:
    """A path as text that a database holds; bytes that are no UTF-8 are escaped."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()
