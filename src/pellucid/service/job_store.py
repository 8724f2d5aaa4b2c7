"""Jobs on the disk: a table in SQLite, and files for what came and what came out.

A job exists from the moment its row is committed, which is after its picture is on the disk and before its
client is told. What a killed service leaves as "running" is queued again at the next start, or, the third
time, reported as failed: the picture may be what killed it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pellucid.errors import InputError, OverloadedError, ReusedKeyError, StorageError

STATES = ("queued", "running", "done", "failed", "canceled")
FINISHED = ("done", "failed", "canceled")
MOST_ATTEMPTS = 3  # of a job during which the service is killed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    options TEXT NOT NULL,
    format TEXT NOT NULL,
    pixels INTEGER NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    report TEXT,
    problem TEXT,
    key TEXT UNIQUE,
    fingerprint TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, created);
"""


@dataclass(frozen=True)
class Job:
    """A row.

    Attributes:
        id: a random name that can't be guessed.
        state: one of `STATES`.
        options: how to restore, as `pellucid.service.engine.Options`.
        format: of the result.
        pixels: of the picture.
        created, started, finished: seconds since 1970, or none.
        attempts: how often it was begun.
        report: what was done, once it is done.
        problem: what went wrong, once it failed.
    """

    id: str
    state: str
    options: dict[str, Any]
    format: str
    pixels: int
    created: float
    started: float | None
    finished: float | None
    attempts: int
    report: dict[str, Any] | None
    problem: dict[str, Any] | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINISHED


_COLUMNS = "id, state, options, format, pixels, created, started, finished, attempts, report, problem"


