from __future__ import annotations

import asyncio
import functools
from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import Corrupt, InvalidFormat, NotFound
from icehouse.nix.listing import ListedNode, ListingBuilder
from icehouse.nix.nar_read import NarReader, RegularData
from icehouse.nix.nar_write import Directory, Node, Regular, Symlink, write_nar
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.chunks import MAX_CHUNK_BYTES, Chunker
from icehouse.rules.recipes import Recipe, Run, make_recipe
from icehouse.storage.blobs import BlobKey
from icehouse.storage.memory import MemoryBlobStore
from icehouse.storage.nar_contents import ContentsSlice, NarContents, read_structure
from icehouse.storage.nars import pack_key
from tests.rules.samples import Sample, join, make_sample, noise
from tests.storage.test_nars import DOMAIN, PACKS, Stored, store

SMALL = store(
    [
        *PACKS,
        # Store hashes at both edges of a chunk, and a chunk that is nothing else.
        [join([None, b"between", None]), join([None]), join([b"x"]), join([b"before", None, None])],
    ],
    MemoryBlobStore(),
)


class CountingBlobStore(MemoryBlobStore):
    """Counts what is read."""

    read_count = 0

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        self.read_count += 1
        super().read_into(key, offset, buffer)


def open_contents(stored: Stored, recipe: Recipe) -> NarContents:
    return NarContents(stored.blobs, DOMAIN, recipe, stored.rows)


async def collect(file: NarContents | ContentsSlice, start: int, stop: int) -> list[bytes]:
    return [bytes(block) async for block in file.blocks(start, stop)]


@given(st.lists(st.integers(1, 11), min_size=1, max_size=12), st.data())
def test_any_range_is_that_slice_of_the_nar(numbers: list[int], data: st.DataObject) -> None:
    recipe = SMALL.recipe(numbers, "range")
    _, nar = SMALL.contents(recipe)
    contents = open_contents(SMALL, recipe)
    assert contents.nar_size == contents.file_size == len(nar)
    for _ in range(10):
        start = data.draw(st.integers(0, len(nar)))
        stop = data.draw(st.integers(start, min(start + data.draw(st.sampled_from([40, len(nar)])), len(nar))))
        assert contents.read(start, stop) == nar[start:stop]
        assert b"".join(asyncio.run(collect(contents, start, stop))) == nar[start:stop]


def test_each_short_range_around_the_edges_of_chunks_is_right() -> None:
    recipe = SMALL.recipe([8, 9, 10, 11, 9, 8], "edges")
    _, nar = SMALL.contents(recipe)
    contents = open_contents(SMALL, recipe)
    for start in range(len(nar) + 1):
        for stop in range(start, len(nar) + 1):
            assert contents.read(start, stop) == nar[start:stop]


@functools.cache
def large_store() -> tuple[Stored, list[Sample]]:
    samples = [join([noise(f"chunk {index}", 300_000 + index), None]) for index in range(20)]
    samples.append(Sample(noise("longest", MAX_CHUNK_BYTES), ()))
    return store([samples[:9], samples[9:]], CountingBlobStore()), samples


async def test_long_range_comes_in_blocks_of_about_a_mib_and_decodes_each_chunk_once() -> None:
    stored, samples = large_store()
    recipe = stored.recipe(range(1, len(samples) + 1), "long")
    _, nar = stored.contents(recipe)
    contents = open_contents(stored, recipe)
    blobs = stored.blobs
    assert isinstance(blobs, CountingBlobStore)
    blobs.read_count = 0
    blocks = await collect(contents, 5, len(nar))
    assert b"".join(blocks) == nar[5:]
    assert max(map(len, blocks)) == MAX_CHUNK_BYTES
    assert blobs.read_count == len(samples)
    blobs.read_count = 0
    assert contents.read(700_000, 700_010) == nar[700_000:700_010]
    assert blobs.read_count == 1


async def test_slice_is_a_file_of_its_own() -> None:
    recipe = SMALL.recipe([1, 8, 2], "slice")
    _, nar = SMALL.contents(recipe)
    file = ContentsSlice(open_contents(SMALL, recipe), 100, 4000)
    assert file.file_size == 4000
    assert b"".join(await collect(file, 10, 3000)) == file.read(10, 3000) == nar[110:3100]


async def test_reader_that_goes_away_stops_the_reading_ahead() -> None:
    stored, samples = large_store()
    contents = open_contents(stored, stored.recipe(range(1, len(samples) + 1), "away"))
    blocks = contents.blocks(0, contents.nar_size)
    await anext(blocks)
    await blocks.aclose()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - it is a generator
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.cancelling()] == []


def damaged_store() -> Stored:
    stored = store([[make_sample("noise", 1, 0), make_sample("scripts", 2, 9)]], MemoryBlobStore())
    key = pack_key(DOMAIN, stored.rows[1].pack_name)
    pack = bytearray(stored.blobs.size(key))
    stored.blobs.read_into(key, 0, memoryview(pack))
    pack[stored.rows[2].pack_offset] ^= 1
    stored.blobs.delete(key)
    stored.blobs.put(key, bytes(pack))
    return stored


