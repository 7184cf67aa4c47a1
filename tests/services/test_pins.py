from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from icehouse.api.pins import PinAnswer, PinPut
from icehouse.api.publish import PathsRequest
from icehouse.db.caches import CacheRow
from icehouse.db.paths import ExternalRow, add_external
from icehouse.db.schema import path, pin, pin_revision, upstream
from icehouse.errors import Conflict, InvalidFormat, NotFound, TooLarge
from icehouse.nix.nar_write import Directory, Regular, Symlink, write_nar
from icehouse.nix.store_paths import StorePath
from icehouse.rules.pins import MAX_PINS
from icehouse.services.contents import Contents, FoundFile, FoundFolder
from icehouse.services.pins import MAX_CLOSURE_PATHS, REVISIONS_A_PAGE, Pins
from tests.services.publishing import TESTER, Store, nar_of, path_body

DAY = 86_400
APP, APP2, LIBRARY, BASE = (
    f"{digit * 32}-{name}" for digit, name in zip("1234", ("app", "app", "lib", "base"), strict=True)
)
EXTERNAL = f"{'5' * 32}-libc"

TREE = Directory(
    {
        b"bin": Directory({b"app": Regular(b"the app", executable=True), b"link": Symlink(b"app")}),
        b"lib": Symlink(f"/nix/store/{LIBRARY}".encode()),
        b"secret": Regular(b"no artifact"),
    }
)
LIBRARY_TREE = Directory({b"so": Regular(b"a library")})


class Clock:
    """Time that tests set."""

    now = 1_000 * DAY

    def __call__(self) -> int:
        return self.now


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
        (BASE, nar_of(b"base"), []),
        (LIBRARY, b"".join(write_nar(LIBRARY_TREE)), [BASE]),
        (APP, b"".join(write_nar(TREE)), [LIBRARY, APP]),
        (APP2, nar_of(b"second"), [LIBRARY]),
    )
    return cache


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pins(store: Store, clock: Clock) -> Pins:
    return Pins(store.database, Contents(store.database, store.nar_files, store.workers), clock=clock)


async def put(
    pins: Pins,
    cache: CacheRow,
    store_path: str,
    *artifacts: str,
    name: str = "app",
    keep_days: int | None = None,
    keep_revisions: int | None = None,
    keep_forever: bool = False,
) -> PinAnswer:
    request = PinPut(
        store_path=store_path,
        artifacts=list(artifacts),
        keep_days=keep_days,
        keep_revisions=keep_revisions,
        keep_forever=keep_forever,
    )
    return await pins.put_pin(cache, name, request, TESTER)


async def hide(store: Store, *base_names: str, hidden_at: int | None = 5) -> None:
    change = update(path).where(path.c.hash_part.in_([name[:32] for name in base_names])).values(hidden_at=hidden_at)
    await store.database.write(lambda connection: connection.execute(change))


async def numbers(pins: Pins, cache: CacheRow) -> list[int]:
    return [revision.number for revision in (await pins.show_pin(cache, "app")).revisions]


async def test_pin_stands_for_the_path_it_was_put_on_last(pins: Pins, cache: CacheRow) -> None:
    first = await put(pins, cache, APP, keep_days=9)
    second = await put(pins, cache, APP2)
    assert (first.is_new_revision, first.pin.newest.number) == (True, 1)
    assert (second.is_new_revision, second.pin.newest.number, second.pin.keep_days) == (True, 2, 9)
    assert second.pin.full_path == f"/nix/store/{APP2}"
    assert await pins.resolve(cache, "app") == StorePath.parse(APP2)
    shown = await pins.show_pin(cache, "app")
    assert [(each.number, each.store_path, each.is_kept) for each in shown.revisions] == [
        (2, APP2, True),
        (1, APP, True),
    ]
    assert await pins.list_pins(cache) == [second.pin]


@pytest.mark.parametrize("text", [APP, f"/nix/store/{APP}", APP[:32]], ids=["base name", "whole path", "hash part"])
async def test_path_is_named_in_three_ways(pins: Pins, cache: CacheRow, text: str) -> None:
    assert (await put(pins, cache, text)).pin.newest.store_path == APP


