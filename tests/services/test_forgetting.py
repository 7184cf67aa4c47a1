"""What is kept for a while is forgotten once a day, and nothing that somebody may ask for later."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text

from icehouse.api.publish import PathsRequest
from icehouse.db import schema
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.audit import Change, insert_change
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_access_database
from icehouse.db.tokens import find_forgettable, insert_token
from icehouse.db.trust import UsedToken, insert_job, put_use
from icehouse.nix.store_paths import HashPart
from icehouse.rules.access import Permission
from icehouse.rules.audit import KEEP_EXCHANGES_SECONDS, ON_SERVER, Action
from icehouse.rules.provenance import Job
from icehouse.services.downloads import Downloads
from icehouse.services.forgetting import Forgetting
from icehouse.services.serve import show_path
from icehouse.services.traffic import TrafficCounts
from tests.db.plans import steps_of
from tests.services.publishing import Store, nar_of, path_body

APP = f"{'b' * 32}-app"
DAY = 86_400
LONG_AGO = 1_000_000


class World:
    """A cache, and what forgets."""

    def __init__(self, store: Store, access: Database) -> None:
        self.store = store
        self.access = access
        self.now = int(time.time())
        self.downloads = Downloads(access, lambda: self.now, keep_days=30)
        self.forgetting = self.make_forgetting(30)

    def make_forgetting(self, download_days: int) -> Forgetting:
        return Forgetting(
            self.store.database,
            self.downloads,
            TrafficCounts(self.store.database, self.access, lambda: self.now),
            lambda: self.now,
            download_days=download_days,
        )

    async def add_token(
        self, expires_at: int | None = LONG_AGO, *, is_of_job: bool = True, job: int | None = None
    ) -> int:
        def work(connection: Connection) -> int:
            made = insert_job(connection, Job("https://ci", "x"), now=1) if is_of_job and job is None else job
            number = len(connection.execute(select(schema.token.c.id)).all())
            row = insert_token(
                connection,
                number.to_bytes(32, "big"),
                description="run 4711",
                permissions=[Permission.PUSH],
                cache_pattern="main",
                created_by=None,
                expires_at=expires_at,
                now=1,
                job_id=made,
            )
            return row.id

        return await self.store.database.write(work)

    async def ids(self, table: str) -> list[int]:
        statement = text(f"SELECT id FROM {table} ORDER BY id")  # noqa: S608  a name of a table
        return list(await self.store.database.read(lambda connection: connection.execute(statement).scalars().all()))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = Store.open(tmp_path)
    prepare_access_database(tmp_path / "access.db")
    access = Database.open(tmp_path / "access.db", revision=ACCESS_REVISION)
    yield World(store, access)
    access.close()
    await store.close()


async def test_ended_tokens_of_jobs_are_forgotten_and_those_of_people_stay(world: World) -> None:
    ended = await world.add_token()
    recent = await world.add_token(world.now - KEEP_EXCHANGES_SECONDS + 60)
    people = [await world.add_token(at, is_of_job=False) for at in (LONG_AGO, None)]
    await world.forgetting.forget_if_due()
    assert await world.ids("token") == [recent, *people]
    assert ended not in await world.ids("token")
    assert await world.ids("job") == [2]


async def test_tokens_that_downloads_may_name_are_kept_for_as_long(world: World) -> None:
    recent = await world.add_token(world.now - KEEP_EXCHANGES_SECONDS - DAY)
    await world.make_forgetting(365).forget_if_due()
    assert await world.ids("token") == [recent]
    await world.make_forgetting(30).forget_if_due()
    assert await world.ids("token") == []


async def test_job_stays_while_another_of_its_tokens_or_its_identity_is_known(world: World) -> None:
    first = await world.add_token()
    await world.add_token(world.now, job=1)
    await world.add_token()
    await world.store.database.write(partial(put_use, use_key=b"key", use=UsedToken(2, b"hash"), expires_at=world.now))
    await world.forgetting.forget_if_due()
    assert (await world.ids("token"), await world.ids("job")) == ([2], [1, 2])
    assert first == 1


async def test_who_pushed_a_path_can_be_told_however_long_ago(world: World) -> None:
    cache = await world.store.create_cache("main")
    pusher = await world.add_token()
    body = await world.store.nar_body(cache, nar_of(b"app"))
    await world.store.register(cache, body)
    request = PathsRequest([path_body(APP, nar_of(b"app"))])
    assert not (await world.store.publisher.publish_paths(cache, request, token_id=pusher)).refused
    await world.forgetting.forget_if_due()
    assert await world.ids("token") == [pusher]
    view = await show_path(world.store.database, cache, HashPart(APP[:32]), with_address=False)
    assert view.published_by is not None
    assert await world.ids("job") == [1]


async def test_each_column_that_names_a_token_keeps_it_and_is_found_by_an_index(world: World) -> None:
    named = [
        column
        for table in schema.metadata.tables.values()
        for column in table.columns
        if any(key.column is schema.token.c.id for key in column.foreign_keys)
    ]
    assert len(named) >= 9
    indexes = [index for table in schema.metadata.tables.values() for index in table.indexes]
    indexed = {column for index in indexes for column in index.columns}
    # A cache has few rules, and few things are revoked.
    few = {"trust_rule.created_by", "revocation.created_by"}
    assert {str(column) for column in named if column not in indexed} == few
    for column in named:
        number = await world.add_token()

        def name_it(connection: Connection, column: schema.Column[int] = column, number: int = number) -> None:
            connection.execute(text("PRAGMA defer_foreign_keys = ON"))
            values = {
                each.name: number if each is column else b"%d" % number if str(each.type) == "BLOB" else number
                for each in column.table.columns
                if each is column or not (each.nullable or each.primary_key)
            }
            connection.execute(insert(column.table).values(**values))
            find = partial(find_forgettable, first=number, last=number, before=world.now)
            assert find(connection) == [], str(column)
            connection.rollback()

        await world.store.database.write(name_it)


async def test_looking_for_what_can_go_reads_no_table_whole(world: World) -> None:
    def work(connection: Connection) -> list[str]:
        return steps_of(connection, lambda: find_forgettable(connection, first=1, last=1_000, before=5))

    steps = await world.store.database.read(work)
    scans = {step for step in steps if step.startswith("SCAN") and "CONSTANT" not in step}
    assert scans <= {"SCAN trust_rule_1", "SCAN revocation_1"}, steps


async def test_old_exchanges_and_downloads_are_forgotten_once_a_day(world: World) -> None:
    def note(connection: Connection) -> None:
        for action, at in ((Action.TOKEN_EXCHANGE, LONG_AGO), (Action.TOKEN_EXCHANGE, world.now), (Action.PIN_PUT, 1)):
            insert_change(connection, ON_SERVER, Change(action, "main", "1", None, None), now=at)

    await world.store.database.write(note)
    await world.forgetting.forget_if_due()
    assert await world.ids("audit") == [2, 3]
    await world.store.database.write(note)
    await world.forgetting.forget_if_due()
    assert await world.ids("audit") == [2, 3, 4, 5, 6]
    world.now += DAY
    await world.forgetting.forget_if_due()
    assert await world.ids("audit") == [2, 3, 5, 6]
