"""Listings (``.ls``): what is in a NAR and where, as JSON.

Source: Nix, src/libutil/nar-listing.cc.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final, assert_never

from icehouse.errors import InvalidFormat
from icehouse.nix.nar_read import (
    DirectoryEnd,
    DirectoryStart,
    NarEvent,
    RegularData,
    RegularEnd,
    RegularStart,
    Symlink,
)

LISTING_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ListedRegular:
    """A file of *size* bytes whose contents begin *nar_offset* bytes into the NAR."""

    size: int
    executable: bool
    nar_offset: int


@dataclass(frozen=True, slots=True)
class ListedSymlink:
    """A symlink."""

    target: bytes


@dataclass(frozen=True, slots=True)
class ListedDirectory:
    """A folder; its entries are in the order of the NAR."""

    entries: dict[bytes, ListedNode] = field(default_factory=dict[bytes, "ListedNode"])


ListedNode = ListedRegular | ListedSymlink | ListedDirectory


class ListingBuilder:
    """Collects the events of one NAR. Its memory grows with the entries, not with the contents."""

    def __init__(self, *, max_entries: int = 1_000_000) -> None:
        """Refuse a NAR of more than *max_entries* files, symlinks and folders."""
        self._max_entries = max_entries
        self._count = 0
        self._root: ListedNode | None = None
        self._open: list[ListedDirectory] = []

    def add(self, event: NarEvent) -> None:
        """Take the next event.

        Raises:
            InvalidFormat: there are too many entries.
        """
        match event:
            case RegularData() | RegularEnd():
                pass
            case RegularStart(name, size, executable, nar_offset):
                self._place(name, ListedRegular(size, executable, nar_offset))
            case Symlink(name, target):
                self._place(name, ListedSymlink(target))
            case DirectoryStart(name):
                directory = ListedDirectory()
                self._place(name, directory)
                self._open.append(directory)
            case DirectoryEnd():
                self._open.pop()
            case _:
                assert_never(event)

    def build(self) -> ListedNode:
        """The root of what was collected. Call it after the reader's ``finish``.

        Raises:
            InvalidFormat: the NAR is not complete.
        """
        if self._root is None or self._open:
            raise InvalidFormat("the NAR is not complete, so its listing would not be either")
        return self._root

    def _place(self, name: bytes | None, node: ListedNode) -> None:
        self._count += 1
        if self._count > self._max_entries:
            raise InvalidFormat(f"the NAR has more than {self._max_entries} entries, too many to list")
        if name is None:
            self._root = node
        else:
            self._open[-1].entries[name] = node


def render_listing(root: ListedNode) -> bytes:
    """The listing as compact JSON with sorted keys, as current Nix writes it.

    Names and targets that are not UTF-8 stand in it as they are, as Nix 2.8 writes them: such a listing is not strictly
    JSON, but it loses nothing and never makes two names one.
    """
    out = bytearray()
    out += b'{"root":'
    _append(out, root)
    out += b',"version":%d}' % LISTING_VERSION
    return bytes(out)


def _append(out: bytearray, node: ListedNode) -> None:
    # Written piece by piece: a document of dicts for `json` takes twice the memory of the listing itself.
    match node:
        case ListedRegular(size, executable, nar_offset):
            flag = b'"executable":true,' if executable else b""
            out += b'{%b"narOffset":%d,"size":%d,"type":"regular"}' % (flag, nar_offset, size)
        case ListedSymlink(target):
            out += b'{"target":%b,"type":"symlink"}' % _quote(target)
        case ListedDirectory(entries):
            out += b'{"entries":{'
            comma = b""
            for name, entry in entries.items():
                out += b"%b%b:" % (comma, _quote(name))
                _append(out, entry)
                comma = b","
            out += b'},"type":"directory"}'
        case _:
            assert_never(node)


def _quote(raw: bytes) -> bytes:
    return json.dumps(raw.decode(errors="surrogateescape"), ensure_ascii=False).encode(errors="surrogateescape")
