from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
from array import array
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from backports.zstd import decompress
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import Corrupt, NotFound
from icehouse.rules.chunks import chunk_identity
from icehouse.rules.frames import Frame, fill_in_hashes, make_frame
from icehouse.rules.packs import PackEntry, Places, render_pack_end, render_places
from icehouse.rules.recipes import Recipe, Run, make_recipe
from icehouse.storage.blobs import BlobKey, BlobStore, FilePart
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.memory import MemoryBlobStore
from icehouse.storage.nars import BLOCK_BYTES, READ_AHEAD_BLOCKS, NarFile, pack_key, places_of
from icehouse.storage.page_cache import is_cached
from tests.rules.samples import Sample, join, make_sample, noise, store_hashes

DOMAIN = 7


class ColdBlobStore(MemoryBlobStore):
    """Blobs that are never in memory, as far as readers know."""

    def read_warm(self, key: BlobKey, offset: int, buffer: memoryview) -> bool:
        del key, offset
        buffer.cast("B")[:] = b"?" * buffer.nbytes
        return False


@dataclass(frozen=True)
class Row:
    """What the database says of a chunk."""

    pack_name: bytes
    pack_offset: int
    stored_bytes: int
    raw_bytes: int
    places: bytes | None


@dataclass(frozen=True)
class Stored:
    """A store with the packs of some chunks."""

    blobs: BlobStore
    rows: dict[int, Row]
    frames: dict[int, Frame]
    samples: dict[int, Sample]

    def file(self, recipe: Recipe) -> NarFile:
        return NarFile(self.blobs, DOMAIN, recipe, self.rows)

    def recipe(self, numbers: Iterable[int], seed: str) -> Recipe:
        numbers = list(numbers)
        count = sum(len(self.frames[number].patch_offsets) for number in numbers)
        # Each third patch repeats the first store hash, so that the table is shorter than the patches.
        distinct = store_hashes(seed, count)
        return make_recipe(numbers, [distinct[index if index % 3 else 0] for index in range(count)])

    def contents(self, recipe: Recipe) -> tuple[bytes, bytes]:
        """The file and the NAR that a recipe stands for, worked out on the whole."""
        hashes = [recipe.hashes[index] for index in recipe.patches]
        file, nar = bytearray(), bytearray()
        for run in recipe.runs:
            for number in range(run.first, run.first + run.count):
                frame, sample = self.frames[number], self.samples[number]
                own, hashes = hashes[: len(frame.patch_offsets)], hashes[len(frame.patch_offsets) :]
                file += fill_in_hashes(frame.data, frame.patch_offsets, own)
                nar += fill_in_hashes(sample.raw, sample.positions, own)
        return bytes(file), bytes(nar)


def store(packs: Iterable[Iterable[Sample]], blobs: BlobStore) -> Stored:
    """Put *packs* into *blobs*; chunks are numbered from 1."""
    stored = Stored(blobs, {}, {}, {})
    for samples in packs:
        body = b""
        entries: list[PackEntry] = []
        offsets: list[int] = []
        for sample in samples:
            number = len(stored.samples) + 1
            frame = make_frame(sample.raw, sample.positions)
            stored.samples[number], stored.frames[number] = sample, frame
            offsets.append(len(body))
            body += frame.data
            places = Places(sample.positions, frame.patch_offsets, is_split=frame.is_split)
            identity = chunk_identity(sample.raw, sample.positions)
            entries.append(PackEntry(identity, len(frame.data), len(sample.raw), places))
        body += render_pack_end(entries)
        name = blake3(body).digest()
        blobs.put(pack_key(DOMAIN, name), body)
        for entry, offset in zip(entries, offsets, strict=True):
            column = render_places(entry.places) if entry.places.positions else None
            row = Row(name, offset, entry.stored_bytes, entry.raw_bytes, column)
            stored.rows[len(stored.rows) + 1] = row
    return stored


async def read_all(file: NarFile, start: int, stop: int) -> bytes:
    return b"".join([bytes(block) async for block in file.blocks(start, stop)])


async def exhaust(blocks: AsyncIterator[bytearray]) -> None:
    async for _ in blocks:
        pass


PACKS = [
    [make_sample("scripts", 1, 40), make_sample("noise", 2, 0), make_sample("back to back", 3, 30)],
    [make_sample("path list", 4, 60), join([None, b"/", None]), make_sample("zeros", 5, 10)],
    [make_sample("noise", 6, 20)],
]
WARM, COLD = store(PACKS, MemoryBlobStore()), store(PACKS, ColdBlobStore())
BOTH = pytest.mark.parametrize("stored", [WARM, COLD], ids=["warm", "cold"])


