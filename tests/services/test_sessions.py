"""Sessions: how they begin, what ends them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from icehouse.db.audit import AuditFilter, page_changes
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.db.tokens import get_token, insert_token, revoke_token
from icehouse.errors import Unauthenticated
from icehouse.rules.access import Permission, hash_token, make_token
from icehouse.rules.audit import Origin
from icehouse.rules.sessions import IDLE_SECONDS, LIFETIME_SECONDS, SessionSecret, make_secret
from icehouse.services.access import Access
from icehouse.services.sessions import Session, Sessions

START = 1_000_000
TOKEN = make_token(b"t" * 32)
ADDRESS = "192.0.2.7"
ORIGIN = Origin(ADDRESS, "request")


class Desk:
    """Two processes over one database, and a clock."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = START
        drawn = itertools.count(1)
        self.accesses = [Access(database, clock=lambda: self.now) for _ in range(2)]
        self.first, self.second = (
            Sessions(
                database,
                access,
                clock=lambda: self.now,
                draw=lambda size: next(drawn).to_bytes(size, "big"),
            )
            for access in self.accesses
        )

    async def begin(self, before: SessionSecret | None = None) -> SessionSecret:
        return (await self.first.log_in(TOKEN, ORIGIN, before=before)).secret

    async def find(self, secret: SessionSecret) -> Session | None:
        found, again = [await sessions.find(secret, ADDRESS) for sessions in (self.first, self.second)]
        assert found == again
        return found

    def actions(self) -> list[tuple[str, str]]:
        rows = self.database.read_now(lambda connection: page_changes(connection, ["*"], AuditFilter(), limit=100))
        return [(row.change.action, row.actor.who) for row in reversed(rows)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    database.write_now(
        lambda connection: insert_token(
            connection,
            hash_token(TOKEN),
            description="Ada",
            permissions=[Permission.PUSH],
            cache_pattern="team-*",
            created_by=None,
            expires_at=START + 2 * LIFETIME_SECONDS,
            now=START,
        )
    )
    yield Desk(database)
    database.close()


async def test_session_may_what_its_token_may_in_every_process(desk: Desk) -> None:
    session = await desk.find(await desk.begin())
    assert session is not None
    assert (session.grant.description, session.grant.cache_pattern) == ("Ada", "team-*")
    assert desk.actions() == [("session.login", "Ada")]


async def test_use_of_a_session_is_a_use_of_its_token(desk: Desk) -> None:
    await desk.find(await desk.begin())
    await desk.accesses[0].flush()
    token = desk.database.read_now(lambda connection: get_token(connection, 1))
    assert (token.last_used_at, token.last_used_from) == (START, ADDRESS)


@pytest.mark.parametrize("text", ["", "ice_x", make_token(b"u" * 32), "é" * 100])
async def test_wrong_token_begins_nothing(desk: Desk, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await desk.first.log_in(text, ORIGIN, before=None)
    assert desk.actions() == []


async def test_unknown_secret_is_nobody(desk: Desk) -> None:
    assert await desk.find(make_secret(b"?" * 32)) is None


async def test_session_ends_with_its_token(desk: Desk) -> None:
    secret = await desk.begin()
    desk.database.write_now(lambda connection: revoke_token(connection, 1, now=START))
    assert await desk.find(secret) is None
    with pytest.raises(Unauthenticated):
        await desk.begin()


async def test_log_out_ends_a_session_in_every_process_at_once(desk: Desk) -> None:
    secret = await desk.begin()
    session = await desk.find(secret)
    assert session is not None
    await desk.first.log_out(session, ORIGIN)
    assert await desk.find(secret) is None
    assert desk.actions() == [("session.login", "Ada"), ("session.logout", "Ada")]


async def test_login_ends_the_session_that_the_browser_had(desk: Desk) -> None:
    before = await desk.begin()
    other = await desk.begin()
    after = await desk.begin(before)
    assert await desk.find(before) is None
    assert await desk.find(other) is not None
    assert await desk.find(after) is not None


async def test_secret_that_the_browser_brings_along_is_never_taken_over(desk: Desk) -> None:
    planted = make_secret(b"p" * 32)
    assert await desk.begin(planted) != planted
    assert await desk.find(planted) is None


async def test_idle_session_ends_and_one_in_use_goes_on_to_its_last_day(desk: Desk) -> None:
    idle, used = await desk.begin(), await desk.begin()
    for _ in range(LIFETIME_SECONDS // (IDLE_SECONDS - 1)):
        desk.now += IDLE_SECONDS - 1
        assert await desk.first.find(used, ADDRESS) is not None
        await desk.first.flush()
        assert await desk.second.find(used, ADDRESS) is not None
    assert await desk.find(idle) is None
    desk.now = START + LIFETIME_SECONDS
    assert await desk.find(used) is None


async def test_sessions_that_are_over_are_removed_by_the_next_login(desk: Desk) -> None:
    await desk.begin()
    desk.now += IDLE_SECONDS
    await desk.begin()
    rows = desk.database.read_now(lambda connection: connection.exec_driver_sql("SELECT id FROM session").fetchall())
    assert [row.id for row in rows] == [2]


async def test_secret_of_a_session_is_not_in_the_database(desk: Desk, tmp_path: Path) -> None:
    secret = await desk.begin()
    assert secret not in repr(await desk.find(secret))
    files = [tmp_path / "icehouse.db", tmp_path / "icehouse.db-wal"]
    assert not any(secret.encode() in file.read_bytes() for file in files)
