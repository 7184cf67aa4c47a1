from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from icehouse.db.caches import PUBLIC_DOMAIN_ID, insert_cache, insert_domain
from icehouse.db.engine import Database, connect
from icehouse.db.migrate import prepare_database
from icehouse.db.tokens import TokenUse, get_token, insert_token, note_uses, revoke_token
from icehouse.errors import Denied, NotFound, Unauthenticated, Unavailable
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.access import Grant, Permission, hash_token, make_token
from icehouse.services.access import Access, Credential, HotAccess

NOW = 1_000
ADDRESS, OTHER_ADDRESS = "192.0.2.7", "2001:db8::7"
TOKEN = make_token(b"t" * 32)
UNKNOWN = make_token(b"u" * 32)
PUSHER = Grant(1, "CI", frozenset({Permission.PUSH}), "team-*", NOW + 10)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db", busy_timeout_seconds=0.05)
    database.write_now(fill)
    yield database
    database.close()


def fill(connection: Connection) -> None:
    for name, is_public in (("main", True), ("team-a", False), ("secrets", False)):
        insert_cache(
            connection,
            name=name,
            domain_id=PUBLIC_DOMAIN_ID if is_public else insert_domain(connection, None, now=NOW),
            is_public=is_public,
            store_dir=NIX_STORE,
            priority=41,
            want_mass_query=True,
            now=NOW,
        )
    insert_token(
        connection,
        hash_token(TOKEN),
        description=PUSHER.description,
        permissions=PUSHER.permissions,
        cache_pattern=PUSHER.cache_pattern,
        created_by=None,
        expires_at=PUSHER.expires_at,
        now=NOW,
    )


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(database: Database, clock: Clock) -> Access:
    return Access(database, clock=clock)


async def test_a_valid_token_is_identified(access: Access) -> None:
    assert await access.identify(Credential(f"Bearer {TOKEN}", ADDRESS)) == PUSHER
    assert await access.identify(Credential()) is None


async def test_an_unknown_token_is_not(access: Access) -> None:
    with pytest.raises(Unauthenticated):
        await access.identify(Credential(f"Bearer {UNKNOWN}", ADDRESS))


async def test_an_expired_token_is_not(access: Access, clock: Clock) -> None:
    clock.now = NOW + 10
    with pytest.raises(Unauthenticated):
        await access.identify(Credential(f"Bearer {TOKEN}", ADDRESS))


async def test_a_revoked_token_is_not_from_the_next_request_on(access: Access, database: Database) -> None:
    await access.identify(Credential(f"Bearer {TOKEN}", ADDRESS))
    await database.write(lambda connection: revoke_token(connection, 1, now=NOW))
    with pytest.raises(Unauthenticated):
        await access.identify(Credential(f"Bearer {TOKEN}", ADDRESS))


@pytest.mark.parametrize(
    ("cache_name", "permission", "credential", "expected"),
    [
        ("main", Permission.PULL, None, None),
        ("main", Permission.PULL, f"Bearer {UNKNOWN}", None),
        ("main", Permission.PULL, "Digest x", None),
        ("main", Permission.PUSH, None, Unauthenticated),
        ("main", Permission.PUSH, f"Bearer {UNKNOWN}", Unauthenticated),
        ("main", Permission.PUSH, f"Bearer {TOKEN}", Denied),
        ("team-a", Permission.PULL, None, Unauthenticated),
        ("team-a", Permission.PULL, "Digest x", Unauthenticated),
        ("team-a", Permission.PULL, f"Bearer {UNKNOWN}", Unauthenticated),
        ("team-a", Permission.PULL, f"Bearer {TOKEN}", None),
        ("team-a", Permission.PUSH, f"Bearer {TOKEN}", None),
        ("team-a", Permission.ADMIN, f"Bearer {TOKEN}", Denied),
        ("secrets", Permission.PULL, None, Unauthenticated),
        ("secrets", Permission.PULL, f"Bearer {TOKEN}", NotFound),
        ("absent", Permission.PULL, None, Unauthenticated),
        ("absent", Permission.PULL, f"Bearer {TOKEN}", NotFound),
        ("team-absent", Permission.PUSH, f"Bearer {TOKEN}", NotFound),
    ],
)
async def test_who_may_enter(
    access: Access, cache_name: str, permission: Permission, credential: str | None, expected: type[Exception] | None
) -> None:
    if expected is not None:
        with pytest.raises(expected):
            await access.enter(cache_name, permission, Credential(credential, ADDRESS))
    else:
        entry = await access.enter(cache_name, permission, Credential(credential, ADDRESS))
        assert entry.cache.name == cache_name
        assert entry.grant == (PUSHER if credential == f"Bearer {TOKEN}" else None)


async def test_the_hot_routes_decide_the_same(access: Access, database: Database, clock: Clock) -> None:
    with closing(database.open_reader()) as reader:
        hot = HotAccess(access, reader, database.path, clock=clock)
        hot.check_pull(f"Bearer {TOKEN}".encode(), ADDRESS, "team-a", has_cache=True)
        for header, name, has_cache, expected in (
            (None, "team-a", True, Unauthenticated),
            (b"Basic \xff", "team-a", True, Unauthenticated),
            (f"Bearer {UNKNOWN}".encode(), "team-a", True, Unauthenticated),
            (f"Bearer {TOKEN}".encode(), "secrets", True, NotFound),
            (f"Bearer {TOKEN}".encode(), "team-b", False, NotFound),
            (None, "absent", False, Unauthenticated),
        ):
            with pytest.raises(expected):
                hot.check_pull(header, ADDRESS, name, has_cache=has_cache)
        clock.now = NOW + 10
        with pytest.raises(Unauthenticated):
            hot.check_pull(f"Bearer {TOKEN}".encode(), ADDRESS, "team-a", has_cache=True)


async def test_the_last_use_and_its_address_are_written_later(access: Access, database: Database, clock: Clock) -> None:
    async def last_use() -> tuple[int | None, str | None]:
        row = await database.read(lambda connection: get_token(connection, 1))
        return row.last_used_at, row.last_used_from

    await access.identify(Credential(f"Bearer {TOKEN}", ADDRESS))
    assert await last_use() == (None, None)
    await access.flush()
    assert await last_use() == (NOW, ADDRESS)
    clock.now = NOW + 5
    with closing(database.open_reader()) as reader:
        access.identify_now(reader, Credential(f"Bearer {TOKEN}", OTHER_ADDRESS), NOW + 5)
    with closing(connect(database.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await access.flush()
    await access.flush()
    assert await last_use() == (NOW + 5, OTHER_ADDRESS)


async def test_an_earlier_use_of_another_process_changes_nothing(access: Access, database: Database) -> None:
    await database.write(lambda connection: note_uses(connection, {1: TokenUse(NOW + 1, OTHER_ADDRESS)}))
    await access.identify(Credential(f"Bearer {TOKEN}", ADDRESS))
    await access.flush()
    row = await database.read(lambda connection: get_token(connection, 1))
    assert (row.last_used_at, row.last_used_from) == (NOW + 1, OTHER_ADDRESS)


def test_a_credential_does_not_show_in_repr() -> None:
    assert TOKEN not in repr(Credential(f"Bearer {TOKEN}", ADDRESS))
