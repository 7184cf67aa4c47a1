from __future__ import annotations

import lzma
import os
import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.nix.compression import MAGIC_BYTES, Compression, find_compression
from icehouse.nix.decompress import FREE_BYTES, MAX_PIECE_BYTES, MAX_RATIO, Decompressor
from icehouse.nix.nar_write import Directory, Regular, write_nar
from tests.nix.compressed import MAKERS, make_lzip

MIB = 1024 * 1024
SMALL = b"contents of a small file, " * 4
SEEDED = random.Random(1)
MIXED = b"".join(SEEDED.randbytes(30_000) + bytes(70_000) + SMALL * 2000 for _ in range(10))

COMPRESSED = [compression for compression in Compression if compression is not Compression.NONE]
REPEATABLE = [compression for compression in COMPRESSED if compression is not Compression.BR]

every = pytest.mark.parametrize("compression", list(Compression), ids=lambda c: c.value)
every_compressed = pytest.mark.parametrize("compression", COMPRESSED, ids=lambda c: c.value)
every_repeatable = pytest.mark.parametrize("compression", REPEATABLE, ids=lambda c: c.value)


def decode(compression: Compression, *parts: bytes) -> bytes:
    decompressor = Decompressor(compression, max_bytes=1 << 40)
    pieces = [piece for part in parts for piece in decompressor.feed(part)]
    decompressor.finish()
    assert all(0 < len(piece) <= MAX_PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


@every
@pytest.mark.parametrize("contents", [b"", b"a", SMALL, MIXED], ids=["empty", "one byte", "small", "large"])
def test_what_a_library_compressed_comes_out_again(compression: Compression, contents: bytes) -> None:
    assert decode(compression, MAKERS[compression](contents)) == contents


@every
def test_a_file_may_be_split_at_each_of_its_bytes(compression: Compression) -> None:
    data = MAKERS[compression](SMALL)
    assert all(decode(compression, data[:cut], data[cut:]) == SMALL for cut in range(len(data) + 1))
    assert decode(compression, *byte_by_byte(data)) == SMALL


@given(
    compression=st.sampled_from(Compression),
    contents=st.binary(max_size=2000) | st.builds(bytes, st.integers(0, 3_000_000)),
    cuts=st.lists(st.floats(0, 1), max_size=5),
)
def test_it_makes_no_difference_how_a_file_is_split(
    compression: Compression, contents: bytes, cuts: list[float]
) -> None:
    data = MAKERS[compression](contents)
    bounds = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    assert decode(compression, *(data[start:stop] for start, stop in pairwise(bounds))) == contents


@every_repeatable
def test_several_members_are_one_file(compression: Compression) -> None:
    make = MAKERS[compression]
    data = make(SMALL) + make(b"") + make(b"more") + make(b"")
    assert decode(compression, data) == SMALL + b"more"
    assert decode(compression, *byte_by_byte(data)) == SMALL + b"more"


@every_repeatable
def test_thousands_of_members_are_one_file(compression: Compression) -> None:
    assert decode(compression, MAKERS[compression](b"abc") * 5000) == b"abc" * 5000


def test_only_one_stream_of_brotli_is_accepted_since_nix_reads_no_more() -> None:
    data = MAKERS[Compression.BR](SMALL)
    with pytest.raises(InvalidFormat, match="br data"):
        decode(Compression.BR, data + data)
    with pytest.raises(InvalidFormat, match="br data is followed by other bytes"):
        decode(Compression.BR, data, data)


@pytest.mark.parametrize("number", range(16))
@pytest.mark.parametrize("size", [0, 500, 200_000])
def test_skippable_zstd_frames_may_stand_anywhere(number: int, size: int) -> None:
    skippable = struct.pack("<II", 0x184D2A50 + number, size) + bytes(size)
    frame = MAKERS[Compression.ZSTD](SMALL)
    assert decode(Compression.ZSTD, skippable + frame + skippable + frame + skippable) == 2 * SMALL


@pytest.mark.parametrize("size", [4, 8, 400_000])
def test_xz_streams_may_be_padded_by_multiples_of_four_zeros(size: int) -> None:
    data = MAKERS[Compression.XZ](SMALL) + bytes(size)
    assert decode(Compression.XZ, data + data) == 2 * SMALL
    assert decode(Compression.XZ, *byte_by_byte(data[:1000]), data[1000:]) == SMALL


@pytest.mark.parametrize("size", [1, 2, 3, 5, 70_001])
def test_other_padding_of_xz_streams_is_refused(size: int) -> None:
    stream = MAKERS[Compression.XZ](SMALL)
    with pytest.raises(InvalidFormat, match="zeros after a stream"):
        decode(Compression.XZ, stream + bytes(size) + stream)
    with pytest.raises(InvalidFormat, match="before it is complete"):
        decode(Compression.XZ, stream + bytes(size))
    with pytest.raises(InvalidFormat, match="xz data"):
        decode(Compression.XZ, bytes(size) + stream)


@every_compressed
def test_a_cut_file_is_refused_wherever_it_was_cut(compression: Compression) -> None:
    data = MAKERS[compression](SMALL)
    for size in range(len(data)):
        with pytest.raises(InvalidFormat, match=f"{compression.value} data ends after {size} bytes"):
            decode(compression, data[:size])


@every_repeatable
def test_a_file_whose_last_member_is_cut_is_refused(compression: Compression) -> None:
    data = MAKERS[compression](SMALL)
    with pytest.raises(InvalidFormat, match="before it is complete"):
        decode(compression, data + data[:-1])


@every_compressed
@pytest.mark.parametrize("junk", [b"\0", b"\n", b"junk that follows the file"])
def test_junk_after_the_end_is_refused(compression: Compression, junk: bytes) -> None:
    data = MAKERS[compression](SMALL)
    for parts in [(data + junk,), (data, junk)]:
        with pytest.raises(InvalidFormat, match=f"{compression.value} data"):
            decode(compression, *parts)


@every_compressed
def test_a_file_of_another_format_is_refused(compression: Compression) -> None:
    with pytest.raises(InvalidFormat, match=f"{compression.value} data"):
        decode(compression, b"<html>502 Bad Gateway</html>" * 10)


@pytest.mark.parametrize("compression", REPEATABLE, ids=lambda c: c.value)
def test_a_flipped_bit_is_noticed_by_the_checks_of_the_format(compression: Compression) -> None:
    data = MAKERS[compression](MIXED[:2000])
    for position in range(len(data) // 2, len(data) - 1):  # The last bits of bzip2 may mean nothing.
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(InvalidFormat):
            decode(compression, bytes(damaged))


@given(compression=st.sampled_from(COMPRESSED), data=st.binary(max_size=300), keep=st.integers(0, 40))
def test_no_bytes_get_another_answer_than_a_refusal_or_their_contents(
    compression: Compression, data: bytes, keep: int
) -> None:
    damaged = MAKERS[compression](SMALL)[:keep] + data
    try:
        decode(compression, damaged)
    except InvalidFormat as exc:
        assert compression.value in str(exc)  # noqa: PT017  both outcomes are right


def test_what_is_not_compressed_passes_unchanged() -> None:
    assert decode(Compression.NONE) == b""
    assert decode(Compression.NONE, b"", MIXED, b"end") == MIXED + b"end"


@pytest.mark.parametrize(
    ("offset", "values", "message"),
    [
        (4, b"\x00", "begins with"),
        (5, b"\x0b", "a dictionary of 2048 bytes"),
        (5, b"\x1c", "a dictionary of 268435456 bytes"),
        (5, b"\xff", "a dictionary of"),
        (-20, b"\0\0\0\0", "ends with CRC-32"),
        (-16, b"\1", "ends with CRC-32"),
        (-8, b"\1", "member size"),
    ],
    ids=["version", "small dictionary", "large dictionary", "no dictionary", "crc32", "size", "member size"],
)
def test_a_wrong_field_of_an_lzip_member_is_refused(offset: int, values: bytes, message: str) -> None:
    data = bytearray(make_lzip(SMALL))
    start = offset % len(data)
    data[start : start + len(values)] = values
    with pytest.raises(InvalidFormat, match=message):
        decode(Compression.LZIP, bytes(data))


@pytest.mark.parametrize("coded", [0x0C, 0x17, 0x1B, 0xF7], ids=["4 KiB", "8 MiB", "128 MiB", "4.5 MiB"])
def test_lzip_dictionaries_up_to_the_limit_are_read(coded: int) -> None:
    data = bytearray(make_lzip(SMALL))
    data[5] = coded
    assert decode(Compression.LZIP, bytes(data)) == SMALL


def make_xz_with_dictionary(code: int) -> bytes:
    data = bytearray(lzma.compress(SMALL))
    data[16] = code
    data[20:24] = struct.pack("<I", zlib.crc32(data[12:20]))
    return bytes(data)


def test_an_xz_file_may_ask_for_the_memory_of_the_highest_preset_and_no_gigabyte() -> None:
    assert decode(Compression.XZ, make_xz_with_dictionary(28)) == SMALL  # 64 MiB, as -9
    with pytest.raises(InvalidFormat, match=r"xz data cannot be decoded before byte \d+: Memory usage limit exceeded"):
        decode(Compression.XZ, make_xz_with_dictionary(36))  # 1 GiB


@pytest.mark.parametrize("window_log", [27, 28, 31])
def test_a_zstd_window_beyond_that_of_nix_is_refused(window_log: int) -> None:
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3]) + (len(SMALL) << 3 | 1).to_bytes(3, "little")
    if window_log <= 27:
        assert decode(Compression.ZSTD, frame + SMALL) == SMALL
    else:
        with pytest.raises(InvalidFormat, match=r"zstd data cannot be decoded before byte \d+: .*too much memory"):
            decode(Compression.ZSTD, frame + SMALL)