def test_damaged_frame_is_corrupt_and_named() -> None:
    stored = damaged_store()
    contents = open_contents(stored, stored.recipe([1, 2], "damaged"))
    end = contents.chunk_end(0)
    assert contents.read(0, end) == stored.samples[1].raw
    row = stored.rows[2]
    with pytest.raises(Corrupt, match=f"byte {row.pack_offset} of packs/{DOMAIN}/.*{row.pack_name.hex()}"):
        contents.read(end, contents.nar_size)


async def test_pack_that_is_gone_is_not_found() -> None:
    stored = store([[make_sample("noise", 1, 0)]], MemoryBlobStore())
    stored.blobs.delete(pack_key(DOMAIN, stored.rows[1].pack_name))
    contents = open_contents(stored, stored.recipe([1], "gone"))
    with pytest.raises(NotFound):
        await collect(contents, 0, 10)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_recipe_whose_patches_do_not_fit_its_chunks_is_corrupt(count: int) -> None:
    recipe = Recipe((Run(1, 1), Run(5, 1)), (b"0" * 32,), array("L", [0] * count))
    with pytest.raises(Corrupt, match=f"a recipe with {count} patches"):
        open_contents(SMALL, recipe)


def test_chunk_repeated_a_million_times_is_refused_before_its_places_fill_the_memory() -> None:
    recipe = Recipe((Run(4, 1),) * 1_000_000, (), array("L"))
    with pytest.raises(Corrupt, match="a recipe with 0 patches"):
        open_contents(SMALL, recipe)


def test_damaged_row_of_a_chunk_is_corrupt() -> None:
    rows = {1: replace(SMALL.rows[1], places=b"\xff" * 20)}
    with pytest.raises(Corrupt, match=SMALL.rows[1].pack_name.hex()):
        NarContents(SMALL.blobs, DOMAIN, SMALL.recipe([1], "row"), rows)


def store_nar(nar: bytes) -> tuple[Stored, NarContents]:
    chunker = Chunker(NIX_STORE)
    chunks = [*chunker.feed(nar), *chunker.finish()]
    stored = store([[Sample(chunk.raw, chunk.positions) for chunk in chunks]], CountingBlobStore())
    recipe = make_recipe(range(1, len(chunks) + 1), [one for chunk in chunks for one in chunk.hashes])
    return stored, open_contents(stored, recipe)


def list_whole(nar: bytes) -> ListedNode:
    reader, builder = NarReader(), ListingBuilder()
    for event in reader.feed(nar):
        builder.add(event)
    reader.finish()
    return builder.build()


def list_stored(contents: NarContents) -> ListedNode:
    builder = ListingBuilder()
    for event in read_structure(contents):
        builder.add(event)
    return builder.build()


HASH = "0" * 32
TREE = Directory(
    {
        b"a": Regular(noise("a", 900_000)),
        b"b": Directory({b"empty": Directory({}), b"exact": Regular(noise("b", 800_000), executable=True)}),
        b"c": Symlink(f"/nix/store/{HASH}-x/c".encode()),
        b"d": Directory({b"%04d" % number: Regular(b"small" * number) for number in range(200)}),
        b"e": Regular(noise("e", 2_500_000)),
        b"f": Regular(b""),
    }
)


@pytest.mark.parametrize(
    "tree", [TREE, Regular(noise("one", 5_000_000)), Regular(b""), Symlink(b"elsewhere"), Directory({})]
)
def test_structure_of_a_stored_nar_is_that_of_the_whole(tree: Node) -> None:
    nar = b"".join(write_nar(tree))
    _, contents = store_nar(nar)
    assert list_stored(contents) == list_whole(nar)


def test_structure_of_a_large_file_is_read_from_its_two_ends() -> None:
    stored, contents = store_nar(b"".join(write_nar(Regular(noise("large", 10_000_000)))))
    blobs = stored.blobs
    assert isinstance(blobs, CountingBlobStore)
    assert len(stored.rows) > 10
    assert [type(event) for event in read_structure(contents)].count(RegularData) <= 2
    assert blobs.read_count == 2


@pytest.mark.parametrize("cut", [8, 1000, 1_500_000])
def test_what_is_not_a_whole_nar_has_no_structure(cut: int) -> None:
    nar = b"".join(write_nar(TREE))
    _, contents = store_nar(nar[:-cut])
    with pytest.raises(InvalidFormat):
        list(read_structure(contents))


def test_file_longer_than_its_nar_is_refused_at_once() -> None:
    nar = bytearray(b"".join(write_nar(Regular(noise("liar", 2_000_000)))))
    nar[88:96] = (2**40).to_bytes(8, "little")
    _, contents = store_nar(bytes(nar))
    with pytest.raises(InvalidFormat, match="longer than"):
        list(read_structure(contents))


def test_empty_recipe_is_an_empty_nar() -> None:
    contents = open_contents(SMALL, SMALL.recipe([], "empty"))
    assert contents.nar_size == 0
    assert contents.read(0, 0) == b""