async def test_pinning_the_same_path_again_changes_only_rule_and_artifacts(pins: Pins, cache: CacheRow) -> None:
    await put(pins, cache, APP, "bin/app")
    again = await put(pins, cache, APP, "bin/", "secret", keep_revisions=4)
    assert not again.is_new_revision
    assert (again.pin.newest.number, again.pin.newest.artifacts) == (1, ["bin", "secret"])
    assert (again.pin.keep_days, again.pin.keep_revisions) == (None, 4)
    assert await put(pins, cache, APP, "bin/", "secret", keep_revisions=4) == again


async def test_pin_that_is_not_as_it_was_seen_is_left_alone(pins: Pins, cache: CacheRow) -> None:
    request = PinPut(store_path=APP)
    for seen, name in ((1, "app"), (7, "app")):
        with pytest.raises(Conflict, match="was removed meanwhile"):
            await pins.put_pin(cache, name, request, TESTER, seen=seen)
    await pins.put_pin(cache, "app", request, TESTER, seen=0)
    await put(pins, cache, APP2)
    for seen in (0, 1, 3):
        with pytest.raises(Conflict, match="by now, revision 2"):
            await pins.put_pin(cache, "app", request, TESTER, seen=seen)
    assert (await pins.put_pin(cache, "app", request, TESTER, seen=2)).pin.newest.number == 3


async def test_pins_are_listed_in_pages(pins: Pins, cache: CacheRow) -> None:
    for name in ("b", "a", "c"):
        await put(pins, cache, APP, name=name)
    assert [pin.name for pin in await pins.page_pins(cache, limit=2)] == ["a", "b"]
    assert [pin.name for pin in await pins.page_pins(cache, after="b", limit=2)] == ["c"]


async def test_revisions_beyond_the_number_are_forgotten(pins: Pins, cache: CacheRow) -> None:
    for store_path in (APP, APP2, APP, APP2):
        await put(pins, cache, store_path, keep_revisions=2)
    assert await numbers(pins, cache) == [4, 3]


async def test_revisions_grow_old_and_are_forgotten_with_the_next_one(
    pins: Pins, cache: CacheRow, clock: Clock
) -> None:
    await put(pins, cache, APP, keep_days=10)
    await put(pins, cache, APP2)
    clock.now += 10 * DAY
    shown = await pins.show_pin(cache, "app")
    assert [(each.number, each.is_kept) for each in shown.revisions] == [(2, True), (1, False)]
    await put(pins, cache, APP, keep_forever=True)
    assert await numbers(pins, cache) == [3, 2]


async def test_long_history_is_shown_in_pages(pins: Pins, cache: CacheRow, store: Store) -> None:
    await put(pins, cache, APP)
    rows = [
        {"pin_id": 1, "number": number, "path_id": 1, "artifacts": "[]", "created_at": number}
        for number in range(2, REVISIONS_A_PAGE + 2)
    ]
    await store.database.write(lambda connection: connection.execute(pin_revision.insert(), rows))
    shown = await pins.show_pin(cache, "app")
    assert (shown.has_older, shown.revisions[-1].number, len(shown.revisions)) == (True, 2, REVISIONS_A_PAGE)
    rest = await pins.show_pin(cache, "app", before=2)
    assert (rest.has_older, [each.number for each in rest.revisions]) == (False, [1])
    assert rest.newest.number == REVISIONS_A_PAGE + 1


async def test_pin_that_is_removed_is_gone_and_its_path_stays(pins: Pins, cache: CacheRow, store: Store) -> None:
    await put(pins, cache, APP)
    await pins.delete_pin(cache, "app", TESTER)
    assert (await pins.list_pins(cache), await store.count(pin_revision), await store.count(path)) == ([], 0, 4)
    for request in (pins.delete_pin(cache, "app", TESTER), pins.show_pin(cache, "app"), pins.resolve(cache, "app")):
        with pytest.raises(NotFound, match="cache 'main' has no pin 'app'"):
            await request
    assert (await put(pins, cache, APP)).pin.newest.number == 1


async def test_pin_belongs_to_its_cache(pins: Pins, cache: CacheRow, store: Store) -> None:
    other = await store.create_cache("other")
    await put(pins, cache, APP)
    with pytest.raises(NotFound, match="cache 'other' has no pin 'app'"):
        await pins.show_pin(other, "app")
    with pytest.raises(NotFound, match=f"cache 'other' has no path {APP}; push it first"):
        await put(pins, other, APP)


# What cannot be pinned


