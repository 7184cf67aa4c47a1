from __future__ import annotations

import gzip
import lzma
import random
import subprocess
import zlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Final, cast

import brotli
import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.nix.compression import Compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.stored import RawRange, StoredFile, has_stored_form

MIB = 1024 * 1024
BLOCK = 64 * 1024
NAR = random.Random(1).randbytes(9 * MIB)
READERS: Final[Mapping[Compression, Callable[[bytes], bytes]]] = {
    Compression.NONE: bytes,
    Compression.GZIP: gzip.decompress,
    Compression.XZ: lzma.decompress,
    Compression.LZ4: cast("Callable[[bytes], bytes]", lz4.frame.decompress),
    Compression.BR: cast("Callable[[bytes], bytes]", brotli.decompress),
}
every = pytest.mark.parametrize("compression", list(READERS), ids=lambda c: c.value)


def store(compression: Compression, nar: bytes) -> StoredFile:
    return StoredFile(compression, len(nar), zlib.crc32(nar))


def read(file: StoredFile, nar: bytes, start: int, stop: int) -> bytes:
    pieces = list(file.pieces(start, stop))
    assert all(piece.start < piece.stop if isinstance(piece, RawRange) else piece for piece in pieces)
    return b"".join(nar[p.start : p.stop] if isinstance(p, RawRange) else p for p in pieces)


def read_all(compression: Compression, nar: bytes) -> bytes:
    file = store(compression, nar)
    return read(file, nar, 0, file.file_size)


WHOLE: Final = {
    (compression, size): read_all(compression, NAR[:size]) for compression in READERS for size in (0, 200_000, len(NAR))
}


@every
@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        BLOCK - 2,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK - 2,
        2 * BLOCK,
        4 * MIB - 1,
        4 * MIB,
        4 * MIB + 1,
        9 * MIB,
    ],
)
def test_the_library_of_the_format_reads_the_nar(compression: Compression, size: int) -> None:
    nar = NAR[:size]
    data = read_all(compression, nar)
    assert len(data) == store(compression, nar).file_size
    assert READERS[compression](data) == nar


@every
def test_our_own_decoder_reads_the_nar(compression: Compression) -> None:
    decompressor = Decompressor(compression, max_bytes=len(NAR))
    assert b"".join(decompressor.feed(WHOLE[compression, len(NAR)])) == NAR
    decompressor.finish()


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.XZ], ids=lambda c: c.value)
@pytest.mark.parametrize("size", [0, 200_000, len(NAR)])
def test_the_program_of_the_format_reads_the_nar(
    require: Callable[[str], str], compression: Compression, size: int
) -> None:
    run = [require(compression.value), "-dc"]
    assert subprocess.run(run, input=WHOLE[compression, size], capture_output=True, check=True).stdout == NAR[:size]


@given(
    whole=st.sampled_from(sorted(WHOLE, key=str)),
    start=st.integers(0, 200_100) | st.integers(0, 10 * MIB),
    size=st.integers(0, 100) | st.integers(0, 300_000) | st.just(10 * MIB),
)
def test_any_part_is_that_part_of_the_whole(whole: tuple[Compression, int], start: int, size: int) -> None:
    compression, nar_size = whole
    nar, data = NAR[:nar_size], WHOLE[whole]
    start = min(start, len(data))
    stop = min(start + size, len(data))
    assert read(store(compression, nar), nar, start, stop) == data[start:stop]


@every
def test_parts_that_meet_at_any_place_around_a_block_make_the_whole(compression: Compression) -> None:
    nar = NAR[: 2 * BLOCK + 10]
    file, data = store(compression, nar), read_all(compression, nar)
    places = {*range(60), *range(BLOCK - 20, BLOCK + 60), *range(2 * BLOCK, len(data)), len(data)}
    for place in places:
        assert read(file, nar, 0, place) + read(file, nar, place, len(data)) == data


@every
@pytest.mark.parametrize("start", [0, 2**34 + 12_345, 2**36 - 70_000], ids=["start", "middle", "end"])
def test_a_part_of_a_very_large_file_costs_no_more_than_that_part(compression: Compression, start: int) -> None:
    file = StoredFile(compression, 2**36, 0)
    pieces = list(file.pieces(start, start + 60_000))
    assert len(pieces) <= 5
    raw = [piece for piece in pieces if isinstance(piece, RawRange)]
    assert all(first.stop == second.start for first, second in pairwise(raw))
    assert raw[-1].stop <= 2**36
    (last,) = file.pieces(file.file_size - 1, file.file_size)
    assert isinstance(last, RawRange) is (compression is Compression.NONE)


def test_a_gzip_file_beyond_four_gigabytes_ends_with_its_size_modulo_two_to_the_32() -> None:
    file = StoredFile(Compression.GZIP, 2**32 + 7, 0x01020304)
    assert b"".join(cast("list[bytes]", list(file.pieces(file.file_size - 8, file.file_size)))) == (
        b"\x04\x03\x02\x01\x07\0\0\0"
    )


def test_containers_cost_little() -> None:
    overhead = {c.value: StoredFile(c, 2**30, 0).file_size - 2**30 for c in READERS}
    assert overhead == {"none": 0, "gzip": 81_943, "xz": 49_208, "lz4": 1035, "br": 49_153}


@pytest.mark.parametrize("compression", [Compression.BZIP2, Compression.LZIP, Compression.ZSTD], ids=lambda c: c.value)
def test_other_compressions_have_no_container(compression: Compression) -> None:
    assert not has_stored_form(compression)
    with pytest.raises(ValueError, match=f"{compression.value} has no stored form"):
        StoredFile(compression, 1, 0)


@every
def test_containers_are_told_by_name(compression: Compression) -> None:
    assert has_stored_form(compression)


def test_gzip_needs_the_crc32_of_the_nar() -> None:
    with pytest.raises(ValueError, match="CRC-32"):
        StoredFile(Compression.GZIP, 1)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 10**6), (10**6, 10**6)])
def test_a_range_outside_the_file_is_a_mistake(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"bytes {start} up to {stop} of a file of"):
        StoredFile(Compression.XZ, 100).pieces(start, stop)
