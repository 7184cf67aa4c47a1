from __future__ import annotations

import random
import subprocess
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDecompressor, decompress
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.rules.chunks import MAX_CHUNK_BYTES, chunk_identity
from icehouse.rules.frames import (
    MAX_LEVEL,
    MIN_LEVEL,
    Frame,
    decode_frame,
    fill_in_hashes,
    make_frame,
    max_stored_bytes,
    prove_frame,
)
from tests.rules.samples import KINDS, STORE_PREFIX, Sample, join, make_sample, noise, store_hashes

MAGIC = b"\x28\xb5\x2f\xfd"
RAW, RLE, COMPRESSED, RESERVED = range(4)


def prove(frame: Frame, sample: Sample) -> bytes:
    return prove_frame(frame, len(sample.raw), sample.positions, chunk_identity(sample.raw, sample.positions))


def check_frame(sample: Sample, hashes: Sequence[bytes], level: int) -> Frame:
    """Make, prove and patch a frame of *sample*; check all that a frame promises."""
    frame = make_frame(sample.raw, sample.positions, level=level)
    assert prove(frame, sample) == sample.raw
    assert len(frame.data) <= max_stored_bytes(len(sample.raw), len(sample.positions))
    patched = bytes(fill_in_hashes(frame.data, frame.patch_offsets, hashes))
    expected = fill_in_hashes(sample.raw, sample.positions, hashes)
    assert decompress(patched) == expected
    assert decode_frame(Frame(patched, frame.patch_offsets, is_split=frame.is_split), len(sample.raw)) == expected
    return frame


@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 2**32),
    count=st.integers(0, 120),
    level=st.integers(MIN_LEVEL, MAX_LEVEL),
    equal=st.booleans(),
)
def test_other_store_hashes_written_into_a_frame_give_another_nar(
    kind: str,
    seed: int,
    count: int,
    level: int,
    equal: bool,  # noqa: FBT001 - hypothesis passes it by name
) -> None:
    sample = make_sample(kind, seed, count)
    hashes = store_hashes(str(seed), 1) * count if equal else store_hashes(str(seed), count)
    check_frame(sample, hashes[: len(sample.positions)], level)


@pytest.mark.long
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 2**32),
    count=st.integers(0, 1500),
    level=st.integers(MIN_LEVEL, MAX_LEVEL),
)
def test_other_store_hashes_give_another_nar_in_a_long_campaign(kind: str, seed: int, count: int, level: int) -> None:
    sample = make_sample(kind, seed, count)
    check_frame(sample, store_hashes(str(seed), len(sample.positions)), level)


@pytest.mark.parametrize("level", [1, 3, 9, 19])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_chunk_with_thousands_of_store_hashes_can_be_patched(kind: str, level: int) -> None:
    sample = make_sample(kind, 1, 2000)
    check_frame(sample, store_hashes(kind, len(sample.positions)), level)


