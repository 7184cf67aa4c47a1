"""The client of the API tries again what may pass, and tells errors in the server's words."""

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec
import pytest

from icehouse.api.caches import CacheCreate
from icehouse.api.publish import ChunksMissingAnswer
from icehouse.api.server import Problem
from icehouse.client import server as server_module
from icehouse.client.logins import Login
from icehouse.client.server import connect
from icehouse.errors import (
    Conflict,
    Denied,
    IcehouseError,
    InvalidFormat,
    NotFound,
    OverQuota,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from tests.scripted_server import ScriptedServer


def problem(status: int, detail: str) -> bytes:
    return msgspec.json.encode(Problem(title="t", status=status, detail=detail, request_id="r-1"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidFormat),
        (401, Unauthenticated),
        (403, Denied),
        (404, NotFound),
        (409, Conflict),
        (413, TooLarge),
        (415, Unsupported),
        (507, OverQuota),
        (418, Unsupported),
    ],
)
async def test_a_final_status_is_our_error_with_the_servers_words(
    scripted: Callable[..., ScriptedServer], status: int, kind: type[IcehouseError]
) -> None:
    server = scripted((status, {}, problem(status, "because of this")))
    async with connect(Login(server.url, "ice_x")) as client:
        with pytest.raises(kind, match="because of this" if status > 500 else "^because of this$"):
            await client.list_caches()
    assert server.requests == [("GET", "/api/v1/caches", "Bearer ice_x")]


