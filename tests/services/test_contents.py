from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import update

from icehouse.api.publish import NarBody
from icehouse.db.caches import CacheRow
from icehouse.db.schema import debug_file, path
from icehouse.errors import NotFound
from icehouse.nix.listing import ListedRegular
from icehouse.nix.nar_framing import framed
from icehouse.nix.nar_write import Directory, Node, Regular, Symlink, write_nar
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.chunks import CutChunk
from icehouse.rules.recipes import make_recipe, render_recipe
from icehouse.services.contents import Contents, FoundFile, FoundFolder, make_listing
from tests.rules.samples import noise
from tests.services.publishing import Store, identity_of, nar_hash_of

TOOL, LIBRARY, DEBUG = f"{'1' * 32}-tool", f"{'2' * 32}-library", f"{'3' * 32}-tool-debug"
BUILD_ID = hashlib.sha1(b"tool", usedforsecurity=False).digest()
DEBUG_NAME = BUILD_ID.hex()[2:].encode() + b".debug"
LARGE = noise("large", 3_000_000)

TOOL_TREE = Directory(
    {
        b"bin": Directory({b"tool": Regular(LARGE, executable=True)}),
        b"lib": Symlink(f"/nix/store/{LIBRARY}/lib".encode()),
        b"other": Symlink(f"../{LIBRARY}".encode()),
        b"stranger": Symlink(f"/nix/store/{'2' * 32}-another-name/lib".encode()),
        b"gone": Symlink(f"/nix/store/{'9' * 32}-gone".encode()),
        b"odd": Symlink("/nix/store/caf\u00e9/x".encode()),
    }
)
LIBRARY_TREE = Directory(
    {
        b"lib": Directory({b"library.so": Symlink(b"library.so.1"), b"library.so.1": Regular(b"a library")}),
        b"ping": Symlink(f"/nix/store/{LIBRARY}/pong".encode()),
        b"pong": Symlink(f"/nix/store/{LIBRARY}/ping".encode()),
    }
)
BY_ID = Directory({BUILD_ID.hex()[:2].encode(): Directory({DEBUG_NAME: Regular(b"debug information")})})
DEBUG_TREE = Directory({b"lib": Directory({b"debug": Directory({b".build-id": BY_ID})})})


def nar(tree: Node) -> bytes:
    return b"".join(write_nar(tree))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    store = Store.open(tmp_path)
    yield store
    await store.close()


@pytest.fixture
async def cache(store: Store) -> CacheRow:
    cache = await store.create_cache("main")
    paths = {TOOL: TOOL_TREE, LIBRARY: LIBRARY_TREE, DEBUG: DEBUG_TREE}
    await store.push(cache, *((name, nar(tree), list[str]()) for name, tree in paths.items()))
    return cache


def open_contents(store: Store, **options: int) -> Contents:
    return Contents(store.database, store.nar_files, store.workers, **options)


async def read(store: Store, cache: CacheRow, base_name: str, way: str) -> bytes:
    names = [name.encode() for name in way.split("/") if name]
    found = await open_contents(store).find(cache, parse_hash_part(base_name[:32]), names)
    assert isinstance(found, FoundFile)
    assert found.store_path.base_name == base_name
    return b"".join([block async for block in found.file.blocks(0, found.file.file_size)])


async def test_file_is_read_out_of_its_nar(store: Store, cache: CacheRow) -> None:
    assert await read(store, cache, TOOL, "bin/tool") == LARGE


@pytest.mark.parametrize("way", ["lib/library.so", "other/lib/library.so", "lib/library.so.1"])
async def test_symlinks_to_other_paths_of_the_cache_are_followed(store: Store, cache: CacheRow, way: str) -> None:
    assert await read(store, cache, TOOL, way) == b"a library"


@pytest.mark.parametrize(
    ("base_name", "way", "complaint"),
    [
        (TOOL, "stranger", f"'{'2' * 32}-another-name' in /nix/store, which cache 'main' does not have"),
        (TOOL, "gone", f"'{'9' * 32}-gone' in /nix/store, which"),
        (TOOL, "odd/y", "xa9' in /nix/store, which"),
        (LIBRARY, "ping", "one too many"),
        (f"{'8' * 32}-absent", "", f"no visible path {'8' * 32}"),
    ],
)
async def test_what_the_cache_does_not_have_is_not_found(
    store: Store, cache: CacheRow, base_name: str, way: str, complaint: str
) -> None:
    with pytest.raises(NotFound, match=complaint):
        await read(store, cache, base_name, way)


async def test_symlink_does_not_lead_into_another_cache_or_to_a_hidden_path(store: Store, cache: CacheRow) -> None:
    other = await store.create_cache("other")
    await store.push(other, (TOOL, nar(TOOL_TREE), []))
    with pytest.raises(NotFound, match="which cache 'other' does not have"):
        await read(store, other, TOOL, "lib/library.so")
    hide = update(path).where(path.c.hash_part == LIBRARY[:32]).values(hidden_at=1)
    await store.database.write(lambda connection: connection.execute(hide))
    with pytest.raises(NotFound, match="which cache 'main' does not have"):
        await read(store, cache, TOOL, "lib/library.so")
    with pytest.raises(NotFound, match="no visible path"):
        await open_contents(store).render_listing(cache, parse_hash_part(LIBRARY[:32]))