@every
def test_pieces_come_one_at_a_time_and_no_piece_is_large(compression: Compression) -> None:
    data = MAKERS[compression](bytes(30 * MIB))
    pieces = Decompressor(compression, max_bytes=1 << 40).feed(data)
    assert all(len(next(pieces)) <= MAX_PIECE_BYTES for _ in range(5))
    assert len(decode(compression, data)) == 30 * MIB


@every
def test_no_piece_comes_out_beyond_the_limit(compression: Compression) -> None:
    data = MAKERS[compression](bytes(8 * MIB))
    assert sum(map(len, Decompressor(compression, max_bytes=8 * MIB).feed(data))) == 8 * MIB
    taken: list[bytes] = []
    with pytest.raises(TooLarge, match="decodes to more than 5000000 bytes"):
        taken.extend(Decompressor(compression, max_bytes=5_000_000).feed(data))
    assert sum(map(len, taken)) <= 5_000_000


@pytest.mark.parametrize("compression", [Compression.ZSTD, Compression.XZ, Compression.GZIP], ids=lambda c: c.value)
def test_a_file_of_nothing_but_zeros_passes_in_formats_that_bound_their_ratio(compression: Compression) -> None:
    size = FREE_BYTES + 100 * MIB
    decompressor = Decompressor(compression, max_bytes=1 << 40)
    assert sum(map(len, decompressor.feed(MAKERS[compression](bytes(size))))) == size
    decompressor.finish()


