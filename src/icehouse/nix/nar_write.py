"""NARs as bytes: the pieces that a walk over files puts around what it reads, and whole NARs of trees in memory.

A walk writes ``NAR_MAGIC`` and one node. A node is a `symlink`; or `regular_head`, the contents and `regular_tail`; or
``DIRECTORY_HEAD``, its entries in bytewise order of their names, and ``DIRECTORY_TAIL``. An entry is
`directory_entry_head`, a node, and ``DIRECTORY_ENTRY_TAIL``; for a small file `regular_entry` is all of that at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.nar_framing import (
    CLOSE,
    DIRECTORY,
    ENTRY,
    EXECUTABLE,
    MAGIC,
    MAX_DEPTH,
    MAX_NAME_BYTES,
    MAX_TARGET_BYTES,
    NODE,
    PADDINGS,
    REGULAR,
    SYMLINK,
    U64,
)

NAR_MAGIC: Final = MAGIC
DIRECTORY_HEAD: Final = DIRECTORY
DIRECTORY_TAIL: Final = CLOSE
DIRECTORY_ENTRY_TAIL: Final = CLOSE

# By the length of a name, what stands before and after it; by the lowest bits of a size, what ends a file in an entry.
_NAME_HEADS: Final = tuple(ENTRY + U64.pack(length) for length in range(MAX_NAME_BYTES + 1))
_NAME_TAILS: Final = tuple(PADDINGS[length & 7] + NODE for length in range(MAX_NAME_BYTES + 1))
_NAME_TAILS_REGULAR: Final = tuple(tail + REGULAR for tail in _NAME_TAILS)
_NAME_TAILS_EXECUTABLE: Final = tuple(tail + EXECUTABLE for tail in _NAME_TAILS)
_REGULAR_TAILS: Final = tuple(padding + CLOSE for padding in PADDINGS)
_REGULAR_ENTRY_TAILS: Final = tuple(padding + CLOSE + CLOSE for padding in PADDINGS)

_pack_size = U64.pack


def padding(size: int) -> bytes:
    """The zeros that follow a string of *size* bytes."""
    return PADDINGS[size & 7]


def regular_head(size: int, executable: bool) -> bytes:  # noqa: FBT001  one fact of a file beside another, on a hot path
    """What stands before the *size* bytes of a file."""
    return (EXECUTABLE if executable else REGULAR) + _pack_size(size)


def regular_tail(size: int) -> bytes:
    """What stands after the *size* bytes of a file."""
    return _REGULAR_TAILS[size & 7]


def symlink(target: bytes) -> bytes:
    """A whole symlink.

    Raises:
        InvalidFormat: the target is empty, has a NUL, or is longer than Nix takes.
    """
    length = len(target)
    if not 0 < length <= MAX_TARGET_BYTES or b"\0" in target:
        raise InvalidFormat(f"symlink target {excerpt(target)}: expected 1 to {MAX_TARGET_BYTES} bytes without NUL")
    return b"".join((SYMLINK, _pack_size(length), target, _REGULAR_TAILS[length & 7]))


def directory_entry_head(name: bytes) -> bytes:
    """What stands before the node of the entry *name*. ``DIRECTORY_ENTRY_TAIL`` follows that node.

    Raises:
        InvalidFormat: the name cannot stand in a NAR.
    """
    _check_name(name)
    length = len(name)
    return b"".join((_NAME_HEADS[length], name, _NAME_TAILS[length]))


def regular_entry(name: bytes, contents: bytes, executable: bool) -> bytes:  # noqa: FBT001  as `regular_head`
    """A whole entry that is a file with these *contents*: one call and one join for the many small files of a tree.

    Raises:
        InvalidFormat: the name cannot stand in a NAR.
    """
    _check_name(name)
    length = len(name)
    size = len(contents)
    return b"".join(
        (
            _NAME_HEADS[length],
            name,
            (_NAME_TAILS_EXECUTABLE if executable else _NAME_TAILS_REGULAR)[length],
            _pack_size(size),
            contents,
            _REGULAR_ENTRY_TAILS[size & 7],
        )
    )


def regular_nar_size(size: int, *, executable: bool) -> int:
    """How long the NAR of one file of *size* bytes is."""
    return len(NAR_MAGIC) + len(regular_head(size, executable)) + size + len(regular_tail(size))


@dataclass(frozen=True, slots=True)
class Regular:
    """A file in memory."""

    contents: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symlink in memory."""

    target: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """A folder in memory; its entries may come in any order."""

    entries: Mapping[bytes, Node]


Node = Regular | Symlink | Directory


def write_nar(node: Node) -> Iterator[bytes]:
    """The NAR of *node*, in pieces.

    Raises:
        InvalidFormat: a name or a target cannot stand in a NAR, or the tree is deeper than Nix reads.
    """
    yield NAR_MAGIC
    yield from _write_node(node, depth=1)


def _write_node(node: Node, *, depth: int) -> Iterator[bytes]:
    if depth > MAX_DEPTH:
        raise InvalidFormat(f"the tree is more than {MAX_DEPTH} nodes deep, which Nix does not read")
    match node:
        case Regular(contents, executable):
            yield regular_head(len(contents), executable)
            yield contents
            yield regular_tail(len(contents))
        case Symlink(target):
            yield symlink(target)
        case Directory(entries):
            yield DIRECTORY_HEAD
            for name in sorted(entries):
                yield directory_entry_head(name)
                yield from _write_node(entries[name], depth=depth + 1)
                yield DIRECTORY_ENTRY_TAIL
            yield DIRECTORY_TAIL


def _check_name(name: bytes) -> None:
    if not 0 < len(name) <= MAX_NAME_BYTES or b"/" in name or b"\0" in name or name in {b".", b".."}:
        raise InvalidFormat(
            f"file name {excerpt(name)}: expected 1 to {MAX_NAME_BYTES} bytes without '/' and NUL, not '.' or '..'"
        )
