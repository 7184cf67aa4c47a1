"""Errors as answers: the one table from classes of errors to statuses, and their bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException

from icehouse.api.server import Problem
from icehouse.errors import (
    CannotSign,
    Conflict,
    Corrupt,
    Denied,
    IcehouseError,
    InvalidFormat,
    NotFound,
    OverQuota,
    RateLimited,
    StorageError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from icehouse.http.streaming import ClientLeft

STATUSES: Final[dict[type[IcehouseError], tuple[int, str]]] = {
    InvalidFormat: (400, "Malformed request"),
    Unauthenticated: (401, "Credentials needed"),
    Denied: (403, "Not permitted"),
    NotFound: (404, "Not found"),
    Conflict: (409, "Not possible in the present state"),
    TooLarge: (413, "Too large"),
    Unsupported: (415, "Not supported"),
    RateLimited: (429, "Too many requests"),
    Corrupt: (500, "Internal error"),
    Unavailable: (503, "Not available for now"),
    CannotSign: (503, "Not available for now"),
    OverQuota: (507, "Storage is full"),
}
"""Status and title of each class of errors that is raised."""

CHALLENGE: Final = 'Basic realm="icehouse"'
UNAVAILABLE_RETRY_SECONDS: Final = 5

_OUR_FAULT: Final = (
    "Something is wrong on the server, not with this request; its log has the rest under the request id."
)
_NOT_NOW: Final = "The server's storage does not answer for now; the request may be sent again."

_log = structlog.get_logger(__name__)


def make_problem(error: Exception, request_id: str) -> tuple[Problem, dict[str, str]]:
    """The body for *error*, and the headers that go with its status. Tells clients only what they caused."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        title, detail = _describe_http(error)
        headers |= {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
        return Problem(title=title, status=error.status_code, detail=detail, request_id=request_id), headers
    if isinstance(error, ClientLeft):
        error = InvalidFormat("the body broke off before its end")
    status, title = next(
        (STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), (500, STATUSES[Corrupt][1])
    )
    detail = str(error)
    match error:
        case Unauthenticated():
            headers["www-authenticate"] = CHALLENGE
        case RateLimited():
            headers["retry-after"] = str(error.retry_after_seconds)
        case Unavailable():
            headers["retry-after"] = str(UNAVAILABLE_RETRY_SECONDS)
            detail = detail if isinstance(error, CannotSign) else _NOT_NOW
        case OverQuota():
            pass
        case _ if status >= 500:  # noqa: PLR2004  where statuses of our own faults begin
            detail = _OUR_FAULT
        case _:
            pass
    return Problem(title=title, status=status, detail=detail, request_id=request_id), headers


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's handler for every error."""
    request_id = str(cast("Mapping[str, object]", request.scope["state"]).get("request_id", ""))
    problem, headers = make_problem(error, request_id)
    if isinstance(error, ClientLeft):
        _log.info("client left", path=request.url.path)
    elif isinstance(error, StorageError):
        _log.error("storage failed", path=request.url.path, error=str(error), exc_info=error)
    elif not isinstance(error, (IcehouseError, HTTPException)):
        _log.error("request failed", path=request.url.path, exc_info=error)
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        headers={**headers, "cache-control": "no-store"},
        media_type="application/problem+json" if request.method != "HEAD" else MediaType.TEXT,
    )


def _describe_http(error: HTTPException) -> tuple[str, str]:
    """Title and detail of an error that litestar found in a request: a wrong path, method or body."""
    if error.status_code >= 500:  # noqa: PLR2004  as above
        return STATUSES[Corrupt][1], _OUR_FAULT
    title = next((title for status, title in STATUSES.values() if status == error.status_code), "Refused")
    places: list[str] = []
    if isinstance(error.extra, list):
        for place in error.extra:
            match place:
                case {"key": str(key), "message": str(message)}:
                    places.append(f"{key}: {message}")
                case {"message": str(message)}:
                    places.append(message)
                case _:
                    pass
    return title, "; ".join([error.detail, *places])
