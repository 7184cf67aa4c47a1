from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.nix import debug_info
from icehouse.nix.debug_info import (
    DebugInfoSign,
    debug_file_names,
    find_build_ids,
    parse_build_id,
    render_debug_info,
)
from icehouse.nix.nar_framing import framed
from icehouse.nix.nar_read import NarReader
from icehouse.nix.nar_write import Directory, Node, Regular, Symlink, write_nar

BUILD_ID = bytes(range(20))
NAME = BUILD_ID.hex()[2:].encode() + b".debug"
MARK = framed(b".build-id")


def tree_of(folder: Node, *names: bytes) -> Node:
    for name in reversed(names):
        folder = Directory({name: folder})
    return folder


def build_ids_in(tree: Node) -> list[bytes]:
    return find_build_ids(NarReader().feed(b"".join(write_nar(tree))))


def test_debug_files_are_found_by_where_they_are() -> None:
    by_id = Directory(
        {
            b"00": Directory({NAME: Regular(b"ELF"), NAME[:-6]: Regular(b"no"), b"ff" * 19 + b".debug": Symlink(NAME)}),
            b"FF": Directory({NAME: Regular(b"no")}),
            b"fe": Directory({b"0" * 37 + b".debug": Regular(b"no"), b"1" * 38 + b".debug": Regular(b"ELF")}),
            b"ff": Directory({NAME: Directory({NAME: Regular(b"no")})}),
            NAME: Regular(b"no"),
        }
    )
    tree = Directory(
        {
            b"lib": Directory({b"debug": Directory({b".build-id": by_id, b"x": Directory({b".build-id": by_id})})}),
            b"share": tree_of(by_id, b"debug", b".build-id"),
        }
    )
    assert build_ids_in(tree) == [BUILD_ID, bytes.fromhex("fe" + "1" * 38)]


def test_nar_of_one_file_has_no_debug_files() -> None:
    assert build_ids_in(Regular(b".build-id")) == []


def test_more_build_ids_than_allowed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_info, "MAX_BUILD_IDS", 3)
    files: dict[bytes, Node] = {b"%038x.debug" % number: Regular(b"") for number in range(5)}
    assert len(build_ids_in(tree_of(Directory(files), b"lib", b"debug", b".build-id", b"00"))) == 3


@given(st.lists(st.binary(max_size=12) | st.sampled_from([MARK, MARK[:11], MARK[11:], b".", b"\0"]), max_size=12))
def test_sign_of_debug_files_is_seen_across_pieces(pieces: list[bytes]) -> None:
    sign = DebugInfoSign()
    for piece in pieces:
        sign.look(bytearray(piece))
    assert sign.is_seen == (MARK in b"".join(pieces))


@pytest.mark.parametrize("cut", range(len(MARK) + 1))
def test_sign_of_debug_files_is_seen_wherever_it_is_cut(cut: int) -> None:
    sign = DebugInfoSign()
    for piece in (b"before" + MARK[:cut], MARK[cut:] + b"after"):
        sign.look(piece)
    assert sign.is_seen


def test_program_with_a_build_id_is_no_sign_of_debug_files() -> None:
    sections = b"\0.interp\0.note.gnu.build-id\0.note.ABI-tag\0"
    sign = DebugInfoSign()
    for piece in write_nar(tree_of(Regular(sections), b"lib", b"debug", b"x.build-id")):
        sign.look(piece)
    assert not sign.is_seen


def test_debug_info_is_as_nix_writes_it() -> None:
    text = render_debug_info(bytes(32), BUILD_ID)
    assert text == (
        b'{"archive":"../nar/' + b"0" * 52 + b'.nar.zst",'
        b'"member":"lib/debug/.build-id/00/0102030405060708090a0b0c0d0e0f10111213.debug"}'
    )
    assert json.loads(text)["member"].encode() == b"/".join(debug_file_names(BUILD_ID))


@pytest.mark.parametrize("text", ["", "0" * 39, "0" * 41, "G" * 40, "A" * 40, "٣" * 40])
def test_build_id_of_other_than_40_digits_is_refused(text: str) -> None:
    assert parse_build_id(BUILD_ID.hex()) == BUILD_ID
    with pytest.raises(InvalidFormat, match="build id"):
        parse_build_id(text)
