from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from icehouse.nix.store_paths import NIX_STORE, StoreDir
from icehouse.rules.chunks import (
    CHUNK_PARAMETERS,
    MAX_CHUNK_BYTES,
    Chunker,
    ChunkParameters,
    CutChunk,
    chunk_identity,
)
from icehouse.rules.frames import fill_in_hashes
from tests.rules.samples import STORE_PREFIX, noise, store_hashes

SMALL = ChunkParameters(min_bytes=64, average_bytes=256, max_bytes=1024, normalization=1)
# In the last two, a store path can begin inside another's directory, and inside another's whole path.
STORE_DIRS = [
    NIX_STORE,
    StoreDir("/gnu/store"),
    StoreDir("/home/user/.local/share/nix/root/nix/store"),
    StoreDir("/a/a"),
    StoreDir(f"/q/{'0' * 32}-/q"),
]
HASHES = store_hashes("tests of chunks", 8)
MIB = 1024 * 1024
LETTERS = frozenset(b"0123456789abcdfghijklmnpqrsvwxyz")


def cut_whole(nar: bytes, store_dir: StoreDir, parameters: ChunkParameters) -> list[CutChunk]:
    """What `Chunker` must give, worked out on the whole NAR as the formats page says it."""
    prefix = f"{store_dir}/".encode()
    zeroed = bytearray(nar)
    found: dict[int, bytes] = {}
    directory = zeroed.find(prefix)
    while directory >= 0:
        position = directory + len(prefix)
        candidate = bytes(zeroed[position : position + 32])
        are_letters = len(candidate) == 32 and LETTERS.issuperset(candidate)
        if are_letters and zeroed.startswith(b"-", position + 32):
            found[position] = candidate
            zeroed[position : position + 32] = bytes(32)
        directory = zeroed.find(prefix, directory + 1)
    chunks: list[CutChunk] = []
    start = 0
    for natural in natural_cuts(bytes(zeroed), parameters):
        end = next((position + 32 for position in found if position < natural < position + 32), natural)
        positions = [position for position in sorted(found) if start <= position < end]
        hashes = tuple(found[position] for position in positions)
        chunks.append(CutChunk(bytes(zeroed[start:end]), tuple(position - start for position in positions), hashes))
        start = end
    return chunks


def natural_cuts(zeroed: bytes, parameters: ChunkParameters) -> list[int]:
    if len(zeroed) <= parameters.max_bytes:
        return [len(zeroed)] if zeroed else []
    cutter = FastCDC(
        parameters.average_bytes,
        min_size=parameters.min_bytes,
        max_size=parameters.max_bytes,
        normalized_chunking=1,
    )
    return list(accumulate(chunk.length for chunk in cutter.cut_buf(zeroed)))


def cut(
    pieces: Iterable[bytes | bytearray | memoryview],
    store_dir: StoreDir = NIX_STORE,
    parameters: ChunkParameters = CHUNK_PARAMETERS,
) -> list[CutChunk]:
    chunker = Chunker(store_dir, parameters)
    chunks = [chunk for piece in pieces for chunk in chunker.feed(piece)]
    return [*chunks, *chunker.finish()]


