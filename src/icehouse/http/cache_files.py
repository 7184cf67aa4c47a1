"""The files of a binary cache beside narinfos and NARs, and the uploads of all of them by stock Nix.

Nix prints a short text that comes with an error, so errors are one line here. It cannot send the body of a PUT again
before version 2.33, and hangs if it is told to: whatever goes wrong with an upload is answered with a status that Nix
takes as final. The exception is an upload of which nothing was asked for yet.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from icehouse.errors import IcehouseError, InvalidFormat, NotFound, OverQuota, RateLimited, StorageError
from icehouse.http.asgi import Header, Message, Receive, Scope, Send, answer, find_header, read_origin
from icehouse.http.errors import make_problem
from icehouse.http.files import ACCEPT_RANGES, PRIVATE, PUBLIC_HOUR, VARY
from icehouse.http.parts import ServerParts
from icehouse.http.streaming import ClientLeft, receive_pieces
from icehouse.nix.compression import Compression, parse_compression
from icehouse.nix.decompress import Decompressor
from icehouse.rules.access import Permission
from icehouse.rules.audit import Origin
from icehouse.services.access import Credential, Entry

PLAIN_TEXT: Final[Header] = (b"content-type", b"text/plain; charset=utf-8")
NO_STORE: Final[Header] = (b"cache-control", b"no-store")

_CACHE: Final = re.compile(rb"/([a-z0-9](?:[a-z0-9-]{0,48}[a-z0-9])?)/(.+)", re.DOTALL)
_NO_FILE: Final = b"There is no such file in this binary cache.\n"
_NO_METHOD: Final = b"This URL does not have that method; Allow has those that it has.\n"

_TOO_LARGE: Final = 413
_FIRST_RETRIED: Final = 500
_NOT_NOW: Final = 409
_COME_AGAIN: Final = 503
_SENDS_NOTHING_SECONDS: Final = 0.5  # a client that expects to be told to send its body does so after one unasked

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A request for one file of a cache, or an upload of it."""

    scope: Scope
    receive: Receive
    send: Send
    parts: ServerParts
    cache_name: str
    names: tuple[str, ...]
    """What the groups of the route's pattern matched."""

    @property
    def is_head(self) -> bool:
        """Whether the answer has no body."""
        return self.scope["method"] == "HEAD"

    async def enter(self, permission: Permission) -> Entry:
        """The cache, if the caller may do that. The errors are those of `Access.enter`."""
        header = find_header(self.scope, b"authorization")
        text = None if header is None else header.decode("latin-1")
        return await self.parts.access.enter(self.cache_name, permission, Credential(text, self.origin.address))

    @property
    def origin(self) -> Origin:
        """Where the request comes from."""
        return read_origin(self.scope["state"])

    def pieces(self, *, max_bytes: int) -> AsyncIterator[bytes]:
        """The pieces of the body as they arrive. The errors are those of `receive_pieces`."""
        announced = find_header(self.scope, b"content-length")
        if announced is not None and (len(announced) > 19 or not announced.isdigit()):  # noqa: PLR2004  digits of a u64
            raise InvalidFormat(f"Content-Length {announced[:20]!r} is not a decimal number")
        size = None if announced is None else int(announced)
        return receive_pieces(self.receive, announced=size, max_bytes=max_bytes)

    async def decoded_pieces(self, *, max_bytes: int) -> AsyncIterator[bytes]:
        """The pieces of the body as they were before Content-Encoding, which Nix names as it names compressions.

        Raises:
            Unsupported: the encoding is not read here.
            TooLarge: the body has more than *max_bytes*, encoded or decoded.
            InvalidFormat: it cannot be decoded, or broke off.
        """
        encoding = find_header(self.scope, b"content-encoding") or b"identity"
        name = encoding.decode("latin-1").strip().lower()
        compression = Compression.NONE if name == "identity" else parse_compression(name)
        decompressor = Decompressor(compression, max_bytes=max_bytes)
        async for piece in self.pieces(max_bytes=max_bytes):
            for decoded in decompressor.feed(piece):
                yield decoded
        decompressor.finish()

    async def read_body(self, *, max_bytes: int) -> bytes:
        """The whole decoded body, which is small. The errors are those of `decoded_pieces`."""
        return b"".join([piece async for piece in self.decoded_pieces(max_bytes=max_bytes)])

    async def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Send a whole small answer."""
        await answer(self.send, status, headers, body, is_head=self.is_head)

    async def answer_stored(self, status: int = 200, text: bytes = b"") -> None:
        """Tell that an upload was taken."""
        await self.answer(status, [PLAIN_TEXT, NO_STORE], text)


def caching_headers(entry: Entry) -> list[Header]:
    """How long others may keep what a public cache answered; of a private one, nobody keeps it."""
    return [PUBLIC_HOUR] if entry.cache.is_public else [PRIVATE, VARY]


Handler = Callable[[FileRequest], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class FileRoute:
    """One kind of file: its place below the cache, and what answers for it."""

    template: str
    """The route's name in counters and in the guide."""
    pattern: re.Pattern[bytes]
    """Of the raw path below the cache's name and the slash after it; its groups become `FileRequest.names`."""
    get: Handler | None
    """Answers GET and HEAD; `None`: the hot routes do, before."""
    put: Handler | None = None