@pytest.mark.parametrize(
    "numbers",
    [[1], [2], [5], [1, 2, 3], [1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1], [5, 5, 5, 1, 5, 2, 1], [2, 2, 3, 4], []],
    ids=str,
)
@BOTH
async def test_file_of_a_nar_is_its_frames_with_the_store_hashes_written_in(stored: Stored, numbers: list[int]) -> None:
    recipe = stored.recipe(numbers, "file")
    file = stored.file(recipe)
    expected, nar = stored.contents(recipe)
    assert file.file_size == len(expected)
    assert await read_all(file, 0, file.file_size) == expected
    assert bytes(file.read(0, file.file_size)) == expected
    assert decompress(expected) == nar if numbers else nar == b""


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.data())
def test_any_range_is_that_slice_of_the_file(numbers: list[int], data: st.DataObject) -> None:
    stored = data.draw(st.sampled_from([WARM, COLD]))
    recipe = stored.recipe(numbers, "range")
    expected, _ = stored.contents(recipe)
    file = stored.file(recipe)
    for _ in range(10):
        start = data.draw(st.integers(0, len(expected)))
        longest = data.draw(st.sampled_from([40, len(expected)]))
        stop = data.draw(st.integers(start, min(start + longest, len(expected))))
        assert file.read(start, stop) == expected[start:stop]
        assert asyncio.run(read_all(file, start, stop)) == expected[start:stop]


def test_each_short_range_around_a_store_hash_is_right() -> None:
    # Regression: a range that began and ended inside one store hash came out longer than it was.
    recipe = WARM.recipe([1, 5, 3], "short")
    expected, _ = WARM.contents(recipe)
    file = WARM.file(recipe)
    first = WARM.frames[1].patch_offsets[1]
    for start in range(first - 3, first + 36):
        for stop in range(start, first + 40):
            assert file.read(start, stop) == expected[start:stop]


@BOTH
async def test_empty_range_has_no_blocks(stored: Stored) -> None:
    file = stored.file(stored.recipe([1], "empty"))
    assert [block async for block in file.blocks(5, 5)] == []


@functools.cache
def large_chunks(count: int) -> list[Sample]:
    """Chunks of about 1 MiB that do not compress, with store hashes wherever blocks may end."""
    samples: list[Sample] = []
    for index in range(count):
        data = noise(f"large chunk {index}", 1_000_000 + 500 * index)
        parts: list[bytes | None] = []
        for start in range(0, len(data), 150):
            parts += [data[start : start + 150], None] if start % 15_000 < 1500 else [data[start : start + 150]]
        samples.append(join(parts))
    return samples


@pytest.mark.parametrize("blobs", [MemoryBlobStore(), ColdBlobStore()], ids=["warm", "cold"])
async def test_long_file_comes_in_blocks_of_a_mib_with_patches_across_their_borders(blobs: MemoryBlobStore) -> None:
    chunks = large_chunks(5)
    stored = store([chunks[:3], chunks[3:4], chunks[4:]], blobs)
    recipe = stored.recipe([1, 2, 3, 4, 5, 1, 5], "long")
    expected, nar = stored.contents(recipe)
    file = stored.file(recipe)
    offsets = stored.frames[1].patch_offsets
    # Blocks begin where the range begins, so each of these starts puts one border into a store hash.
    for start in [0, *(offset % 1000 + 20 for offset in offsets[:3])]:
        blocks = [bytes(block) async for block in file.blocks(start, file.file_size)]
        assert [len(block) for block in blocks[:-1]] == [BLOCK_BYTES] * (len(blocks) - 1)
        assert b"".join(blocks) == expected[start:]
    assert len(expected) > (READ_AHEAD_BLOCKS + 2) * BLOCK_BYTES
    assert decompress(expected) == nar


async def test_border_of_two_blocks_may_fall_anywhere_in_a_store_hash() -> None:
    sample = join([noise("before", BLOCK_BYTES - 60_000), None, noise("after", 100_000)])
    stored = store([[sample]], MemoryBlobStore())
    recipe = stored.recipe([1], "border")
    expected, _ = stored.contents(recipe)
    offset = stored.frames[1].patch_offsets[0]
    larger = stored.file(stored.recipe([1, 1], "border"))
    whole, _ = stored.contents(stored.recipe([1, 1], "border"))
    second = len(expected) + offset
    for shift in range(-2, 35):
        start = second + shift - BLOCK_BYTES
        blocks = [bytes(block) async for block in larger.blocks(start, larger.file_size)]
        assert len(blocks[0]) == BLOCK_BYTES
        assert b"".join(blocks) == whole[start:]


