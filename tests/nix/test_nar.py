from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.nix.nar_framing import framed
from icehouse.nix.nar_read import (
    DirectoryEnd,
    DirectoryStart,
    NarEvent,
    NarReader,
    RegularData,
    RegularEnd,
    RegularStart,
)
from icehouse.nix.nar_read import Symlink as SymlinkEvent
from icehouse.nix.nar_write import (
    NAR_MAGIC,
    Directory,
    Node,
    Regular,
    Symlink,
    directory_entry_head,
    padding,
    regular_entry,
    regular_head,
    regular_nar_size,
    regular_tail,
    symlink,
    write_nar,
)
from tests.nix.vectors import NARINFOS, VECTORS

NARS = sorted((VECTORS / "nars").glob("*.nar")) + [path.with_suffix(".nar") for path in NARINFOS]

TREE = Directory(
    {
        b"seven": Regular(b"seven b"),
        b"eight": Regular(b"eight by"),
        b"nine": Regular(b"nine byte"),
        b"empty": Regular(b""),
        b"run": Regular(b"#!/bin/sh\necho hello\n", executable=True),
        b"B": Regular(b"capital"),
        b"a": Regular(b"small"),
        b"a-b": Regular(b"dash"),
        b"nested": Directory(
            {b"a": Directory({b"b": Directory({b"c": Directory({b"file": Regular(b"slash sorts after dash")})})})}
        ),
        b"new\nline": Regular(b"newline"),
        b"\xff\xfe": Regular(b"not utf-8"),
        b"empty directory": Directory({}),
        b"link": Symlink(b"run"),
        b"dangling": Symlink(b"/nonexistent/somewhere/far"),
    }
)


def read(pieces: Iterable[bytes], reader: NarReader | None = None) -> list[NarEvent]:
    reader = reader or NarReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    reader.finish()
    return events


def rebuild(events: Sequence[NarEvent], nar: bytes) -> Node:
    """Build the tree that the events tell of, checking each offset against the NAR itself."""
    folders: list[tuple[bytes | None, dict[bytes, Node]]] = [(None, {})]
    root: list[Node] = []
    file: RegularStart | None = None
    contents = b""

    def place(name: bytes | None, node: Node) -> None:
        if name is None:
            root.append(node)
        else:
            folders[-1][1][name] = node

    for event in events:
        match event:
            case DirectoryStart(name):
                folders.append((name, {}))
            case DirectoryEnd():
                name, entries = folders.pop()
                place(name, Directory(entries))
            case RegularStart():
                file, contents = event, b""
            case RegularData(data):
                assert len(data) > 0
                contents += data
            case RegularEnd():
                assert file is not None
                assert file.size == len(contents)
                assert nar[file.nar_offset :][: file.size] == contents
                place(file.name, Regular(contents, file.executable))
            case SymlinkEvent(name, target):
                place(name, Symlink(target))
    assert len(folders) == 1
    assert len(root) == 1
    return root[0]


names = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
leaves: st.SearchStrategy[Node] = st.builds(Regular, st.binary(max_size=40), st.booleans()) | st.builds(
    Symlink, st.binary(min_size=1, max_size=40).filter(lambda target: b"\0" not in target)
)
trees: st.SearchStrategy[Node] = st.recursive(
    leaves, lambda nodes: st.builds(Directory, st.dictionaries(names, nodes, max_size=4)), max_leaves=12
)


def test_a_tree_is_written_as_nix_dumps_it() -> None:
    assert b"".join(write_nar(TREE)) == (VECTORS / "nars" / "tree.nar").read_bytes()


@pytest.mark.parametrize("path", NARS, ids=lambda path: path.stem)
def test_what_nix_dumped_is_read_and_written_alike(path: object) -> None:
    nar = VECTORS.joinpath(str(path)).read_bytes()
    assert b"".join(write_nar(rebuild(read([nar]), nar))) == nar


@given(trees, st.data())
def test_any_tree_comes_back_however_its_nar_is_split(tree: Node, data: st.DataObject) -> None:
    nar = b"".join(write_nar(tree))
    cuts = data.draw(st.lists(st.integers(0, len(nar)), max_size=20).map(sorted))
    pieces = [nar[start:end] for start, end in pairwise([0, *cuts, len(nar)])]
    assert rebuild(read(pieces), nar) == tree