async def test_an_address_of_a_cache_as_that_of_the_server_gets_a_hint(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted((404, {}, b"404 Not Found"))
    async with connect(Login(f"{server.url}/team")) as client:
        with pytest.raises(NotFound, match=r"^GET http.*/team/api/v1/server: status 404, .* such as a cache's name$"):
            await client.parameters()


async def test_what_may_pass_is_tried_again(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted((503, {}, b"proxy says no"), (429, {"Retry-After": "1"}, problem(429, "slow")), (200, {}, b"[]"))
    async with connect(Login(server.url)) as client:
        assert await client.list_caches() == []
    assert server.requests == [("GET", "/api/v1/caches", None)] * 3


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client waited before each try again; nobody really waits."""
    seconds: list[float] = []
    really_sleep = asyncio.sleep

    async def sleep(delay: float) -> None:
        seconds.append(delay)
        await really_sleep(0)

    monkeypatch.setattr("asyncio.sleep", sleep)
    return seconds


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_names_a_time_is_left_alone_for_so_long(
    scripted: Callable[..., ScriptedServer], waited: list[float], status: int
) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    answers = [(status, {"Retry-After": text}, problem(status, "busy")) for text in ("70", soon, "nonsense")]
    server = scripted(*answers, (200, {}, b"[]"))
    async with connect(Login(server.url)) as client:
        client._has_answered = True  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  - so that it tries more often
        assert await client.list_caches() == []
    assert len(server.requests) == 4
    assert 70 <= waited[0] <= 77
    assert 80 <= waited[1] <= 100
    assert waited[2] < 3


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_wants_a_long_rest_is_not_asked_again(
    scripted: Callable[..., ScriptedServer], status: int
) -> None:
    server = scripted((status, {"Retry-After": "3600"}, problem(status, "busy")))
    async with connect(Login(server.url)) as client:
        with pytest.raises(RateLimited if status == 429 else Unavailable, match="left alone for 3600 seconds"):
            await client.list_caches()
    assert len(server.requests) == 1


async def test_tries_come_ever_later_and_never_at_the_same_time(
    scripted: Callable[..., ScriptedServer], waited: list[float]
) -> None:
    server = scripted((200, {}, b"[]"), *[(502, {}, b"")] * 8)
    async with connect(Login(server.url)) as client:
        await client.list_caches()
        with pytest.raises(Unavailable):
            await client.list_caches()
    assert len(waited) == 7
    for number, seconds in enumerate(waited):
        assert 0.2 * 2**number <= seconds <= 0.2 * 2**number + 1
    assert len(set(waited)) == 7


async def test_a_cache_is_not_created_twice_over_a_broken_answer(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted((502, {}, b""), (201, {}, b"{}"))
    async with connect(Login(server.url)) as client:
        with pytest.raises(Unavailable, match="status 502"):
            await client.create_cache(CacheCreate(name="a", is_public=True))
    assert len(server.requests) == 1


async def test_a_request_that_is_cancelled_as_its_answer_comes_is_cancelled(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(*[(200, {}, b"[]")] * 50)
    async with connect(Login(server.url)) as client:
        for round_ in range(50):
            task = asyncio.create_task(client.list_caches())
            while len(server.requests) == round_:  # noqa: ASYNC110  the server runs in a thread
                await asyncio.sleep(0)
            while len(server.answers) + len(server.answered) < 50:  # the event loop stands still meanwhile
                pass
            if task.cancel():  # else it was done already
                with pytest.raises(asyncio.CancelledError):
                    await task


async def test_a_task_whose_group_failed_before_is_not_cancelled(scripted: Callable[..., ScriptedServer]) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise NotFound("x")

    server = scripted((200, {}, b"[]"))
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
    async with connect(Login(server.url)) as client:
        assert await client.list_caches() == []


async def test_a_fault_of_the_server_names_the_request(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(*[(500, {}, problem(500, "internal"))] * 3)
    async with connect(Login(server.url)) as client:
        with pytest.raises(Unavailable, match=r"internal \(request r-1\)"):
            await client.parameters()


async def test_a_redirect_is_told_and_not_followed(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted((301, {"Location": "https://elsewhere/"}, b""))
    async with connect(Login(server.url, "ice_x")) as client:
        with pytest.raises(Unsupported, match="redirects to https://elsewhere/"):
            await client.parameters()


async def test_an_answer_of_another_program_is_no_crash(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted((200, {}, b"<html>"), (404, {}, b"<html>"))
    async with connect(Login(server.url)) as client:
        with pytest.raises(InvalidFormat, match="is that the address of an Icehouse server"):
            await client.parameters()
        with pytest.raises(NotFound, match="status 404, and no explanation"):
            await client.parameters()


async def test_nobody_there_is_told_with_the_cause() -> None:
    async with connect(Login("http://127.0.0.1:9")) as client:
        with pytest.raises(Unavailable, match="Connection refused"):
            await client.parameters()


async def test_a_server_that_does_not_answer_is_waited_for_and_that_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "SLOW_SECONDS", 0.01)
    monkeypatch.setattr(server_module, "FIRST_ANSWER_SECONDS", 0.2)
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are taken by the kernel, and by nobody else
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with connect(Login(url), warn=told.append) as client:
            with pytest.raises(Unavailable, match=r"cannot be reached: .*timed out"):
                await client.list_caches()
    assert told == [f"{url} has not answered for 0.01 seconds; waiting"]


async def test_a_first_try_that_took_too_long_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(server_module, "_RETRY_SECONDS", 0.05)
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with connect(Login(f"http://127.0.0.1:{silent.getsockname()[1]}"), tell=told.append) as client:
            with pytest.raises(Unavailable, match=r"cannot be reached: .*timed out"):
                await client.list_caches()
    assert len(told) == 1


async def test_known_chunks_come_with_their_numbers(scripted: Callable[..., ScriptedServer]) -> None:
    answer = msgspec.json.encode(ChunksMissingAnswer(known=bytes([0b101, 0b10]), numbers=[7, 9, 12]))
    wrong = msgspec.json.encode(ChunksMissingAnswer(known=bytes([0b11]), numbers=[7]))
    server = scripted((200, {}, answer), (200, {}, wrong))
    async with connect(Login(server.url)) as client:
        found = await client.find_missing_chunks("a", [bytes(32)] * 10)
        assert found == [7, None, 9, None, None, None, None, None, None, 12]
        with pytest.raises(InvalidFormat, match="2 chunks are marked as known and 1 have numbers"):
            await client.find_missing_chunks("a", [bytes(32)] * 8)
