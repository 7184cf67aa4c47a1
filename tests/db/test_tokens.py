from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.db.tokens import (
    TokenRow,
    TokenUse,
    find_grant_now,
    find_token,
    get_token,
    has_tokens,
    insert_token,
    list_tokens,
    note_uses,
    revoke_token,
)
from icehouse.errors import NotFound
from icehouse.rules.access import Grant, Permission

HASH = b"h" * 32
PERMISSIONS = frozenset({Permission.PUSH, Permission.PULL})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


def add(connection: Connection, token_hash: bytes = HASH, *, expires_at: int | None = None) -> TokenRow:
    return insert_token(
        connection,
        token_hash,
        description="CI",
        permissions=PERMISSIONS,
        cache_pattern="team-*",
        created_by=None,
        expires_at=expires_at,
        now=100,
    )


async def test_a_token_is_found_by_its_hash(database: Database) -> None:
    assert not await database.read(has_tokens)
    made = await database.write(add)
    assert made == TokenRow(1, "CI", PERMISSIONS, "team-*", 100, None, None, None, None, None, None)
    assert await database.read(lambda connection: find_token(connection, HASH)) == made
    assert await database.read(lambda connection: get_token(connection, 1)) == made
    assert await database.read(list_tokens) == (made,)
    assert await database.read(has_tokens)


async def test_an_absent_token_is_not_found(database: Database) -> None:
    assert await database.read(lambda connection: find_token(connection, HASH)) is None
    with pytest.raises(NotFound):
        await database.read(lambda connection: get_token(connection, 1))


async def test_both_ways_to_a_grant_agree(database: Database) -> None:
    row = await database.write(lambda connection: add(connection, expires_at=200))
    with closing(database.open_reader()) as reader:
        assert row.is_valid(199)
        assert find_grant_now(reader, HASH, 199) == row.grant() == Grant(1, "CI", PERMISSIONS, "team-*", 200)
        assert not row.is_valid(200)
        assert find_grant_now(reader, HASH, 200) is None
        assert find_grant_now(reader, b"x" * 32, 0) is None


async def test_a_revocation_holds_at_once_and_keeps_its_time(database: Database) -> None:
    await database.write(add)
    with closing(database.open_reader()) as reader:
        assert find_grant_now(reader, HASH, 150) is not None
        await database.write(lambda connection: revoke_token(connection, 1, now=150))
        assert find_grant_now(reader, HASH, 150) is None
    await database.write(lambda connection: revoke_token(connection, 1, now=160))
    row = await database.read(lambda connection: get_token(connection, 1))
    assert row.revoked_at == 150
    assert not row.is_valid(150)


async def test_the_latest_use_stays(database: Database) -> None:
    def work(connection: Connection) -> list[tuple[int | None, str | None]]:
        for letter in b"abc":
            add(connection, bytes([letter]) * 32)
        note_uses(connection, {})
        note_uses(connection, {1: TokenUse(500, "a"), 2: TokenUse(600, "a")})
        note_uses(connection, {1: TokenUse(400, "b"), 2: TokenUse(700, None)})
        return [(row.last_used_at, row.last_used_from) for row in list_tokens(connection)]

    assert await database.write(work) == [(500, "a"), (700, None), (None, None)]
