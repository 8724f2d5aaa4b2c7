"""`POST /v1/restore` and `POST /v1/diagnose`: a picture in, the answer out, on one connection."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from pellucid.errors import (
    BadRequestError,
    EncoderError,
    ForbiddenError,
    ImageTooLargeError,
    InputError,
    MediaTypeError,
    MemoryBudgetError,
    NotAcceptableError,
    OverloadedError,
    PellucidError,
    RequestTooLargeError,
    SlowUploadError,
    StoppingError,
    TimeLimitError,
    UnauthorizedError,
    UnknownNameError,
    UnreadableImageError,
    UnsupportedImageError,
)
from pellucid.service import problems, replies, state
from pellucid.service.bodies import RestoreOptions, body_schema, merge_options
from pellucid.service.engine import Restored, format_name

EVERYWHERE: tuple[type[PellucidError], ...] = (UnauthorizedError, ForbiddenError)
TAKING: tuple[type[PellucidError], ...] = (
    *EVERYWHERE,
    BadRequestError,
    SlowUploadError,
    RequestTooLargeError,
    ImageTooLargeError,
    MediaTypeError,
    UnsupportedImageError,
    UnreadableImageError,
    InputError,
    OverloadedError,
    StoppingError,
)

router = APIRouter(tags=["pictures"])


@router.post(
    "/v1/restore",
    summary="Restore a picture",
    response_class=Response,
    responses={
        200: {"description": "The result, as Accept asks for it.", "content": replies.documented()},
        **problems.documented(
            *TAKING, UnknownNameError, NotAcceptableError, EncoderError, TimeLimitError, MemoryBudgetError
        ),
    },
    openapi_extra=body_schema(with_options=True),
)
async def restore(request: Request, options: Annotated[RestoreOptions, Query()]) -> Response:
    """Restore a picture, sent as the raw body or as the part `image` of a form.

    `Accept` chooses what comes back: an image (in the input's format, or the one it names), `multipart/mixed`
    with a JSON report before the image, or `application/json` with the image in base64.
    """
    service = state.of(request)
    upload = await service.upload(request)
    options = merge_options(options, upload.fields)
    service.engine.check(options.for_engine())

    async def work() -> tuple[Restored, str]:
        header = await service.engine.header(upload.data)
        own = format_name(header.format)
        how, target = replies.choose(request.headers.get("accept", ""), own, options.format)
        request.scope["log"]["pixels"] = header.width * header.height
        return await service.engine.restore(upload.data, options.for_engine(), target), how

    restored, how = await service.answer(request, work())
    request.scope["log"] |= {"model": restored.report["model"], "stages": restored.report["seconds"]}
    return replies.render(restored, how)


@router.post(
    "/v1/diagnose",
    summary="Say what is wrong with a picture",
    responses={
        200: {"description": "What the recognizer found.", "content": {"application/json": {}}},
        **problems.documented(*TAKING, TimeLimitError),
    },
    openapi_extra=body_schema(with_options=False),
)
async def diagnose(request: Request) -> JSONResponse:
    """Say which degradations a picture shows, how probable and how strong each is."""
    service = state.of(request)
    upload = await service.upload(request)
    if upload.fields:
        raise BadRequestError(f"The form has the field {next(iter(upload.fields))!r}; expected image only.")

    async def work() -> dict[str, Any]:
        await service.engine.header(upload.data)
        return (await service.engine.diagnose(upload.data)).to_dict()

    return JSONResponse(await service.answer(request, work()))
