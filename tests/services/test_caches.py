import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, func, insert, select

from icehouse.api.caches import CacheConfigure, CacheCreate, UpstreamBody
from icehouse.db import schema
from icehouse.db.caches import PUBLIC_DOMAIN_ID, CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.errors import Conflict, Denied, InvalidFormat, NotFound, Unauthenticated
from icehouse.nix.signing import PublicKey
from icehouse.rules.access import Grant, Permission
from icehouse.rules.recipes import make_recipe, render_recipe
from icehouse.services.caches import DEFAULT_UPSTREAM, Caches, key_name, merge_ranges
from icehouse.services.signing import Sealer, Signer
from icehouse.storage.blobs import BlobKey
from icehouse.storage.memory import MemoryBlobStore
from tests.services.publishing import TESTER

NOW = 1_000
SEALER = Sealer(b"k" * 32)
ADMIN = Grant(1, "", frozenset({Permission.ADMIN}), "*")
TEAM = Grant(2, "", frozenset({Permission.ADMIN}), "team-*")
KEY = "key-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


def clock() -> int:
    return NOW


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


@pytest.fixture
def blobs() -> MemoryBlobStore:
    return MemoryBlobStore()


@pytest.fixture
def caches(database: Database, blobs: MemoryBlobStore) -> Caches:
    numbers = itertools.count(1)
    return Caches(
        database,
        blobs,
        SEALER,
        public_url="https://cache.example.org:8443/",
        clock=clock,
        draw=lambda size: next(numbers).to_bytes(size, "big"),
    )


async def row_of(database: Database, name: str) -> CacheRow:
    return await database.read(lambda connection: get_cache(connection, name))


async def test_a_new_cache_says_what_its_users_need(caches: Caches, database: Database) -> None:
    view = await caches.create_cache(CacheCreate(name="main", is_public=True), ADMIN, TESTER)
    assert view.url == "https://cache.example.org:8443/main"
    assert view.upstreams == [DEFAULT_UPSTREAM]
    assert (view.priority, view.want_mass_query, view.store_dir) == (41, True, "/nix/store")
    assert view.created_at == NOW
    (key,) = (await Signer(database, SEALER).sign((await row_of(database, "main")).id, [])).keys
    assert view.public_keys == [key.render()]
    assert PublicKey.parse(view.public_keys[0]).key_name == "main.cache.example.org-1"
    assert await caches.list_caches(None) == [view]


async def test_two_caches_have_two_keys(caches: Caches) -> None:
    views = [await caches.create_cache(CacheCreate(name=name, is_public=True), ADMIN, TESTER) for name in ("a", "b")]
    assert len({PublicKey.parse(view.public_keys[0]).key for view in views}) == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", "main.127.0.0.1-1"),
        ("http://[::1]:8080", "main.--1-1"),
        ("https://Cache.Example.org/nix", "main.cache.example.org-1"),
    ],
)
def test_the_key_is_named_for_cache_and_host(url: str, expected: str) -> None:
    assert key_name("main", url) == expected
    PublicKey(key_name("main", url), bytes(32))


def test_a_public_url_without_host_is_refused() -> None:
    with pytest.raises(InvalidFormat):
        key_name("main", "localhost")


async def test_staging_says_of_what_and_goes_by_the_upstreams_of_that(caches: Caches, database: Database) -> None:
    upstream = UpstreamBody(url="https://a.example", public_keys=[KEY])
    await caches.create_cache(CacheCreate(name="main", is_public=True, upstreams=[upstream]), ADMIN, TESTER)
    request = CacheCreate(name="pr", is_public=True, staging_of="main")
    view = await caches.create_cache(request, ADMIN, TESTER)
    assert (view.staging_of, view.upstreams, view.stagings) == ("main", [upstream], [])
    main, pr = await row_of(database, "main"), await row_of(database, "pr")
    assert (main.domain_id, pr.domain_id) == (PUBLIC_DOMAIN_ID, PUBLIC_DOMAIN_ID)
    assert (await caches.show_cache(main, None)).stagings == ["pr"]
    view = await caches.configure_cache(pr, CacheConfigure(staging_of=None), ADMIN, TESTER)
    assert (view.staging_of, (await caches.show_cache(main, None)).stagings) == (None, [])
    assert (await caches.configure_cache(pr, CacheConfigure(staging_of="main"), ADMIN, TESTER)).staging_of == "main"
    changes = await database.read(lambda connection: connection.execute(select(schema.audit.c.new_values)).all())
    assert [row.new_values for row in changes[2:]] == ['{"staging_of":null}', '{"staging_of":"main"}']
    await caches.delete_cache(main, TESTER)
    assert (await caches.show_cache(await row_of(database, "pr"), None)).staging_of is None


