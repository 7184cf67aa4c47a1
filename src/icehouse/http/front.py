"""What stands around all but the hot routes: identifiers of requests, refusal of hostile paths, log lines, counters."""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import structlog

from icehouse.errors import InvalidFormat
from icehouse.http.asgi import (
    Application,
    Header,
    Message,
    Receive,
    Scope,
    Send,
    answer,
    find_header,
    find_peer,
    find_value,
)
from icehouse.http.cache_files import refuse_unknown_file
from icehouse.http.errors import make_problem
from icehouse.http.metrics import ServerCounters

API_SEGMENTS: Final = frozenset({b"api", b"health", b"metrics"})
"""First segments that the API answers."""

PAGE_SEGMENTS: Final = frozenset({b"docs", b"login", b"logout", b"static", b"ui"})
"""First segments that the web page answers. Every other one is, or could be, a cache's name."""

_BROWSERS_ALONE: Final = re.compile(rb"/(?:[a-z0-9](?:[a-z0-9-]{0,48}[a-z0-9])?/?)?")
"""The first page and those of caches. They are for who asks for HTML; Nix, which does not, finds nothing there."""

_REQUEST_ID: Final = re.compile(rb"[0-9A-Za-z._-]{1,64}")
# Escapes of a slash, a dot and NUL; empty, "." and ".." segments; and what no URL has. An escaped backslash is an
# ordinary letter of a file's name, as systemd has them; in the API nothing has one.
_HOSTILE: Final = re.compile(rb"%(?:2f|2e|00)|//|/\.{1,2}(?:/|\Z)|[^!-~]", re.IGNORECASE)
_BACKSLASH: Final = re.compile(rb"%5c", re.IGNORECASE)
_QUIET_PATHS: Final = frozenset({b"/health", b"/health/ready", b"/metrics"})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_log = structlog.get_logger(__name__)


class Front:
    """The ASGI application between the hot routes and all others."""

    def __init__(
        self, served: Application, files: Application, counters: ServerCounters, *, trusted_proxies: Sequence[str] = ()
    ) -> None:
        """*served* answers for the API and the pages, *files* for all that can only be a file of a cache."""
        self._served = served
        self._files = files
        self._counters = counters
        self._trusted = parse_networks(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._served(scope, receive, send)
            return
        raw_path: bytes = scope["raw_path"]
        is_file = not is_of_api(raw_path) and not _is_page(scope)
        application = self._files if is_file else self._served
        if _HOSTILE.search(raw_path) is not None or (not is_file and _BACKSLASH.search(raw_path) is not None):
            application = refuse_unknown_file if is_file else _refuse_path
        await self._answer(application, scope, receive, send, raw_path)

    async def _answer(
        self, application: Application, scope: Scope, receive: Receive, send: Send, raw_path: bytes
    ) -> None:
        began = time.perf_counter()
        request_id = choose_request_id(find_header(scope, b"x-request-id"))
        client = find_client(find_peer(scope), scope["headers"], self._trusted)
        scope["state"].update(request_id=request_id, client=client)
        status = 0
        bytes_sent = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status, bytes_sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            else:
                bytes_sent += len(message.get("body", b""))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await application(scope, receive, send_with_id)
            seconds = time.perf_counter() - began
            level = _log.debug if raw_path in _QUIET_PATHS else _log.info
            level(
                "request",
                method=scope["method"],
                path=raw_path.decode("ascii", "replace"),
                status=status,
                seconds=round(seconds, 6),
                client=client,
            )
        # The template has the names of parameters in place of their values, so there are few of them.
        self._counters.route(scope.get("path_template") or "unknown").count(status, seconds, bytes_sent)


def is_of_api(raw_path: bytes) -> bool:
    """Tell whether a path is the API's."""
    return raw_path[1:].partition(b"/")[0] in API_SEGMENTS


def _is_page(scope: Scope) -> bool:
    raw_path: bytes = scope["raw_path"]
    if raw_path[1:].partition(b"/")[0] in PAGE_SEGMENTS:
        return True
    is_reading = scope["method"] in {"GET", "HEAD"}
    return is_reading and _BROWSERS_ALONE.fullmatch(raw_path) is not None and _wants_html(scope)


def _wants_html(scope: Scope) -> bool:
    return b"text/html" in (find_header(scope, b"accept") or b"").lower()


def choose_request_id(sent: bytes | None) -> str:
    """The client's own identifier where it is 1 to 64 letters, digits, dots, dashes and underscores; else a new one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent) is not None:
        return sent.decode()
    return secrets.token_hex(8)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks that were checked as settings."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def find_client(peer: str, headers: Iterable[Header], trusted: Sequence[Network]) -> str:
    """The address of the client: the nearest one in ``X-Forwarded-For`` that no trusted proxy has, else *peer*'s.

    Only what a trusted proxy appended is believed; what came to the first of them is the client's own word.
    """
    if not trusted:
        return peer
    nearest = peer
    forwarded = find_value(headers, b"x-forwarded-for") or b""
    hops = [hop.strip() for hop in forwarded.decode("latin-1").split(",") if hop.strip()]
    while hops and _is_in(nearest, trusted) and _is_address(hops[-1]):
        nearest = hops.pop()
    return nearest


def _is_address(text: str) -> bool:
    if "%" in text:  # what follows it, the name of an interface, may be any text
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    return _is_address(address) and any(ipaddress.ip_address(address) in network for network in networks)


async def _refuse_path(scope: Scope, _receive: Receive, send: Send) -> None:
    error = InvalidFormat("the path has an escaped slash, backslash, dot or NUL, an empty segment, or a dot segment")
    problem, _ = make_problem(error, scope["state"]["request_id"])
    headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
    await answer(send, problem.status, headers, msgspec.json.encode(problem), is_head=scope["method"] == "HEAD")
