"""What was done, as Parquet files in `OUT/_pellucid/`: a row per picture and run, and who is at work.

`parts/` holds a small file per finished block, written by the process that restored it; the driver joins them
into the larger files of `report/`. `runs/` holds a mark per run, from its beginning to its clean end: what
lies in the output since then without a row was in flight when that run was killed.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pellucid.cluster import storage
from pellucid.cluster.storage import FileState
from pellucid.errors import JournalError, UnreadableImageError
from pellucid.restoration import Report

T = TypeVar("T")
FOLDER = "_pellucid"
THREADS = 32  # that read and remove small files of a store at once
Table = Any  # pyarrow's, which comes without types
State = Literal["restored", "left alone", "failed", "broken off", "taken"]
"""What became of a picture: "failed" is its own fault, "broken off" that of a store, a machine or pellucid;
"taken" means that another file stands where it goes.
"""

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("name", pa.string()),
        ("state", pa.string()),
        ("settings", pa.string()),
        ("run", pa.string()),
        ("finished", pa.timestamp("us", tz="UTC")),
        ("sha256", pa.string()),
        ("input_size", pa.int64()),
        ("input_version", pa.string()),
        ("output_size", pa.int64()),
        ("output_version", pa.string()),
        ("model", pa.string()),
        ("weights_sha256", pa.string()),
        ("device", pa.string()),
        ("precision", pa.string()),
        ("strength", pa.string()),
        ("prompt", pa.string()),
        ("guards", pa.list_(pa.string())),
        ("verdict", pa.string()),
        (
            "kinds",
            pa.list_(
                pa.struct([("kind", pa.string()), ("probability", pa.float32()), ("strength", pa.float32())])
            ),
        ),
        ("seconds", pa.map_(pa.string(), pa.float32())),
        ("error_type", pa.string()),
        ("error", pa.string()),
    ]
)
_KNOWN = (
    *("name", "state", "settings", "run", "finished", "sha256", "input_size", "input_version"),
    *("output_size", "output_version", "precision", "error_type", "error"),
)


@dataclass(frozen=True)
class Row:
    """What was done with one picture, as the report keeps it.

    Attributes:
        path: of the input.
        name: of the output, below the output folder.
        state: see `State`.
        settings: hash of the settings.
        run: that did it.
        finished: when.
        sha256: of the input's bytes; none where they were not read.
        input_size, input_version, output_size, output_version: as `storage.FileState`; none where there is
            no such file.
        model, weights_sha256, device, precision, strength, prompt, guards, seconds: of the restorer's report;
            strength as JSON, of the guards those that hold.
        verdict, kinds: what the recognizer found; none where it did not run.
        error_type, error: why there is no output.
    """

    path: str
    name: str
    state: str
    settings: str
    run: str
    finished: datetime
    sha256: str | None = None
    input_size: int | None = None
    input_version: str | None = None
    output_size: int | None = None
    output_version: str | None = None
    model: str | None = None
    weights_sha256: str | None = None
    device: str | None = None
    precision: str | None = None
    strength: str | None = None
    prompt: str | None = None
    guards: Sequence[str] | None = None
    verdict: str | None = None
    kinds: list[dict[str, Any]] | None = None
    seconds: dict[str, float] | None = None
    error_type: str | None = None
    error: str | None = None

    @property
    def input(self) -> tuple[int | None, str | None]:
        """Size and version of the input."""
        return self.input_size, self.input_version

    @property
    def output(self) -> tuple[int, str] | None:
        """Size and version of the output, if there is one."""
        if self.output_size is None or self.output_version is None:
            return None
        return self.output_size, self.output_version

    def with_input(self, found: FileState | None) -> "Row":
        """With what is known of the input."""
        size, version = (None, None) if found is None else (found.size, found.version)
        return dataclasses.replace(self, input_size=size, input_version=version)

    def with_output(self, found: FileState | None) -> "Row":
        """With what lies there as its output."""
        size, version = (None, None) if found is None else (found.size, found.version)
        return dataclasses.replace(self, output_size=size, output_version=version)

    def with_report(self, report: Report, seconds: dict[str, float]) -> "Row":
        """With what the restorer did."""
        found = report.recognized
        return dataclasses.replace(
            self,
            state=report.state,
            model=report.model,
            weights_sha256=report.weights_sha256,
            device=report.device,
            precision=report.precision,
            strength=json.dumps(report.strength),
            prompt=report.diagnosis,
            guards=report.held,
            seconds=report.seconds | seconds,
            verdict=None if found is None else found["verdict"],
            kinds=None
            if found is None
            else [
                {
                    "kind": kind,
                    "probability": found["probabilities"][kind],
                    "strength": found["strengths"][kind],
                }
                for kind in found["present"]
            ],
        )

    def with_error(self, state: State, error: Exception) -> "Row":
        """With why there is no output, as of now."""
        kind = type(error).__name__
        return dataclasses.replace(self, state=state, error_type=kind, error=str(error), finished=now())


class Known:
    """What reports say of each picture, the last word on each; millions of rows are shared between processes.

    Args:
        table: rows with the columns that matter here, in any order.
    """

    def __init__(self, table: Table) -> None:
        names: list[str] = table.column("name").to_pylist()
        hashes = np.fromiter(map(hash_name, names), np.uint64, len(names))
        finished = table.column("finished").cast(pa.int64()).to_numpy()
        order = np.lexsort((finished, hashes))
        last = np.append(hashes[order][1:] != hashes[order][:-1], True) if len(order) else order.astype(bool)
        self._hashes: NDArray[np.uint64] = hashes[order][last]
        self._table: Table = table.drop_columns(["name"]).take(pa.array(order[last])).combine_chunks()

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def nbytes(self) -> int:
        """What it takes of a machine's memory."""
        return self._hashes.nbytes + self._table.nbytes

    def precision(self, settings: str) -> str | None:
        """What results with these settings were computed in, if there are any."""
        rows = pc.field("settings") == settings
        found = self._table.filter(rows & pc.field("precision").is_valid()).column("precision")
        return found[0].as_py() if len(found) else None

    def row(self, path: str, name: str) -> Row | None:
        """What is known of an output, by its name; `path` is its input's."""
        key = hash_name(name)
        at = int(np.searchsorted(self._hashes, key))
        if at == len(self._hashes) or self._hashes[at] != key:
            return None
        return Row(path=path, name=name, **self._table.slice(at, 1).to_pylist()[0])