@pytest.mark.parametrize("compression", [Compression.BR, Compression.BZIP2], ids=lambda c: c.value)
def test_a_file_that_grows_out_of_proportion_is_refused(compression: Compression) -> None:
    size = FREE_BYTES + 20 * MIB
    data = MAKERS[compression](bytes(size))
    taken: list[bytes] = []
    with pytest.raises(TooLarge, match=f"bytes of {compression.value} data decode to"):
        taken.extend(Decompressor(compression, max_bytes=1 << 40).feed(data))
    assert sum(map(len, taken)) <= FREE_BYTES + MAX_RATIO * len(data) < size


@pytest.mark.parametrize(
    "command",
    [
        "gzip -9",
        "bzip2 -1",
        "xz -9",
        "xz -T2 --block-size=100000 --check=sha256",
        "xz --check=none",
        "zstd -19",
        "zstd --long=27 --check",
    ],
)
def test_what_a_program_compressed_comes_out_again(require: Callable[[str], str], command: str) -> None:
    program, *options = command.split()
    run = subprocess.run([require(program), *options, "-c"], input=MIXED, capture_output=True, check=True)
    assert decode(Compression(program), run.stdout) == MIXED


@every
def test_what_nix_compressed_comes_out_again(
    require: Callable[[str], str], tmp_path: Path, compression: Compression
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "mixed").write_bytes(MIXED)
    (tree / "small").write_bytes(SMALL)
    store, cache = tmp_path / "store", tmp_path / "cache"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "NIX_CONFIG": "experimental-features = nix-command\nsubstituters =\nbuild-users-group =",
    }
    add = [require("nix-store"), "--store", str(store), "--add", str(tree)]
    path = subprocess.run(add, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    copy = [
        require("nix"),
        "copy",
        "--store",
        str(store),
        "--to",
        f"file://{cache}?compression={compression.value}",
        path,
    ]
    subprocess.run(copy, env=environment, capture_output=True, check=True)
    (file,) = (cache / "nar").iterdir()
    assert file.name.endswith(f".nar{compression.extension}")
    data = file.read_bytes()
    assert find_compression(file.name, data[:MAGIC_BYTES]) is compression
    nar = b"".join(write_nar(Directory({b"mixed": Regular(MIXED), b"small": Regular(SMALL)})))
    assert decode(compression, data) == nar
