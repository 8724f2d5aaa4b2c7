"""One process that restores: it holds the network, and takes pictures by the block.

The next picture is read and decoded, and the last one encoded and written, while the network has one.
Decoding and encoding happen in processes of their own, so that a file that takes its decoder down costs
itself alone.
"""

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pellucid import __version__, compute
from pellucid.batch.run import Untouched, codec_limits, count_lanes
from pellucid.cluster import storage
from pellucid.cluster.report import Known, Records, Row, State, now
from pellucid.cluster.storage import FileState
from pellucid.codec.pool import CodecPool
from pellucid.errors import (
    HashMismatchError,
    OutputExistsError,
    PellucidError,
    UnreachableError,
    UnreadableImageError,
)
from pellucid.image import ImageBuffer
from pellucid.image_io import Limits, Strip, strip_file, strip_image
from pellucid.restoration import Restoration
from pellucid.restorer import TorchRestorer, ahead, load
from pellucid.strength import Strength

LOOKERS = 16  # threads that ask the stores what is there
CLOCK = 1.0  # seconds: stores tell times so coarsely
SKEW = 60.0  # seconds by which the clocks of a store and of a machine may differ
Verdict = Literal["do", "done", "failed", "compare"]


@dataclass(frozen=True)
class Task:
    """What all processes of a run are told.

    Attributes:
        output: URL of the output folder.
        run: its name.
        began: when runs began that live or were killed, this one among them.
        settings: hash of the settings.
        model, device, precision, memory, engine, guard: as for `pellucid.load`; memory is one process's.
        weights_sha256: what the model's weights must be.
        prompt, strength: of the restorer.
        share: of its machine's memory (or of its GPU's) that a process may take half of.
        untouched, overwrite, retry_failed, strip, max_pixels: as on the command line.
        version: of pellucid.
    """

    output: str
    run: str
    began: Mapping[str, float]
    settings: str
    model: str
    weights_sha256: str
    device: str | None = None
    precision: str | None = None
    memory: int | None = None
    engine: str = "torch"
    guard: bool = True
    prompt: str | None = None
    strength: Strength = field(default_factory=Strength)
    share: float = 1.0
    untouched: Untouched = "copy"
    overwrite: bool = False
    retry_failed: bool = False
    strip: Strip | None = None
    max_pixels: int = Limits.max_pixels
    version: str = __version__


@dataclass(frozen=True)
class Outcome:
    """What became of a picture in this run.

    Attributes:
        path, name: of input and output.
        state: as in `pellucid.cluster.report.State`, or "done" before.
        error_type, error: why it failed.
        written: there is an output.
        known: it was done, or failed, in an earlier run, and was not tried again.
        guards: as `pellucid.restoration.Report.held`, of what was done in this run.
    """

    path: str
    name: str
    state: str
    error_type: str | None = None
    error: str | None = None
    written: bool = False
    known: bool = False
    guards: Sequence[str] = ()