async def test_private_staging_shares_no_domain_with_its_main_cache_unless_that_is_named(
    caches: Caches, database: Database
) -> None:
    for name, domain in (("main", None), ("shared", "team")):
        await caches.create_cache(CacheCreate(name=name, is_public=False, domain=domain), ADMIN, TESTER)
    for name, main, domain in (("pr", "main", None), ("pr-2", "shared", "team")):
        request = CacheCreate(name=name, is_public=False, staging_of=main, domain=domain)
        assert (await caches.create_cache(request, ADMIN, TESTER)).staging_of == main
    domains = {name: (await row_of(database, name)).domain_id for name in ("main", "pr", "shared", "pr-2")}
    assert domains["main"] != domains["pr"]
    assert domains["shared"] == domains["pr-2"]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (CacheCreate(name="pr", is_public=True, staging_of="pr"), "of itself"),
        (CacheCreate(name="pr", is_public=True, staging_of="staging"), "is a staging itself"),
        (CacheCreate(name="pr", is_public=True, staging_of="secret"), "must be too"),
        (CacheCreate(name="pr", is_public=True, staging_of="main", store_dir="/gnu/store"), "is for /nix/store"),
    ],
)
async def test_cache_that_cannot_be_a_staging_is_not_made(caches: Caches, request_: CacheCreate, reason: str) -> None:
    await caches.create_cache(CacheCreate(name="main", is_public=True), ADMIN, TESTER)
    await caches.create_cache(CacheCreate(name="staging", is_public=True, staging_of="main"), ADMIN, TESTER)
    await caches.create_cache(CacheCreate(name="secret", is_public=False), ADMIN, TESTER)
    with pytest.raises(InvalidFormat, match=reason):
        await caches.create_cache(request_, ADMIN, TESTER)
    assert [view.name for view in await caches.list_caches(ADMIN)] == ["main", "secret", "staging"]


async def test_cache_with_stagings_becomes_none(caches: Caches, database: Database) -> None:
    for name, main in (("main", None), ("pr", "main"), ("other", None)):
        await caches.create_cache(CacheCreate(name=name, is_public=True, staging_of=main), ADMIN, TESTER)
    with pytest.raises(InvalidFormat, match="has stagings"):
        await caches.configure_cache(await row_of(database, "main"), CacheConfigure(staging_of="other"), ADMIN, TESTER)


async def test_staging_needs_the_right_to_configure_its_main_cache_and_tells_nobody_of_a_private_one(
    caches: Caches, database: Database
) -> None:
    for name, is_public in (("main", True), ("secret", False)):
        await caches.create_cache(CacheCreate(name=name, is_public=is_public), ADMIN, TESTER)
    with pytest.raises(Denied):
        await caches.create_cache(CacheCreate(name="team-a", is_public=True, staging_of="main"), TEAM, TESTER)
    for main in ("secret", "absent"):
        with pytest.raises(NotFound, match=f"cache '{main}'"):
            await caches.create_cache(CacheCreate(name="team-a", is_public=False, staging_of=main), TEAM, TESTER)
    await caches.create_cache(CacheCreate(name="team-a", is_public=False, staging_of="secret"), ADMIN, TESTER)
    team = await row_of(database, "team-a")
    assert [view.staging_of for view in await caches.list_caches(TEAM) if view.name == "team-a"] == [None]
    assert (await caches.show_cache(team, TEAM)).staging_of is None
    assert (await caches.configure_cache(team, CacheConfigure(priority=3), TEAM, TESTER)).staging_of is None
    assert (await caches.show_cache(await row_of(database, "secret"), None)).stagings == []
    assert (await caches.show_cache(team, ADMIN)).staging_of == "secret"