def test_a_nar_fed_byte_by_byte_tells_the_same() -> None:
    nar = b"".join(write_nar(TREE))
    assert rebuild(read(nar[at : at + 1] for at in range(len(nar))), nar) == TREE


@given(trees, st.data())
def test_contents_that_are_skipped_change_nothing_else(tree: Node, data: st.DataObject) -> None:
    nar = b"".join(write_nar(tree))
    expected = [event for event in read([nar]) if not isinstance(event, RegularData)]
    reader = NarReader()
    events: list[NarEvent] = []
    position = 0
    while position < len(nar):
        skipped = data.draw(st.integers(0, reader.bytes_to_skip))
        reader.skip(skipped)
        position += skipped
        end = min(len(nar), position + data.draw(st.integers(1, 200)))
        events += reader.feed(nar[position:end])
        position = end
    reader.finish()
    assert [event for event in events if not isinstance(event, RegularData)] == expected
    assert reader.fed_bytes == len(nar)


def test_nothing_but_contents_can_be_skipped() -> None:
    reader = NarReader()
    reader.feed(NAR_MAGIC + regular_head(10, executable=False) + bytes(4))
    with pytest.raises(ValueError, match="7 bytes to skip: expected 0 to 6"):
        reader.skip(7)


def test_memoryviews_are_read_like_bytes() -> None:
    nar = b"".join(write_nar(TREE))
    reader = NarReader()
    view = memoryview(bytearray(nar))
    events = [event for at in range(0, len(nar), 37) for event in reader.feed(view[at : at + 37])]
    reader.finish()
    assert rebuild(events, nar) == TREE
    assert reader.fed_bytes == len(nar)


def test_contents_are_handed_on_without_a_copy() -> None:
    reader = NarReader()
    reader.feed(NAR_MAGIC + regular_head(1 << 20, executable=False))
    piece = bytes(1 << 19)
    (event,) = reader.feed(piece)
    assert isinstance(event, RegularData)
    assert event.data.obj is piece


@given(st.binary(max_size=300), st.booleans())
def test_the_size_of_a_nar_of_one_file_is_known_beforehand(contents: bytes, executable: bool) -> None:  # noqa: FBT001
    nar = b"".join(write_nar(Regular(contents, executable)))
    assert regular_nar_size(len(contents), executable=executable) == len(nar)
    assert nar.endswith(padding(len(contents)) + framed(b")"))


@given(names, st.binary(max_size=50), st.booleans())
def test_an_entry_made_at_once_is_the_same_as_one_made_of_pieces(
    name: bytes,
    contents: bytes,
    executable: bool,  # noqa: FBT001
) -> None:
    pieces = (
        directory_entry_head(name),
        regular_head(len(contents), executable),
        contents,
        regular_tail(len(contents)),
        framed(b")"),
    )
    assert regular_entry(name, contents, executable) == b"".join(pieces)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"x" * 256])
def test_a_name_that_cannot_stand_in_a_nar_is_not_written(name: bytes) -> None:
    with pytest.raises(InvalidFormat, match="expected 1 to 255 bytes without '/' and NUL"):
        directory_entry_head(name)
    with pytest.raises(InvalidFormat, match="expected 1 to 255 bytes without '/' and NUL"):
        regular_entry(name, b"", executable=False)


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 4096])
def test_a_target_that_cannot_stand_in_a_nar_is_not_written(target: bytes) -> None:
    with pytest.raises(InvalidFormat, match="expected 1 to 4095 bytes without NUL"):
        symlink(target)


def nested(folders: int, innermost: Node) -> Node:
    for _ in range(folders):
        innermost = Directory({b"d": innermost})
    return innermost


def test_a_tree_as_deep_as_nix_reads_is_written_and_read() -> None:
    tree = nested(63, Regular(b"bottom"))
    nar = b"".join(write_nar(tree))
    assert rebuild(read([nar]), nar) == tree


def test_a_tree_deeper_than_nix_reads_is_not_written() -> None:
    with pytest.raises(InvalidFormat, match="more than 64 nodes deep"):
        b"".join(write_nar(nested(64, Regular(b"bottom"))))


