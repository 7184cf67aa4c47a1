"""How much of the API one client gets."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from icehouse.http.asgi import Receive, Scope, Send, answer
from icehouse.http.limits import BURST_SECONDS, Limits, name_client
from tests.http.asgi_client import Answer, Connection, make_scope

GOOD, OTHER, WRONG = "Bearer good", "Bearer other", "Bearer wrong"


@dataclass
class World:
    """An API that knows two tokens, of which one was accepted before, behind limits."""

    requests_per_second: int = 0
    failed_logins_per_minute: int = 0
    now: float = 1_000.0
    looked_up: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.app = Limits(
            self.api,
            requests_per_second=self.requests_per_second,
            failed_logins_per_minute=self.failed_logins_per_minute,
            is_accepted=lambda header: header == GOOD,
            clock=lambda: self.now,
        )

    async def api(self, scope: Scope, _receive: Receive, send: Send) -> None:
        header = dict(scope["headers"]).get(b"authorization", b"").decode()
        self.looked_up.append(header)
        await answer(send, 200 if header in {"", GOOD, OTHER} else 401, [], b"", is_head=False)

    async def ask(self, header: str | None, *, client: str = "192.0.2.7", path: bytes = b"/api/v1/caches") -> Answer:
        scope = make_scope("GET", path, {} if header is None else {"authorization": header})
        scope["state"].update(client=client, request_id="of-the-test")
        connection = Connection()
        await self.app(scope, connection.receive, connection.send)
        return connection.answer()

    async def statuses(self, count: int, header: str | None, client: str = "192.0.2.7") -> list[int]:
        return [(await self.ask(header, client=client)).status for _ in range(count)]


async def test_token_is_told_to_wait_after_its_burst_wherever_it_comes_from() -> None:
    world = World(requests_per_second=2)
    burst = 2 * BURST_SECONDS
    statuses = [(await world.ask(GOOD, client=f"192.0.2.{number}")).status for number in range(burst + 1)]
    assert statuses == [200] * burst + [429]
    refused = await world.ask(GOOD, client="198.51.100.1")
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert b'"detail":"too many requests from this token"' in refused.body
    assert (await world.ask(OTHER, client="198.51.100.1")).status == 200
    world.now += 1
    assert await world.statuses(3, GOOD, client="198.51.100.2") == [200, 200, 429]


async def test_address_is_told_to_wait_whatever_it_sends() -> None:
    world = World(requests_per_second=1)
    assert await world.statuses(BURST_SECONDS, None) == [200] * BURST_SECONDS
    assert (await world.ask(GOOD)).status == 429
    assert (await world.ask(None, client="192.0.2.8")).status == 200


async def test_loopback_is_everybody_behind_a_proxy_and_has_no_limit_but_its_tokens() -> None:
    world = World(requests_per_second=1)
    for client in ("127.0.0.1", "::1"):
        assert await world.statuses(3 * BURST_SECONDS, None, client=client) == [200] * 3 * BURST_SECONDS
    assert (await world.statuses(BURST_SECONDS + 1, GOOD, client="127.0.0.1"))[-1] == 429


async def test_tries_with_wrong_credentials_are_refused_without_a_look_after_some() -> None:
    world = World(failed_logins_per_minute=6)
    assert await world.statuses(8, WRONG) == [401] * 6 + [429] * 2
    assert len(world.looked_up) == 6
    assert (await world.ask(WRONG)).headers["retry-after"] == "10"
    assert (await world.ask(WRONG, client="192.0.2.8")).status == 401
    world.now += 10
    assert await world.statuses(2, WRONG) == [401, 429]


async def test_nobody_locks_out_those_who_work_behind_the_same_address() -> None:
    world = World(failed_logins_per_minute=6)
    await world.statuses(100, WRONG)
    assert await world.statuses(20, GOOD) == [200] * 20
    assert await world.statuses(20, None) == [200] * 20
    assert (await world.ask(OTHER)).status == 429  # never accepted before: it waits
    world.now += 10
    assert (await world.ask(OTHER)).status == 200


async def test_who_brings_no_credentials_has_not_failed() -> None:
    world = World(failed_logins_per_minute=1)
    assert await world.statuses(5, None) == [200] * 5
    assert (await world.ask(WRONG)).status == 401


async def test_health_has_no_limit() -> None:
    world = World(requests_per_second=1)
    assert {(await world.ask(None, path=b"/health")).status for _ in range(50)} == {200}


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1:2:3", "2001:db8::/64"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_addresses_of_one_client_have_one_name(address: str, name: str) -> None:
    assert name_client(address) == name