async def test_a_name_is_used_once(caches: Caches) -> None:
    await caches.create_cache(CacheCreate(name="main", is_public=True), ADMIN, TESTER)
    with pytest.raises(Conflict):
        await caches.create_cache(CacheCreate(name="main", is_public=False), ADMIN, TESTER)


async def test_a_name_outside_the_pattern_is_denied(caches: Caches) -> None:
    with pytest.raises(Denied):
        await caches.create_cache(CacheCreate(name="main", is_public=True), TEAM, TESTER)
    with pytest.raises(Unauthenticated):
        await caches.create_cache(CacheCreate(name="main", is_public=True), None, TESTER)
    assert await caches.list_caches(ADMIN) == []


@pytest.mark.parametrize(
    "wrong",
    [
        CacheCreate(name="api", is_public=True),
        CacheCreate(name="A", is_public=True),
        CacheCreate(name="a", is_public=True, priority=-1),
        CacheCreate(name="a", is_public=True, priority=2**31),
        CacheCreate(name="a", is_public=True, store_dir="nix/store"),
        CacheCreate(name="a", is_public=True, domain="team"),
        CacheCreate(name="a", is_public=False, domain="public"),
        CacheCreate(name="a", is_public=False, domain="Team"),
        *(
            CacheCreate(name="a", is_public=True, upstreams=[UpstreamBody(url=url, public_keys=[KEY])])
            for url in (
                "",
                "cache.nixos.org",
                "file:///nix",
                "https://",
                "https://[",
                "https://a b",
                "https://me:secret@a.example",
                "https://" + "a" * 3_000,
            )
        ),
        CacheCreate(name="a", is_public=True, upstreams=[UpstreamBody(url="https://a.example", public_keys=[])]),
        CacheCreate(name="a", is_public=True, upstreams=[UpstreamBody(url="https://a.example", public_keys=["key"])]),
        CacheCreate(
            name="a", is_public=True, upstreams=[UpstreamBody(url="https://a.example", public_keys=[KEY] * 17)]
        ),
        CacheCreate(
            name="a",
            is_public=True,
            upstreams=[UpstreamBody(url=f"https://{n}.example", public_keys=[KEY]) for n in range(17)],
        ),
        CacheCreate(
            name="a",
            is_public=True,
            upstreams=[UpstreamBody(url=f"https://a.example{end}", public_keys=[KEY]) for end in ("", "/")],
        ),
    ],
)
async def test_a_wrong_setting_is_refused_and_nothing_is_made(caches: Caches, wrong: CacheCreate) -> None:
    with pytest.raises(InvalidFormat):
        await caches.create_cache(wrong, ADMIN, TESTER)
    assert await caches.list_caches(ADMIN) == []


async def test_a_cache_may_have_no_upstream(caches: Caches) -> None:
    view = await caches.create_cache(CacheCreate(name="a", is_public=True, upstreams=[]), ADMIN, TESTER)
    assert view.upstreams == []


async def test_only_those_who_may_pull_see_a_private_cache(caches: Caches) -> None:
    for name, is_public in (("main", True), ("team-a", False), ("other", False)):
        await caches.create_cache(CacheCreate(name=name, is_public=is_public), ADMIN, TESTER)
    puller = Grant(3, "", frozenset({Permission.PULL}), "team-a")

    async def seen_by(grant: Grant | None) -> list[str]:
        return [view.name for view in await caches.list_caches(grant)]

    assert await seen_by(None) == ["main"]
    assert await seen_by(puller) == ["main", "team-a"]
    assert await seen_by(ADMIN) == ["main", "other", "team-a"]


async def test_public_caches_share_a_domain_and_private_ones_do_not(caches: Caches, database: Database) -> None:
    for name, is_public in (("a", True), ("b", True), ("c", False), ("d", False)):
        await caches.create_cache(CacheCreate(name=name, is_public=is_public), ADMIN, TESTER)
    domains = [(await row_of(database, name)).domain_id for name in "abcd"]
    assert domains[:2] == [PUBLIC_DOMAIN_ID] * 2
    assert len(set(domains)) == 3