def test_longest_chunk_full_of_store_hashes_can_be_patched() -> None:
    sample = join([b"\0" * (MAX_CHUNK_BYTES % 32), *[None] * (MAX_CHUNK_BYTES // 32)])
    assert len(sample.raw) == MAX_CHUNK_BYTES
    check_frame(sample, store_hashes("full", len(sample.positions)), 1)


@pytest.mark.parametrize("size", [1, 2, 31, 255, 256, 65_791, 65_792, 131_072, 1_048_576, MAX_CHUNK_BYTES])
@pytest.mark.parametrize("kind", ["noise", "zeros"])
def test_chunk_without_store_hashes_is_one_plain_frame(kind: str, size: int) -> None:
    sample = Sample(noise("plain", size) if kind == "noise" else bytes(size), ())
    frame = check_frame(sample, [], 3)
    assert frame.patch_offsets == ()
    assert not frame.is_split


@pytest.mark.parametrize(
    "parts",
    [
        [None],
        [None, b"end"],
        [b"start", None],
        [None, None],
        [None, b"-", None],
        [b"x" * 131_072, None, b"x" * 131_072],
        [b"x" * 131_071, None],
        [noise("incompressible", 200_000), None],
    ],
    ids=["alone", "first", "last", "two", "one byte between", "at a block's end", "across blocks", "after noise"],
)
def test_store_hash_may_stand_anywhere(parts: list[bytes | None]) -> None:
    sample = join(parts)
    check_frame(sample, store_hashes("anywhere", len(sample.positions)), 3)


def test_rebuild_that_changes_store_hashes_only_can_share_a_frame() -> None:
    sample = make_sample("scripts", 7, 60)
    first = make_frame(sample.raw, sample.positions)
    assert first == make_frame(sample.raw, sample.positions)
    for seed in ("first", "second"):
        hashes = store_hashes(seed, len(sample.positions))
        assert decompress(fill_in_hashes(first.data, first.patch_offsets, hashes)) == fill_in_hashes(
            sample.raw, sample.positions, hashes
        )


def test_chunk_that_tempts_every_match_is_split_and_still_right() -> None:
    sample = make_sample("continuations", 3, 2000)
    frame = check_frame(sample, store_hashes("split", len(sample.positions)), 9)
    assert frame.is_split


def test_store_hash_costs_its_32_bytes_and_two_dozen_more() -> None:
    sample = make_sample("path list", 11, 3000)
    frame = make_frame(sample.raw, sample.positions)
    assert not frame.is_split
    assert len(frame.data) < len(make_frame(sample.raw, ()).data) + (32 + 24) * len(sample.positions)


def test_zstd_program_decodes_patched_frames(tmp_path: Path, require: Callable[[str], str]) -> None:
    zstd = require("zstd")
    expected = b""
    with (tmp_path / "file.zst").open("wb") as file:
        for seed, kind in enumerate(KINDS):
            sample = make_sample(kind, seed, 50)
            hashes = store_hashes(kind, len(sample.positions))
            frame = make_frame(sample.raw, sample.positions)
            file.write(fill_in_hashes(frame.data, frame.patch_offsets, hashes))
            expected += fill_in_hashes(sample.raw, sample.positions, hashes)
    result = subprocess.run([zstd, "-dc", str(tmp_path / "file.zst")], capture_output=True, check=True)
    assert result.stdout == expected


# From here on: frames that somebody made to cheat.


def block(kind: int, size: int, data: bytes, *, last: bool = False) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + data


def frame_of(content_bytes: int, *blocks: bytes, descriptor: int = 0xA0) -> bytes:
    """A zstd frame with a content size of four bytes, by hand."""
    return MAGIC + bytes([descriptor]) + content_bytes.to_bytes(4, "little") + b"".join(blocks)


HASH = bytes(32)
ONE_HASH = Sample(b"before " + HASH + b" after!", (7,))
HONEST = frame_of(
    46, block(RAW, 7, b"before "), block(RAW, 32, HASH), block(RAW, 7, b" after!", last=True)
)  # patch offset 9 + 3 + 7 + 3
HONEST_OFFSET = 22


def refuse(data: bytes, patch_offsets: Sequence[int] = (HONEST_OFFSET,), *, split: bool = False) -> str:
    with pytest.raises(InvalidFormat) as caught:
        prove(Frame(data, tuple(patch_offsets), is_split=split), ONE_HASH)
    return str(caught.value)


def test_frame_made_by_hand_is_proved() -> None:
    assert prove(Frame(HONEST, (HONEST_OFFSET,), is_split=False), ONE_HASH) == ONE_HASH.raw
    assert prove(Frame(HONEST, (HONEST_OFFSET,), is_split=True), ONE_HASH) == ONE_HASH.raw


def test_longer_raw_block_around_a_store_hash_is_proved() -> None:
    data = frame_of(46, block(RAW, 46, ONE_HASH.raw, last=True))
    assert prove(Frame(data, (9 + 3 + 7,), is_split=False), ONE_HASH) == ONE_HASH.raw


@pytest.mark.parametrize("descriptor", [0x80, 0xA1, 0xA2, 0xA3, 0xA4, 0xA8, 0xB0], ids=hex)
def test_frame_header_with_another_flag_is_refused(descriptor: int) -> None:
    # No single segment; dictionary ids; checksum; the reserved and the unused bit.
    assert "frame header" in refuse(HONEST.replace(MAGIC + b"\xa0", MAGIC + bytes([descriptor])))


@pytest.mark.parametrize("option", [CompressionParameter.checksum_flag, CompressionParameter.dict_id_flag])
def test_frame_of_another_maker_with_a_checksum_is_refused(option: CompressionParameter) -> None:
    compressor = ZstdCompressor(options={option: 1, CompressionParameter.checksum_flag: 1})
    compressor.set_pledged_input_size(5)
    with pytest.raises(InvalidFormat, match="frame header"):
        prove(
            Frame(compressor.compress(b"hello", ZstdCompressor.FLUSH_FRAME), (), is_split=False), Sample(b"hello", ())
        )


def test_frame_with_a_window_is_refused() -> None:
    data = ZstdCompressor().compress(b"hello", ZstdCompressor.FLUSH_BLOCK) + ZstdCompressor().flush()
    with pytest.raises(InvalidFormat, match="frame header"):
        prove(Frame(data, (), is_split=False), Sample(b"hello", ()))


@pytest.mark.parametrize("at", [0, 3], ids=["first byte", "last byte"])
def test_bytes_that_are_no_frame_are_refused(at: int) -> None:
    data = bytearray(HONEST)
    data[at] ^= 1
    assert "does not begin a zstd frame" in refuse(bytes(data))


def test_block_of_the_reserved_kind_is_refused() -> None:
    data = frame_of(46, block(RAW, 7, b"before "), block(RESERVED, 32, HASH), block(RAW, 7, b" after!", last=True))
    assert "reserved" in refuse(data)


def test_patch_in_a_compressed_block_is_refused() -> None:
    text = noise("text", 1000).hex().encode()
    sample = Sample(text + HASH + text, (len(text),))
    data = make_frame(sample.raw, ()).data
    assert len(data) > 500
    for offset in range(len(data) - 31):
        with pytest.raises(InvalidFormat, match="not inside a raw block"):
            prove(Frame(data, (offset,), is_split=False), sample)


def test_patch_in_a_block_of_one_repeated_byte_is_refused() -> None:
    blocks = block(RAW, 7, b"before "), block(RLE, 32, b"\0"), block(RAW, 7, b" after!")
    data = frame_of(53, *blocks, block(RAW, 7, b" after!", last=True))
    assert decompress(data) == ONE_HASH.raw + b" after!"
    for offset in range(len(data) - 31):
        with pytest.raises(InvalidFormat, match="not inside a raw block"):
            prove(Frame(data, (offset,), is_split=False), Sample(ONE_HASH.raw + b" after!", (7,)))


def test_patch_across_two_raw_blocks_is_refused() -> None:
    blocks = block(RAW, 7, b"before "), block(RAW, 16, HASH[:16]), block(RAW, 23, HASH[:16] + b" after!", last=True)
    data = frame_of(46, *blocks)
    assert decompress(data) == ONE_HASH.raw
    for offset in range(len(data) - 31):
        assert "not inside a raw block" in refuse(data, [offset])


def test_every_other_patch_offset_is_refused() -> None:
    for offset in range(len(HONEST) - 31):
        if offset != HONEST_OFFSET:
            assert "not inside a raw block" in refuse(HONEST, [offset])
    for offset in (-1, -40, len(HONEST) - 31, len(HONEST), 2**40):
        assert "a patch offset lies outside" in refuse(HONEST, [offset])


def test_every_other_position_is_refused() -> None:
    frame = Frame(HONEST, (HONEST_OFFSET,), is_split=False)
    for position in [*range(7), *range(8, 90), 2**31]:
        with pytest.raises(InvalidFormat):
            prove(frame, Sample(ONE_HASH.raw, (position,)))


def test_shifted_position_over_zeros_is_refused() -> None:
    """The zeroed chunk is right for either place; only bytes that can be told apart show the lie."""
    sample = join([bytes(200), None, bytes(200)])
    frame = make_frame(sample.raw, sample.positions)
    for position in (0, 199, 201, 231, 232, 400):
        lie = Sample(sample.raw, (position,))
        with pytest.raises(InvalidFormat, match="copies bytes of a store hash"):
            prove(frame, lie)


@pytest.mark.parametrize("count", [2, 9, 2100])
def test_exchanged_patches_are_refused(count: int) -> None:
    sample = make_sample("back to back", 0, count)
    frame = make_frame(sample.raw, sample.positions)
    with pytest.raises(InvalidFormat, match="not in order"):
        prove(Frame(frame.data, frame.patch_offsets[::-1], is_split=False), sample)


@pytest.mark.parametrize("distance", [32, 33, 64, 8160])
def test_frame_that_copies_one_store_hash_from_another_is_refused(distance: int) -> None:
    """Each patch is in a raw block, but one store hash of the output comes from *distance* bytes before."""
    others = -(-distance // 32)
    raw = bytes(32 * (others + 2))
    blocks = block(RAW, 32, HASH) * others
    copy = _copying_block(distance, 32)
    spare = block(RAW, 32, HASH, last=True)  # somewhere for the last patch offset to point
    data = frame_of(len(raw), blocks, copy, spare)
    assert decompress(data) == raw
    offsets = [9 + 3 + 35 * index for index in range(others)] + [len(data) - 32]
    with pytest.raises(InvalidFormat, match="copies bytes of a store hash"):
        prove(Frame(data, tuple(offsets), is_split=False), Sample(raw, tuple(range(0, len(raw) - 32, 32))))


def _copying_block(offset: int, length: int) -> bytes:
    """A compressed block with no literals and one sequence: copy *length* bytes from *offset* bytes back."""
    # RFC 8878, section 3.1.1.3: raw literals of size 0; one sequence; all three codes as RLE.
    match_length = length - 3
    codes: list[tuple[int, int, int]] = [(code, code, 0) for code in range(32)]
    codes += [(32, 32, 1), (33, 34, 1), (34, 36, 1), (35, 38, 1), (36, 40, 2), (37, 44, 2), (38, 48, 3), (39, 56, 3)]
    code, base, extra_bits = next(entry for entry in reversed(codes) if entry[1] <= match_length)
    value = offset + 3
    offset_code = value.bit_length() - 1
    # Read from the end: the offset's bits, then the match length's; a 1 marks where the stream begins.
    stream = 1 << offset_code | (value - (1 << offset_code))
    stream = stream << extra_bits | (match_length - base)
    bits = stream.to_bytes((stream.bit_length() + 7) // 8, "little")
    body = b"\x00" + b"\x01" + bytes([0b01010100, 0, offset_code, code]) + bits
    return block(COMPRESSED, len(body), body)


@pytest.mark.parametrize(
    ("end", "distance"), [("first", 8 + 32 + 8), ("last", 8 + 1)], ids=["its first byte", "its last byte"]
)
def test_copy_of_a_single_byte_of_a_store_hash_is_refused(end: str, distance: int) -> None:
    """The accident that a proof is for: a match of what stands around a store hash takes one of its bytes along."""
    around = noise("context", 8)
    raw = around + HASH + around + (around + b"\0" if end == "first" else b"\0" + around)
    blocks = block(RAW, 8, around), block(RAW, 32, HASH), block(RAW, 8, around)
    data = frame_of(len(raw), *blocks, _copying_block(distance, 9), block(RAW, 0, b"", last=True))
    assert decompress(data) == raw
    with pytest.raises(InvalidFormat, match="copies bytes of a store hash"):
        prove(Frame(data, (9 + 3 + 8 + 3,), is_split=False), Sample(raw, (8,)))


def test_frame_that_zstd_made_with_a_copy_of_a_placeholder_is_refused() -> None:
    placeholder = noise("placeholder", 32)
    compressor = ZstdCompressor(
        options={CompressionParameter.compression_level: 3, CompressionParameter.window_log: 21}
    )
    compressor.set_pledged_input_size(300)
    data = compressor.compress(placeholder, ZstdCompressor.FLUSH_BLOCK)
    offset = data.index(placeholder)
    data += compressor.compress(bytes(100) + placeholder + bytes(136), ZstdCompressor.FLUSH_FRAME)
    assert decompress(fill_in_hashes(data, [offset], [HASH])) == bytes(300)
    with pytest.raises(InvalidFormat, match="copies bytes of a store hash"):
        prove(Frame(data, (offset,), is_split=False), Sample(bytes(300), (0,)))


def test_chunk_with_bytes_in_the_place_of_a_store_hash_is_refused() -> None:
    # The bytes come from a literal, so no patch could ever change them; the liar's identity fits them.
    data = frame_of(64, block(RAW, 32, HASH), block(RAW, 32, b"x" * 32, last=True))
    with pytest.raises(InvalidFormat, match="in the place of a store hash"):
        prove(Frame(data, (12,), is_split=False), Sample(HASH + b"x" * 32, (32,)))


def test_frame_of_other_bytes_is_refused() -> None:
    assert "holds other bytes" in refuse(HONEST.replace(b"before ", b"beforE "))


def test_more_patches_than_positions_are_refused() -> None:
    assert "1 positions and 2 patch offsets" in refuse(HONEST, [HONEST_OFFSET, HONEST_OFFSET])
    assert "1 positions and 0 patch offsets" in refuse(HONEST, [])


def test_overlapping_places_are_refused() -> None:
    raw = bytes(63)
    data = frame_of(63, block(RAW, 63, raw, last=True))
    with pytest.raises(InvalidFormat, match="positions overlap"):
        prove(Frame(data, (12, 44), is_split=False), Sample(raw, (0, 31)))
    with pytest.raises(InvalidFormat, match="patch offsets overlap"):
        prove(Frame(data + bytes(9), (12, 43), is_split=False), Sample(raw + b"\0", (0, 32)))


def test_cut_off_frame_is_refused_at_every_byte() -> None:
    for size in range(len(HONEST)):
        refuse(HONEST[:size])


def test_truncated_compressed_frame_is_refused_at_every_byte() -> None:
    sample = make_sample("scripts", 5, 12)
    frame = make_frame(sample.raw, sample.positions)
    for size in range(len(frame.data)):
        with pytest.raises(InvalidFormat):
            prove(Frame(frame.data[:size], frame.patch_offsets, is_split=False), sample)
        with pytest.raises(InvalidFormat):
            decode_frame(Frame(frame.data[:size], (), is_split=False), len(sample.raw))


@pytest.mark.parametrize(
    "rest",
    [b"\0", MAGIC, HONEST, b"\x50\x2a\x4d\x18\x00\x00\x00\x00", frame_of(0, block(RAW, 0, b"", last=True))],
    ids=["a byte", "a magic number", "another frame", "a skippable frame", "an empty frame"],
)
def test_bytes_after_the_frame_are_refused(rest: bytes) -> None:
    assert "follow after the 1 frames" in refuse(HONEST + rest)


@pytest.mark.parametrize("at_start", [True, False])
def test_skippable_frame_among_split_frames_is_refused(at_start: bool) -> None:  # noqa: FBT001 - a parameter
    skippable = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
    data, offset = (skippable + HONEST, HONEST_OFFSET + 8) if at_start else (HONEST + skippable, HONEST_OFFSET)
    assert "does not begin a zstd frame" in refuse(data, [offset], split=True)


def test_split_form_may_have_one_frame_for_each_stretch_and_no_more() -> None:
    pieces = [
        frame_of(7, block(RAW, 7, b"before ", last=True)),
        frame_of(32, block(RAW, 32, HASH, last=True)),
        frame_of(7, block(RAW, 7, b" after!", last=True)),
    ]
    data = b"".join(pieces)
    offset = len(pieces[0]) + 9 + 3
    assert prove(Frame(data, (offset,), is_split=True), ONE_HASH) == ONE_HASH.raw
    assert "follow after the 1 frames" in refuse(data, [offset])
    finer = data.replace(
        pieces[2], frame_of(6, block(RAW, 6, b" after", last=True)) + frame_of(1, block(RAW, 1, b"!", last=True))
    )
    assert "follow after the 3 frames" in refuse(finer, [offset], split=True)


@pytest.mark.parametrize("kind", [RAW, COMPRESSED])
def test_empty_frame_among_split_frames_is_refused(kind: int) -> None:
    """A decoder that is told that nothing comes need not look at what is there."""
    empty = frame_of(0, block(kind, 0, b"", last=True))
    data = frame_of(32, block(RAW, 32, HASH, last=True)) + frame_of(7, block(RAW, 7, b" after!", last=True))
    offset = len(empty) + 9 + 3
    sample = Sample(ONE_HASH.raw[7:], (0,))
    assert prove(Frame(data, (offset - len(empty),), is_split=True), sample) == sample.raw
    with pytest.raises(InvalidFormat, match="declares 0 bytes"):
        prove(Frame(empty + data, (offset,), is_split=True), sample)


def test_split_form_without_store_hashes_is_refused() -> None:
    data = frame_of(1, block(RAW, 1, b"x", last=True))
    with pytest.raises(InvalidFormat, match="without store hashes is one frame"):
        prove(Frame(data, (), is_split=True), Sample(b"x", ()))


def test_hash_across_two_split_frames_is_refused() -> None:
    data = frame_of(23, block(RAW, 23, b"before " + HASH[:16], last=True)) + frame_of(
        23, block(RAW, 23, HASH[:16] + b" after!", last=True)
    )
    for offset in range(len(data) - 31):
        refuse(data, [offset], split=True)


@pytest.mark.parametrize("declared", [0, 45, 47, 2**20, 2**32 - 1])
def test_frame_that_declares_another_size_is_refused(declared: int) -> None:
    data = frame_of(declared, block(RAW, 46, ONE_HASH.raw, last=True))
    assert f"declares {declared} bytes" in refuse(data, [19])


def test_frame_that_declares_more_than_memory_is_refused() -> None:
    data = MAGIC + b"\xe0" + b"\xff" * 8 + block(RAW, 46, ONE_HASH.raw, last=True)
    assert "declares 18446744073709551615 bytes" in refuse(data, [23])


@pytest.mark.parametrize("size", [0, 45, 47])
def test_frame_that_holds_another_size_than_it_declares_is_refused(size: int) -> None:
    raw = (ONE_HASH.raw + b"!")[:size]
    data = frame_of(46, block(RAW, size, raw, last=True)) + b""
    with pytest.raises(InvalidFormat):
        prove(Frame(data, (19,), is_split=False), ONE_HASH)


def test_bomb_of_repeated_bytes_is_stopped_at_the_declared_size() -> None:
    """Four bytes make 128 KiB, and the longest chunk may be stored in over a MiB: 34 GB, if nothing stopped them."""
    data = frame_of(MAX_CHUNK_BYTES, block(RLE, 131_072, b"x") * 20_000, block(RLE, 131_072, b"x", last=True))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidFormat):
            prove_frame(Frame(data, (), is_split=False), MAX_CHUNK_BYTES, (), bytes(32))
        with pytest.raises(InvalidFormat):
            decode_frame(Frame(data, (), is_split=False), MAX_CHUNK_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_CHUNK_BYTES
    finally:
        tracemalloc.stop()


def test_frame_of_many_empty_blocks_takes_little_memory() -> None:
    # Regression: each empty raw block was kept as a possible place for a store hash, at forty times its size.
    data = frame_of(MAX_CHUNK_BYTES, block(RAW, 0, b"") * 300_000)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidFormat, match="cut off"):
            prove_frame(Frame(data, (), is_split=False), MAX_CHUNK_BYTES, (), bytes(32))
        assert tracemalloc.get_traced_memory()[1] < MAX_CHUNK_BYTES
    finally:
        tracemalloc.stop()


def test_bomb_of_a_copy_is_stopped_at_the_declared_size() -> None:
    honest = make_frame(bytes(1_000_000), ()).data
    header, blocks = honest[:9], honest[9:]
    assert header == frame_of(1_000_000)
    with pytest.raises(InvalidFormat):
        prove(Frame(frame_of(70) + blocks, (), is_split=False), Sample(bytes(70), ()))


@pytest.mark.parametrize("raw_bytes", [-1, 0, MAX_CHUNK_BYTES + 1, 2**40])
def test_chunk_of_a_size_that_no_cut_gives_is_refused(raw_bytes: int) -> None:
    with pytest.raises(InvalidFormat, match=f"a chunk of {raw_bytes} bytes"):
        prove_frame(Frame(HONEST, (), is_split=False), raw_bytes, (), bytes(32))


def test_limits_are_checked_before_anything_is_decoded() -> None:
    frame = Frame(HONEST + bytes(200), (HONEST_OFFSET,), is_split=False)
    with pytest.raises(InvalidFormat, match="too long for a chunk of 46 bytes"):
        prove(frame, ONE_HASH)


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32), st.data())
def test_damaged_frame_is_refused_or_still_right(kind: str, seed: int, data: st.DataObject) -> None:
    """Whatever bits flip: either the proof fails, or the frame keeps every promise (its patch bytes do not matter)."""
    sample = make_sample(kind, seed, data.draw(st.integers(0, 20)))
    frame = make_frame(sample.raw, sample.positions)
    damaged = bytearray(frame.data)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    lie = Frame(bytes(damaged), frame.patch_offsets, is_split=frame.is_split)
    try:
        assert prove(lie, sample) == sample.raw
    except InvalidFormat:
        return
    hashes = store_hashes("damaged", len(sample.positions))
    assert decompress(fill_in_hashes(lie.data, lie.patch_offsets, hashes)) == fill_in_hashes(
        sample.raw, sample.positions, hashes
    )


@given(st.binary(max_size=400), st.integers(1, 500), st.lists(st.integers(0, 500), max_size=4), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_our_error(
    data: bytes,
    raw_bytes: int,
    places: list[int],
    split: bool,  # noqa: FBT001 - hypothesis passes it
) -> None:
    frame = Frame(MAGIC + b"\x20" + data, tuple(places), is_split=split)
    with pytest.raises(InvalidFormat):
        prove_frame(frame, raw_bytes, tuple(places), bytes(32))


def test_damaged_bytes_of_a_store_hash_change_nothing() -> None:
    """Frames are stored with whatever stood in their patches when they came."""
    data = HONEST[:HONEST_OFFSET] + noise("left over", 32) + HONEST[HONEST_OFFSET + 32 :]
    frame = Frame(data, (HONEST_OFFSET,), is_split=False)
    assert prove(frame, ONE_HASH) == ONE_HASH.raw


def test_hashes_are_filled_in_where_they_belong() -> None:
    first, second = store_hashes("fill", 2)
    sample = join([b"a", None, None, b"z"])
    assert fill_in_hashes(sample.raw, sample.positions, [first, second]) == b"a" + first + second + b"z"
    assert fill_in_hashes(b"as it is", (), []) == b"as it is"


def test_random_store_paths_in_noise_never_break_a_frame() -> None:
    chooser = random.Random(5)
    for level in range(MIN_LEVEL, MAX_LEVEL + 1):
        parts: list[bytes | None] = []
        for _ in range(40):
            parts += [chooser.choice([b"", b"\0" * 9, chooser.randbytes(20)]), STORE_PREFIX, None, b"-"]
        sample = join(parts)
        check_frame(sample, store_hashes(str(level), 40), level)


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 99), st.integers(0, 9), st.sampled_from([1, 3, 12])),
        min_size=2,
        max_size=5,
    )
)
def test_frames_do_not_depend_on_those_before_them(orders: list[tuple[str, int, int, int]]) -> None:
    samples = [(make_sample(kind, seed, count), level) for kind, seed, count, level in orders]

    def make_all() -> list[Frame]:
        return [make_frame(sample.raw, sample.positions, level=level) for sample, level in samples]

    with ThreadPoolExecutor(1) as thread:
        in_a_row = thread.submit(make_all).result()
    for (sample, level), frame in zip(samples, in_a_row, strict=True):
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(make_frame, sample.raw, sample.positions, level=level).result() == frame


def test_decoder_that_reads_in_small_steps_gives_the_same_bytes() -> None:
    """Nix decodes while it downloads."""
    sample = make_sample("scripts", 9, 40)
    frame = make_frame(sample.raw, sample.positions)
    decompressor = ZstdDecompressor()
    out = b"".join(decompressor.decompress(frame.data[at : at + 5]) for at in range(0, len(frame.data), 5))
    assert len(out) == len(sample.raw)
    assert fill_in_hashes(out, sample.positions, [HASH] * len(sample.positions)) == sample.raw
