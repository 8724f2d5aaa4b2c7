"""The run on Ray: blocks of paths go to a pool of actors, each with the network; what comes back is counted.

Pictures never pass through Ray: an actor reads and writes the stores itself. So a lost machine costs the
blocks it had, which Ray gives to others, and the memory of a machine holds a few pictures per actor.
"""

import contextlib
import itertools
import logging
import math
import os
import re
import socket
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its own log files tell more
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # else lost processes are told of on stdout

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from pellucid.cluster import storage
from pellucid.cluster.inputs import Inputs
from pellucid.cluster.report import Known, Records, Row, Table, now
from pellucid.cluster.worker import Outcome, Task, Worker, load_restorer, outcome_of
from pellucid.errors import InputError, PellucidError, UnreachableError

BLOCK = 32  # pictures, at most, between two looks at the report: what a lost actor may have done in vain
CHUNK = 200_000  # pictures, at least, whose paths are in Ray's memory at once, and of one file of the report
PER_ACTOR = 5_000  # pictures of a chunk, at least: actors load the network once a chunk
ATTEMPTS = 3  # at a block, each of which took its actor with it; then its pictures are tried one by one
INIT_DEATHS = 10  # of actors, one after another, before it is the cluster's fault
LOCAL_STORE = 200_000_000  # bytes of shared memory of a local Ray: only paths pass through it


@dataclass(frozen=True)
class ActorSize:
    """What an actor takes of its machine.

    Attributes:
        cpus: cores, which its network has.
        gpus: a share of one GPU, or whole ones.
    """

    cpus: float = 1
    gpus: float = 0

    @classmethod
    def parse(cls, text: str) -> "ActorSize":
        """From "cpu=4", "gpu=0.25" or both with a comma between.

        Raises:
            InputError: no such size.
        """
        try:
            given = {name: float(number) for name, _, number in (p.partition("=") for p in text.split(","))}
            size = cls(given.pop("cpu", 1.0), given.pop("gpu", 0.0))
            if given or not 0 < size.cpus < math.inf or not 0 <= size.gpus < math.inf:
                raise ValueError
        except ValueError:
            raise InputError(
                f"--actor is {text[:40]!r}; expected what one takes of a machine, as cpu=4 or gpu=0.25,cpu=2."
            ) from None
        return size

    def fits(self, resources: dict[str, float]) -> int:
        """How many fit on a machine."""
        by_cpu = int(resources.get("CPU", 0) / self.cpus)
        return min(by_cpu, int(resources.get("GPU", 0) / self.gpus)) if self.gpus else by_cpu

    def share(self, resources: dict[str, float]) -> float:
        """The part of its machine's memory, or its GPU's, that is its own."""
        return min(1.0, self.gpus) if self.gpus else 1 / max(1, self.fits(resources))

    def share_here(self) -> float:
        """`share` of the machine that this process of a cluster runs on."""
        here = ray.get_runtime_context().get_node_id()
        return self.share(next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here))


