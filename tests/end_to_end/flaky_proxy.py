"""A proxy between a client and a server that breaks what a script tells it to, and remembers every request.

It speaks plain HTTP/1.1. A connection of the client is kept; each request gets a connection of its own to the server.
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

BLOCK_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024
START_SECONDS = 30


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request. Without any of it the request passes."""

    cut_request_after: int | None = None
    """Body bytes of the request that reach the server before both connections are cut."""
    cut_response_after: int | None = None
    """Body bytes of the response that reach the client, behind a whole head, before both connections are cut."""
    delay_seconds: float = 0
    """Waited before anything is done with the request."""
    status: int | None = None
    """Answered by the proxy itself, after it took the request's body; the server does not hear of the request."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with that status."""


@dataclass
class Exchange:
    """A request and what became of it."""

    method: str
    path: str
    headers: dict[str, str]
    """By lower-case name."""
    status: int | None = None
    """Of the answer, whoever gave it; `None` as long as there is none."""
    request_bytes: int = 0
    """Of the request's body, passed to the server."""
    response_bytes: int = 0
    """Of the response's body, passed to the client; counted before they are."""
    fault: Fault = field(default_factory=Fault)

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


Script = Callable[[Exchange], Fault | None]


def in_turn(pattern: str, faults: Sequence[Fault]) -> Script:
    """A script: the requests whose method and path match have these faults, one each, and later ones none."""
    left = list(faults)

    def decide(exchange: Exchange) -> Fault | None:
        if left and re.search(pattern, f"{exchange.method} {exchange.path}"):
            return left.pop(0)
        return None

    return decide


class FlakyProxy:
    """Listens on a free port in a thread of its own, as a context manager."""

    def __init__(self, server_port: int, script: Script) -> None:
        self.exchanges: list[Exchange] = []
        """In the order in which the requests came."""
        self.port = 0
        self._server_port = server_port
        self._script = script
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="flaky-proxy")

    def matching(self, pattern: str) -> list[Exchange]:
        """The exchanges whose method and path match."""
        return [exchange for exchange in self.exchanges if re.search(pattern, f"{exchange.method} {exchange.path}")]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._keep(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        listening = await asyncio.start_server(accept, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        async with listening:
            self.port = listening.sockets[0].getsockname()[1]
            self._started.set()
            await self._stop.wait()
            for task in list(connections):
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _keep(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the client until either side ends it, or the script does."""
        try:
            while await self._pass_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            await _close(writer)

    async def _pass_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request and answer it; whether the connection is good for another."""
        first, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        method, path, _ = first.split(" ")
        exchange = Exchange(method, path, headers)
        exchange.fault = fault = self._script(exchange) or Fault()
        self.exchanges.append(exchange)
        await asyncio.sleep(fault.delay_seconds)
        if fault.status is not None:
            await _answer_alone(reader, writer, exchange, fault.status)
            return True
        server_reader, server_writer = await asyncio.open_connection(
            "127.0.0.1", self._server_port, limit=MAX_HEAD_BYTES
        )
        sending = asyncio.create_task(_send_request(reader, server_writer, first, exchange))
        receiving = asyncio.create_task(_send_response(server_reader, writer, exchange))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # raises, if it was cut or the client left
            await receiving
            return sending.done() and sending.result()
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
            await _close(server_writer)


class _Cut(ConnectionError):
    """The script ends the connection here."""


async def _send_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: str, exchange: Exchange
) -> bool:
    """Pass a request on; False if the server hung up before its end, with an answer or without."""
    kept = {name: value for name, value in exchange.headers.items() if name not in {"connection", "keep-alive"}}
    writer.write(_render_head(first, {**kept, "connection": "close"}))
    left = exchange.fault.cut_request_after
    async for block in _body_blocks(reader, exchange.headers):
        passed = block[:left]
        exchange.request_bytes += len(passed)
        writer.write(passed)
        try:
            await writer.drain()
        except ConnectionError:
            return False
        left = _count_down(left, passed)
    return True


async def _send_response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: Exchange) -> None:
    """Pass a response back, and before it what the server says meanwhile."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        first, headers = _parse_head(head)
        status = int(first.split(" ")[1])
        if status >= 200:
            break
        writer.write(head)  # 100: the client waits for it before it sends its body
    exchange.status = status
    headers.pop("connection", None)
    writer.write(_render_head(first, headers))
    await writer.drain()
    left = _count_down(exchange.fault.cut_response_after, b"")
    if exchange.method == "HEAD" or status in {204, 304}:
        return
    async for block in _body_blocks(reader, headers):
        passed = block[:left]
        exchange.response_bytes += len(passed)
        writer.write(passed)
        await writer.drain()
        left = _count_down(left, passed)


def _count_down(left: int | None, passed: bytes) -> int | None:
    """The bytes that may still pass; `None`: any number.

    Raises:
        _Cut: none may.
    """
    if left is None:
        return None
    if left == len(passed):
        raise _Cut
    return left - len(passed)


async def _answer_alone(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: Exchange, status: int
) -> None:
    """Take a request to its end and answer it here."""
    if "expect" in exchange.headers:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    async for _ in _body_blocks(reader, exchange.headers):
        pass
    exchange.status = status
    body = f"{status} by the flaky proxy\n".encode()
    headers = {"content-type": "text/plain", "content-length": str(len(body)), **dict(exchange.fault.headers)}
    writer.write(_render_head(f"HTTP/1.1 {status} Flaky", headers))
    if exchange.method != "HEAD":
        exchange.response_bytes = len(body)
        writer.write(body)
    await writer.drain()


async def _body_blocks(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """The body behind a head, as it is on the wire; nothing without a length or chunks."""
    if "chunked" in headers.get("transfer-encoding", ""):
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line, 16)
            yield line + await reader.readexactly(size + 2)
            if size == 0:
                return
    left = int(headers.get("content-length", "0"))
    while left:
        block = await reader.read(min(left, BLOCK_BYTES))
        if not block:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(block)
        yield block


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _render_head(first: str, headers: dict[str, str]) -> bytes:
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")


async def _close(writer: asyncio.StreamWriter) -> None:
    """End a connection. What was written arrives first."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
