"""The walk gives what Nix itself gives for the same tree."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.client.nar_walk import BLOCK_BYTES, walk_nar
from icehouse.errors import Conflict, Denied, InvalidFormat, NotFound
from icehouse.nix.nar_write import Directory, Node, Regular, Symlink, write_nar

Require = Callable[[str], str]


def walked(root: Path) -> bytes:
    return b"".join(bytes(piece) for piece in walk_nar(root))


def make(path: Path, node: Node) -> None:
    match node:
        case Regular(contents, executable):
            path.write_bytes(contents)
            path.chmod(0o755 if executable else 0o644)
        case Symlink(target):
            path.symlink_to(os.fsdecode(target))
        case Directory(entries):
            path.mkdir()
            for name, entry in entries.items():
                make(path / os.fsdecode(name), entry)


def dumped_by_nix(nix_store: str, root: Path) -> bytes:
    return subprocess.run([nix_store, "--dump", root], check=True, capture_output=True).stdout


names = st.binary(min_size=1, max_size=20).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in {b".", b".."}
)
leaves = st.builds(Regular, st.binary(max_size=300), st.booleans()) | st.builds(
    Symlink, st.binary(min_size=1, max_size=100).filter(lambda target: 0 not in target)
)
trees = st.recursive(
    leaves, lambda nodes: st.builds(Directory, st.dictionaries(names, nodes, max_size=5)), max_leaves=12
)


@given(tree=trees)
def test_any_tree_gives_the_nar_of_the_same_tree_in_memory(
    tmp_path_factory: pytest.TempPathFactory, tree: Node
) -> None:
    root = tmp_path_factory.mktemp("trees") / "tree"
    make(root, tree)
    assert walked(root) == b"".join(write_nar(tree))


def test_an_odd_tree_gives_what_nix_gives(tmp_path: Path, require: Require) -> None:
    tree = Directory(
        {
            "höher 雪".encode(): Regular(b"unicode"),
            b"invalid \xff\xfe utf-8\n": Regular(b"bytes"),
            b"B": Regular(b""),
            b"a": Regular(b"#!/bin/sh\n", executable=True),
            b"a.b": Directory({b"empty": Directory({})}),
            b"a-b": Symlink(b"../nowhere"),
            b"large": Regular(bytes(range(256)) * 10_000, executable=True),
            b"many": Directory({b"%d" % number: Regular(b"x" * number) for number in range(2000)}),
        }
    )
    root = tmp_path / "tree"
    make(root, tree)
    assert walked(root) == dumped_by_nix(require("nix-store"), root)


@pytest.mark.parametrize("size", [0, 1, 8, 128 * 1024, 128 * 1024 + 1, BLOCK_BYTES, BLOCK_BYTES + 3])
@pytest.mark.parametrize("mode", [0o644, 0o755, 0o611])
def test_one_file_gives_what_nix_gives(tmp_path: Path, require: Require, size: int, mode: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"7" * size)
    file.chmod(mode)
    assert walked(file) == dumped_by_nix(require("nix-store"), file)


def test_pieces_of_a_large_tree_stay_small(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(5 * BLOCK_BYTES))
    for number in range(100):
        (tmp_path / str(number)).write_bytes(bytes(100_000))
    assert max(len(piece) for piece in walk_nar(tmp_path)) < 1.2 * BLOCK_BYTES


@pytest.mark.parametrize("change", [-1, 1, BLOCK_BYTES])
def test_a_large_file_that_changes_its_size_is_an_error(tmp_path: Path, change: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(2 * BLOCK_BYTES))
    pieces = walk_nar(file)
    next(pieces)
    os.truncate(file, 2 * BLOCK_BYTES + change)
    with pytest.raises(Conflict, match=r"file changed while it was read: 2097152 bytes were expected"):
        list(pieces)


def test_a_special_file_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidFormat, match=r"pipe is a named pipe; a NAR holds files, folders and symlinks only"):
        walked(tmp_path)


def test_a_socket_as_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        with pytest.raises(InvalidFormat, match="is a socket"):
            walked(tmp_path / "s")


def test_a_tree_deeper_than_nix_reads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * 70)).mkdir(parents=True)
    with pytest.raises(InvalidFormat, match="64 folders deep"):
        walked(tmp_path)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing: No such file"):
        walked(tmp_path / "nothing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0)
    with pytest.raises(Denied, match="secret: Permission denied"):
        walked(tmp_path)
