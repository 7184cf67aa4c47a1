from __future__ import annotations

import contextlib

import msgspec
import pytest
from backports.zstd import compress, decompress
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.rules.journal import (
    JournalEntry,
    JournalExternal,
    JournalNar,
    JournalPath,
    parse_journal_entry,
    render_journal_entry,
)
from tests.rules.samples import noise, store_hashes

HELLO = f"{store_hashes('journal', 1)[0].decode()}-hello-2.12"
ENTRY = JournalEntry(
    cache="main",
    store_dir="/nix/store",
    is_public=True,
    created_at=1_790_000_000,
    published_by=3,
    nars=[
        JournalNar(
            nar_hash=noise("NAR", 32),
            nar_size=226_560,
            file_hash=noise("file", 32),
            file_size=50_000,
            chunks=noise("chunk", 32),
            hashes=HELLO[:32],
            patches=b"\0\0",
        )
    ],
    paths=[JournalPath(store_path=HELLO, nar_hash=noise("NAR", 32), references=HELLO, signatures="main-1:AAAA")],
    externals=[
        JournalExternal(
            store_path=HELLO,
            nar_hash=noise("NAR", 32),
            nar_size=1,
            references="",
            signature="cache.nixos.org-1:AAAA",
            upstream="https://cache.nixos.org",
        )
    ],
)


def edited(**values: object) -> bytes:
    fields = msgspec.json.decode(decompress(render_journal_entry(ENTRY)), type=dict[str, object])
    return compress(msgspec.json.encode({**fields, **values}))


def test_entry_survives() -> None:
    assert parse_journal_entry(render_journal_entry(ENTRY)) == ENTRY


def test_entry_is_json_that_says_its_version() -> None:
    assert msgspec.json.decode(decompress(render_journal_entry(ENTRY)))["version"] == 1


def test_field_that_a_later_program_added_is_ignored() -> None:
    assert parse_journal_entry(edited(provenance="CI")) == ENTRY


def test_entry_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidFormat, match="version 2; this program knows version 1"):
        parse_journal_entry(edited(version=2))


def test_entry_of_another_version_is_named_so_whatever_its_fields() -> None:
    # Regression: a version with other fields was called damaged.
    with pytest.raises(InvalidFormat, match="version 2; this program knows version 1"):
        parse_journal_entry(edited(version=2, nars="elsewhere"))


@pytest.mark.parametrize("values", [{"nars": 3}, {"cache": None}, {"version": "one"}], ids=str)
def test_entry_with_a_field_of_another_kind_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidFormat, match="damaged"):
        parse_journal_entry(edited(**values))


@pytest.mark.parametrize("data", [b"", b"{}", compress(b""), compress(b"[]"), compress(b"{"), compress(b"\xff")])
def test_bytes_that_are_no_entry_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidFormat, match="damaged"):
        parse_journal_entry(data)


@pytest.mark.parametrize(
    "text", [b'{"\xff":1,"version":1}', b'{"a":' + b"[" * 5000], ids=["not UTF-8", "deeply nested"]
)
def test_text_that_the_json_library_has_errors_of_its_own_for_is_refused(text: bytes) -> None:
    # Regression: a broken letter in the name of an unknown field came out as a UnicodeDecodeError.
    with pytest.raises(InvalidFormat, match="damaged"):
        parse_journal_entry(compress(text))


def test_entry_is_refused_at_every_truncation() -> None:
    data = render_journal_entry(ENTRY)
    for size in range(len(data)):
        with pytest.raises(InvalidFormat, match="damaged"):
            parse_journal_entry(data[:size])


@given(st.data())
def test_damaged_entry_is_refused(data: st.DataObject) -> None:
    # Regression: without a checksum, some flipped bits gave another entry. Bits that zstd ignores may flip.
    body = bytearray(render_journal_entry(ENTRY))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(InvalidFormat):
        assert parse_journal_entry(bytes(body)) == ENTRY