async def test_joining_a_domain_needs_admin_on_all_its_caches(caches: Caches, database: Database) -> None:
    await caches.create_cache(CacheCreate(name="team-a", is_public=False, domain="shared"), TEAM, TESTER)
    await caches.create_cache(CacheCreate(name="team-b", is_public=False, domain="shared"), TEAM, TESTER)
    assert (await row_of(database, "team-a")).domain_id == (await row_of(database, "team-b")).domain_id
    await caches.create_cache(CacheCreate(name="other", is_public=False, domain="shared"), ADMIN, TESTER)
    with pytest.raises(Denied, match="'shared'"):
        await caches.create_cache(CacheCreate(name="team-c", is_public=False, domain="shared"), TEAM, TESTER)


def fill(connection: Connection, cache: CacheRow, recipes: Sequence[Sequence[int]], *, chunks: int) -> int:
    """A pack with *chunks* chunks of 10 stored bytes, and one visible path for each list of offsets into them."""
    pack_id = connection.execute(
        insert(schema.pack)
        .values(domain_id=cache.domain_id, name=b"p", size_bytes=1, created_at=0)
        .returning(schema.pack.c.id)
    ).scalar_one()
    first = connection.execute(select(func.coalesce(func.max(schema.chunk.c.number), 0))).scalar_one() + 1
    connection.execute(
        insert(schema.chunk),
        [
            {
                "number": first + n,
                "domain_id": cache.domain_id,
                "identity": n.to_bytes(32, "little"),
                "pack_id": pack_id,
                "pack_offset": 0,
                "stored_bytes": 10,
                "raw_bytes": 20,
            }
            for n in range(chunks)
        ],
    )
    for n, offsets in enumerate(recipes):
        nar_hash = n.to_bytes(32, "big")
        nar_id = connection.execute(
            insert(schema.nar)
            .values(
                domain_id=cache.domain_id, nar_hash=nar_hash, nar_size=100, file_hash=b"", file_size=1, created_at=0
            )
            .returning(schema.nar.c.id)
        ).scalar_one()
        body = render_recipe(make_recipe([first + offset for offset in offsets], []))
        connection.execute(insert(schema.recipe).values(nar_id=nar_id, body=body))
        connection.execute(
            insert(schema.path).values(
                cache_id=cache.id,
                hash_part=f"{n:032}",
                name="x",
                nar_id=nar_id,
                nar_hash="",
                nar_size=100,
                file_hash="",
                file_size=1,
                references="",
                signatures="",
                created_at=0,
            )
        )
    return first


async def test_stored_bytes_count_each_chunk_once(caches: Caches, database: Database) -> None:
    await caches.create_cache(CacheCreate(name="main", is_public=True), ADMIN, TESTER)
    cache = await row_of(database, "main")
    # Chunks 0 to 4 and 7 are used, some of them often; 5, 6, 8 and 9 are not.
    await database.write(lambda connection: fill(connection, cache, [[0, 1, 2], [2, 1, 3, 3, 4], [7], []], chunks=10))
    size = await caches.measure_cache(cache)
    assert (size.paths, size.nar_bytes, size.stored_bytes) == (4, 400, 60)
    assert (await caches.show_cache(cache, None)).name == "main"


async def test_many_recipes_are_measured_a_page_at_a_time(caches: Caches, database: Database) -> None:
    await caches.create_cache(CacheCreate(name="main", is_public=True), ADMIN, TESTER)
    cache = await row_of(database, "main")
    recipes = [[2 * n] for n in range(1_234)]
    await database.write(lambda connection: fill(connection, cache, recipes, chunks=2_468))
    assert (await caches.measure_cache(cache)).stored_bytes == 12_340


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair)))))
def test_merged_ranges_hold_the_same_numbers(ranges: list[tuple[int, int]]) -> None:
    def numbers(ranges: list[tuple[int, int]]) -> list[int]:
        return [number for first, last in ranges for number in range(first, last + 1)]

    merged = merge_ranges(ranges)
    assert numbers(merged) == sorted(set(numbers(ranges)))
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(merged))


def objects(blobs: MemoryBlobStore) -> set[str]:
    return {blob.key for blob in blobs.list()}


