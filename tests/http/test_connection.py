"""What one connection may carry, and what it may not, as clients of a real server see it."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any, cast
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from icehouse.http import connection as connection_module
from icehouse.http.asgi import Head, Header, Receive, Scope, Send, SmallAnswer
from icehouse.http.connection import IDLE_SECONDS, MAX_HEAD_BYTES, Connection
from icehouse.http.streaming import PIECES, takes_pieces
from icehouse.storage.blobs import FilePart, Piece
from tests.http.running import RunningServer

ABSENT = "/nowhere/nix-cache-info"


@pytest.fixture(scope="module")
def cache(server: RunningServer) -> str:
    server.create_cache("quick")
    return "/quick"


def exchange(server: RunningServer, requests: bytes, answers: int) -> list[bytes]:
    """Send *requests* at once, and read so many answers that have a length."""
    with closing(server.connect()) as connection:
        connection.sendall(requests)
        return [read_answer(connection) for _ in range(answers)]


def read_answer(connection: socket.socket, *, is_head: bool = False) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while not is_head and len(body) < length:
        body += connection.recv(length - len(body))
    return head + body


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def test_an_answer_given_at_once_has_the_headers_of_any_other(server: RunningServer, cache: str) -> None:
    (quick,) = exchange(server, get(f"{cache}/nix-cache-info"), 1)
    with_body = get(f"{cache}/nix-cache-info", "Content-Length: 2") + b"{}"
    (other,) = exchange(server, with_body, 1)

    def without_date(answer: bytes) -> list[bytes]:
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert sum(line.startswith(b"date: ") for line in lines) == 1
        return sorted(line for line in [*lines, body] if not line.startswith(b"date: "))

    assert without_date(quick) == without_date(other)


def test_requests_that_come_together_are_answered_in_their_order(server: RunningServer, cache: str) -> None:
    paths = [
        "/health",
        f"{cache}/nix-cache-info",
        ABSENT,
        "/health",
        f"{cache}/nix-cache-info",
        f"{cache}/nix-cache-info",
    ]
    answers = exchange(server, b"".join(get(path) for path in paths), len(paths))
    statuses = [answer.split()[1] for answer in answers]
    assert statuses == [b"200", b"200", b"401", b"200", b"200", b"200"]
    assert [b"StoreDir" in answer for answer in answers] == [False, True, False, False, True, True]


def test_requests_however_they_are_cut_are_answered_as_each_alone(server: RunningServer, cache: str) -> None:
    paths = [f"{cache}/nix-cache-info", f"{cache}/{'0' * 32}.narinfo", f"{cache}/x.narinfo", ABSENT, "/health", "/%2e"]
    lines = [(), ("X: 1",), ("X: 1", "Authorization: Basic eDp5"), ("Content-Length: 3",)]
    pool = [
        get(path, *extra, method=method) + b"abc" * any("Length" in line for line in extra)
        for path in paths
        for extra in lines
        for method in ("GET", "HEAD")
    ]
    answers = {request: without_changing_lines(alone(server, request)) for request in pool}
    source = random.Random(1)
    for _ in range(20):
        # Mostly one that repeats the lines of the one before, as clients do, and mostly whole.
        requests = [pool[source.choice([0, 8, 16, 24, 32, source.randrange(len(pool))])] for _ in range(30)]
        with closing(server.connect()) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            left = list(requests)
            while left:
                together = [left.pop(0) for _ in range(min(len(left), source.choice([1, 1, 1, 3])))]
                data = b"".join(together)
                cut = source.choice([len(data), len(data), source.randrange(len(data))])
                for piece in (data[:cut], data[cut:]):
                    connection.sendall(piece)
                for request in together:
                    found = read_answer(connection, is_head=request.startswith(b"HEAD"))
                    assert without_changing_lines(found) == answers[request], request


def alone(server: RunningServer, request: bytes) -> bytes:
    with closing(server.connect()) as connection:
        connection.sendall(request)
        return read_answer(connection, is_head=request.startswith(b"HEAD"))


def without_changing_lines(answer: bytes) -> list[bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.lower().split(b"\r\n") if not line.startswith((b"date: ", b"x-request-id: "))]
    return [*sorted(lines), b"" if b"/json" in head else body]


def test_a_request_like_the_last_one_needs_no_parser() -> None:
    app = Echo()
    connection, transport = connect_fake(app)
    connection.data_received(get("/a", "X: 1"))
    connection.parser = cast("Any", None)
    connection.data_received(get("/b", "X: 1"))
    assert app.asked == [(b"/a", [(b"host", b"x"), (b"x", b"1")]), (b"/b", [(b"host", b"x"), (b"x", b"1")])]
    assert transport.bodies() == [b"/a", b"/b"]
    for other in (get("/b", "X: 2"), get("/b"), get("/b", "X: 1", method="HEAD"), get("/b", "X: 1")[:-1], b"x"):
        with pytest.raises(AttributeError):  # the parser is asked
            connection.data_received(other)


def test_two_requests_like_the_two_before_are_two() -> None:
    connection, transport = connect_fake(Echo())
    for _ in range(3):
        connection.data_received(get("/a") * 2)
    assert transport.bodies() == [b"/a"] * 6


@pytest.mark.parametrize("length", [None, len(get("/b")), 2 * len(get("/b"))])
def test_what_only_looks_like_a_request_like_the_last_one_waits_its_turn(length: int | None) -> None:
    connection, transport = connect_fake(Echo())
    connection.data_received(get("/a"))
    connection.data_received(get("/slow", *([] if length is None else [f"Content-Length: {length}"])))
    connection.data_received(get("/b"))  # the body of the one before, or to be answered behind it
    assert transport.bodies() == [b"/a"]


def test_what_only_looks_like_a_request_can_be_a_header() -> None:
    connection, transport = connect_fake(Echo())
    connection.data_received(get("/a"))
    connection.data_received(b"GET /c HTTP/1.1\r\nX: ")
    connection.data_received(get("/b"))
    assert transport.bodies() == [b"/a", b"/c"]


def test_the_beginning_of_the_next_request_is_no_part_of_this_one() -> None:
    connection, transport = connect_fake(Echo())
    for _ in range(2):
        connection.data_received(get("/a") + b"G")
        connection.data_received(get("/b")[1:])
    assert transport.bodies() == [b"/a", b"/b"] * 2


def test_long_heads_are_not_remembered() -> None:
    connection, _ = connect_fake(Echo())
    connection.data_received(get("/a", f"X: {'x' * 2000}"))
    connection.parser = cast("Any", None)
    with pytest.raises(AttributeError):
        connection.data_received(get("/b", f"X: {'x' * 2000}"))


def connect_fake(app: Echo) -> tuple[Connection, FakeTransport]:
    loop = cast("asyncio.AbstractEventLoop", FakeLoop())
    connection = Connection(configure(app), ServerState(), {}, loop)
    transport = FakeTransport()
    connection.connection_made(cast("asyncio.Transport", transport))
    return connection, transport


def test_a_request_in_pieces_is_answered_when_it_is_whole(server: RunningServer, cache: str) -> None:
    with closing(server.connect()) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in get(f"{cache}/nix-cache-info"):
            connection.sendall(bytes([byte]))
        assert b"StoreDir" in read_answer(connection)


def test_a_client_that_asks_much_before_it_reads_gets_all_of_it(server: RunningServer, cache: str) -> None:
    count = 20_000
    with closing(server.connect()) as connection:
        sending = threading.Thread(target=connection.sendall, args=(get(f"{cache}/nix-cache-info") * count,))
        sending.start()
        answers = [read_answer(connection) for _ in range(count)]
        sending.join()
    assert len({answer.partition(b"\r\n\r\n")[2] for answer in answers}) == 1


def test_head_is_answered_without_a_body(server: RunningServer, cache: str) -> None:
    with closing(server.connect()) as connection:
        connection.sendall(get(f"{cache}/nix-cache-info", method="HEAD") + get("/health"))
        assert b"text/x-nix-cache-info" in read_answer(connection, is_head=True)
        assert read_answer(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_text", ["GET {path} HTTP/1.0\r\n\r\n", "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
)
def test_a_client_that_wants_no_more_is_told_by_the_end(server: RunningServer, cache: str, request_text: str) -> None:
    answer = server.send_raw(request_text.format(path=f"{cache}/nix-cache-info").encode())
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"Priority: 41\n")


def test_who_wants_another_protocol_is_answered_in_this_one(server: RunningServer, cache: str) -> None:
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    answer = server.send_raw(get(f"{cache}/nix-cache-info", *lines))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"Priority: 41\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), b"400"),
        (b"GET /a b HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 3 * MAX_HEAD_BYTES, b"431"),
        (b"GET /" + b"x" * 3 * MAX_HEAD_BYTES, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES, b"431"),
    ],
)
def test_what_is_no_request_ends_the_connection(server: RunningServer, sent: bytes, status: bytes) -> None:
    with closing(server.connect()) as connection:
        try:
            connection.sendall(sent)
            answer = connection.recv(1000)
        except ConnectionError:
            return  # it ended before all was sent
        assert answer.split()[1] == status
        assert b"connection: close" in answer


def test_trailers_without_end_are_not_gathered(server: RunningServer) -> None:
    request = get("/api/v1/caches", "Transfer-Encoding: chunked", method="POST") + b"0\r\n"
    with closing(server.connect()) as connection, pytest.raises(ConnectionError):
        connection.sendall(request + b"X-Trailer: y\r\n" * 2_000_000)


def test_a_client_that_says_nothing_is_let_go() -> None:
    loop = FakeLoop()
    connection = Connection(configure(Quiet()), ServerState(), {}, cast("asyncio.AbstractEventLoop", loop))
    transport = FakeTransport()
    connection.connection_made(cast("asyncio.Transport", transport))
    connection.data_received(b"GET / HTTP/1.1\r\n")
    loop.pass_time(IDLE_SECONDS - 1)
    connection.data_received(b"Host: x\r\n")  # which is no whole head
    assert not transport.is_closing()
    loop.pass_time(1)
    assert transport.is_closing()


def configure(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        cast("Any", app),
        http=Connection,
        ws="none",
        interface="asgi3",
        proxy_headers=False,
        log_config=None,
        timeout_keep_alive=IDLE_SECONDS,
    )


class Quiet:
    def end_streams(self) -> None:
        """There are none."""

    def answer_now(self, raw_path: bytes, headers: list[Header], *, peer: str, is_head: bool) -> SmallAnswer | None:
        assert not is_head
        assert raw_path.startswith(b"/")
        assert headers is not None
        assert isinstance(peer, str)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class Echo(Quiet):
    def __init__(self) -> None:
        self.asked: list[tuple[bytes, list[Header]]] = []

    def answer_now(self, raw_path: bytes, headers: list[Header], *, peer: str, is_head: bool) -> SmallAnswer | None:
        super().answer_now(raw_path, headers, peer=peer, is_head=is_head)
        self.asked.append((raw_path, headers))
        return None if raw_path == b"/slow" else SmallAnswer(Head(200), raw_path)


class FakeLoop:
    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def create_task(self, work: Coroutine[Any, Any, None]) -> Any:  # noqa: ANN401  what is asked of a task is not answered here
        work.close()
        return Mock()

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        self.calls.append((self.now + delay, call))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [call for time, call in self.calls if time <= self.now]
        self.calls = [(time, call) for time, call in self.calls if time > self.now]
        for call in due:
            call()


class FakeTransport:
    def __init__(self) -> None:
        self._is_closing = False
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._written.append(data)

    def bodies(self) -> list[bytes]:
        """What stands behind the heads of all that was written."""
        return [answer.partition(b"\r\n\r\n")[2] for answer in self._written]

    def pause_reading(self) -> None:
        """Of a request that waits for its answer."""

    def get_extra_info(self, _name: str, default: object = None) -> object:
        return default

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True


class Files:
    """An application that sends *data*, which is in *file*, in parts of the file, in memory and in blocks, by turns."""

    def __init__(self, data: bytes, file: int) -> None:
        self.data = data
        self._file = file

    def end_streams(self) -> None:
        """There are none."""

    def answer_now(self, _raw_path: bytes, _headers: object, *, peer: str, is_head: bool) -> None:
        assert not is_head
        assert isinstance(peer, str)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        assert takes_pieces(scope)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(self.data))]}
        )
        chance = random.Random(1)
        position = 0
        while position < len(self.data):
            pieces: list[Piece] = []
            for _ in range(chance.choice([1, 1, 10])):
                size = min(chance.choice([1, 3000, 700_000]), len(self.data) - position)
                data = self.data[position : position + size]
                pieces.append(data if chance.random() < 0.5 else FilePart(self._file, position, size, self))
                position += size
            if len(pieces) == 1 and isinstance(pieces[0], bytes):
                await send({"type": "http.response.body", "body": pieces[0], "more_body": True})
            else:
                await send({"type": PIECES, "pieces": pieces})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("receive_buffer", [100_000, 4_000_000])
async def test_parts_of_files_and_blocks_arrive_in_their_order(receive_buffer: int) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(4_000_000))
        file.flush()
        file.seek(0)
        await download_thrice(Files(file.read(), file.fileno()), receive_buffer)


class LateTransport:
    """A transport that sends nothing before the event loop's next turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever a transport has
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(data)

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._waiting)) + self._transport.get_write_buffer_size()

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self._transport.close)

    def _send(self) -> None:
        self._transport.write(self._waiting.pop(0))