def split(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """*data* in pieces of *sizes*, used again and again."""
    start = index = 0
    while start < len(data):
        size = max(1, sizes[index % len(sizes)])
        yield data[start : start + size]
        start += size
        index += 1


def filled(chunks: Iterable[CutChunk]) -> bytes:
    return b"".join(fill_in_hashes(chunk.raw, chunk.positions, chunk.hashes) for chunk in chunks)


def shape(chunks: Sequence[CutChunk]) -> list[tuple[int, tuple[int, ...]]]:
    return [(len(chunk.raw), chunk.positions) for chunk in chunks]


@st.composite
def nars(draw: st.DrawFn, store_dir: StoreDir) -> bytes:
    """Bytes full of store paths, of what nearly is one, and of what FastCDC cuts late, early or never."""
    prefix = f"{store_dir}/".encode()
    part = st.one_of(
        st.sampled_from(HASHES).map(lambda store_hash: prefix + store_hash + b"-name"),
        st.sampled_from(HASHES).map(lambda store_hash: prefix + store_hash + b"-" + prefix + store_hash + b"-"),
        st.sampled_from(HASHES).map(lambda store_hash: prefix + store_hash),
        st.sampled_from(HASHES).map(lambda store_hash: prefix + store_hash[:31] + b"e-name"),
        st.sampled_from(HASHES).map(lambda store_hash: prefix[:-1] + prefix + store_hash + b"-x"),
        st.integers(1, len(prefix)).map(lambda size: prefix[:size]),
        st.tuples(st.sampled_from([b"\0", b"x", b"ab"]), st.integers(0, 700)).map(lambda run: run[0] * run[1]),
        st.tuples(st.integers(0, 50), st.integers(0, 700)).map(lambda run: noise(f"part {run[0]}", run[1])),
    )
    return b"".join(draw(st.lists(part, max_size=40)))


@given(st.data())
def test_chunks_are_those_of_the_whole_nar_however_it_arrives(data: st.DataObject) -> None:
    store_dir = data.draw(st.sampled_from(STORE_DIRS))
    nar = data.draw(nars(store_dir))
    sizes = data.draw(st.lists(st.one_of(st.integers(1, 60), st.integers(60, 3000)), min_size=1, max_size=8))
    chunks = cut(split(nar, sizes), store_dir, SMALL)
    assert chunks == cut_whole(nar, store_dir, SMALL)
    assert filled(chunks) == nar


@pytest.mark.long
@given(st.data())
def test_chunks_are_those_of_the_whole_nar_in_a_long_campaign(data: st.DataObject) -> None:
    store_dir = data.draw(st.sampled_from(STORE_DIRS))
    nar = b"".join(data.draw(st.lists(nars(store_dir), min_size=1, max_size=6)))
    sizes = data.draw(st.lists(st.integers(1, 4000), min_size=1, max_size=20))
    chunks = cut(split(nar, sizes), store_dir, SMALL)
    assert chunks == cut_whole(nar, store_dir, SMALL)
    assert filled(chunks) == nar


@pytest.mark.parametrize("seed", range(8))
def test_nar_dense_with_store_hashes_is_cut_the_same_in_any_pieces(seed: int) -> None:
    chooser = random.Random(seed)
    parts: list[bytes] = []
    for index in range(25_000):
        parts += [
            STORE_PREFIX,
            HASHES[index % len(HASHES)],
            b"-",
            chooser.randbytes(chooser.choice([0, 0, 1, 90, 300])),
        ]
    nar = b"".join(parts)
    expected = cut_whole(nar, NIX_STORE, CHUNK_PARAMETERS)
    assert len(expected) > 3
    assert cut([nar]) == expected
    assert cut(split(nar, [chooser.randint(1, 200_000) for _ in range(7)])) == expected
    assert sum(len(chunk.hashes) for chunk in expected) == 25_000
    assert filled(expected) == nar


@pytest.mark.parametrize("pieces", [[10 * MIB], [65_536], [MIB], [MIB - 20, 7, 1, 1, 13]], ids=str)
def test_cut_at_the_greatest_size_moves_to_the_end_of_a_store_hash_in_its_way(pieces: list[int]) -> None:
    # FastCDC finds no cut in a row of one letter, so the first one comes at exactly 1 MiB.
    for directory in range(MIB - 60, MIB + 12):
        nar = b"x" * directory + STORE_PREFIX + HASHES[0] + b"-" + b"x" * (MIB + 100)
        position = directory + len(STORE_PREFIX)
        is_in_the_way = position < MIB < position + 32
        first = position + 32 if is_in_the_way else MIB
        own, inside = (0, position) if position < MIB else (1, position - MIB)
        chunks = cut(split(nar, pieces))
        assert len(chunks[0].raw) == first
        assert chunks[own].positions == (inside,)
        assert chunks[own].hashes == (HASHES[0],)
        # The second cut stands where it would stand without the store hash.
        assert sum(len(chunk.raw) for chunk in chunks[:2]) == 2 * MIB
        assert filled(chunks) == nar


def test_longest_chunk_has_31_bytes_more_than_a_cut_allows() -> None:
    nar = b"x" * (MIB - 1 - len(STORE_PREFIX)) + STORE_PREFIX + HASHES[0] + b"-" + b"x" * 10
    assert shape(cut([nar])) == [(MAX_CHUNK_BYTES, (MIB - 1,)), (11, ())]


def test_store_hash_is_found_wherever_two_pieces_meet() -> None:
    nar = noise("left", 500) + STORE_PREFIX + HASHES[1] + b"-name" + noise("right", 500)
    for border in range(490, 560):
        assert cut([nar[:border], nar[border:]]) == [CutChunk(nar.replace(HASHES[1], bytes(32)), (511,), (HASHES[1],))]


def test_store_hash_is_found_byte_by_byte() -> None:
    nar = (STORE_PREFIX + HASHES[2] + b"-") * 40
    assert cut(split(nar, [1]), parameters=SMALL) == cut_whole(nar, NIX_STORE, SMALL)


@pytest.mark.parametrize(
    "text",
    [
        STORE_PREFIX + HASHES[0],
        STORE_PREFIX + HASHES[0][:31] + b"-name",
        STORE_PREFIX + HASHES[0] + b"/name",
        STORE_PREFIX + HASHES[0][:31] + b"e-name",
        STORE_PREFIX + HASHES[0].upper() + b"-name",
        b"/nix/stor/" + HASHES[0] + b"-name",
        b"nix/store/" + HASHES[0] + b"-name",
        HASHES[0] + b"-name",
    ],
    ids=["no dash", "31 letters", "a slash", "a letter outside", "capitals", "another folder", "relative", "no folder"],
)
def test_what_is_no_store_hash_is_left_alone(text: bytes) -> None:
    assert cut([text]) == [CutChunk(text, (), ())]


def test_store_directory_of_another_cache_is_not_searched() -> None:
    text = b"/gnu/store/" + HASHES[0] + b"-name"
    assert cut([text])[0].hashes == ()
    assert cut([text], StoreDir("/gnu/store"))[0].hashes == (HASHES[0],)


def test_store_directory_is_not_a_pattern() -> None:
    text = b"/nixxstore/" + HASHES[0] + b"-name /nix.store/" + HASHES[1] + b"-name"
    assert cut([text], StoreDir("/nix.store"))[0].hashes == (HASHES[1],)


@pytest.mark.parametrize("size", [1, 65_536, 300_000, MIB])
def test_nar_of_up_to_the_greatest_size_is_one_chunk(size: int) -> None:
    # Regression: FastCDC cut such NARs too, so small packages had several chunks each.
    data = noise("one chunk", size)
    assert shape(cut([data])) == shape(cut(split(data, [70_001]))) == [(size, ())]


def test_nar_of_one_byte_more_is_cut_by_content() -> None:
    data = noise("one chunk", MIB + 1)
    assert len(cut([data])) > 1
    assert cut([data]) == cut(split(data, [70_001])) == cut_whole(data, NIX_STORE, CHUNK_PARAMETERS)


def test_empty_nar_has_no_chunk() -> None:
    assert cut([]) == []
    assert cut([b"", b""]) == []


def test_pieces_may_be_any_kind_of_bytes() -> None:
    data = noise("pieces", 1000)
    assert cut([bytearray(data[:500]), memoryview(data)[500:]]) == cut([data])


def test_chunker_gives_chunks_as_soon_as_their_end_is_known() -> None:
    chunker = Chunker(NIX_STORE)
    fed = given = 0
    for piece in split(noise("eager", 8 * MIB), [50_000]):
        fed += len(piece)
        given += sum(len(chunk.raw) for chunk in chunker.feed(piece))
        assert fed - given <= MIB + 64


def test_rebuild_that_changes_store_hashes_only_has_the_same_identities() -> None:
    def build(hashes: Sequence[bytes]) -> bytes:
        texts = [noise(f"file {index}", 90_000) + STORE_PREFIX + hashes[index] + b"-x" for index in range(40)]
        return b"".join(texts)

    first, second = (cut([build(store_hashes(seed, 40))]) for seed in ("first", "second"))
    assert len(first) > 4
    assert [chunk_identity(chunk.raw, chunk.positions) for chunk in first] == [
        chunk_identity(chunk.raw, chunk.positions) for chunk in second
    ]


def test_identity_covers_positions_and_bytes() -> None:
    raw = bytes(100)
    identities = {chunk_identity(raw, positions) for positions in [(), (0,), (1,), (0, 32), (0, 33)]}
    assert len(identities) == 5
    assert chunk_identity(raw, (1,)) == blake3(b"\x01" + struct.pack("<II", 1, 1) + raw).digest()


def test_fastcdc_cuts_as_the_formats_page_says() -> None:
    """The algorithm of the page, step by step. If the library ever changed, chunks would be shared no more."""
    gear = [int.from_bytes(hashlib.md5(bytes([value]) * 64).digest()[:8], "big") for value in range(256)]  # noqa: S324 - a table, not a secret

    def first_cut(data: bytes) -> int:
        if len(data) <= 65_536:
            return len(data)
        end = min(len(data), 1_048_576)
        middle = min(end, 262_144)
        state = 0
        for index in range(65_536, end // 2 * 2):
            state = (state * 2 + gear[data[index]]) % 2**64
            if state & (0xD91707537000 if index < middle // 2 * 2 else 0xD90703537000) == 0:
                return index
        return end

    data = noise("fastcdc", 2_500_001) + b"x" * 1_100_000 + bytes(100_001)
    cuts: list[int] = []
    while not cuts or cuts[-1] < len(data):
        start = cuts[-1] if cuts else 0
        cuts.append(start + first_cut(data[start : start + 1_048_577]))
    assert cuts == natural_cuts(data, CHUNK_PARAMETERS)
    assert len(cuts) > 8