class Worker:
    """Restores blocks of pictures.

    Args:
        task: what this run is.
        weights: bytes of the model's file, where it is not one of the embedded.
        known: what is known of earlier runs.

    Raises:
        PellucidError: as `load_restorer`.
    """

    def __init__(self, task: Task, weights: bytes | None, known: Known | None) -> None:
        self._task, self._known, self._records = task, known, Records(task.output)
        # Nothing of pellucid's is there yet, and asking a store for what isn't there is its dearest question.
        self._fresh = known is None and set(task.began) == {task.run}
        self._restorer = load_restorer(task, weights)
        lanes = count_lanes(self._restorer.describe().device)
        self._lanes, self._codec = lanes, CodecPool(codec_limits(lanes, task.max_pixels))
        self._lookers = ThreadPoolExecutor(LOOKERS, thread_name_prefix="looker")
        self._readers = ThreadPoolExecutor(lanes, thread_name_prefix="reader")
        self._writers = ThreadPoolExecutor(lanes, thread_name_prefix="writer")

    def restore(self, paths: Sequence[str], names: Sequence[str]) -> list[Outcome]:
        """Restore what is to do of a block, and keep the rows about it.

        Args:
            paths: of the inputs.
            names: of the outputs, below the output folder.

        Raises:
            UnreachableError: the rows can't be kept.
        """
        rows = {row.name: row for row in self._records.part(self._task.run, names)}
        pairs = [(path, name) for path, name in zip(paths, names, strict=True) if name not in rows]
        outcomes, kept = [outcome_of(row) for row in rows.values()], len(rows)
        looked = list(self._lookers.map(self._look, *zip(*pairs, strict=True))) if pairs else []
        begun = ahead(map(self._begin, looked), self._lanes)
        for step in ahead(map(self._on_network, begun), self._lanes):
            ended = step.result() if isinstance(step, Future) else step
            outcomes.append(ended.outcome)
            if ended.row is not None:
                rows[ended.row.name] = ended.row
        if len(rows) > kept:
            self._records.write_part(self._task.run, names, list(rows.values()))
        return outcomes

    def _look(self, path: str, name: str) -> "_Picture | _Ended":
        """What is to do with a picture, by what lies there and what is known."""
        task, target = self._task, f"{self._task.output}/{name}"
        row = Row(path, name, "broken off", task.settings, task.run, now())
        known = None if self._known is None else self._known.row(path, name)
        if known is not None and known.run == task.run:
            return _Ended(outcome_of(known))
        try:
            found = storage.state(path)
            there = None if known is None and self._fresh else storage.state(target)
        except PellucidError as error:
            return _failed(row, "broken off", error)
        ours = known is not None and there is not None and known.output == (there.size, there.version)
        row = row.with_input(found).with_output(there if ours else None)
        if found is None:
            return _failed(row, "failed", UnreadableImageError(f"There is no file {path}. Check the path."))
        if there is not None and not (ours or task.overwrite or self._in_flight(there, known)):
            sentence = (
                f"{target} exists already, and no run known here wrote it so; it was left as it is. "
                "Choose another output, or replace it with --overwrite."
            )
            return _failed(row, "taken", OutputExistsError(sentence))
        same = known is not None and known.input == (found.size, found.version)
        verdict = "do" if task.overwrite else judge(known, task.settings, ours, same, task.retry_failed)
        if known is not None and verdict == "done":
            return _Ended(replace(outcome_of(known), state="done", known=True))
        if known is not None and verdict == "failed":
            return _Ended(replace(outcome_of(known), known=True))
        replaces = there is not None or task.overwrite
        return _Picture(row, target, replaces, known if verdict == "compare" else None)

    def _in_flight(self, there: FileState, known: Row | None) -> bool:
        """Whether a file may come from a run that was killed before it kept a row: from then, or later.

        Not from one that began before the output that is known was written: what changed since is edited.
        """
        written = 0.0 if known is None or known.output is None else known.finished.timestamp()
        return any(
            there.modified >= began - CLOCK and began > written - SKEW
            for run, began in self._task.began.items()
            if known is None or known.run != run
        )

    def _begin(self, step: "_Picture | _Ended") -> "tuple[_Picture, Future[_Read | _Ended]] | _Ended":
        return step if isinstance(step, _Ended) else (step, self._readers.submit(self._read, step))

    def _read(self, picture: "_Picture") -> "_Read | _Ended":
        start = time.perf_counter()
        row = picture.row
        try:
            data = storage.read(row.path)
            row = replace(row, sha256=hashlib.sha256(data).hexdigest())
            if picture.compare is not None and picture.compare.sha256 == row.sha256:
                return _Ended(replace(outcome_of(picture.compare), state="done", known=True))
            image = self._codec.decode(data).result()
        except UnreachableError as error:
            return _failed(row, "broken off", error)
        except PellucidError as error:
            return _failed(row, "failed", error)
        return _Read(replace(picture, row=row), data, image, time.perf_counter() - start)

    def _on_network(
        self, step: "tuple[_Picture, Future[_Read | _Ended]] | _Ended"
    ) -> "_Ended | Future[_Ended]":
        if isinstance(step, _Ended):
            return step
        picture, reading = step
        try:
            read = reading.result()
            if isinstance(read, _Ended):
                return read
            picture = read.picture
            restoration = self._restorer(
                read.image, diagnosis=self._task.prompt, strength=self._task.strength
            )
        except PellucidError as error:
            return _failed(picture.row, "failed", error)
        except Exception as error:  # a device that fails, or a fault of pellucid: not the end of others
            return _failed(picture.row, "broken off", error)
        return self._writers.submit(self._write, read, restoration)

    def _put(self, data: bytes, picture: "_Picture") -> None:
        try:
            storage.write(data, picture.target, overwrite=picture.replaces)
        except OutputExistsError:
            # Nobody had looked. It may come from an attempt of this run that was lost.
            there = storage.state(picture.target)
            if there is None or not self._in_flight(there, None):
                raise
            storage.write(data, picture.target, overwrite=True)

    def _write(self, read: "_Read", restoration: Restoration) -> "_Ended":
        picture, report = read.picture, restoration.report
        row, start = picture.row, time.perf_counter()
        try:
            image, suffix = restoration.image, PurePosixPath(row.name).suffix
            if replace(restoration, original=read.data).keeps_file(suffix, row.path):
                data = strip_file(read.data, image, self._task.strip)
            else:
                data = self._codec.encode(strip_image(image, self._task.strip), suffix).result()
        except PellucidError as error:
            return _failed(row, "failed", error)
        try:
            if not report.guards.get("left_alone") or self._task.untouched != "skip":
                self._put(data, picture)
                row = row.with_output(storage.state(picture.target))
        except OutputExistsError as error:
            return _failed(row, "taken", error)
        except PellucidError as error:
            return _failed(row, "broken off", error)
        seconds = {"read": read.seconds, "write": time.perf_counter() - start}
        row = replace(row.with_report(report, seconds), finished=now())
        return _Ended(outcome_of(row), row)