@pytest.mark.parametrize("text", [f"{'9' * 32}-absent", "9" * 32, f"{'1' * 32}-another-name"])
async def test_path_that_was_not_pushed_cannot_be_pinned(pins: Pins, cache: CacheRow, text: str) -> None:
    with pytest.raises(NotFound, match=f"has no path {text}; push it first"):
        await put(pins, cache, text)
    assert await pins.list_pins(cache) == []


async def test_path_in_the_trash_is_pinned_only_when_it_was_restored(pins: Pins, cache: CacheRow, store: Store) -> None:
    await hide(store, APP2)
    with pytest.raises(Conflict, match=f"{APP2} is in the trash of cache 'main'; restore it first"):
        await put(pins, cache, APP2)
    await hide(store, APP2, hidden_at=None)
    assert (await put(pins, cache, APP2)).is_new_revision


async def test_path_whose_closure_is_not_whole_cannot_be_pinned(pins: Pins, cache: CacheRow, store: Store) -> None:
    await hide(store, BASE)
    with pytest.raises(Conflict, match=f"{APP}: its closure is not whole; cache 'main' lacks {BASE}. Push it again"):
        await put(pins, cache, APP)


async def test_only_some_of_many_missing_paths_are_named(pins: Pins, cache: CacheRow, store: Store) -> None:
    references = [f"{'6' * 30}{number:02}-missing" for number in range(12)]
    change = update(path).where(path.c.hash_part == BASE[:32]).values(references=" ".join(references))
    await store.database.write(lambda connection: connection.execute(change))
    with pytest.raises(Conflict, match=f"lacks {references[0]}, .*{references[9]} and 2 more"):
        await put(pins, cache, APP)


async def test_closure_may_end_in_an_upstream_and_what_is_there_cannot_be_pinned(
    pins: Pins, cache: CacheRow, store: Store
) -> None:
    row = ExternalRow(StorePath.parse(EXTERNAL), bytes(32), 1, (), "", 1)

    def work(connection: Connection) -> None:
        connection.execute(upstream.insert().values(cache_id=cache.id, url="https://a.example", public_keys=""))
        add_external(connection, cache.id, row, now=0)
        connection.execute(update(path).where(path.c.hash_part == BASE[:32]).values(references=EXTERNAL))

    await store.database.write(work)
    assert (await put(pins, cache, APP)).is_new_revision
    with pytest.raises(NotFound, match=f"{EXTERNAL} is in an upstream of cache 'main', and only what is stored"):
        await put(pins, cache, EXTERNAL)


async def test_closure_that_is_too_large_is_refused(pins: Pins, cache: CacheRow, store: Store) -> None:
    references = " ".join(f"{number:032}-x" for number in range(MAX_CLOSURE_PATHS))
    change = update(path).where(path.c.hash_part == BASE[:32]).values(references=references)
    await store.database.write(lambda connection: connection.execute(change))
    with pytest.raises(TooLarge, match=f"its closure has more than {MAX_CLOSURE_PATHS} paths"):
        await put(pins, cache, BASE)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (".app", {}, "pin name '.app'"),
        ("app", {"store_path": "app"}, "store path 'app'"),
        ("app", {"store_path": f"/gnu/store/{APP}"}, "is not in the store directory /nix/store"),
        ("app", {"artifacts": ["../x"]}, "artifact '../x'"),
        ("app", {"keep_days": 0}, "keep_days 0: expected 1 to"),
        ("app", {"keep_days": 1, "keep_forever": True}, "name one of these"),
    ],
)
async def test_malformed_request_is_refused(
    pins: Pins, cache: CacheRow, name: str, change: dict[str, object], complaint: str
) -> None:
    request = PinPut(**({"store_path": APP} | change))  # type: ignore[arg-type]
    with pytest.raises(InvalidFormat, match=complaint):
        await pins.put_pin(cache, name, request, TESTER)


async def test_cache_has_a_limited_number_of_pins(pins: Pins, cache: CacheRow, store: Store) -> None:
    await put(pins, cache, APP)
    rows = [{"cache_id": cache.id, "name": str(number), "created_at": 0} for number in range(MAX_PINS - 1)]
    await store.database.write(lambda connection: connection.execute(pin.insert(), rows))
    with pytest.raises(Conflict, match=f"has {MAX_PINS} pins, the most that there can be"):
        await put(pins, cache, APP, name="other")
    assert (await put(pins, cache, APP2)).is_new_revision