def hash_name(name: str) -> np.uint64:
    """By what names are compared by the million."""
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


class Records:
    """The folder of reports in an output.

    Args:
        output: URL of the output folder.
    """

    def __init__(self, output: str) -> None:
        self._folder = f"{output}/{FOLDER}"

    def begin(self, run: str, inputs: Sequence[str]) -> dict[str, float]:
        """Leave the mark of this run.

        Returns:
            When each run began that lives, or was killed, by the store's clock; this one is among them.

        Raises:
            UnreachableError: the output can't be written to.
        """
        storage.write(json.dumps(sorted(inputs)).encode(), self._mark(run), overwrite=False)
        found = {other: storage.state(self._mark(other)) for other in self._marks()}
        return {other: state.modified for other, state in found.items() if state is not None}

    def end(self, run: str, inputs: Sequence[str]) -> None:
        """Take the mark away, and those of killed runs over the same inputs: nothing of them is in flight."""
        own = json.dumps(sorted(inputs)).encode()
        for other in self._marks():
            if other == run or _if_there(storage.read, self._mark(other)) == own:
                storage.remove(self._mark(other))

    def part(self, run: str, names: Iterable[str]) -> list[Row]:
        """What a block's earlier attempt wrote, after which its process was lost; empty if it did not."""
        url = self._part(run, names)
        found = None if storage.state(url) is None else _if_there(_read_table, url)
        return [] if found is None else [_row(plain) for plain in found.to_pylist()]

    def write_part(self, run: str, names: Iterable[str], rows: Sequence[Row]) -> None:
        """Keep the rows of a block; whoever restores it again replaces them."""
        storage.write(_parquet([_to_table(rows)]), self._part(run, names), overwrite=True)

    def join_parts(self, name: str) -> None:
        """Make one file of `report/` out of all parts; killed between, some rows are in both.

        Another run over this output may join them at the same time: then, too.
        """
        urls = [f"{self._folder}/parts/{part}" for part in storage.listed(f"{self._folder}/parts")]
        urls = [url for url in urls if url.endswith(".parquet")]
        with ThreadPoolExecutor(THREADS) as threads:
            found = threads.map(partial(_if_there, _read_table), urls)
            tables = [table for table in found if table is not None]
            if tables:
                storage.write(_parquet(tables), f"{self._folder}/report/{name}.parquet", overwrite=True)
            list(threads.map(storage.remove, urls))

    def known(self) -> Known | None:
        """What all reports say; none if nothing was done yet.

        Raises:
            JournalError: a file among them is none of pellucid's.
        """
        tables: list[Table] = []
        with ThreadPoolExecutor(THREADS) as threads:
            # Parts first: those that are joined meanwhile are in a report by the time that these are listed.
            read = partial(_read_table, columns=_KNOWN)
            for folder in ("parts", "report"):
                names = storage.listed(f"{self._folder}/{folder}")
                urls = [f"{self._folder}/{folder}/{name}" for name in names if name.endswith(".parquet")]
                found = threads.map(partial(_if_there, read), urls)
                tables += [table for table in found if table is not None]
        return Known(pa.concat_tables(tables)) if tables else None

    def _marks(self) -> list[str]:
        return [name.removesuffix(".json") for name in storage.listed(f"{self._folder}/runs")]

    def _mark(self, run: str) -> str:
        return f"{self._folder}/runs/{run}.json"

    def _part(self, run: str, names: Iterable[str]) -> str:
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        return f"{self._folder}/parts/{run}-{digest}.parquet"


def _row(plain: dict[str, Any]) -> Row:
    seconds = plain["seconds"]  # Arrow's maps come back as pairs
    plain["seconds"] = None if seconds is None else dict(seconds)
    return Row(**plain)


def now() -> datetime:
    """The time of a row."""
    return datetime.now(UTC)


def _to_table(rows: Sequence[Row]) -> Table:
    return pa.Table.from_pylist([vars(row) for row in rows], schema=SCHEMA)


def _parquet(tables: Sequence[Table]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), buffer, compression="zstd")
    return buffer.getvalue()


def _if_there(read: Callable[[str], T], url: str) -> T | None:
    """What `read` gives of a file, unless another run has removed it."""
    try:
        return read(url)
    except UnreadableImageError:
        if storage.state(url) is not None:
            raise
        return None


def _read_table(url: str, columns: Sequence[str] | None = None) -> Table:
    try:
        return pq.read_table(io.BytesIO(storage.read(url)), schema=SCHEMA, columns=columns and list(columns))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise JournalError(
            f"{url} can't be read as a report of pellucid: {error}. Move it away, or choose another output."
        ) from error
