"""What a request brings: a picture, as the raw body or a part of a form, and options beside it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.json_schema import SkipJsonSchema
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pellucid.errors import (
    BadRequestError,
    InputError,
    MediaTypeError,
    RequestTooLargeError,
    SlowUploadError,
)
from pellucid.service import engine
from pellucid.service.settings import Settings
from pellucid.strength import DETAIL_KINDS, TONE_KINDS, Strength

_FORM, _RAW = "multipart/form-data", "application/octet-stream"
_SHARE = r"(0|1|0?\.[0-9]{1,9}|[01]\.0{0,9})"
_BY_KIND = f"({'|'.join((*TONE_KINDS, *DETAIL_KINDS))})={_SHARE}"
Format = Literal["jpeg", "png", "tiff", "webp", "avif"]


class RestoreOptions(BaseModel):
    """How a picture is to be restored: in the query, or as further parts of a form."""

    model_config = ConfigDict(extra="forbid")

    model: str | SkipJsonSchema[None] = Field(
        None, max_length=100, description="A name of /v1/models. Default: its first."
    )
    strength: str = Field(
        "1",
        max_length=200,
        description="0: the input's own pixels, 1: the network's; or by kind, as haze=1,noise=0.3 (light and "
        "detail have one share each).",
        examples=["0.5", "haze=1,noise=0.3"],
        json_schema_extra={
            "pattern": f"^({_SHARE}|{_BY_KIND}(,{_BY_KIND})*)$"
        },  # numbers may be written otherwise
    )
    prompt: str | SkipJsonSchema[None] = Field(
        None, max_length=100, description="For a guided model: what is wrong."
    )
    guard: bool = Field(
        True,
        description="Leave a picture alone in which nothing seems wrong, and its light where "
        "surely nothing changed it; see the haze of a large one from afar.",
    )
    format: Format | SkipJsonSchema[None] = Field(
        None, description="Of the result. Default: what Accept names, else the input's own."
    )

    @field_validator("strength")
    @classmethod
    def _is_strength(cls, text: str) -> str:
        try:
            Strength.parse(text)
        except InputError as error:
            raise ValueError(str(error)) from error
        return text

    def for_engine(self) -> engine.Options:
        """As the engine takes them."""
        return engine.Options(self.model, self.strength, self.prompt, self.guard)


@dataclass(frozen=True)
class Upload:
    """A picture's file, and the options that came with it in a form."""

    data: bytes
    fields: dict[str, str]


def body_schema(*, with_options: bool) -> dict[str, Any]:
    """OpenAPI's description of a body that `read_upload` takes."""
    picture = {"type": "string", "format": "binary", "description": "A JPEG, PNG, TIFF, WebP or AVIF file."}
    options = RestoreOptions.model_json_schema()["properties"] if with_options else {}
    form = {"type": "object", "required": ["image"], "properties": {"image": picture, **options}}
    kinds = ("image/jpeg", "image/png", "image/tiff", "image/webp", "image/avif", _RAW)
    raw = {kind: {"schema": picture} for kind in kinds}
    return {"requestBody": {"required": True, "content": {**raw, _FORM: {"schema": form}}}}


async def read_upload(request: Request, settings: Settings) -> Upload:
    """The picture of a request, read while it is counted.

    Raises:
        RequestTooLargeError: more bytes than the limit; no more are read.
        SlowUploadError: it did not arrive in time.
        MediaTypeError, BadRequestError: neither a raw picture nor a form with one.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM and kind != _RAW and not kind.startswith("image/"):
        raise MediaTypeError(
            f"The body's type is {kind[:100] or 'not given'}; expected image/..., {_RAW} or {_FORM}. "
            "Set the header Content-Type."
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise MediaTypeError(
            "The body is compressed; expected the file as it is. Leave Content-Encoding out."
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > settings.max_bytes:
        raise _too_large(settings)
    try:
        async with asyncio.timeout(settings.upload_seconds):
            if kind == _FORM:
                return await _read_form(request, settings)
            parts = [chunk async for chunk in _counted(request, settings)]
    except TimeoutError as error:
        raise SlowUploadError(
            f"The body did not arrive within {settings.upload_seconds:g} seconds. Send it faster."
        ) from error
    return Upload(b"".join(parts), {})


async def _counted(request: Request, settings: Settings) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > settings.max_bytes:
            raise _too_large(settings)
        yield chunk


async def _read_form(request: Request, settings: Settings) -> Upload:
    parser = MultiPartParser(request.headers, _counted(request, settings), max_files=1, max_fields=8)
    parser.spool_max_size = settings.max_bytes  # in memory, as a body without a form
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        told = getattr(error, "message", None) or "it has no boundary, or text that is no UTF-8"
        raise BadRequestError(f"The form can't be read: {told}. Expected multipart/form-data.") from error
    try:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise BadRequestError("The form has no file called 'image'; expected one. Add a filename to it.")
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        return Upload(await image.read(), fields)
    finally:
        await form.close()


def merge_options(options: RestoreOptions, fields: dict[str, str]) -> RestoreOptions:
    """The query's options, with those of the form over them.

    Raises:
        RequestValidationError: unknown or wrong ones.
    """
    if not fields:
        return options
    try:
        return RestoreOptions.model_validate(options.model_dump(exclude_unset=True) | fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _too_large(settings: Settings) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The body has more than the {settings.max_bytes:,} bytes that one may have. Send a smaller file."
    )