@contextlib.contextmanager
def connected(address: str, store: int = LOCAL_STORE) -> Generator[None]:
    """A connection to the cluster at `address`, or a Ray of this machine's own for "local".

    Args:
        address: as Ray takes it.
        store: bytes of shared memory for a Ray of this machine's own.

    Raises:
        UnreachableError: no cluster answers there.
    """
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the report says what failed
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": store}
    try:
        if match := re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address):
            socket.create_connection(
                (match[1].strip("[]"), int(match[2])), timeout=10
            ).close()  # Ray waits long
        with _muffled():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **own if address == "local" else {},
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise UnreachableError(
            f"The Ray cluster at {address} can't be used: {error}. Expected an address such as "
            "10.0.0.1:6379, auto, or local for this machine alone."
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # their pictures are tried again one by one
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _muffled() -> Generator[None]:
    """Nothing on stderr from Ray's libraries, which say there how they log; errors are raised."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, not a file
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Tally:
    """Counts the attempts at each block: Ray Data gives lost ones to other actors without an end."""

    def __init__(self) -> None:
        self._attempts = Counter[str]()

    def begin(self, block: str) -> int:
        self._attempts[block] += 1
        return self._attempts[block]


class _Actor:
    """A worker that Ray Data holds; what is large comes through Ray's memory, once per machine."""

    def __init__(self, task: Task, size: ActorSize, tally: Any, shared: Sequence[Any]) -> None:
        self._tally = tally
        weights, known = ray.get(list(shared))
        self._worker = Worker(replace(task, share=size.share_here()), weights, known)

    def __call__(self, block: Table) -> Table:
        paths, names = block.column("path").to_pylist(), block.column("name").to_pylist()
        attempt = cast(int, ray.get(self._tally.begin.remote("\n".join(names))))
        outcomes = self._worker.restore(paths, names) if attempt <= ATTEMPTS else []
        return pa.Table.from_pylist([vars(outcome) for outcome in outcomes], schema=_OUTCOMES)


_OUTCOMES = pa.schema(
    [
        ("path", pa.string()),
        ("name", pa.string()),
        ("state", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("written", pa.bool_()),
        ("known", pa.bool_()),
        ("guards", pa.list_(pa.string())),
    ]
)


def restore(inputs: Inputs, task: Task, weights: bytes | None, size: ActorSize) -> Iterator[Outcome]:
    """Restore what is to do, on the cluster that is connected; the outcomes, as they come.

    Every picture has exactly one, and, unless it was done or failed before, a row in the report.

    Args:
        inputs: the pictures.
        task: what this run is; the name of the run and when runs began are filled in here.
        weights: bytes of the model's file, where it is not one of the embedded.
        size: of an actor.

    Raises:
        PellucidError: inputs, output or cluster can't be used.
    """
    records = Records(task.output)
    task = replace(task, began=records.begin(task.run, inputs.urls))
    records.join_parts(f"{task.run}-before")  # of runs that were killed
    known = records.known()
    task = replace(task, precision=_precision(task, weights, known, size))
    pairs = inputs.pairs()
    with ThreadPoolExecutor(1, thread_name_prefix="joiner") as joiner:
        joining: list[Future[None]] = []
        for number in itertools.count():
            actors = max(1, sum(size.fits(node["Resources"]) for node in ray.nodes() if node["Alive"]))
            chunk = list(itertools.islice(pairs, max(CHUNK, PER_ACTOR * actors)))
            if not chunk:
                break
            yield from _Pass(actors, task, weights, known, size).restore(chunk)
            joining.append(joiner.submit(records.join_parts, f"{task.run}-{number:05}"))
        for joined in joining:
            joined.result()
    storage.remove_leftovers(task.output)
    records.end(task.run, inputs.urls)


def _precision(task: Task, weights: bytes | None, known: Known | None, size: ActorSize) -> str:
    """What all actors compute in: what was asked for, or earlier runs took, or one of them finds best.

    If each chose by its own probe, times on a busy machine would decide about bytes.
    """
    kept = None if known is None else known.precision(task.settings)
    if precision := task.precision or kept:
        return precision
    scout = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus)(_scout)
    with answers():
        return ray.get(scout.remote(task, weights))


def _scout(task: Task, weights: bytes | None) -> str:
    return load_restorer(task, weights).precision


@dataclass(frozen=True)
class _Pass:
    """Actors over a chunk of pictures.

    Attributes:
        actors: how many the cluster has room for.
        task: what they do.
        weights: of a file, where they have no name.
        known: what earlier runs and passes did.
        size: what an actor takes.
    """

    actors: int
    task: Task
    weights: bytes | None
    known: Known | None
    size: ActorSize

    def restore(self, chunk: Sequence[tuple[str, str]]) -> Iterator[Outcome]:
        """What became of each (path, name); what is lost with its process is tried once more, alone."""
        todo = {name: path for path, name in chunk}
        block = max(1, min(BLOCK, math.ceil(len(chunk) / (4 * self.actors))))
        records = Records(self.task.output)
        one = self
        for length in (block, 1):  # one by one, a picture that ends its process takes no others along
            for outcome in one._in_blocks(list(todo.items()), length):
                if todo.pop(outcome.name, None) is not None:
                    yield outcome
            if not todo:
                return
            one = replace(self, known=records.known())
        error = UnreachableError(
            f"The process that had it was lost {ATTEMPTS} times. Try it alone, with more memory; the next "
            "run tries it again."
        )
        task = self.task
        lost = [
            Row(path, name, "broken off", task.settings, task.run, now()).with_error("broken off", error)
            for name, path in todo.items()
        ]
        records.write_part(task.run, todo, lost)
        yield from map(outcome_of, lost)

    def _in_blocks(self, todo: Sequence[tuple[str, str]], length: int) -> Iterator[Outcome]:
        blocks = [
            pa.table({"name": [name for name, _ in part], "path": [path for _, path in part]})
            for part in (todo[start : start + length] for start in range(0, len(todo), length))
        ]
        strategy = ray.data.ActorPoolStrategy(
            min_size=1,
            initial_size=min(self.actors, len(blocks)),
            max_size=len(blocks),
            max_tasks_in_flight_per_actor=2,
        )
        tally = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tally).remote()
        shared = [ray.put(self.weights), ray.put(self.known)]
        outcomes = ray.data.from_arrow(blocks).map_batches(
            _Actor,
            fn_constructor_args=(self.task, self.size, tally, shared),
            batch_size=None,
            batch_format="pyarrow",
            compute=strategy,
            num_cpus=self.size.cpus,
            num_gpus=self.size.gpus,
        )
        with answers():
            for batch in outcomes.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from (Outcome(**plain) for plain in cast(Table, batch).to_pylist())


@contextlib.contextmanager
def answers() -> Generator[None]:
    """What pellucid raised on another machine is raised here.

    Raises:
        PellucidError: that, or an UnreachableError for what ails the cluster.
    """
    try:
        yield
    except RayError as error:
        # A task's error holds its cause; an actor's that could not begin is wrapped once more.
        for wrapped in (error, *error.args):
            if isinstance(cause := getattr(wrapped, "cause", None), PellucidError):
                raise cause from None
        raise UnreachableError(
            f"The cluster gave up: {str(error).strip().splitlines()[0]}. Look at its logs, and ask "
            "again: a folder goes on where it was."
        ) from error
