from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from icehouse.nix.store_paths import (
    NIX_STORE,
    HashPart,
    StoreDir,
    StorePath,
    make_store_path,
    parse_full,
    parse_hash_part,
)

HASH = "jfk7ayq1jslsk8c59bag44drw1fw9qry"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+._?=-"


@pytest.mark.parametrize("name", ["hello", ".hidden", "...", ".a-b", "..a", "-", "a.", "?=", "x" * 211, ".=-", "0"])
def test_base_name_that_nix_takes_is_taken(name: str) -> None:
    path = StorePath.parse(f"{HASH}-{name}")
    assert (path.hash_part, path.name, path.base_name) == (HASH, name, f"{HASH}-{name}")


@pytest.mark.parametrize(
    ("base_name", "complaint"),
    [
        (f"{HASH[:-1]}e-hello", "expected a hash part"),
        (f"{HASH[:-1]}-hello", "expected a hash part"),
        (f"{HASH}a-hello", "expected a hash part"),
        (f"{HASH.upper()}-hello", "expected a hash part"),
        (HASH, "expected a hash part"),
        ("", "expected a hash part"),
        (f"{HASH}-", "name ''"),
        (f"{HASH}-{'x' * 212}", "212 characters: expected at most 211"),
        (f"{HASH}-.", "'.'"),
        (f"{HASH}-..", "'..'"),
        (f"{HASH}-.-hello", "'.-hello'"),
        (f"{HASH}-..-hello", "'..-hello'"),
        (f"{HASH}-a/b", "'a/b'"),
        (f"{HASH}-a b", "'a b'"),
        (f"{HASH}-hello\n", r"'hello\\n'"),
        (f"{HASH}-héllo", "'héllo'"),
        (f"{HASH}-a\0", "x00"),
        (f"/nix/store/{HASH}-a", "expected a hash part"),
    ],
)
def test_base_name_that_nix_refuses_is_refused(base_name: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        StorePath.parse(base_name)


@given(st.binary(min_size=20, max_size=20), st.text(LETTERS, min_size=1, max_size=211))
def test_base_names_come_back(digest: bytes, name: str) -> None:
    base_name = f"{nix32.encode(digest)}-{'x' if name[0] == '.' else ''}{name}"[:244]
    path = StorePath.parse(base_name)
    assert str(path) == base_name
    assert parse_full(path.full(NIX_STORE), NIX_STORE) == path


@pytest.mark.parametrize("text", ["", HASH[:-1], HASH + "0", HASH[:-1] + "u", HASH[:-1] + "\n", HASH[:-1] + "٣"])
def test_what_is_no_hash_part_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="expected 32 characters"):
        parse_hash_part(text)


def test_a_hash_part_is_read() -> None:
    assert parse_hash_part(HASH) == HASH


@given(st.lists(st.tuples(st.sampled_from([HASH, "0" * 32, "1" * 32]), st.text(LETTERS, min_size=1, max_size=4))))
def test_store_paths_sort_as_their_base_names(parts: list[tuple[str, str]]) -> None:
    paths = [StorePath(HashPart(hash_part), name) for hash_part, name in parts]
    assert [path.base_name for path in sorted(paths)] == sorted(path.base_name for path in paths)


@pytest.mark.parametrize("text", ["/nix/store", "/home/a/.nix/store", "/s", "/a..b/...", "/gnu/store,x;y"])
def test_store_directory_is_taken(text: str) -> None:
    assert str(StoreDir.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "nix/store",
        "/nix/store/",
        "/nix//store",
        "//nix",
        "/nix/./store",
        "/nix/../store",
        "/nix/store/..",
        "/.",
        "/nix store",
        "/nix\n",
        "/nix\0",
        "/nïx",
        "/" + "x" * 1024,
    ],
)
def test_store_directory_in_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="expected an absolute path"):
        StoreDir.parse(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{HASH}-hello", "is not in the store directory /nix/store"),
        (f"/nix/stores/{HASH}-hello", "is not in the store directory"),
        (f"/nix/store//{HASH}-hello", "expected a hash part"),
        (f"/nix/store/{HASH}-hello/bin", "'hello/bin'"),
        ("/nix/store/", "expected a hash part"),
    ],
)
def test_path_that_is_no_entry_of_the_store_directory_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        parse_full(text, NIX_STORE)


def test_a_store_path_is_not_computed_for_a_name_that_nix_refuses() -> None:
    with pytest.raises(InvalidFormat, match="name 'a/b'"):
        make_store_path("text", bytes(32), "a/b", NIX_STORE)