class LateConnection(Connection):
    """One of which the kernel takes nothing now and then."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(cast("asyncio.Transport", LateTransport(transport)))


async def test_connection_that_is_full_now_and_then_changes_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(2)
    send = connection_module._send_now  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the call of the kernel

    def send_a_little(descriptor: int, piece: Piece, start: int, count: int) -> int:
        if chance.random() < 0.3:
            raise BlockingIOError
        return send(descriptor, piece, start, chance.choice([min(count, 1000), count]))

    monkeypatch.setattr(connection_module, "_send_now", send_a_little)
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(4_000_000))
        file.flush()
        file.seek(0)
        await download_thrice(Files(file.read(), file.fileno()), 4_000_000, LateConnection)


async def download_thrice(app: Files, receive_buffer: int, kind: type[Connection] = Connection) -> None:
    config = configure(app)
    state = ServerState()
    loop = asyncio.get_running_loop()
    made: list[Connection] = []

    def make() -> Connection:
        made.append(kind(config, state, {}))
        return made[-1]

    listener = await loop.create_server(make, "127.0.0.1", 0)
    port: int = listener.sockets[0].getsockname()[1]

    def wait_until_corked(*, expected: int) -> None:
        connected: socket.socket = made[-1].transport.get_extra_info("socket")
        deadline = time.monotonic() + 30
        while connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK) != expected:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def download(times: int) -> list[bool]:
        with closing(socket.socket()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.connect(("127.0.0.1", port))
            found: list[bool] = []
            for _ in range(times):
                client.sendall(get("/"))
                found.append(read_answer(client).partition(b"\r\n\r\n")[2] == app.data)
            return found

    assert await asyncio.to_thread(download, 2) == [True, True]
    with closing(socket.create_connection(("127.0.0.1", port))) as leaving:
        await asyncio.to_thread(leaving.sendall, get("/"))
        await asyncio.to_thread(leaving.recv, 1000)
    assert await asyncio.to_thread(download, 1) == [True]
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)  # or all of the answer would fit
        await asyncio.to_thread(client.connect, ("127.0.0.1", port))
        await asyncio.to_thread(client.sendall, get("/"))
        await asyncio.to_thread(wait_until_corked, expected=1)
        await asyncio.to_thread(read_answer, client)
        await asyncio.to_thread(wait_until_corked, expected=0)
    listener.close()
    await listener.wait_closed()