class JobStore:
    """All jobs of one service. Every method may be called from any thread.

    Args:
        folder: made if missing; only its owner may look into it.
        max_waiting: jobs that may be queued or running.

    Raises:
        InputError: the folder can't be used, or another service uses it.
    """

    def __init__(self, folder: Path, max_waiting: int) -> None:
        self._max_waiting, self._mutex = max_waiting, threading.Lock()
        self._inputs, self._results = folder / "inputs", folder / "results"
        with contextlib.ExitStack() as opened:
            try:
                for one in (folder, self._inputs, self._results):
                    one.mkdir(mode=0o700, parents=True, exist_ok=True)
                claim = opened.enter_context((folder / "lock").open("wb"))
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                rows = sqlite3.connect(folder / "jobs.sqlite3", check_same_thread=False, isolation_level=None)
                self._rows = opened.enter_context(contextlib.closing(rows))
                rows.execute("PRAGMA journal_mode = WAL")
                rows.execute("PRAGMA synchronous = FULL")  # what a client was told survives a power cut
                rows.executescript(_SCHEMA)
            except BlockingIOError as error:
                raise InputError(
                    f"The folder of jobs {folder} is used by another service. "
                    "Stop that, or choose another --data."
                ) from error
            except (OSError, sqlite3.Error) as error:
                raise InputError(
                    f"The folder of jobs {folder} can't be used: {error}. Check its permissions, or choose "
                    "another --data."
                ) from error
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of the folder."""
        with self._mutex:
            self._opened.close()

    def recover(self, problem: dict[str, Any]) -> None:
        """Bring jobs that a killed service left running back into the queue, or fail them with `problem`."""
        with self._transaction() as rows:
            rows.execute(
                "UPDATE jobs SET state = 'failed', finished = ?, problem = ? "
                "WHERE state = 'running' AND attempts >= ?",
                (time.time(), json.dumps(problem), MOST_ATTEMPTS),
            )
            rows.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
            known = dict(rows.execute("SELECT id, state FROM jobs").fetchall())
        for path in [*self._inputs.iterdir(), *self._results.iterdir()]:
            if known.get(path.name) not in (("queued",) if path.parent == self._inputs else ("done",)):
                path.unlink(missing_ok=True)

    def add(
        self, data: bytes, options: dict[str, Any], target: str, pixels: int, key: str | None
    ) -> tuple[Job, bool]:
        """A new job for the picture in `data`, or the one that this key stands for already.

        Returns:
            The job, and whether it is new.

        Raises:
            ReusedKeyError: the key stands for another picture or other options.
            OverloadedError: too many jobs wait.
            StorageError: the disk takes no more.
        """
        asked = json.dumps([options, target], sort_keys=True).encode()
        fingerprint = hashlib.sha256(asked + b"\0" + hashlib.sha256(data).digest()).hexdigest()
        with self._mutex:
            if (job := self._known(key, fingerprint)) is not None:
                return job, False
            self._check_room()
        name = secrets.token_urlsafe(18)
        try:
            _write(self._inputs / name, data)
            with self._transaction() as rows:
                if (job := self._known(key, fingerprint)) is None:  # nobody was faster
                    self._check_room()
                    rows.execute(
                        "INSERT INTO jobs (id, state, options, format, pixels, created, key, fingerprint) "
                        "VALUES (?, 'queued', ?, ?, ?, ?, ?, ?)",
                        (name, json.dumps(options), target, pixels, time.time(), key, fingerprint),
                    )
                    added = self._find(name)
                    assert added is not None
                    return added, True
        except (OSError, sqlite3.Error) as error:
            (self._inputs / name).unlink(missing_ok=True)
            raise StorageError(f"The job can't be kept: {error}. Ask the operator for space.") from error
        except BaseException:
            (self._inputs / name).unlink(missing_ok=True)
            raise
        (self._inputs / name).unlink(missing_ok=True)
        return job, False

    def find(self, name: str) -> Job | None:
        """The job of that id, or none."""
        with self._mutex:
            return self._find(name)

    def begin(self) -> Job | None:
        """Take the oldest queued job and call it running; none if there is none."""
        with self._transaction() as rows:
            row = rows.execute(
                "SELECT id FROM jobs WHERE state = 'queued' ORDER BY created LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            rows.execute(
                "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1 WHERE id = ?",
                (time.time(), *row),
            )
            return self._find(row[0])

    def picture(self, name: str) -> bytes:
        """What came with a job.

        Raises:
            OSError: it is gone, since the job has ended.
        """
        return (self._inputs / name).read_bytes()

    def result(self, name: str) -> BinaryIO:
        """What came out of a job that is done, open: so it can be read to its end if the job is deleted.

        Raises:
            OSError: it is gone, since the job was deleted meanwhile.
        """
        return (self._results / name).open("rb")

    def finish(self, name: str, data: bytes, report: dict[str, Any]) -> None:
        """Keep the result of a running job.

        Raises:
            OSError, sqlite3.Error: the disk takes no more.
        """
        _write(self._results / name, data)
        if not self._end(name, "running", "done", report=json.dumps(report)):
            (self._results / name).unlink(missing_ok=True)  # canceled meanwhile

    def fail(self, name: str, problem: dict[str, Any]) -> None:
        """Keep what went wrong with a running job."""
        self._end(name, "running", "failed", problem=json.dumps(problem))

    def cancel(self, name: str) -> bool:
        """End a job that has not ended; whether it had not."""
        return self._end(name, "queued", "canceled") or self._end(name, "running", "canceled")

    def requeue(self, name: str) -> None:
        """A stop interrupted the job: it is not its fault, and it comes first after the start."""
        with self._transaction() as rows:
            rows.execute(
                "UPDATE jobs SET state = 'queued', attempts = attempts - 1 "
                "WHERE id = ? AND state = 'running'",
                (name,),
            )

    def delete(self, name: str) -> None:
        """Forget a job that has ended, with its result."""
        with self._transaction() as rows:
            rows.execute("DELETE FROM jobs WHERE id = ? AND state IN ('done', 'failed', 'canceled')", (name,))
        (self._results / name).unlink(missing_ok=True)

    def expire(self, seconds: float) -> int:
        """Forget all jobs that ended more than so many seconds ago; how many those were."""
        with self._mutex:
            old = self._rows.execute(
                "SELECT id FROM jobs WHERE finished < ?", (time.time() - seconds,)
            ).fetchall()
        for (name,) in old:
            self.delete(name)
        return len(old)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self._mutex:
            found = self._rows.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        return dict.fromkeys(STATES, 0) | dict(found)

    def _end(self, name: str, before: str, state: str, **values: str) -> bool:
        columns = "".join(f", {column} = ?" for column in values)
        with self._transaction() as rows:
            changed = rows.execute(
                f"UPDATE jobs SET state = ?, finished = ?{columns} WHERE id = ? AND state = ?",
                (state, time.time(), *values.values(), name, before),
            ).rowcount
        if changed:
            (self._inputs / name).unlink(missing_ok=True)
        return bool(changed)

    def _known(self, key: str | None, fingerprint: str) -> Job | None:
        if key is None:
            return None
        row = self._rows.execute("SELECT id, fingerprint FROM jobs WHERE key = ?", (key,)).fetchone()
        if row is not None and row[1] != fingerprint:
            raise ReusedKeyError(
                "This Idempotency-Key stands for a job with another picture or other options; expected a new "
                "key for each job. Make one."
            )
        return None if row is None else self._find(row[0])

    def _check_room(self) -> None:
        (waiting,) = self._rows.execute(
            "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')"
        ).fetchone()
        if waiting >= self._max_waiting:
            raise OverloadedError(
                f"{waiting} jobs wait already, which is the limit. Ask again later.", retry_after=30
            )

    def _find(self, name: str) -> Job | None:
        row = self._rows.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (name,)).fetchone()
        if row is None:
            return None
        values: dict[str, Any] = dict(zip(_COLUMNS.split(", "), row, strict=True))
        for column in ("options", "report", "problem"):
            if values[column] is not None:
                values[column] = json.loads(values[column])
        return Job(**values)

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._mutex:
            self._rows.execute("BEGIN IMMEDIATE")
            try:
                yield self._rows
            except BaseException:
                self._rows.execute("ROLLBACK")
                raise
            self._rows.execute("COMMIT")


def _write(path: Path, data: bytes) -> None:
    """Write a file and its name to the disk, so that both survive a power cut."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
