"""One connection of a client: uvicorn's own, and in front of it a short way for the small answers of a binary cache.

A request for a narinfo is answered in the call that brings its last byte: no task, no messages, one write. One that
differs from the last such only in its path, as all that a client asks over a connection do, is not even parsed: behind
the path its bytes are those that were parsed before. Everything else is uvicorn's, beside limits that it does not have:
for what a client may send without getting on, and for how long it may say nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Final, Protocol, cast

import httptools
import structlog
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from icehouse.http.asgi import Header, Message, SmallAnswer
from icehouse.http.streaming import PIECES
from icehouse.storage.blobs import FilePart, Piece

IDLE_SECONDS: Final = 75
"""How long a connection may wait for the whole head of a request, the first one or the next. Nix and curl reuse one for
longer, and open another where it is closed."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a request's head, and of whatever else brings neither the end of a head nor a byte of a body, as trailers."""

_MAX_REPEATED_BYTES: Final = 1024
"""Of a head without its path, to be recognised when it comes again. Nix sends some 100 bytes, and a token."""

_WAITING_BYTES: Final = 64 * 1024

_TURN_BYTES: Final = 4 * 1024 * 1024
"""Of an answer, to be sent before whatever else there is to do has its turn, where no other answer is under way."""

_SHARED_TURN_BYTES: Final = 1024 * 1024
"""The most of a file in one turn where others are under way; each part is a turn then. Connections that get the same
file side by side find its pages in the processor's cache so: with several parts in a turn, a rebuilt NAR went out over
16 connections at 0.77 of nginx's speed."""

_LINES_OF_BODIES: Final = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})

_REFUSALS: Final = {
    400: b"HTTP/1.1 400 Bad Request\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
}

_log = structlog.get_logger(__name__)


class QuickApplication(Protocol):
    """The ASGI application, with the answers that it can give at once."""

    def answer_now(self, raw_path: bytes, headers: list[Header], *, peer: str, is_head: bool) -> SmallAnswer | None:
        """See `icehouse.http.hot.HotRoutes.answer_now`."""
        ...

    def end_streams(self) -> None:
        """Have answers end that would else go on for ever. May be called again."""
        ...