class CacheFiles:
    """The ASGI application for every path that can only be a file of a cache."""

    def __init__(self, parts: ServerParts, routes: Sequence[FileRoute]) -> None:
        self._parts = parts
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = self._find(scope["raw_path"])
        method: str = scope["method"]
        if found is None:
            await refuse_unknown_file(scope, receive, send)
            return
        route, cache_name, names = found
        scope["path_template"] = route.template
        if method in {"GET", "HEAD"} and route.get is None:
            await refuse_unknown_file(scope, receive, send)
            return
        handler = route.get if method in {"GET", "HEAD"} else route.put if method == "PUT" else None
        if handler is None:
            allowed = b"GET, HEAD" if route.put is None else b"GET, HEAD, PUT"
            await answer(send, 405, [PLAIN_TEXT, NO_STORE, (b"allow", allowed)], _NO_METHOD, is_head=False)
            return
        is_started = False

        async def send_noting(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        until = time.monotonic() + _SENDS_NOTHING_SECONDS if expects_continue(scope) else 0.0

        async def receive_noting() -> Message:
            nonlocal until
            until = 0.0
            return await receive()

        request = FileRequest(scope, receive_noting, send_noting, self._parts, cache_name, names)
        try:
            await handler(request)
        except ClientLeft:
            _log.info("client left", route=route.template, cache=cache_name)
            if not is_started:  # It may listen still, and else the server would say 500.
                await _answer_error(scope, send, InvalidFormat("the body broke off before its end"))
        except Exception as exc:
            if is_started:  # Only a connection that ends too soon can still say that the body is not whole.
                _log.exception("a file could not be sent whole", route=route.template, cache=cache_name)
                raise
            await _answer_error(scope, send, exc, has_body_still=time.monotonic() < until)

    def _find(self, raw_path: bytes) -> tuple[FileRoute, str, tuple[str, ...]] | None:
        in_cache = _CACHE.fullmatch(raw_path)
        if in_cache is None:
            return None
        for route in self._routes:
            match = route.pattern.fullmatch(in_cache[2])
            if match is not None:
                return route, in_cache[1].decode(), tuple(group.decode("latin-1") for group in match.groups())
        return None


async def refuse_unknown_file(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer a request for something that no binary cache has."""
    if scope["method"] in {"GET", "HEAD"}:
        await answer(send, 404, [PLAIN_TEXT, NO_STORE], _NO_FILE, is_head=scope["method"] == "HEAD")
    else:
        allow = (b"allow", b"GET, HEAD")
        await answer(send, 405, [PLAIN_TEXT, NO_STORE, allow], _NO_METHOD, is_head=False)


def expects_continue(scope: Scope) -> bool:
    """Whether the client waits to be told to send the body: it has that still, and can send it another time."""
    return (find_header(scope, b"expect") or b"").lower() == b"100-continue"


async def _answer_error(scope: Scope, send: Send, error: Exception, *, has_body_still: bool = False) -> None:
    problem, headers = make_problem(error, scope["state"].get("request_id", ""))
    status, text = problem.status, problem.detail
    if isinstance(error, StorageError) or not isinstance(error, IcehouseError):
        _log.error("request failed", path=scope["raw_path"].decode("ascii", "replace"), exc_info=error)
        text = f"{text} (request {problem.request_id})"
    if isinstance(error, RateLimited) and has_body_still:
        # Tried with Nix 2.8, 2.26 and 2.34: each waits a little and sends the whole body then, which it could not if it
        # had sent some. After a 429 some would wait for a minute.
        status = _COME_AGAIN
        headers["connection"] = "close"  # what comes next could be the body or another request
    elif scope["method"] == "PUT" and (status >= _FIRST_RETRIED or status == 429):  # noqa: PLR2004  too many requests
        status = _TOO_LARGE if isinstance(error, OverQuota) else _NOT_NOW
        headers.pop("retry-after", None)
    if isinstance(error, NotFound) and not text:
        text = _NO_FILE.decode().rstrip()
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    if status >= _FIRST_RETRIED:
        sent.append(ACCEPT_RANGES)  # without it Nix does not ask again for the rest of a download that had begun
    body = text.encode() + b"\n"
    await answer(send, status, [PLAIN_TEXT, NO_STORE, *sent], body, is_head=scope["method"] == "HEAD")
