"""The networks on Ray Serve, as many replicas as requests need, behind the service's one door.

The door keeps what a service is: limits, tokens, jobs, errors. A replica gets the bytes of a file and gives
back those of the result.
"""

import asyncio
import contextlib
import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from pellucid.access import Tokens
from pellucid.cluster import run
from pellucid.cluster.run import ActorSize
from pellucid.cluster.worker import Task, load_restorer
from pellucid.diagnosis import Diagnosis
from pellucid.service.codec import Codec
from pellucid.service.engine import Engine, Options, Restored
from pellucid.service.metrics import Metrics
from pellucid.service.settings import Settings

from ray import serve  # isort: skip - after pellucid.cluster.run, which sets how Ray logs

T = TypeVar("T")

ONGOING = 2  # requests that a replica has: one on the network, one that is read or written
STORE = 1_000_000_000  # bytes of shared memory of a local Ray, through which files pass


@dataclass(frozen=True)
class Model:
    """A model that replicas load.

    Attributes:
        name: under which it is served.
        task: how it is loaded.
        weights: bytes of its file, where it is not one of the embedded.
    """

    name: str
    task: Task
    weights: bytes | None


class Replica:
    """The networks in one process of the cluster."""

    def __init__(self, models: Sequence[Model], size: ActorSize, settings: Settings) -> None:
        share = size.share_here()
        restorers = {
            model.name: load_restorer(replace(model.task, share=share), model.weights) for model in models
        }
        recognizer = next(iter(restorers.values())).recognizer
        self._engine = Engine(settings, restorers, recognizer, Codec(settings), Metrics())

    async def restore(self, data: bytes, options: Options, target: str) -> Restored:
        """See `Engine.restore`."""
        return await self._engine.restore(data, options, target)

    async def diagnose(self, data: bytes) -> Diagnosis:
        """See `Engine.diagnose`."""
        return await self._engine.diagnose(data)


class Replicas:
    """The replicas, as `pellucid.service.engine.Elsewhere`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def restore(self, data: bytes, options: Options, target: str) -> Restored:
        """See `Engine.restore`."""
        return cast(Restored, await _answer(self._handle.restore.remote(data, options, target)))

    async def diagnose(self, data: bytes) -> Diagnosis:
        """See `Engine.diagnose`."""
        return cast(Diagnosis, await _answer(self._handle.diagnose.remote(data)))


async def _answer(response: Any) -> Any:
    try:
        with run.answers():
            return await response
    except asyncio.CancelledError:
        response.cancel()  # nobody waits: the replica stops after the present tile
        raise


@contextlib.contextmanager
def replicas(
    address: str, models: Sequence[Model], size: ActorSize, most: int, settings: Settings
) -> Generator[Replicas]:
    """Replicas on the cluster at `address`, from one to `most`, as long as the context lasts.

    Raises:
        UnreachableError: no cluster answers there.
        PellucidError: a replica can't load its models.
    """
    own = replace(settings, tokens=Tokens([]))  # the door keeps them to itself
    with run.connected(address, STORE):
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        deployment = serve.deployment(
            Replica,
            name="networks",
            max_ongoing_requests=ONGOING,
            autoscaling_config={"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": 1},
            ray_actor_options={"num_cpus": size.cpus, "num_gpus": size.gpus},
        )
        serve.start(proxy_location="Disabled")
        try:
            with run.answers():
                handle = serve.run(
                    cast(Any, deployment).bind(models, size, own), name="pellucid", route_prefix=None
                )
            yield Replicas(handle)
        finally:
            serve.shutdown()
