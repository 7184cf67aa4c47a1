"""Finding a file in a listing, through symlinks, as a file system would."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from icehouse.errors import NotFound
from icehouse.nix.excerpts import excerpt
from icehouse.nix.listing import ListedDirectory, ListedNode, ListedRegular, ListedSymlink
from icehouse.nix.store_paths import StoreDir

MAX_HOPS: Final = 40
"""How many symlinks one path may lead through, as in Linux."""


@dataclass(frozen=True, slots=True)
class Found:
    """The way ends here."""

    node: ListedRegular | ListedDirectory


@dataclass(frozen=True, slots=True)
class Onward:
    """A symlink leads out of the store path, to this entry of the store directory and on from there."""

    base_name: bytes
    names: tuple[bytes, ...]
    hops: int
    """Symlinks that were followed so far."""


def follow(root: ListedNode, names: Sequence[bytes], store_dir: StoreDir, *, hops: int = 0) -> Found | Onward:
    """Go from *root*, the listing of an entry of *store_dir*, along *names*, following each symlink on the way.

    *hops* symlinks were followed before.

    Raises:
        NotFound: there is nothing, or the way leads through a file, out of the store directory, or through too many
            symlinks.
    """
    left = deque(names)
    folders: list[ListedDirectory] = []  # from the root to the present one; none: in the store directory itself
    node = root
    while True:
        match node:
            case ListedSymlink(target):
                hops += 1
                if hops > MAX_HOPS:
                    raise NotFound(f"the symlink to {excerpt(target)} is one too many: at most {MAX_HOPS} are followed")
                is_absolute = target.startswith(b"/")
                way = _strip_store_dir(target, store_dir) if is_absolute else target
                left.extendleft(name for name in reversed(way.split(b"/")) if name not in {b"", b"."})
                if is_absolute:
                    folders.clear()
            case ListedRegular():
                if left:
                    raise NotFound(f"{excerpt(left[0])} is looked for in a file, not in a folder")
                return Found(node)
            case ListedDirectory():
                folders.append(node)
            case _:
                assert_never(node)
        while folders and left and left[0] == b"..":
            left.popleft()
            folders.pop()
        if not folders:
            return _leave(left, hops)
        if not left:
            return Found(folders[-1])
        name = left.popleft()
        found = folders[-1].entries.get(name)
        if found is None:
            raise NotFound(f"there is no {excerpt(name)} in that folder")
        node = found


def _strip_store_dir(target: bytes, store_dir: StoreDir) -> bytes:
    prefix = f"{store_dir}/".encode()
    if not target.startswith(prefix):
        raise NotFound(f"a symlink leads to {excerpt(target)}, which is not in the store directory {store_dir}")
    return target.removeprefix(prefix)


def _leave(left: deque[bytes], hops: int) -> Onward:
    if not left or left[0] == b"..":
        raise NotFound(
            f"a symlink leads to {excerpt(b'/'.join(left))} from the store directory, which is no entry of it"
        )
    return Onward(left[0], tuple(left)[1:], hops)