@pytest.mark.parametrize(
    "innermost",
    [
        framed(b"(", b"type", b"directory", b")"),
        framed(b"(", b"type", b"regular", b"contents", b"", b")"),
        framed(b"(", b"type", b"symlink", b"target", b"x", b")"),
    ],
    ids=["folder", "file", "symlink"],
)
def test_a_tree_deeper_than_nix_reads_is_refused(innermost: bytes) -> None:
    folder = framed(b"(", b"type", b"directory", b"entry", b"(", b"name", b"d", b"node")
    nar = NAR_MAGIC + folder * 64 + innermost
    with pytest.raises(InvalidFormat, match=f"NAR offset {24 + len(folder) * 64}: .* more than 64 nodes deep"):
        NarReader().feed(nar)


FILE = (b"(", b"type", b"regular", b"contents", b"x", b")")


def entry(name: bytes, node: Sequence[bytes] = FILE) -> tuple[bytes, ...]:
    return (b"entry", b"(", b"name", name, b"node", *node, b")")


def folder(*entries: Sequence[bytes]) -> bytes:
    return NAR_MAGIC + framed(b"(", b"type", b"directory", *[string for one in entries for string in one], b")")


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


REFUSED = {
    "another magic": (framed(b"nix-archive-2") + framed(*FILE), "NAR offset 16: found"),
    "magic of another length": (framed(b"nix-archive-10"), "NAR offset 0: found"),
    "no parenthesis": (NAR_MAGIC + framed(b"type", b"regular"), "NAR offset 24: found"),
    "no type": (NAR_MAGIC + framed(b"(", b"kind", b"regular"), "NAR offset 48: found"),
    "type that is none": (NAR_MAGIC + framed(b"(", b"type", b"socket"), "NAR offset 56: found"),
    "contents before executable": (
        NAR_MAGIC + framed(b"(", b"type", b"regular", b"contents", b"x", b"executable", b"", b")"),
        "NAR offset 104: found",
    ),
    "executable with a value": (
        NAR_MAGIC + framed(b"(", b"type", b"regular", b"executable", b"1", b"contents", b"x", b")"),
        "NAR offset 96: found",
    ),
    "executable twice": (
        NAR_MAGIC + framed(b"(", b"type", b"regular", b"executable", b"", b"executable", b"", b"contents", b"x", b")"),
        "NAR offset 104: found",
    ),
    "two contents": (
        NAR_MAGIC + framed(b"(", b"type", b"regular", b"contents", b"x", b"contents", b"x", b")"),
        "NAR offset 104: found",
    ),
    "no contents": (NAR_MAGIC + framed(b"(", b"type", b"regular", b")"), "NAR offset 72: found"),
    "padding of contents that is not zero": (
        NAR_MAGIC + framed(b"(", b"type", b"regular", b"contents") + number(1) + b"x\1" + bytes(6) + framed(b")"),
        r"NAR offset 97: found '\\x01",
    ),
    "padding of a name that is not zero": (
        NAR_MAGIC + framed(b"(", b"type", b"directory", b"entry", b"(", b"name") + number(1) + b"x" + bytes(6) + b"\1",
        "NAR offset 137: found",
    ),
    "padding of a target that is not zero": (
        NAR_MAGIC + framed(b"(", b"type", b"symlink", b"target") + number(1) + b"x" + b"\2" + bytes(6),
        "NAR offset 97: found",
    ),
    "padding of framing that is not zero": (NAR_MAGIC + number(1) + b"(" + b"\1" * 7, "NAR offset 32: found"),
    "size that no file has": (
        NAR_MAGIC + framed(b"(", b"type", b"regular", b"contents") + number(2**64 - 1),
        "NAR offset 24: 18446744073709551615 more bytes make the NAR longer than",
    ),
    "empty name": (folder(entry(b"")), "a file name of 0 bytes: expected 1 to 255"),
    "long name": (folder(entry(b"x" * 256)), "a file name of 256 bytes: expected 1 to 255"),
    "name of an absurd length": (
        NAR_MAGIC + framed(b"(", b"type", b"directory", b"entry", b"(", b"name") + number(2**63),
        "NAR offset 128: a file name of 9223372036854775808 bytes",
    ),
    "dot": (folder(entry(b".")), "NAR offset 136: file name '.': expected no"),
    "dots": (folder(entry(b"..")), "file name '..': expected no"),
    "slash": (folder(entry(b"a/b")), "file name 'a/b': expected no"),
    "NUL": (folder(entry(b"a\0b")), "expected no '/', no NUL"),
    "duplicate names": (folder(entry(b"a"), entry(b"a")), "file name 'a' occurs twice"),
    "wrong order": (folder(entry(b"b"), entry(b"a")), "file name 'a' comes after 'b', not sorted"),
    "order without regard to case": (folder(entry(b"a"), entry(b"B")), "file name 'B' comes after 'a'"),
    "entry without node": (
        NAR_MAGIC + framed(b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b")", b")"),
        "NAR offset 144: found",
    ),
    "entry without name": (
        NAR_MAGIC + framed(b"(", b"type", b"directory", b"entry", b"(", b"node", *FILE),
        "NAR offset 120: found",
    ),
    "entry not closed": (folder(entry(b"a")[:-1]), "cut short"),
    "empty target": (
        NAR_MAGIC + framed(b"(", b"type", b"symlink", b"target", b"", b")"),
        "a symlink target of 0 bytes",
    ),
    "long target": (
        NAR_MAGIC + framed(b"(", b"type", b"symlink", b"target", b"x" * 4096, b")"),
        "a symlink target of 4096 bytes: expected 1 to 4095",
    ),
    "target of an absurd length": (
        NAR_MAGIC + framed(b"(", b"type", b"symlink", b"target") + number(2**64 - 1),
        "NAR offset 88: a symlink target of 18446744073709551615 bytes",
    ),
    "NUL in a target": (NAR_MAGIC + framed(b"(", b"type", b"symlink", b"target", b"a\0b", b")"), "has a NUL"),
    "symlink not closed": (
        NAR_MAGIC + framed(b"(", b"type", b"symlink", b"target", b"a", b"target", b"b", b")"),
        "NAR offset 104: found",
    ),
    "bytes after the end": (NAR_MAGIC + framed(*FILE) + b"\0", "NAR offset 120: bytes follow the end"),
    "nothing": (b"", "NAR offset 0: the NAR is cut short here"),
}