async def read_parts(file: NarFile, start: int, stop: int) -> tuple[bytes, int]:
    """The bytes, and how many of them lie in files."""
    data, in_files = b"", 0
    async for block in file.parts(start, stop):
        for piece in block if isinstance(block, list) else [block]:
            if isinstance(piece, FilePart):
                data += os.pread(piece.descriptor, piece.size, piece.offset)
                in_files += piece.size
            else:
                data += piece
    return data, in_files


def knows_page_cache(folder: Path) -> bool:
    """Whether this kernel tells what is in memory; else everything is copied."""
    with (folder / "probe").open("w+b") as probe:
        probe.write(b"x")
        probe.flush()
        return is_cached(probe.fileno(), 0, 1)


async def copies(file: NarFile) -> list[bytes | bytearray]:
    """What `parts` gives of the whole file that is not left in a file."""
    pieces = [piece async for block in file.parts(0, file.file_size) if isinstance(block, list) for piece in block]
    return [piece for piece in pieces if not isinstance(piece, FilePart)]


@pytest.mark.parametrize("is_enough", [True, False])
async def test_copies_are_kept_where_they_are_few(tmp_path: Path, *, is_enough: bool) -> None:
    sample = join([noise("a", 300_000), None, noise("b", 1000), None, noise("c", 300_000), None, noise("d", 5000)])
    stored = store([[sample]], LocalBlobStore(tmp_path))
    recipe = stored.recipe([1, 1], "kept")
    expected, _ = stored.contents(recipe)
    file = stored.file(recipe)
    file.read(0, file.file_size)  # which opens the pack
    before = file.layout_bytes
    first = await copies(file)
    size = sum(map(len, first))
    assert [piece is again for piece, again in zip(first, await copies(file), strict=True)] == [False] * len(first)
    file.keep_copies(max_bytes=size if is_enough else size - 1)
    if knows_page_cache(tmp_path):
        assert file.layout_bytes == before + is_enough * size
    first = await copies(file)
    if knows_page_cache(tmp_path):
        kept = [piece is again for piece, again in zip(first, await copies(file), strict=True)]
        assert kept == [is_enough] * len(first)
    for start, stop in ((0, file.file_size), (300_010, 301_500), (300_010, file.file_size), (0, 300_020)):
        assert (await read_parts(file, start, stop))[0] == expected[start:stop]
    assert len(first) > 1


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
async def test_what_needs_no_patch_may_stay_in_its_file(tmp_path: Path, *, is_warm: bool) -> None:
    bare = join([noise("bare", 700_000)])
    sparse = join(
        [noise("a", 300_000), None, noise("b", 1000), None, None, noise("c", 200_000), None, noise("d", 9000)]
    )
    blobs = LocalBlobStore(tmp_path)
    stored = store([[bare, sparse], [make_sample("scripts", 1, 40), bare, sparse, bare], [sparse]], blobs)
    recipe = stored.recipe([2, 1, 3, 4, 5, 6, 7, 7, 2], "parts")
    expected, _ = stored.contents(recipe)
    file = stored.file(recipe)
    if is_warm:
        assert bytes(file.read(0, file.file_size)) == expected  # which opens the packs
    offsets = stored.frames[2].patch_offsets
    for start in [0, 1, *(offset + shift for offset in offsets for shift in (0, 1, 31, 32))]:
        for stop in (file.file_size, file.file_size - 1, start + 500_000, start + 10, start):
            data, in_files = await read_parts(file, start, stop)
            assert data == expected[start:stop]
            if is_warm and stop - start > 1_000_000 and knows_page_cache(tmp_path):
                assert in_files > 0.8 * (stop - start)


@pytest.mark.parametrize("blobs", [MemoryBlobStore(), ColdBlobStore()], ids=["warm", "cold"])
async def test_parts_are_blocks_where_there_are_no_files(blobs: MemoryBlobStore) -> None:
    stored = store(PACKS, blobs)
    recipe = stored.recipe([1, 2, 3, 4, 5, 6, 7], "no files")
    file = stored.file(recipe)
    assert await read_parts(file, 0, file.file_size) == (stored.contents(recipe)[0], 0)


async def test_block_belongs_to_its_caller() -> None:
    recipe = WARM.recipe([1], "mine")
    file = WARM.file(recipe)
    async for block in file.blocks(0, file.file_size):
        block[:] = bytes(len(block))
    assert await read_all(file, 0, file.file_size) == WARM.contents(recipe)[0]


