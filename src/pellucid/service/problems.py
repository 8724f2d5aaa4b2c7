"""Errors as replies: problem details (RFC 9457), made from the one table in `pellucid.errors`."""

import json
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pellucid.errors import OverloadedError, PellucidError, UnauthorizedError

MEDIA_TYPE = "application/problem+json"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "A name that stays the same, for programs."},
        "title": {"type": "string", "description": "What sort of problem it is."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What was found, what was expected, the next step."},
        "request_id": {"type": "string", "description": "As in X-Request-ID and in the service's log."},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "One for each wrong option."},
    },
}


def describe(error: PellucidError, request_id: str = "") -> dict[str, Any]:
    """An error as the members of a problem."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
    problem: dict[str, Any] = {
        "type": f"urn:pellucid:problem:{name}",
        "title": (type(error).__doc__ or "").splitlines()[0],
        "status": error.http_status,
        "detail": str(error),
    }
    return problem | ({"request_id": request_id} if request_id else {})


def reply(problem: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """The response that tells a problem."""
    body = json.dumps(problem, ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, problem["status"], headers, MEDIA_TYPE)


def reply_to(error: PellucidError, request_id: str = "") -> Response:
    """The response that tells an error."""
    headers: dict[str, str] = {}
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = 'Bearer realm="pellucid"'
    if (seconds := getattr(error, "retry_after", None)) is not None:
        headers["Retry-After"] = str(seconds)
    return reply(describe(error, request_id), headers)


def unforeseen(request_id: str) -> Response:
    """The response for a fault of pellucid's own; its traceback is in the log, not here."""
    return reply(fault(request_id))


def fault(request_id: str) -> dict[str, Any]:
    """The problem for a fault of pellucid's own."""
    detail = "The service met a fault of its own. Tell its operator the id, which its log holds."
    return _plain(500, "A fault of the service.", detail, request_id)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, PellucidError)
        return reply_to(error, _request_id(request))

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = {
            404: f"There is nothing at {request.url.path}. The paths are listed in /openapi.json.",
            405: f"{request.url.path} does not take {request.method}. What it takes is in the header Allow.",
        }.get(error.status_code, str(error.detail))
        problem = _plain(error.status_code, str(error.detail), detail, _request_id(request))
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(app, request.url.path)
        return reply(problem, headers)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return reply(invalid_options(list(error.errors()), _request_id(request)))

    app.add_exception_handler(PellucidError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _allowed(app: FastAPI, path: str) -> str:
    """All methods that a path takes; the framework names those of one of its routes only."""
    methods: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), path):
            methods |= {method.upper() for method in operations}
    return ", ".join(sorted(methods))


def invalid_options(faults: list[Any], request_id: str) -> dict[str, Any]:
    """The problem for options that pydantic refuses."""
    errors = [{"option": _option(fault["loc"]), "detail": _sentence(fault)} for fault in faults]
    listed = " ".join(f"{error['option']}: {error['detail']}" for error in errors)
    return _plain(422, "Options that can't be used.", listed, request_id) | {"errors": errors}


def _sentence(fault: dict[str, Any]) -> str:
    """What is wrong: pydantic puts words before pellucid's own sentence, and no full stop behind its."""
    return str(fault["ctx"]["error"]) if fault["type"] == "value_error" else f"{fault['msg']}."


def _option(location: tuple[Any, ...]) -> str:
    parts = [str(part) for part in location if part not in ("query", "header", "path", "body")]
    return ".".join(parts)[:100] or "request"


def _plain(status: int, title: str, detail: str, request_id: str) -> dict[str, Any]:
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return problem | ({"request_id": request_id} if request_id else {})


def _request_id(request: Request) -> str:
    return str(request.scope.get("request_id", ""))


def documented(*kinds: type[PellucidError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses for these errors, with an example of each status."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        example = describe(kind(kind.__doc__ or ""), "d5c9a3f0b1e84a67")
        row = found.setdefault(
            kind.http_status,
            {"description": example["title"], "content": {MEDIA_TYPE: {"schema": SCHEMA, "examples": {}}}},
        )
        row["content"][MEDIA_TYPE]["examples"][kind.__name__] = {"value": example}
        if kind is OverloadedError:
            row["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return found