# Races


async def test_path_that_is_hidden_while_it_is_pinned_is_not_pinned(cache: CacheRow, store: Store) -> None:
    class HidingContents(Contents):
        async def find(self, cache: CacheRow, hash_part: object, names: object) -> FoundFile | FoundFolder:
            found = await super().find(cache, hash_part, names)  # type: ignore[arg-type]
            await hide(store, APP)
            return found

    racing = Pins(store.database, HidingContents(store.database, store.nar_files, store.workers), clock=Clock())
    with pytest.raises(Conflict, match="is in the trash"):
        await put(racing, cache, APP, "bin")
    assert (await store.count(pin), await store.count(pin_revision)) == (0, 0)


async def test_path_that_is_replaced_while_it_is_pinned_is_not_pinned(
    pins: Pins, cache: CacheRow, store: Store
) -> None:
    class ReplacingContents(Contents):
        async def find(self, cache: CacheRow, hash_part: object, names: object) -> FoundFile | FoundFolder:
            found = await super().find(cache, hash_part, names)  # type: ignore[arg-type]
            await hide(store, APP)
            await store.register(cache, await store.nar_body(cache, nar_of(b"other")))
            body = path_body(APP, nar_of(b"other"))
            assert not (await store.publisher.publish_paths(cache, PathsRequest([body]), token_id=None)).refused
            return found

    racing = Pins(store.database, ReplacingContents(store.database, store.nar_files, store.workers), clock=Clock())
    with pytest.raises(Conflict, match="was replaced by another build meanwhile"):
        await put(racing, cache, APP, "bin")
    assert await pins.list_pins(cache) == []


async def test_pin_whose_path_was_hidden_after_all_says_so(pins: Pins, cache: CacheRow, store: Store) -> None:
    await put(pins, cache, APP, "bin")
    await hide(store, APP)
    assert not (await pins.list_pins(cache))[0].newest.is_visible
    for request in (pins.resolve(cache, "app"), pins.find_artifact(cache, "app", [b"bin"])):
        with pytest.raises(NotFound, match=f"{APP}, which pin 'app' stands for, is in the trash"):
            await request


async def test_name_of_a_pin_whose_paths_were_all_purged_can_be_used_again(
    pins: Pins, cache: CacheRow, store: Store
) -> None:
    await put(pins, cache, APP)
    await store.database.write(lambda connection: connection.execute(pin_revision.delete()))
    assert (await put(pins, cache, APP2)).pin.newest.number == 1
    assert await store.count(pin) == 1


# Artifacts


@pytest.mark.parametrize("way", ["bin/app", "bin/link", "bin"])
async def test_artifacts_are_found_with_what_is_in_them(pins: Pins, cache: CacheRow, way: str) -> None:
    await put(pins, cache, APP, "bin")
    found = await pins.find_artifact(cache, "app", way.encode().split(b"/"))
    assert found.store_path == StorePath.parse(APP)
    if isinstance(found, FoundFolder):
        assert sorted(found.node.entries) == [b"app", b"link"]
    else:
        assert found.file.read(0, found.file.file_size) == b"the app"


async def test_artifact_may_lie_in_another_path_of_the_cache(pins: Pins, cache: CacheRow) -> None:
    await put(pins, cache, APP, "lib/so")
    found = await pins.find_artifact(cache, "app", [b"lib", b"so"])
    assert isinstance(found, FoundFile)
    assert found.file.read(0, found.file.file_size) == b"a library"


async def test_what_was_not_named_is_no_artifact(pins: Pins, cache: CacheRow) -> None:
    await put(pins, cache, APP, "bin/app", "lib")
    with pytest.raises(NotFound, match="the artifacts of pin 'app' are: bin/app, lib"):
        await pins.find_artifact(cache, "app", [b"secret"])
    await put(pins, cache, APP)
    with pytest.raises(NotFound, match="the artifacts of pin 'app' are: none"):
        await pins.find_artifact(cache, "app", [b"bin", b"app"])


async def test_artifacts_that_are_not_there_are_refused_together(pins: Pins, cache: CacheRow) -> None:
    with pytest.raises(NotFound, match=f"{APP} has no artifact 'bin/no': .*; {APP} has no artifact 'secret/x': .*file"):
        await put(pins, cache, APP, "bin/no", "bin/app", "secret/x")
    assert await pins.list_pins(cache) == []
