from __future__ import annotations

import contextlib
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from backports.zstd import decompress
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.rules.chunks import MAX_CHUNK_BYTES, chunk_identity
from icehouse.rules.frames import make_frame, max_stored_bytes
from icehouse.rules.packs import (
    MAX_INDEX_BYTES,
    MAX_PACK_BYTES,
    MAX_PACK_ENTRIES,
    NO_PLACES,
    TRAILER_BYTES,
    PackEntry,
    Places,
    parse_index,
    parse_pack_end,
    parse_places,
    parse_trailer,
    render_index,
    render_pack_end,
    render_places,
)
from icehouse.rules.varints import encode_varints
from tests.rules.samples import KINDS, make_sample, noise

OUR_ERRORS = (InvalidFormat, TooLarge)


@st.composite
def ascending(draw: st.DrawFn, count: int, end: int) -> tuple[int, ...]:
    """*count* places for 32 bytes each, none over another, before *end*."""
    slack = end - 32 * count
    gaps = sorted(draw(st.lists(st.integers(0, slack), min_size=count, max_size=count)))
    return tuple(32 * index + gap for index, gap in enumerate(gaps))


@st.composite
def entries_of_one_pack(draw: st.DrawFn) -> list[PackEntry]:
    entries: list[PackEntry] = []
    for index in range(draw(st.integers(0, 6))):
        raw_bytes = draw(st.one_of(st.integers(1, 500), st.integers(1, MAX_CHUNK_BYTES)))
        count = draw(st.integers(0, min(40, raw_bytes // 32)))
        least = max(1, 32 * count)
        stored_bytes = draw(st.integers(least, max_stored_bytes(raw_bytes, count)))
        places = Places(
            draw(ascending(count, raw_bytes)),
            draw(ascending(count, stored_bytes)),
            is_split=count > 0 and draw(st.booleans()),
        )
        entries.append(PackEntry(noise(f"entry {index}", 32), stored_bytes, raw_bytes, places))
    return entries


@given(entries_of_one_pack())
def test_index_survives(entries: list[PackEntry]) -> None:
    index = render_index(entries)
    assert parse_index(index) == entries
    assert parse_index(memoryview(index)) == entries


@given(entries_of_one_pack(), st.integers(0, 1000))
def test_index_is_found_from_the_end_of_a_pack(entries: list[PackEntry], frames_bytes: int) -> None:
    pack = noise("frames", frames_bytes) + render_pack_end(entries)
    end_bytes = parse_trailer(pack[-TRAILER_BYTES:], pack_bytes=len(pack))
    assert len(pack) - end_bytes == frames_bytes
    assert parse_pack_end(pack[-end_bytes:]) == entries


@given(entries_of_one_pack())
def test_places_survive_in_a_column(entries: list[PackEntry]) -> None:
    for entry in entries:
        column = render_places(entry.places)
        assert parse_places(column, raw_bytes=entry.raw_bytes, stored_bytes=entry.stored_bytes) == entry.places
    assert parse_places(None, raw_bytes=1, stored_bytes=1) == NO_PLACES


def parse_all(data: bytes) -> None:
    """Read *data* as each of our formats; an error of ours is a fine answer."""
    with contextlib.suppress(*OUR_ERRORS):
        parse_pack_end(data)
    with contextlib.suppress(*OUR_ERRORS):
        parse_index(data)
    with contextlib.suppress(*OUR_ERRORS):
        parse_trailer(data[-TRAILER_BYTES:], pack_bytes=len(data))
    with contextlib.suppress(*OUR_ERRORS):
        parse_places(data, raw_bytes=1000, stored_bytes=1000)


@given(entries_of_one_pack(), st.data())
def test_damaged_pack_end_raises_nothing_but_our_errors(entries: list[PackEntry], data: st.DataObject) -> None:
    end = bytearray(render_pack_end(entries))
    for _ in range(data.draw(st.integers(1, 4))):
        end[data.draw(st.integers(0, len(end) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    parse_all(bytes(end))
    parse_all(bytes(end[8:-TRAILER_BYTES]))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_our_errors(data: bytes) -> None:
    parse_all(data)


@pytest.mark.long
@given(entries_of_one_pack(), st.data())
def test_each_accepted_index_has_one_encoding(entries: list[PackEntry], data: st.DataObject) -> None:
    index = bytearray(render_index(entries))
    index[data.draw(st.integers(0, len(index) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = parse_index(bytes(index))
    except OUR_ERRORS:
        return
    assert render_index(parsed) == index


def two_entries() -> list[PackEntry]:
    return [
        PackEntry(noise("first", 32), 90, 200, Places((0, 150), (20, 58), is_split=False)),
        PackEntry(noise("second", 32), 300, 400, NO_PLACES),
    ]


def test_pack_end_is_refused_at_every_truncation() -> None:
    end = render_pack_end(two_entries())
    for size in range(len(end)):
        with pytest.raises(InvalidFormat):
            parse_pack_end(end[:size])
        with pytest.raises(InvalidFormat):
            parse_pack_end(end[len(end) - size :])
    with pytest.raises(InvalidFormat):
        parse_pack_end(end + b"\0")
    with pytest.raises(InvalidFormat):
        parse_pack_end(b"\0" + end)


def test_index_is_refused_at_every_truncation() -> None:
    index = render_index(two_entries())
    for size in range(len(index)):
        with pytest.raises(InvalidFormat):
            parse_index(index[:size])
    with pytest.raises(InvalidFormat, match="1 bytes too many"):
        parse_index(index + b"\0")


IDENTITY = bytes(32)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([0, 10, 0], "empty chunk"),
        ([10, 0, 0], "empty chunk"),
        ([10, MAX_CHUNK_BYTES + 1, 0], "over the limit"),
        ([10 + 64 + 48 + 1, 10, 0], "too long for a chunk"),
        ([100, 31, 1, 0, 0, 0], "over the limit of 0"),
        ([100, 32, 2, 0, 0, 32, 0, 32], "over the limit of 1"),
        ([100, 64, 1, 2, 0, 0], "over the limit of 1"),
        ([100, 64, 1, 0, 33, 0], "33 is over the limit of 32"),
        ([100, 64, 1, 0, 0, 69], "69 is over the limit of 68"),
        ([100, 64, 2, 0, 0, 31, 0, 32], "31 is less than 32"),
        ([100, 64, 2, 0, 0, 32, 0, 31], "31 is less than 32"),
        ([100, 64, 2, 0, 1, 32, 0, 32], "33 is over the limit of 32"),
        ([31, 64, 1, 0, 0, 0], "do not fit a frame of 31 bytes"),
        ([63, 64, 2, 0, 0, 32, 0, 32], "do not fit a frame of 63 bytes"),
    ],
)
def test_entry_that_cannot_be_is_refused(entry: list[int], message: str) -> None:
    with pytest.raises(InvalidFormat, match=message):
        parse_index(b"\x01\x01" + IDENTITY + encode_varints(entry))


def test_place_in_a_frame_shorter_than_a_store_hash_is_refused() -> None:
    # Regression: a patch at the start of a frame of under 32 bytes passed as "inside the frame".
    with pytest.raises(InvalidFormat, match="do not fit a frame of 20 bytes"):
        parse_places(encode_varints([1, 0, 0, 0]), raw_bytes=64, stored_bytes=20)


def test_chunk_named_twice_is_refused() -> None:
    entry = PackEntry(IDENTITY, 10, 10, NO_PLACES)
    with pytest.raises(InvalidFormat, match="named twice"):
        parse_index(render_index([entry, entry]))


@pytest.mark.parametrize("version", [0, 2, 2**31])
def test_index_of_another_version_is_refused(version: int) -> None:
    with pytest.raises(InvalidFormat, match=f"version {version}; this program knows version 1"):
        parse_index(encode_varints([version, 0]))


def test_trailer_of_another_version_is_refused() -> None:
    end = render_pack_end([])
    with pytest.raises(InvalidFormat, match="does not know"):
        parse_trailer(end[-TRAILER_BYTES:-1] + b"\x02", pack_bytes=len(end))


@pytest.mark.parametrize("end_bytes", [0, 20, 1001, MAX_INDEX_BYTES + 1000, 2**32 - 1])
def test_trailer_that_points_outside_its_pack_is_refused(end_bytes: int) -> None:
    with pytest.raises(InvalidFormat, match="does not fit its 1000 bytes"):
        parse_trailer(struct.pack("<I7sB", end_bytes, b"ICEPACK", 1), pack_bytes=1000)


def test_pack_over_its_size_is_refused() -> None:
    entry_bytes = MAX_CHUNK_BYTES
    count = MAX_PACK_BYTES // entry_bytes
    entries = [PackEntry(noise(str(index), 32), entry_bytes, entry_bytes, NO_PLACES) for index in range(count + 1)]
    assert len(parse_index(render_index(entries[:count]))) == count
    with pytest.raises(TooLarge, match=f"over {MAX_PACK_BYTES} bytes"):
        parse_index(render_index(entries))


def test_too_many_entries_are_refused_before_they_are_read() -> None:
    entries = [PackEntry(index.to_bytes(32, "little"), 10, 10, NO_PLACES) for index in range(MAX_PACK_ENTRIES)]
    assert len(parse_index(render_index(entries))) == MAX_PACK_ENTRIES
    with pytest.raises(TooLarge, match=f"{MAX_PACK_ENTRIES + 1} chunks"):
        parse_index(encode_varints([1, MAX_PACK_ENTRIES + 1]))


def test_index_over_its_size_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match=f"{MAX_INDEX_BYTES + 1} bytes"):
        parse_index(bytes(MAX_INDEX_BYTES + 1))


def test_zstd_program_decodes_a_whole_pack(tmp_path: Path, require: Callable[[str], str]) -> None:
    zstd = require("zstd")
    frames: list[bytes] = []
    entries: list[PackEntry] = []
    expected = b""
    for seed, kind in enumerate(KINDS):
        sample = make_sample(kind, seed, 30)
        frame = make_frame(sample.raw, sample.positions)
        places = Places(sample.positions, frame.patch_offsets, is_split=frame.is_split)
        identity = chunk_identity(sample.raw, sample.positions)
        entries.append(PackEntry(identity, len(frame.data), len(sample.raw), places))
        frames.append(frame.data)
        expected += decompress(frame.data)
    pack = tmp_path / "pack.zst"
    pack.write_bytes(b"".join(frames) + render_pack_end(entries))
    assert subprocess.run([zstd, "-dc", str(pack)], capture_output=True, check=True).stdout == expected
    assert parse_pack_end(render_pack_end(entries)) == entries
