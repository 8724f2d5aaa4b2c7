"""`/v1/jobs`: long work that outlives its connection, and the service's own restarts."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pellucid.errors import (
    BadRequestError,
    CanceledJobError,
    InputError,
    NotAcceptableError,
    OverloadedError,
    PellucidError,
    ReusedKeyError,
    StorageError,
    UnfinishedJobError,
    UnknownJobError,
    UnknownNameError,
)
from pellucid.service import problems, replies, state
from pellucid.service.bodies import RestoreOptions, body_schema, merge_options
from pellucid.service.engine import Restored, format_name
from pellucid.service.job_store import Job
from pellucid.service.pictures import EVERYWHERE, TAKING
from pellucid.service.state import Service

_KEEP_ALIVE_SECONDS = 15.0  # proxies close connections on which nothing moves

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
JobId = Annotated[str, Path(description="As `POST /v1/jobs` gave it.", max_length=100)]

_EXAMPLE = {
    "id": "Yx0kq3b1mZJm5r2hHq7WnQe4",
    "state": "running",
    "format": "jpeg",
    "pixels": 24_000_000,
    "created": "2026-01-31T12:00:00.000Z",
    "started": "2026-01-31T12:00:01.250Z",
    "finished": None,
    "expires": None,
    "attempts": 1,
    "progress": {"done": 3, "tiles": 28},
    "report": None,
    "problem": None,
    "links": {
        "self": "/v1/jobs/Yx0kq3b1mZJm5r2hHq7WnQe4",
        "events": "/v1/jobs/Yx0kq3b1mZJm5r2hHq7WnQe4/events",
        "result": "/v1/jobs/Yx0kq3b1mZJm5r2hHq7WnQe4/result",
    },
}
_JOB = {"description": "The job.", "content": {"application/json": {"example": _EXAMPLE}}}
_OF_ONE: tuple[type[PellucidError], ...] = (*EVERYWHERE, UnknownJobError, InputError)


@router.post(
    "",
    status_code=202,
    summary="Ask for a picture to be restored later",
    responses={
        200: _JOB | {"description": "The job that this Idempotency-Key stands for already."},
        202: _JOB | {"description": "A new job, which is on the disk. Location leads to it."},
        **problems.documented(*TAKING, UnknownNameError, ReusedKeyError, StorageError),
    },
    openapi_extra=body_schema(with_options=True),
)
async def create(
    request: Request,
    options: Annotated[RestoreOptions, Query()],
    idempotency_key: Annotated[
        str | None,
        Header(description="A name of the client's own; sent again, it gives the same job.", max_length=200),
    ] = None,
) -> JSONResponse:
    """Take a picture as `POST /v1/restore` does, and answer at once with a job.

    A job that was answered with 202 or 200 ends in a result or a reported failure, also if the service is
    killed meanwhile.
    """
    service = state.of(request)
    if idempotency_key is not None and not re.fullmatch(r"[\x21-\x7e]+", idempotency_key):
        raise BadRequestError("The Idempotency-Key is empty or has characters other than visible ASCII.")
    upload = await service.upload(request)
    options = merge_options(options, upload.fields)
    wanted = options.for_engine()
    service.engine.check(wanted)
    header = await service.engine.header(upload.data)
    target, pixels = options.format or format_name(header.format), header.width * header.height
    plain = options.model_dump(exclude={"format"})
    job, new = await asyncio.to_thread(service.store.add, upload.data, plain, target, pixels, idempotency_key)
    service.runner.added()
    request.scope["log"] |= {"job": job.id, "pixels": pixels}
    status = 202 if new else 200
    return JSONResponse(_describe(job, service), status, {"Location": f"{router.prefix}/{job.id}"})


@router.get(
    "/{job_id}",
    summary="How a job is",
    responses={200: _JOB, **problems.documented(*_OF_ONE)},
)
async def show(request: Request, job_id: JobId) -> JSONResponse:
    """State, progress (tiles, or passes of strips), and once it has ended the report or the problem."""
    service = state.of(request)
    return JSONResponse(_describe(await _find(service, job_id), service))


@router.get(
    "/{job_id}/result",
    summary="What came out of a job",
    response_class=Response,
    responses={
        200: {"description": "The result, as Accept asks for it.", "content": replies.documented()},
        **problems.documented(
            *_OF_ONE, NotAcceptableError, UnfinishedJobError, CanceledJobError, OverloadedError
        ),
        "default": {
            "description": "The job failed: its problem, with its status.",
            "content": {problems.MEDIA_TYPE: {"schema": problems.SCHEMA}},
        },
    },
)
async def result(request: Request, job_id: JobId) -> Response:
    """The image, or report and image, as `POST /v1/restore` sends them; the problem if the job failed."""
    service = state.of(request)
    job = await _find(service, job_id)
    if job.problem is not None:
        return problems.reply(job.problem)
    if job.state == "canceled":
        raise CanceledJobError("The job was canceled, so it has no result. Ask for a new one.")
    if job.report is None:
        raise UnfinishedJobError(
            f"The job is {job.state}; expected it to be done. Ask again, or follow its events.", retry_after=2
        )
    how, _ = replies.choose(request.headers.get("accept", ""), job.format, job.format)
    state.hold(request, service.pictures.take())
    try:
        file = state.hold(request, await asyncio.to_thread(service.store.result, job.id))
    except OSError as error:
        raise _unknown(job_id) from error
    if how == "image":
        return replies.stream(file, job.format)
    data = await asyncio.to_thread(file.read)
    return replies.render(Restored(data, job.format, job.report), how)


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events, named by the job's state, with the job as data; the last one "
            "is done, failed or canceled.",
            "content": {"text/event-stream": {"example": 'event: running\ndata: {"id": "Yx0k..."}\n\n'}},
        },
        **problems.documented(*_OF_ONE, OverloadedError),
    },
)
async def events(request: Request, job_id: JobId) -> StreamingResponse:
    """The job as it is now, then at each change: as it begins, after each tile or pass, and as it ends."""
    service = state.of(request)
    await _find(service, job_id)
    service.streams.check()
    return StreamingResponse(_events(service, job_id), media_type=replies.EVENTS)


async def _events(service: Service, job_id: str) -> AsyncGenerator[str]:
    with service.streams.take():
        last = ""
        while not service.stopping.is_set():
            change = service.runner.watch(job_id)  # before looking, so that nothing falls in between
            job = await asyncio.to_thread(service.store.find, job_id)
            if job is None:
                return
            told = json.dumps(_describe(job, service))
            if told != last:
                yield f"event: {job.state}\ndata: {told}\n\n"
                last = told
            if job.ended:
                return
            try:
                async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                    await change.wait()
            except TimeoutError:
                yield ": still there\n\n"


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Cancel or forget a job",
    response_class=Response,
    responses={204: {"description": "Done."}, **problems.documented(*_OF_ONE)},
)
async def delete(request: Request, job_id: JobId) -> Response:
    """Cancel a job that has not ended, after the tile it is at; forget one that has, with its result."""
    service = state.of(request)
    await _find(service, job_id)
    if not await service.runner.cancel(job_id):
        await asyncio.to_thread(service.store.delete, job_id)
    return Response(status_code=204)


async def _find(service: Service, job_id: str) -> Job:
    job = await asyncio.to_thread(service.store.find, job_id)
    if job is None:
        raise _unknown(job_id)
    return job


def _unknown(job_id: str) -> UnknownJobError:
    return UnknownJobError(f"There is no job {job_id[:40]!r}, or no longer. Ask for a new one.")


def _describe(job: Job, service: Service) -> dict[str, Any]:
    path, progress = f"{router.prefix}/{job.id}", service.runner.progress(job.id)
    expires = None if job.finished is None else job.finished + service.settings.keep_seconds
    return {
        "id": job.id,
        "state": job.state,
        "format": job.format,
        "pixels": job.pixels,
        "created": _moment(job.created),
        "started": _moment(job.started),
        "finished": _moment(job.finished),
        "expires": _moment(expires),
        "attempts": job.attempts,
        "progress": {"done": progress.done, "tiles": progress.tiles} if job.state == "running" else None,
        "report": job.report,
        "problem": job.problem,
        "links": {"self": path, "events": f"{path}/events", "result": f"{path}/result"},
    }


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
