from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from icehouse.api.differences import ChangedPackage
from icehouse.db.caches import CacheRow
from icehouse.db.paths import ExternalRow, add_external
from icehouse.db.schema import path, upstream
from icehouse.errors import Conflict, InvalidFormat, NotFound, RateLimited, TooLarge
from icehouse.nix.store_paths import HashPart, StorePath
from icehouse.services.closures import load_closure
from icehouse.services.differences import MAX_WAITING, Differences
from tests.services.publishing import Store, nar_of

BASE, BASE2, LIBRARY, LIBRARY2, DATA, DATA2, APP, APP2, OTHER = (
    f"{digit * 32}-{name}"
    for digit, name in zip(
        "123456789",
        ("base-1", "base-2", "lib-7", "lib-7", "data", "data", "app-1.0", "app-1.1", "other"),
        strict=True,
    )
)
EXTERNAL = f"{'a' * 32}-libc-2.40"
BEYOND = f"{'b' * 32}-beyond"


def names_of(*base_names: str) -> bytes:
    return "".join(f"needs /nix/store/{name}\n" for name in base_names).encode()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    store = Store.open(tmp_path)
    yield store
    await store.close()


@pytest.fixture
async def cache(store: Store) -> CacheRow:
    cache = await store.create_cache("main")
    await store.push(
        cache,
        (BASE, nar_of(b"base 1"), []),
        (BASE2, nar_of(b"base 2, larger"), []),
        # Rebuilt: nothing but the hashes differ, its own too. The name of what it needs is not one of those.
        (LIBRARY, nar_of(f"/nix/store/{BASE[:32]}-base and /nix/store/{LIBRARY}".encode()), [BASE, LIBRARY]),
        (LIBRARY2, nar_of(f"/nix/store/{BASE2[:32]}-base and /nix/store/{LIBRARY2}".encode()), [BASE2, LIBRARY2]),
        (DATA, nar_of(b"data 1"), []),
        (DATA2, nar_of(b"data 2"), []),
        (APP, nar_of(names_of(LIBRARY, DATA)), [LIBRARY, DATA]),
        (APP2, nar_of(names_of(LIBRARY2, DATA2, OTHER)), [LIBRARY2, DATA2]),
        (OTHER, nar_of(b"other"), []),
    )
    return cache


@pytest.fixture
def differences(store: Store) -> Differences:
    return Differences(store.database, store.workers)


def changes(packages: list[ChangedPackage]) -> dict[str, str]:
    return {package.name: package.change for package in packages}


async def test_rebuilt_paths_are_told_from_those_with_other_contents(cache: CacheRow, differences: Differences) -> None:
    view = await differences.compare(cache, APP, APP2)
    assert changes(view.packages) == {"app": "version", "base": "version", "data": "contents", "lib": "rebuilt"}
    app = next(package for package in view.packages if package.name == "app")
    assert (app.versions_before, app.versions_after) == (["1.0"], ["1.1"])
    assert ([each.store_path for each in app.gone], [each.store_path for each in app.new]) == ([APP], [APP2])
    assert (view.before.store_path, view.before.paths, view.after.paths, view.common_paths) == (APP, 4, 4, 0)
    grown = sum(package.bytes_after - package.bytes_before for package in view.packages)
    assert view.after.nar_bytes - view.before.nar_bytes == grown == app.bytes_after - app.bytes_before + 8


async def test_large_path_of_many_chunks_that_was_rebuilt_is_told_so(
    store: Store, cache: CacheRow, differences: Differences
) -> None:
    large = bytes(range(256)) * 16_000
    one, other = f"{'c' * 32}-large", f"{'d' * 32}-large"
    for name in (one, other):
        await store.push(cache, (name, nar_of(f"/nix/store/{name} ".encode() + large), [name]))
    assert changes((await differences.compare(cache, one, other)).packages) == {"large": "rebuilt"}


@pytest.mark.parametrize("text", [APP, f"/nix/store/{APP}", APP[:32]], ids=["base name", "whole path", "hash part"])
async def test_path_is_named_in_three_ways(cache: CacheRow, differences: Differences, text: str) -> None:
    view = await differences.compare(cache, text, text)
    assert (view.before, view.packages, view.common_paths) == (view.after, [], 4)


async def test_what_upstreams_have_counts_as_far_as_it_is_known(
    store: Store, cache: CacheRow, differences: Differences
) -> None:
    row = ExternalRow(StorePath.parse(EXTERNAL), bytes(32), 1_000, (StorePath.parse(BEYOND),), "", 1)

    def work(connection: Connection) -> None:
        connection.execute(upstream.insert().values(cache_id=cache.id, url="https://a.example", public_keys=""))
        add_external(connection, cache.id, row, now=0)
        connection.execute(update(path).where(path.c.hash_part == OTHER[:32]).values(references=EXTERNAL))

    await store.database.write(work)
    view = await differences.compare(cache, DATA, OTHER)
    assert (view.before.paths, view.before.unknown, view.after.paths, view.after.unknown) == (1, 0, 2, 1)
    assert {package.name: package.bytes_after for package in view.packages}["libc"] == 1_000
    with pytest.raises(NotFound, match=f"no visible path {EXTERNAL[:32]}"):
        await differences.compare(cache, DATA, EXTERNAL)


@pytest.mark.parametrize(
    ("text", "error"),
    [("nonsense", InvalidFormat), ("/usr/bin/env", InvalidFormat), (BEYOND, NotFound), (f"{APP[:32]}-x", NotFound)],
    ids=["no path", "elsewhere", "absent", "other name"],
)
async def test_path_that_is_not_there_is_refused(
    cache: CacheRow, differences: Differences, text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await differences.compare(cache, APP, text)
    with pytest.raises(error):
        await differences.compare(cache, text, APP)


async def test_path_of_another_cache_or_in_the_trash_is_not_there(
    store: Store, cache: CacheRow, differences: Differences
) -> None:
    with pytest.raises(NotFound, match="cache 'second' has no visible path"):
        await differences.compare(await store.create_cache("second"), APP, APP2)
    hide = update(path).where(path.c.hash_part == APP2[:32]).values(hidden_at=5)
    await store.database.write(lambda connection: connection.execute(hide))
    with pytest.raises(NotFound, match="cache 'main' has no visible path"):
        await differences.compare(cache, APP, APP2)


async def test_closure_that_is_not_whole_is_refused(store: Store, cache: CacheRow, differences: Differences) -> None:
    hide = update(path).where(path.c.hash_part == DATA[:32]).values(hidden_at=5)
    await store.database.write(lambda connection: connection.execute(hide))
    with pytest.raises(Conflict, match=f"cache 'main' lacks {DATA}"):
        await differences.compare(cache, APP, APP2)


async def test_closure_that_is_too_large_is_refused(store: Store, cache: CacheRow) -> None:
    roots = [HashPart(APP[:32]), HashPart(APP2[:32])]
    closure = await load_closure(store.database, cache, roots, max_paths=8)
    assert closure.roots == (APP, APP2)
    assert len(closure.rows) == 8
    assert {row.base_name for row in closure.reach(APP)} == {APP, LIBRARY, DATA, BASE}
    with pytest.raises(TooLarge, match=f"{APP} and {APP2}: more than 7 paths"):
        await load_closure(store.database, cache, roots, max_paths=7)


async def test_only_so_many_comparisons_wait(cache: CacheRow, differences: Differences) -> None:
    asked = [differences.compare(cache, APP, APP2) for _ in range(MAX_WAITING + 3)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers].count(RateLimited) == 3
    assert changes((await differences.compare(cache, APP, APP)).packages) == {}