class Connection(HttpToolsProtocol):
    """The protocol of one connection. Belongs to the event loop."""

    parser: httptools.HttpRequestParser  # pyright: ignore[reportIncompatibleVariableOverride]  None once the connection is lost

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        application = cast("QuickApplication", config.loaded_app)
        self._answer_now = application.answer_now
        self._end_streams = application.end_streams
        self._steps = 0
        """Ends of heads, pieces of bodies and ends of messages that came so far."""
        self._bytes_without_step = 0
        self._is_answered = False
        """Whether the request that is being read was answered on the short way."""
        self._is_between_requests = True
        """Whether the parser has seen the end of all that began."""
        self._repeated = b""
        """All behind the path of the last request that came alone and was answered on the short way."""
        self._repeated_headers: list[Header] = []
        """The headers in it."""
        self._peer = ""
        """The address of who connected."""
        self._has_ended = False
        """Whether the client will send no more."""
        self._is_corked = False
        """Whether parts of files are being sent: nothing waits in the transport longer than until the next one."""
        self._turn_bytes = 0
        """Sent since others had their turn."""
        self._waiting_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        self._waiting_since = self.loop.time()
        self._idle_timer = self.loop.call_later(IDLE_SECONDS, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever is under way hears of it from `receive`."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: finish what is under way."""
        self._end_streams()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Read on; answer what is whole."""
        self._unset_keepalive_if_required()
        is_alone = self._is_between_requests
        if is_alone and self._answer_repeated(data):
            return
        steps = self._steps
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # We speak nothing else, so the request is answered as it is; what follows it may be something else.
            self.cycle.keep_alive = False
        except httptools.HttpParserError as exc:
            _log.debug("malformed request", error=str(exc))
            self._refuse(400)
        if self._steps != steps:
            self._bytes_without_step = 0
        else:
            self._bytes_without_step += len(data)
            if self._bytes_without_step > MAX_HEAD_BYTES:
                self._refuse(431)
        # One message began and ended: the end of its head is one step, its own end the other.
        if is_alone and self._is_between_requests and self._steps == steps + 2:
            self._remember(data)

    def on_message_begin(self) -> None:
        """Of the parser. What uvicorn prepares here is prepared only for requests that it answers."""
        self._is_between_requests = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Of the parser: answer at once, or let a task do it."""
        self._steps += 1
        self._is_answered = self._is_waiting() and not self.flow.write_paused and self._answer_at_once()
        if self._is_answered:
            return
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers.extend(headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Of the parser."""
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Of the parser."""
        self._steps += 1
        self._is_between_requests = True
        if not self._is_answered:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._waiting_since = self.loop.time()

    def eof_received(self) -> bool | None:  # pyright: ignore[reportIncompatibleMethodOverride]  as asyncio has it
        """A client that ended its side within a body is still told what is wrong; any other one has left."""
        self._has_ended = True
        if self._is_waiting() or not self.cycle.more_body:
            return None
        self.cycle.keep_alive = False
        self.cycle.message_event.set()
        return True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def run(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  uvicorn's types are unions of dicts
            scope["extensions"] = {PIECES: {}}

            async def receive_to_the_end() -> Message:
                if not (self._has_ended and cycle.more_body and not cycle.body):
                    message = await receive()
                    if not (self._has_ended and message.get("more_body") and not message["body"]):
                        return message
                return {"type": "http.disconnect"}

            async def send_any(message: Message) -> None:
                if message["type"] == PIECES:
                    await self._send_pieces(cycle, message["pieces"])
                else:
                    await send(message)

            try:
                await app(scope, cast("Any", receive_to_the_end), cast("Any", send_any))
            finally:
                self._set_cork(is_in=False)

        super()._start_asgi_task(cycle, run)

    async def _send_pieces(self, cycle: RequestResponseCycle, pieces: list[Piece]) -> None:
        """Send *pieces* without the transport, which keeps what it gets until the event loop's next turn.

        Nothing may be left in its buffer then, or bytes would overtake others. Where the connection takes no more, a
        little goes through the transport all the same, which waits as it does for anything else.

        Raises:
            RuntimeError: a file is shorter than its part.
        """
        if not await self._flush():
            return
        self._set_cork(is_in=True)
        connected: socket.socket = self.transport.get_extra_info("socket")
        for piece in pieces:
            left = size = len(piece)
            while left:
                is_alone = len(self.server_state.tasks) == 1
                count = left if is_alone else min(left, _SHARED_TURN_BYTES)
                try:
                    sent = _send_now(connected.fileno(), piece, size - left, count)
                    is_due = sent < count or (not is_alone and isinstance(piece, FilePart))
                except BlockingIOError:
                    waiting = _read(piece, size - left, min(left, _WAITING_BYTES))
                    self.transport.write(waiting)
                    sent, is_due = len(waiting), True
                except OSError:
                    self.transport.abort()
                    return
                if not sent:
                    raise RuntimeError("a file became shorter while it was sent")
                left -= sent
                cycle.expected_content_length -= sent
                self._turn_bytes += sent
                if is_due or self._turn_bytes >= _TURN_BYTES:
                    self._turn_bytes = 0
                    await asyncio.sleep(0)  # however fast this client reads
                    if not await self._flush():
                        return

    async def _flush(self) -> bool:
        """Wait until all of the transport's buffer is out; whether there still is a connection."""
        self.transport.set_write_buffer_limits(high=0)  # then `drain` waits for all of it
        while not self.transport.is_closing() and self.transport.get_write_buffer_size():
            if self.flow.write_paused:
                await self.flow.drain()
            else:
                await asyncio.sleep(0)
        return not self.transport.is_closing()

    def _set_cork(self, *, is_in: bool) -> None:
        """Have only whole segments go out, until the end of an answer.

        Else the end of each 64 KiB that the kernel takes from a file is a segment of its own. The kernel holds nothing
        back for longer than 200 ms.
        """
        if self._is_corked != is_in and not self.transport.is_closing():
            self._is_corked = is_in
            connected: socket.socket = self.transport.get_extra_info("socket")
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, is_in)

    def _is_waiting(self) -> bool:
        """Whether all requests that began are answered."""
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]  None before the first

    def _answer_at_once(self) -> bool:
        """Answer the request whose head was read, if that can be done at once, and it has no body."""
        method = self.parser.get_method()
        if method not in {b"GET", b"HEAD"} or not self.parser.should_keep_alive():
            return False
        headers = self.headers
        for name, _ in headers:
            if name in _LINES_OF_BODIES:
                return False
        is_head = method == b"HEAD"
        answer = self._answer_now(self.url, headers, peer=self._peer, is_head=is_head)
        if answer is None:
            return False
        self._write(answer, is_head=is_head)
        return True

    def _answer_repeated(self, data: bytes) -> bool:
        """Answer *data*, which begins where a request does, if it is the remembered one with another path.

        That a path lies in between is seen by those who match it: none of theirs has a space.
        """
        repeated = self._repeated
        if not (repeated and data.endswith(repeated) and data.startswith(b"GET /")):
            return False
        if self.flow.write_paused or not self._is_waiting():
            return False
        answer = self._answer_now(data[4 : -len(repeated)], self._repeated_headers, peer=self._peer, is_head=False)
        if answer is None:
            return False
        self._write(answer, is_head=False)
        return True

    def _remember(self, data: bytes) -> None:
        """Remember the request that *data* is, all but its path, if it was a GET that was answered on the short way."""
        start = b"GET %b" % self.url
        if self._is_answered and data.startswith(start) and len(data) - len(start) <= _MAX_REPEATED_BYTES:
            self._repeated = data[len(start) :]
            self._repeated_headers = self.headers

    def _write(self, answer: SmallAnswer, *, is_head: bool) -> None:
        head, body = answer
        common = self._common_lines()
        self.transport.write(
            b"%bcontent-length: %d\r\n%b\r\n%b" % (head.lines, len(body), common, b"" if is_head else body)
        )
        self._waiting_since = self.loop.time()

    def _common_lines(self) -> bytes:
        """What stands in every answer: the date, which the server renews each second."""
        headers = self.server_state.default_headers
        global _common  # noqa: PLW0603
        if headers is not _common[0]:
            _common = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
        return _common[1]

    def _close_if_idle(self) -> None:
        left = self._waiting_since + IDLE_SECONDS - self.loop.time() if self._is_waiting() else IDLE_SECONDS
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Answer what is no request, and close."""
        if not self.transport.is_closing():
            self.transport.write(_REFUSALS[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()


_common: tuple[list[Header], bytes] = ([], b"")


def _send_now(connection: int, piece: Piece, start: int, count: int) -> int:
    """Have the kernel take *count* bytes of *piece* at most, from *start* on; how many it took.

    Raises:
        BlockingIOError: it takes none now.
        OSError: the connection is lost.
    """
    if isinstance(piece, FilePart):
        return os.sendfile(connection, piece.descriptor, piece.offset + start, count)
    return os.write(connection, memoryview(piece)[start : start + count])


def _read(piece: Piece, start: int, count: int) -> bytes:
    if isinstance(piece, FilePart):
        return os.pread(piece.descriptor, count, piece.offset + start)
    return bytes(memoryview(piece)[start : start + count])