def load_restorer(task: Task, weights: bytes | None) -> TorchRestorer:
    """The restorer of a run, on this machine.

    Args:
        task: what the run is.
        weights: bytes of the model's file, where it is not one of the embedded.

    Raises:
        HashMismatchError: this machine has other weights, or another version, than the one that started it.
        PellucidError: as `pellucid.load`.
    """
    if task.version != __version__:
        raise HashMismatchError(
            f"A machine of the cluster has pellucid {__version__}; the run was started by {task.version}. "
            "Install the same version everywhere."
        )
    memory = task.memory
    if memory is None and task.share < 1:
        free = compute.free_memory(compute.choose_device(task.device))
        memory = max(1, int(free * compute.MEMORY_SHARE * task.share))
    with tempfile.TemporaryDirectory(prefix="pellucid-") as folder:
        model = task.model
        if weights is not None:
            file = Path(folder) / Path(model).name
            file.write_bytes(weights)
            model = str(file)
        restorer = load(
            model,
            device=task.device,
            precision=task.precision,
            memory=memory,
            guard=task.guard,
            engine=task.engine,
        )
    if restorer.weights_sha256 != task.weights_sha256:
        raise HashMismatchError(
            f"A machine of the cluster has other weights called {task.model} than the one that started "
            "the run. Install the same version of pellucid everywhere."
        )
    return restorer


def judge(known: Row | None, settings: str, ours: bool, same: bool, retry_failed: bool) -> Verdict:
    """What is to do with a picture of which no output stands in the way.

    Args:
        known: the last row about it.
        settings: hash of this run's.
        ours: its output is there, as the row knows it.
        same: its input is as the row knows it.
        retry_failed: what failed before is tried again.
    """
    if known is None or known.state in ("broken off", "taken") or known.settings != settings:
        return "do"
    if known.state == "failed":
        return "failed" if same and not retry_failed else "do"
    if known.output is not None and not ours:
        return "do"
    return "done" if same else "compare"


@dataclass(frozen=True)
class _Picture:
    """One to do."""

    row: Row
    target: str
    replaces: bool  # something stands there, or nobody cares, and may be replaced
    compare: Row | None  # done before, from an input of another time: the same, if it has the same bytes


@dataclass(frozen=True)
class _Read:
    picture: _Picture
    data: bytes
    image: ImageBuffer
    seconds: float


@dataclass(frozen=True)
class _Ended:
    outcome: Outcome
    row: Row | None = None  # to be kept


def outcome_of(row: Row) -> Outcome:
    """The outcome that a row tells of."""
    written, guards = row.output is not None, tuple(row.guards or ())
    return Outcome(row.path, row.name, row.state, row.error_type, row.error, written, guards=guards)


def _failed(row: Row, state: State, error: Exception) -> _Ended:
    row = row.with_error(state, error)
    return _Ended(outcome_of(row), row)