async def test_folder_is_found_with_its_entries(store: Store, cache: CacheRow) -> None:
    found = await open_contents(store).find(cache, parse_hash_part(TOOL[:32]), [b"lib"])
    assert isinstance(found, FoundFolder)
    assert list(found.node.entries) == [b"library.so", b"library.so.1"]


async def test_listing_names_where_contents_begin(store: Store, cache: CacheRow) -> None:
    listing = await open_contents(store).render_listing(cache, parse_hash_part(TOOL[:32]))
    assert listing.nar_hash == hashlib.sha256(nar(TOOL_TREE)).digest()
    tool = json.loads(listing.text)["root"]["entries"]["bin"]["entries"]["tool"]
    assert nar(TOOL_TREE)[tool["narOffset"] :][: tool["size"]] == LARGE


@pytest.mark.parametrize("garbage", [b"not a NAR", nar(TOOL_TREE)[:-8]])
async def test_what_is_no_nar_has_no_listing(store: Store, cache: CacheRow, garbage: bytes) -> None:
    await store.push(cache, (f"{'4' * 32}-garbage", garbage, []))
    with pytest.raises(NotFound, match="cannot be listed: NAR offset"):
        await open_contents(store).render_listing(cache, parse_hash_part("4" * 32))


async def test_listing_is_made_once_while_it_is_remembered(store: Store, cache: CacheRow) -> None:
    contents = open_contents(store)
    hash_part = parse_hash_part(TOOL[:32])
    await asyncio.gather(*(contents.find(cache, hash_part, []) for _ in range(5)))
    found = [await contents.find(cache, hash_part, []) for _ in range(2)]
    assert isinstance(found[0], FoundFolder)
    assert isinstance(found[1], FoundFolder)
    assert found[0].node is found[1].node


async def test_listings_are_forgotten_least_recently_used_first(store: Store, cache: CacheRow) -> None:
    sizes = [make_listing(await store.nar_files.open_contents(nar_id))[1] for nar_id in (1, 2, 3)]
    contents = open_contents(store, remembered_bytes=sum(sizes) - 1)

    async def node(base_name: str) -> object:
        found = await contents.find(cache, parse_hash_part(base_name[:32]), [])
        assert isinstance(found, FoundFolder)
        return found.node

    tool, library = await node(TOOL), await node(LIBRARY)
    assert await node(TOOL) is tool
    await node(DEBUG)  # takes the place of the library's
    assert await node(TOOL) is tool
    assert await node(LIBRARY) is not library


async def test_listing_larger_than_the_memory_for_listings_is_not_remembered(store: Store, cache: CacheRow) -> None:
    contents = open_contents(store, remembered_bytes=1)
    for _ in range(2):
        found = await contents.find(cache, parse_hash_part(TOOL[:32]), [b"bin"])
        assert isinstance(found, FoundFolder)
        assert isinstance(found.node.entries[b"tool"], ListedRegular)


async def test_debug_file_is_found_by_build_id(store: Store, cache: CacheRow) -> None:
    contents = open_contents(store)
    assert await contents.find_debug_nar(cache, BUILD_ID) == hashlib.sha256(nar(DEBUG_TREE)).digest()
    found = await contents.open_debug_file(cache, BUILD_ID)
    assert bytes(found.file.read(0, found.file.file_size)) == b"debug information"


async def test_debug_file_is_found_only_in_caches_with_a_visible_path_that_has_it(
    store: Store, cache: CacheRow
) -> None:
    contents = open_contents(store)
    other = await store.create_cache("other")
    with pytest.raises(NotFound, match=f"no path of cache 'other' has .* {BUILD_ID.hex()}"):
        await contents.find_debug_nar(other, BUILD_ID)
    await store.database.write(lambda connection: connection.execute(update(path).values(hidden_at=1)))
    with pytest.raises(NotFound, match="no path of cache 'main'"):
        await contents.open_debug_file(cache, BUILD_ID)


async def test_registering_a_nar_again_keeps_its_debug_files(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, nar(DEBUG_TREE))
    for verify in (False, True):
        (result,) = await store.register(cache, body, verify=verify)
        assert result.state == "stored"
    assert await store.count(debug_file) == 1


async def test_nar_with_the_name_of_the_folder_across_two_chunks_has_its_debug_files_found(
    store: Store, cache: CacheRow
) -> None:
    whole = nar(Directory({**DEBUG_TREE.entries, b"other": Regular(noise("other", 1_500_000))}))
    middle = whole.index(b".build-id") + 4
    chunks = [CutChunk(part, (), ()) for part in (whole[:middle], whole[middle:800_000], whole[800_000:])]
    numbers = await store.send_chunks(cache, chunks)
    recipe = render_recipe(make_recipe([numbers[identity_of(chunk)] for chunk in chunks], []))
    (result,) = await store.register(cache, NarBody(nar_hash=nar_hash_of(whole), nar_size=len(whole), recipe=recipe))
    assert result.state == "stored"
    assert await store.count(debug_file) == 2


async def test_contents_that_only_mention_the_folder_cost_no_rows(store: Store, cache: CacheRow) -> None:
    before = await store.count(debug_file)
    trees: list[Node] = [Regular(framed(b".build-id")), Directory({b".build-id": Directory({})})]
    for number, tree in enumerate(trees):
        await store.push(cache, (f"{number}{'6' * 31}-mentions", nar(tree), []))
    await store.push(cache, (f"{'7' * 32}-garbage", b"not a NAR with the name in it: " + framed(b".build-id"), []))
    assert await store.count(debug_file) == before
