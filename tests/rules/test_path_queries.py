"""What people type to find a path."""

from __future__ import annotations

import pytest

from icehouse.errors import InvalidFormat
from icehouse.nix.store_paths import HashPart
from icehouse.rules.path_queries import PathQuery, has_words, parse_query

HASH = "0123456789abcdfghijklmnpqrsvwxyz"


@pytest.mark.parametrize(
    "text",
    [HASH, f" {HASH} ", f"{HASH}-openssl-3.0", f"/nix/store/{HASH}-openssl-3.0", f"/nix/store/{HASH}-x/bin/openssl"],
)
def test_store_path_in_any_form_is_one_path(text: str) -> None:
    assert parse_query(text) == PathQuery(hash_part=HashPart(HASH))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("  OpenSSL   dev ", ("openssl", "dev")),
        ("dev dev", ("dev",)),
        ("python3.11-num", ("python3.11-num",)),
        ("jq", ("-jq",)),
        ("r", ("-r-",)),
        (f"{HASH}x", (f"{HASH}x",)),
    ],
)
def test_all_else_is_words_of_three_letters_or_more(text: str, words: tuple[str, ...]) -> None:
    query = parse_query(text)
    assert (query.hash_part, query.words, query.is_hopeless) == (None, words, False)


@pytest.mark.parametrize("text", ['op"en', "caf\u00e9", "open*", "a/b", "'", "()", "x AND y:z"])
def test_word_that_no_name_has_is_hopeless(text: str) -> None:
    assert parse_query(text).is_hopeless


@pytest.mark.parametrize(
    ("text", "beginning"), [("abcd", "abcd"), ("abc", None), ("abcde", None), (HASH[:31], HASH[:31])]
)
def test_letters_of_nix32_may_begin_a_hash_part(text: str, beginning: str | None) -> None:
    assert parse_query(text).hash_beginning == beginning


@pytest.mark.parametrize("text", ["x" * 1_001, "1 2 3 4 5 6 7 8 9"])
def test_too_much_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="expected at most"):
        parse_query(text)


@pytest.mark.parametrize(
    ("name", "text", "has"),
    [
        ("openssl-3.0.13-dev", "ssl dev", True),
        ("openssl-3.0.13-dev", "DEV 3.0", True),
        ("OpenBLAS-0.3", "openblas", True),
        ("jq-1.7", "jq", True),
        ("python-pyjq-2", "jq", False),
        ("R-4.3", "r", True),
        ("rust-1.80", "r", False),
    ],
)
def test_name_has_the_words(name: str, text: str, *, has: bool) -> None:
    assert has_words(name, parse_query(text).words) is has