@pytest.mark.parametrize(("nar", "complaint"), REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_nix_refuses_is_refused_with_the_offset(nar: bytes, complaint: str, step: int) -> None:
    with pytest.raises(InvalidFormat, match=complaint) as caught:
        read(nar[at : at + step] for at in range(0, len(nar), step))
    assert str(caught.value).startswith("NAR offset ")


def test_a_nar_cut_anywhere_is_refused() -> None:
    nar = b"".join(write_nar(TREE))
    for length in range(len(nar)):
        with pytest.raises(InvalidFormat, match=f"NAR offset {length}: the NAR is cut short here"):
            read([nar[:length]])


def test_a_nar_longer_than_allowed_is_refused_when_a_size_says_so() -> None:
    nar = b"".join(write_nar(Regular(bytes(1000))))
    read([nar], NarReader(max_nar_bytes=len(nar)))
    with pytest.raises(InvalidFormat, match="1000 more bytes make the NAR longer than 500 bytes"):
        NarReader(max_nar_bytes=500).feed(nar[:100])


def test_a_nar_of_many_entries_longer_than_allowed_is_refused() -> None:
    nar = b"".join(write_nar(Directory({b"%d" % at: Regular(b"") for at in range(100)})))
    reader = NarReader(max_nar_bytes=1000)
    reader.feed(nar[:1000])
    with pytest.raises(InvalidFormat, match="longer than 1000 bytes"):
        reader.feed(nar[1000:1001])


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_nar_is_refused_or_is_that_of_another_tree(data: st.DataObject) -> None:
    nar = bytearray(b"".join(write_nar(TREE)))
    position = data.draw(st.integers(0, len(nar) - 1))
    nar[position] ^= data.draw(st.integers(1, 255))
    damaged = bytes(nar)
    try:
        events = read([damaged])
    except InvalidFormat:
        return
    assert b"".join(write_nar(rebuild(events, damaged))) == damaged


@given(st.binary(max_size=200))
def test_bytes_that_are_no_nar_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidFormat, match="NAR offset"):
        read([NAR_MAGIC + data])
