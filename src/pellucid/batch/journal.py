"""What was done in an output folder: an SQLite file below it, which survives a kill at any moment.

Several runs may share an output. Each holds a lock on a file of its own as long as it lives, which the system
takes back however it ends; a claim on a picture counts while the lock of its run is held.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from pellucid.errors import JournalError, reason

FOLDER, FILE = ".pellucid", "journal.sqlite"
SECURED_AFTER = 1.0  # seconds; what is younger may be lost with the power, not with a killed process
_TABLES = """
CREATE TABLE IF NOT EXISTS pictures (
    target TEXT PRIMARY KEY, state TEXT NOT NULL, settings TEXT NOT NULL,
    source TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT,
    output_size INTEGER, output_mtime_ns INTEGER, report TEXT, error TEXT, finished REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settings (hash TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    target TEXT PRIMARY KEY, run TEXT NOT NULL, since REAL NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class FileState:
    """By what a file is known again without reading it: its size in bytes, its time of change in ns."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, *, followed: bool = False) -> "FileState | None":
        """The state of a file, or of a link itself unless it is `followed`; none if there is none."""
        try:
            found = path.stat(follow_symlinks=followed)
        except (OSError, ValueError):
            return None
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Entry:
    """What was done with one picture.

    Attributes:
        target: path below the output folder, with slashes.
        state: "restored", "left alone" or "failed".
        settings: hash of the settings.
        source: the input's path.
        input: the input's state.
        sha256: of the input's bytes; none where they could not be read.
        output: the output's state; none if none was written.
        report: the restorer's, as plain values.
        error: type and message of a failure.
    """

    target: str
    state: str
    settings: str
    source: str
    input: FileState
    sha256: str | None
    output: FileState | None = None
    report: dict[str, Any] | None = None
    error: dict[str, str] | None = None


class Journal:
    """The journal of an output folder, and this run's place in it.

    Args:
        output: the folder; it is made if missing.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output / FOLDER
        self._run = uuid.uuid4().hex
        self._secured = time.monotonic()
        self._securing = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._inherited = set[str]()  # claims that runs had which were killed
        with self._sentence():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._lock_of(self._run)
            self._lock.acquire(timeout=0)
            self._database = sqlite3.connect(self.folder / FILE, timeout=60, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            # No waiting for the disk: a kill loses nothing so, and `_secure` sees to the loss of power.
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLES)

    @classmethod
    def exists(cls, output: Path) -> bool:
        """Whether a run has been here."""
        return (output / FOLDER / FILE).is_file()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what this run claims; what a killed run had begun stays known as such until it is done."""
        with self._sentence():
            own = self._database.execute("SELECT target FROM claims WHERE run = ?", (self._run,)).fetchall()
            with self._transaction():
                self._database.executemany(
                    "DELETE FROM claims WHERE target = ?",
                    [row for row in own if row[0] not in self._inherited],
                )
            self._securing.shutdown()
            self._database.close()
        self._lock.release()
        self._forget(self._run)

    def entries(self) -> dict[str, Entry]:
        """All that was done, by target, without reports: there may be millions."""
        columns = _COLUMNS.replace("report", "NULL")
        with self._sentence():
            return {row[0]: _entry(row) for row in self._database.execute(f"SELECT {columns} FROM pictures")}

    def claims(self) -> dict[str, float]:
        """When runs that live, or were killed, began with pictures, in seconds since 1970."""
        with self._sentence():
            return dict(self._database.execute("SELECT target, since FROM claims"))

    def claim(self, target: str) -> "Claim | None":
        """Take a picture for this run; none while another run, which lives, has it."""
        with self._sentence(), self._transaction():
            found = self._database.execute(
                "SELECT run, since FROM claims WHERE target = ?", (target,)
            ).fetchone()
            since: float | None = None
            if found is not None and found[0] != self._run:
                if self._lives(found[0]):
                    return None
                self._inherited.add(target)
            if found is not None and target in self._inherited:
                since = float(found[1])
            # The first of several runs that were killed over a picture may be the one that wrote it.
            begun = time.time() if since is None else since
            self._database.execute("REPLACE INTO claims VALUES (?, ?, ?)", (target, self._run, begun))
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM pictures WHERE target = ?", (target,)
            ).fetchone()
        return Claim(None if row is None else _entry(row), since)

    def record(self, entry: Entry) -> None:
        """Keep what was done; the picture is then claimed by nobody."""
        with self._sentence(), self._transaction():
            self._database.execute(
                f"REPLACE INTO pictures ({_COLUMNS}, finished) VALUES ({', '.join('?' * 12)})",
                (*_row(entry), time.time()),
            )
            self._database.execute("DELETE FROM claims WHERE target = ?", (entry.target,))
        self._inherited.discard(entry.target)
        if time.monotonic() - self._secured > SECURED_AFTER:
            self._secured = time.monotonic()
            self._securing.submit(self._secure)

    def describe(self, settings_hash: str, settings: Mapping[str, Any]) -> None:
        """Keep what a hash of settings stands for."""
        with self._sentence():
            content = json.dumps(settings, sort_keys=True)
            self._database.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (settings_hash, content))

    def _secure(self) -> None:
        """Bring to the disk what was recorded, without keeping anybody waiting."""
        with suppress(sqlite3.Error), closing(sqlite3.connect(self.folder / FILE, timeout=60)) as database:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _lock_of(self, run: str) -> FileLock:
        return FileLock(self.folder / f"run-{run}.lock")

    def _lives(self, run: str) -> bool:
        lock = self._lock_of(run)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        self._forget(run)
        return False

    def _forget(self, run: str) -> None:
        (self.folder / f"run-{run}.lock").unlink(missing_ok=True)

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _sentence(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise JournalError(
                f"The journal {self.folder / FILE} can't be used: {reason(error)}. Check permissions and "
                "free space, or choose another output folder."
            ) from error


@dataclass(frozen=True)
class Claim:
    """A picture that is this run's now.

    Attributes:
        entry: what was done with it, by any run.
        broken_since: when the first run that was killed over it claimed it, in seconds since 1970; none if
            none was.
    """

    entry: Entry | None
    broken_since: float | None


_COLUMNS = (
    "target, state, settings, source, size, mtime_ns, sha256, output_size, output_mtime_ns, report, error"
)


def _row(entry: Entry) -> tuple[Any, ...]:
    output = (None, None) if entry.output is None else (entry.output.size, entry.output.mtime_ns)
    texts = [None if value is None else json.dumps(value) for value in (entry.report, entry.error)]
    head = (entry.target, entry.state, entry.settings, entry.source)
    return (*head, entry.input.size, entry.input.mtime_ns, entry.sha256, *output, *texts)


def _entry(row: tuple[Any, ...]) -> Entry:
    target, state, settings, source, size, mtime_ns, sha256, output_size, output_mtime_ns, report, error = row
    return Entry(
        target,
        state,
        settings,
        source,
        FileState(size, mtime_ns),
        sha256,
        None if output_size is None else FileState(output_size, output_mtime_ns),
        None if report is None else json.loads(report),
        None if error is None else json.loads(error),
    )
