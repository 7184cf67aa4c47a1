from __future__ import annotations

import json
from pathlib import Path

import pytest

from icehouse.errors import InvalidFormat
from icehouse.nix.listing import ListedDirectory, ListedRegular, ListedSymlink, ListingBuilder, render_listing
from icehouse.nix.nar_read import NarReader
from icehouse.nix.nar_write import Directory, Node, Regular, Symlink, write_nar
from tests.nix.vectors import NARINFOS


def collect(nar: bytes, builder: ListingBuilder) -> ListingBuilder:
    for event in NarReader().feed(nar):
        builder.add(event)
    return builder


def listing_of(tree: Node) -> bytes:
    return render_listing(collect(b"".join(write_nar(tree)), ListingBuilder()).build())


def read_as_raw(listing: bytes) -> object:
    return json.loads(listing.decode(errors="surrogateescape"))


@pytest.mark.parametrize("narinfo", NARINFOS, ids=lambda path: path.stem)
def test_the_listing_of_a_nar_says_what_nix_wrote(narinfo: Path) -> None:
    builder = collect(narinfo.with_suffix(".nar").read_bytes(), ListingBuilder())
    assert read_as_raw(render_listing(builder.build())) == read_as_raw(narinfo.with_suffix(".ls").read_bytes())


def test_keys_are_sorted_and_nothing_is_spaced_out() -> None:
    tree = Directory({b"run": Regular(b"x", executable=True), b"link": Symlink(b"run"), b"plain": Regular(b"")})
    assert listing_of(tree) == (
        b'{"root":{"entries":{"link":{"target":"run","type":"symlink"},'
        b'"plain":{"narOffset":424,"size":0,"type":"regular"},'
        b'"run":{"executable":true,"narOffset":640,"size":1,"type":"regular"}},"type":"directory"},"version":1}'
    )


def test_names_are_written_as_they_are() -> None:
    listing = listing_of(Directory({b"caf\xc3\xa9": Symlink(b"\xff"), b'a"b\n': Symlink(b"\\")}))
    assert b'{"a\\"b\\n":{"target":"\\\\"' in listing
    assert b'"caf\xc3\xa9":{"target":"\xff"' in listing


def test_a_listing_can_be_looked_into_before_it_is_rendered() -> None:
    tree = Directory({b"bin": Directory({b"run": Regular(b"x", executable=True)}), b"link": Symlink(b"bin/run")})
    root = collect(b"".join(write_nar(tree)), ListingBuilder()).build()
    assert isinstance(root, ListedDirectory)
    assert root.entries[b"link"] == ListedSymlink(b"bin/run")
    folder = root.entries[b"bin"]
    assert isinstance(folder, ListedDirectory)
    assert folder.entries[b"run"] == ListedRegular(1, executable=True, nar_offset=400)


def test_a_nar_with_too_many_entries_is_not_listed() -> None:
    nar = b"".join(write_nar(Directory({b"%d" % number: Regular(b"") for number in range(10)})))
    collect(nar, ListingBuilder(max_entries=11))
    with pytest.raises(InvalidFormat, match="more than 10 entries"):
        collect(nar, ListingBuilder(max_entries=10))


@pytest.mark.parametrize("length", [0, 24, 150])
def test_an_unfinished_nar_has_no_listing(length: int) -> None:
    nar = b"".join(write_nar(Directory({b"a": Regular(b"contents")})))
    builder = collect(nar[:length], ListingBuilder())
    with pytest.raises(InvalidFormat, match="not complete"):
        builder.build()