async def test_deleting_a_private_cache_deletes_its_domain(
    caches: Caches, database: Database, blobs: MemoryBlobStore
) -> None:
    for name, is_public in (("main", True), ("secret", False), ("kept", False)):
        await caches.create_cache(CacheCreate(name=name, is_public=is_public), ADMIN, TESTER)
        row = await row_of(database, name)
        await database.write(lambda connection, row=row: fill(connection, row, [[0, 1]], chunks=2))
        for kind in ("packs", "journal"):
            blobs.put(BlobKey(f"{kind}/{row.domain_id}/aa"), b"bytes")
    assert len(objects(blobs)) == 6
    secret = await row_of(database, "secret")
    # A domain whose number begins with the same digit keeps its objects.
    blobs.put(BlobKey(f"packs/{secret.domain_id}0/aa"), b"bytes")
    await caches.delete_cache(secret, TESTER)
    kept = await row_of(database, "kept")
    assert objects(blobs) == {
        *(f"{kind}/{domain}/aa" for kind in ("packs", "journal") for domain in (PUBLIC_DOMAIN_ID, kept.domain_id)),
        f"packs/{secret.domain_id}0/aa",
    }
    assert (await caches.measure_cache(kept)).stored_bytes == 20
    with pytest.raises(NotFound):
        await row_of(database, "secret")
    with pytest.raises(NotFound):
        await caches.delete_cache(secret, TESTER)


async def test_a_domain_lives_as_long_as_one_of_its_caches(
    caches: Caches, database: Database, blobs: MemoryBlobStore
) -> None:
    for name in ("a", "b"):
        await caches.create_cache(CacheCreate(name=name, is_public=False, domain="shared"), ADMIN, TESTER)
    row = await row_of(database, "b")
    blobs.put(BlobKey(f"packs/{row.domain_id}/aa"), b"bytes")
    await caches.delete_cache(await row_of(database, "a"), TESTER)
    assert objects(blobs) == {f"packs/{row.domain_id}/aa"}
    await caches.delete_cache(row, TESTER)
    assert objects(blobs) == set()
    await caches.create_cache(CacheCreate(name="a", is_public=False, domain="shared"), ADMIN, TESTER)
    assert (await row_of(database, "a")).domain_id > row.domain_id


async def test_deleting_a_public_cache_keeps_the_public_domain(
    caches: Caches, database: Database, blobs: MemoryBlobStore
) -> None:
    await caches.create_cache(CacheCreate(name="main", is_public=True), ADMIN, TESTER)
    blobs.put(BlobKey("packs/1/aa"), b"bytes")
    await caches.delete_cache(await row_of(database, "main"), TESTER)
    assert objects(blobs) == {"packs/1/aa"}
    await caches.create_cache(CacheCreate(name="main", is_public=True), ADMIN, TESTER)


async def test_settings_of_a_cache_are_changed_one_by_one_and_unset(caches: Caches, database: Database) -> None:
    made = await caches.create_cache(CacheCreate(name="main", is_public=True, budget_bytes=5_000), ADMIN, TESTER)
    assert (made.budget_bytes, made.limit_bytes, made.trash_seconds) == (5_000, None, 7 * 86_400)
    row = await row_of(database, "main")
    changes = CacheConfigure(limit_bytes=6_000, keep_unused_seconds=60, priority=30)
    view = await caches.configure_cache(row, changes, ADMIN, TESTER)
    assert (view.budget_bytes, view.limit_bytes, view.keep_unused_seconds, view.priority) == (5_000, 6_000, 60, 30)
    view = await caches.configure_cache(row, CacheConfigure(budget_bytes=None, trash_seconds=0), ADMIN, TESTER)
    assert (view.budget_bytes, view.limit_bytes, view.keep_unused_seconds, view.trash_seconds) == (None, 6_000, 60, 0)
    assert await caches.show_cache(await row_of(database, "main"), None) == view


async def test_settings_are_checked_together_with_those_that_stay(caches: Caches, database: Database) -> None:
    await caches.create_cache(CacheCreate(name="main", is_public=True, budget_bytes=5_000), ADMIN, TESTER)
    row = await row_of(database, "main")
    with pytest.raises(InvalidFormat, match="limit_bytes 4999 is below"):
        await caches.configure_cache(row, CacheConfigure(limit_bytes=4_999, priority=3), ADMIN, TESTER)
    with pytest.raises(InvalidFormat, match="priority -1"):
        await caches.configure_cache(row, CacheConfigure(priority=-1), ADMIN, TESTER)
    assert (await caches.show_cache(await row_of(database, "main"), None)).priority == 41
