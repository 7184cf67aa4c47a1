"""Decisions of rebuilding."""

import msgspec
import pytest

from icehouse.errors import InvalidFormat
from icehouse.rules.journal import JournalEntry, JournalExternal, JournalNar, JournalPath
from icehouse.rules.rebuilding import ToldCache, journal_begin, next_key_name, note_entry, take_apart

HASH = "q9i4h3sgsj6mvy0337jmqmhnq259gb7n"
NAR = JournalNar(
    nar_hash=b"h" * 32,
    nar_size=100,
    file_hash=b"f" * 32,
    file_size=90,
    chunks=b"a" * 16,
    hashes=HASH,
    patches=b"\x00\x00",
)


def entry(cache: str, at: int, *, is_public: bool = True, upstream: str | None = None) -> JournalEntry:
    externals = [
        JournalExternal(
            store_path=f"{HASH}-x", nar_hash=b"", nar_size=1, references="", signature="", upstream=upstream
        )
        for upstream in ([upstream] if upstream else [])
    ]
    paths = [JournalPath(store_path=f"{HASH}-x", nar_hash=b"", references="", signatures=f"{cache}.host-{at}:x o-1:y")]
    return JournalEntry(
        cache=cache,
        store_dir="/nix/store",
        is_public=is_public,
        created_at=at,
        published_by=None,
        nars=[],
        paths=paths,
        externals=externals,
    )


def test_without_rows_the_whole_journal_is_read_and_else_what_is_not_much_older() -> None:
    assert journal_begin(None) == 0
    assert journal_begin(5) == 0
    assert journal_begin(1_000_000) == 1_000_000 - 86_400


def test_a_nar_is_taken_apart() -> None:
    parts = take_apart(NAR)
    assert (parts.chunks, parts.filled()) == ([b"a" * 16], [HASH.encode()] * 2)


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": b"a"},
        {"chunks": b""},
        {"chunks": b"a" * 160},
        {"hashes": "x"},
        {"patches": b"\x01"},
        {"nar_size": -1},
    ],
    ids=str,
)
def test_a_nar_that_breaks_its_form_is_refused(change: dict[str, object]) -> None:
    broken = msgspec.structs.replace(NAR, **change)
    with pytest.raises(InvalidFormat):
        take_apart(broken)


def test_the_newest_object_says_what_a_cache_is() -> None:
    caches: dict[str, ToldCache] = {}
    note_entry(caches, 1, entry("a", 1, upstream="https://u"))
    note_entry(caches, 1, entry("a", 2, is_public=False))
    told = caches["a"]
    assert (told.is_public, told.created_at, told.upstreams) == (False, 1, {"https://u"})
    assert told.key_names == {"a.host-1", "a.host-2", "o-1"}


def test_a_name_in_another_domain_is_another_cache() -> None:
    caches: dict[str, ToldCache] = {}
    note_entry(caches, 1, entry("a", 1, upstream="https://u"))
    note_entry(caches, 7, entry("a", 2, is_public=False))
    assert (caches["a"].domain_id, caches["a"].upstreams, caches["a"].is_public) == (7, set(), False)


def test_a_new_key_has_a_name_that_nothing_is_signed_by() -> None:
    assert next_key_name("a.host-1", []) == "a.host-1"
    assert next_key_name("a.host-1", ["a.host-1", "a.host-3", "a.host-x", "b.host-9"]) == "a.host-4"
