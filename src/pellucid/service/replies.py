"""How a result is sent: what `Accept` asks for, as an image, or as a report and an image."""

import base64
import json
import os
import secrets
from typing import Any, BinaryIO

from starlette.responses import JSONResponse, Response, StreamingResponse

from pellucid.errors import NotAcceptableError
from pellucid.service.engine import SUFFIX, Restored

MEDIA_TYPES = {name: f"image/{name}" for name in SUFFIX}
MIXED, JSON, EVENTS = "multipart/mixed", "application/json", "text/event-stream"
PIECE = 64 * 1024  # bytes of a reply that are handed on at once: what a connection holds before it is read


def choose(accept: str, own: str, wanted: str | None) -> tuple[str, str]:
    """How to send a result, and in which format.

    Args:
        accept: the header, empty if there is none.
        own: the input's format.
        wanted: the format that the options ask for, or none.

    Returns:
        "image", `MIXED` or `JSON`; and the format, as in `SUFFIX`.

    Raises:
        NotAcceptableError: nothing fits.

    >>> choose("image/png, */*;q=0.1", "jpeg", None)
    ('image', 'png')
    >>> choose("application/json", "jpeg", None)
    ('application/json', 'jpeg')
    """
    formats = [wanted] if wanted else [own, *(name for name in SUFFIX if name != own)]
    offers = [(MEDIA_TYPES[name], ("image", name)) for name in formats]
    offers += [(MIXED, (MIXED, wanted or own)), (JSON, (JSON, wanted or own))]
    ranges = _parse(accept) if accept.strip() else [("*/*", 1.0)]
    rated = [(_quality(media_type, ranges), offer) for media_type, offer in offers]
    best = max(quality for quality, _ in rated)
    if best <= 0:
        kinds = ", ".join(media_type for media_type, _ in offers)
        raise NotAcceptableError(f"Accept is {accept[:200]!r}; expected one of {kinds}, or */*.")
    return next(offer for quality, offer in rated if quality == best)


def _parse(accept: str) -> list[tuple[str, float]]:
    ranges: list[tuple[str, float]] = []
    for item in accept.split(",")[:50]:
        media_range, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = min(1.0, max(0.0, float(value)))
                except ValueError:
                    quality = 0.0
        ranges.append((media_range, quality))
    return ranges


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """What the most specific range that holds the media type says of it."""
    for candidate in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        for media_range, quality in ranges:
            if media_range == candidate:
                return quality
    return 0.0


def render(restored: Restored, how: str) -> Response:
    """The reply for a result, sent as `choose` said."""
    media_type = MEDIA_TYPES[restored.format]
    if how == JSON:
        image = {"media_type": media_type, "base64": base64.b64encode(restored.data).decode("ascii")}
        return JSONResponse({"report": restored.report, "image": image}, headers={"Vary": "Accept"})
    if how != MIXED:
        return Response(restored.data, media_type=media_type, headers={"Vary": "Accept"})
    boundary = secrets.token_hex(16)
    parts = (
        (JSON, "report.json", json.dumps(restored.report).encode()),
        (media_type, f"restored{SUFFIX[restored.format]}", restored.data),
    )
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        f'Content-Disposition: attachment; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for kind, name, data in parts
    )
    body += f"--{boundary}--\r\n".encode()
    return Response(body, media_type=f'{MIXED}; boundary="{boundary}"', headers={"Vary": "Accept"})


def stream(file: BinaryIO, name: str) -> Response:
    """The reply for an image, in the format of that name, that is read from an open file as it is sent."""
    size = os.fstat(file.fileno()).st_size
    headers = {"Vary": "Accept", "Content-Length": str(size)}
    pieces = iter(lambda: file.read(PIECE), b"")
    return StreamingResponse(pieces, media_type=MEDIA_TYPES[name], headers=headers)


def documented() -> dict[str, Any]:
    """OpenAPI's content of a reply that `render` gives."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    report = {
        "model": "daair_s.5task",
        "device": "cpu",
        "precision": "float32",
        "tiles": 1,
        "strength": 1.0,
        "guards": {"redone_in_float32": False, "replanned": False},
        "seconds": {"wait": 0.0, "read": 0.01, "restore": 0.42, "write": 0.02},
    }
    example = {"report": report, "image": {"media_type": "image/png", "base64": "iVBORw0KGgo="}}
    schema = {
        "type": "object",
        "required": ["report", "image"],
        "properties": {
            "report": {"type": "object"},
            "image": {
                "type": "object",
                "required": ["media_type", "base64"],
                "properties": {"media_type": {"type": "string"}, "base64": {"type": "string"}},
            },
        },
    }
    return {
        **dict.fromkeys(MEDIA_TYPES.values(), binary),
        MIXED: binary,
        JSON: {"schema": schema, "example": example},
    }