@pytest.mark.parametrize("blobs", [MemoryBlobStore(), ColdBlobStore()], ids=["warm", "cold"])
async def test_pack_that_is_gone_is_not_found(blobs: MemoryBlobStore) -> None:
    stored = store(PACKS, blobs)
    blobs.delete(pack_key(DOMAIN, stored.rows[4].pack_name))
    file = stored.file(stored.recipe([1, 4], "gone"))
    with pytest.raises(NotFound):
        await read_all(file, 0, file.file_size)
    start_of_second = stored.rows[1].stored_bytes
    assert len(await read_all(file, 0, start_of_second)) == start_of_second


@pytest.mark.parametrize("blobs", [MemoryBlobStore(), ColdBlobStore()], ids=["warm", "cold"])
async def test_pack_that_is_too_short_is_corrupt(blobs: MemoryBlobStore) -> None:
    stored = store([[make_sample("noise", 1, 5)]], blobs)
    row = stored.rows[1]
    key = pack_key(DOMAIN, row.pack_name)
    blobs.delete(key)
    blobs.put(key, stored.frames[1].data[:-1])
    file = stored.file(stored.recipe([1], "short"))
    with pytest.raises(Corrupt):
        await read_all(file, 0, file.file_size)


async def test_error_in_one_block_leaves_no_error_of_others_unseen() -> None:
    # Blocks that were read ahead and failed too are not reported by the loop as lost.
    chunks = large_chunks(6)
    stored = store([chunks[:2], chunks[2:]], ColdBlobStore())
    file = stored.file(stored.recipe(range(1, 7), "lost"))
    stored.blobs.delete(pack_key(DOMAIN, stored.rows[3].pack_name))
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    blocks = aiter(file.blocks(0, file.file_size))
    await anext(blocks)
    while ahead := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
        await asyncio.wait(ahead)
    with pytest.raises(NotFound):
        await exhaust(blocks)
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


async def test_reader_that_goes_away_stops_the_reading_ahead() -> None:
    stored = store([large_chunks(6)], ColdBlobStore())
    file = stored.file(stored.recipe(range(1, 7), "away"))
    blocks = file.blocks(0, file.file_size)
    assert len(await anext(blocks)) == BLOCK_BYTES
    await blocks.aclose()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - it is a generator
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.cancelling()] == []


@pytest.mark.parametrize("count", [0, 1, 5, 7, 1000])
def test_recipe_whose_patches_do_not_fit_its_chunks_is_corrupt(count: int) -> None:
    places = len(WARM.frames[1].patch_offsets) + len(WARM.frames[5].patch_offsets)
    recipe = Recipe((Run(1, 1), Run(5, 1)), tuple(store_hashes("count", 1)), array("L", [0] * count))
    assert count != places
    with pytest.raises(Corrupt, match=f"a recipe with {count} patches"):
        WARM.file(recipe)


def test_chunk_repeated_a_million_times_is_refused_before_its_places_fill_the_memory() -> None:
    recipe = Recipe((Run(4, 1),) * 1_000_000, (), array("L"))
    with pytest.raises(Corrupt, match="a recipe with 0 patches"):
        WARM.file(recipe)


@pytest.mark.parametrize("places", [b"", b"\x01", b"\xff" * 20, b"\x01\x00\xff\x7f\x00", b"\x01\x00\x00\x00\x00"])
def test_damaged_row_of_a_chunk_is_corrupt(places: bytes) -> None:
    row = replace(WARM.rows[1], places=places)
    with pytest.raises(Corrupt, match=row.pack_name.hex()):
        places_of(row)
    with pytest.raises(Corrupt):
        NarFile(WARM.blobs, DOMAIN, WARM.recipe([1], "damaged"), {1: row})


def test_packs_of_a_domain_lie_in_folders_by_their_first_byte() -> None:
    name = bytes(range(32))
    assert pack_key(3, name) == f"packs/3/00/{name.hex()}"


def test_files_are_read_by_many_threads_at_once() -> None:
    recipe = COLD.recipe([1, 2, 3, 4, 5, 6, 7], "threads")
    expected, _ = COLD.contents(recipe)
    file = COLD.file(recipe)
    chooser = random.Random(1)

    async def read_some() -> None:
        start = chooser.randrange(len(expected))
        stop = chooser.randrange(start, len(expected))
        assert await read_all(file, start, stop) == expected[start:stop]

    async def read_at_once() -> None:
        await asyncio.gather(*(read_some() for _ in range(50)))

    asyncio.run(read_at_once())
