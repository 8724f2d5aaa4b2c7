"""`pellucid serve`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli._shared import (
    Actor,
    AllowHost,
    AllowOrigin,
    Device,
    EngineName,
    Host,
    Memory,
    Models,
    Port,
    PrecisionName,
    Public,
    TokenFile,
    given_tokens,
    load_restorer,
    parse_path,
    parse_size,
    say,
)
from pellucid.errors import InputError
from pellucid.weights import DEFAULT

if TYPE_CHECKING:
    from pellucid.restorer import TorchRestorer


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    model: Models = None,
    device: Device = None,
    precision: PrecisionName = None,
    memory: Memory = None,
    engine: EngineName = "torch",
    token_file: TokenFile = None,
    public: Public = False,
    allow_origin: AllowOrigin = None,
    allow_host: AllowHost = None,
    max_bytes: Annotated[str, typer.Option(help="Of a request's body.")] = "64MB",
    max_pixels: Annotated[int, typer.Option(min=1, help="Width times height of a picture.")] = 50_000_000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a reply, waiting included.")] = 120,
    queue: Annotated[int, typer.Option(min=1, help="Pictures that wait or run; then comes 429.")] = 16,
    concurrency: Annotated[int, typer.Option(min=1, help="Pictures read or sent at once; then a 429.")] = 32,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that decode and encode.")] = 2,
    worker_memory: Annotated[
        str | None, typer.Option(help="Of each of them. Default: by --max-pixels.", show_default=False)
    ] = None,
    worker_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to decode or encode one.")] = 30,
    data: Annotated[
        Path, typer.Option(parser=parse_path, help="Folder of jobs; only its owner may look into it.")
    ] = Path("pellucid-jobs"),
    max_jobs: Annotated[int, typer.Option(min=1, help="Jobs that wait; then comes 429.")] = 100,
    job_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a job may run.")] = 3600,
    keep: Annotated[float, typer.Option(min=0.01, help="Hours that results of jobs are kept.")] = 24,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds that a stop waits for what is under way.")
    ] = 20,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run the networks on the Ray cluster there (extra ray), or on a Ray of this machine's "
            "own: local.",
        ),
    ] = None,
    actor: Actor = "cpu=1",
    replicas: Annotated[int, typer.Option(min=1, help="With --ray: most processes with the networks.")] = 8,
) -> None:
    """Answer HTTP requests: restore and diagnose pictures.

    Listens on loopback by default. Another address needs a token, or --public. See docs/service.md.
    """
    tokens = given_tokens(token_file)  # processes that decode strangers' pictures must not inherit them
    try:
        import fastapi
        import prometheus_client
        import python_multipart
        import uvicorn
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed, which the service needs. "
            "Install it with: pip install 'pellucid[serve]'"
        ) from error
    del fastapi, prometheus_client, python_multipart, uvicorn
    from pellucid.access import listen
    from pellucid.service.settings import Settings

    settings = Settings(
        host=host,
        port=port,
        tokens=tokens,
        public=public,
        origins=tuple(allow_origin or ()),
        hosts=tuple(name.lower() for name in allow_host or ()),
        max_bytes=parse_size(max_bytes),
        max_pixels=max_pixels,
        request_seconds=timeout,
        queue=queue,
        concurrency=concurrency,
        workers=workers,
        worker_bytes=None if worker_memory is None else parse_size(worker_memory),
        worker_seconds=worker_timeout,
        data=data,
        max_jobs=max_jobs,
        job_seconds=job_timeout,
        keep_seconds=keep * 3600,
        drain_seconds=drain,
    )
    bound = listen(settings)  # refused before anything is loaded
    from pellucid.cli._shared import describe
    from pellucid.codec.pool import preload
    from pellucid.compute import probe_picture
    from pellucid.service.server import run

    with bound:
        preload()  # imports on the other core meanwhile
        restorers: dict[str, TorchRestorer] = {}
        own = device if ray is None else "cpu"  # with replicas, the networks here only describe themselves
        given: dict[str, str] = {}
        for name in model or [DEFAULT]:
            restorer = load_restorer(name, own, precision, memory, guard=True, engine=engine)
            say(describe(restorer.describe()))
            restorers[restorer.name], given[restorer.name] = restorer, name
            if ray is None:
                restorer(probe_picture(64)[0])  # what a first picture takes longer, nobody is to wait for
        recognizer = next(iter(restorers.values())).recognizer
        with contextlib.ExitStack() as stack:
            elsewhere = None
            if ray is not None:
                from pellucid.cli._cluster import Loaded, Place, serve_on_cluster

                loaded = Loaded(
                    [(given[name], one) for name, one in restorers.items()], device, memory, engine
                )
                serving = serve_on_cluster(Place(ray, actor), replicas, loaded, settings)
                elsewhere = stack.enter_context(serving)
            run(settings, restorers, recognizer, bound, elsewhere)
