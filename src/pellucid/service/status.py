"""What is served, and how it is: `/v1/models`, `/healthz`, `/readyz`, `/metrics`."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.errors import StoppingError
from pellucid.service import metrics, problems, state
from pellucid.service.pictures import EVERYWHERE

router = APIRouter(tags=["status"])

_MODEL = {
    "name": "daair_s.5task",
    "structure": "daair_s",
    "parameters": 2_486_824,
    "weights_sha256": "0f3c...",
    "guided": False,
    "prompts": [],
    "device": "cpu",
    "precision": "float32",
    "default": True,
}


@router.get(
    "/v1/models",
    summary="The models that are served",
    responses={
        200: {
            "description": "Those that `model` may name, the default first.",
            "content": {"application/json": {"example": {"models": [_MODEL], "recognizer": "recognizer"}}},
        },
        **problems.documented(*EVERYWHERE),
    },
)
async def models(request: Request) -> dict[str, Any]:
    """Names, structures, hashes of the weights, and what a guided one may be told."""
    engine = state.of(request).engine
    rows: list[dict[str, Any]] = []
    for place, (name, restorer) in enumerate(engine.restorers.items()):
        prompts: Any = getattr(restorer.network.config, "prompts", ()) if restorer.spec.guided else ()
        report = restorer.describe()
        rows.append(
            {
                "name": name,
                "structure": restorer.spec.name,
                "parameters": restorer.spec.parameters,
                "weights_sha256": restorer.weights_sha256,
                "guided": restorer.spec.guided,
                "prompts": list(prompts),
                "device": report.device,
                "precision": report.precision,
                "default": place == 0,
            }
        )
    return {"models": rows, "recognizer": engine.recognizer.name}


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    """200 as long as requests are answered at all."""
    return {"status": "ok"}


@router.get("/readyz", summary="Whether it takes pictures", responses=problems.documented(StoppingError))
async def readyz(request: Request) -> dict[str, Any]:
    """200 while pictures are taken in; 503 while starting and stopping."""
    service = state.of(request)
    service.check_ready()
    return {"status": "ready", "places": service.places.limit, "taken": service.places.taken}


@router.get(
    "/metrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}},
        **problems.documented(*EVERYWHERE),
    },
)
async def metrics_text(request: Request) -> Response:
    """Requests, seconds of each stage, places taken, refusals, lost processes, jobs, memory."""
    service = state.of(request)
    for name, number in (await asyncio.to_thread(service.store.counts)).items():
        service.metrics.jobs.labels(name).set(number)
    return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)
