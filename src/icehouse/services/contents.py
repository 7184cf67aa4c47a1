"""What is in the store paths of a cache: listings, files, and debug files by build id."""

from __future__ import annotations

import asyncio
import codecs
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.db.caches import CacheRow
from icehouse.db.debug_files import DebugFilePlace, find_debug_file
from icehouse.db.engine import Database
from icehouse.db.nars import find_nars
from icehouse.db.paths import load_paths
from icehouse.errors import InvalidFormat, NotFound
from icehouse.nix.debug_info import debug_file_names
from icehouse.nix.excerpts import excerpt
from icehouse.nix.listed_paths import MAX_HOPS, Found, follow
from icehouse.nix.listing import ListedDirectory, ListedNode, ListedRegular, ListingBuilder, render_listing
from icehouse.nix.nar_read import DirectoryStart, RegularStart, Symlink
from icehouse.nix.store_paths import HashPart, StorePath
from icehouse.services.nar_files import NarFiles
from icehouse.services.workers import Workers
from icehouse.storage.nar_contents import ContentsSlice, NarContents, read_structure

MAX_ENTRIES: Final = 400_000
"""Files, symlinks and folders of a NAR that is listed; so many take some 100 MB, with their text, for a moment."""

REMEMBERED_BYTES: Final = 32 * 1024 * 1024
"""Memory for listings that may be asked for again."""

MAX_TEXT_BYTES: Final = 256 * 1024
"""Of a file that is shown as text."""

_ENTRY_BYTES: Final = 250  # of a listing's memory: measured, but for the names
_AT_ONCE: Final = 2  # listings that are made or rendered


@dataclass(frozen=True, slots=True)
class ListingText:
    """The file ``<hash part>.ls``."""

    nar_hash: bytes
    text: bytes


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file in a store path."""

    nar_hash: bytes
    nar_offset: int
    """With the hash it names the bytes for ever."""
    store_path: StorePath
    """That was asked for; the file may lie elsewhere, behind symlinks."""
    file: ContentsSlice


@dataclass(frozen=True, slots=True)
class FoundFolder:
    """A folder in a store path."""

    store_path: StorePath
    """That was asked for; the folder may lie elsewhere, behind symlinks."""
    node: ListedDirectory


@dataclass(frozen=True, slots=True)
class _StoredPath:
    store_path: StorePath
    nar_id: int
    nar_hash: bytes


class Contents:
    """Reads what is in the NARs of all caches. Belongs to one event loop.

    Listings are made from the NARs when they are asked for; the last ones used are remembered.
    """

    def __init__(
        self, database: Database, nar_files: NarFiles, workers: Workers, *, remembered_bytes: int = REMEMBERED_BYTES
    ) -> None:
        self._database = database
        self._nar_files = nar_files
        self._workers = workers
        self._making = asyncio.Semaphore(_AT_ONCE)
        # By domain too: what one tenant asked for must not make another one's answer come sooner.
        self._remembered: OrderedDict[tuple[int, bytes], tuple[ListedNode, int]] = OrderedDict()
        self._remembered_bytes = 0
        self._most_remembered_bytes = remembered_bytes

    async def render_listing(self, cache: CacheRow, hash_part: HashPart) -> ListingText:
        """The listing of a visible path, as JSON.

        Raises:
            NotFound: the cache has no such path, or what it has is no NAR or has too many entries.
            StorageError: the NAR cannot be read.
        """
        path = await self._get_path(cache, hash_part)
        root = await self._list(cache, path.nar_id, path.nar_hash)
        async with self._making:
            return ListingText(path.nar_hash, await self._workers.run(partial(render_listing, root)))

    async def find(self, cache: CacheRow, hash_part: HashPart, names: Sequence[bytes]) -> FoundFile | FoundFolder:
        """What a visible path has at *names*, one below the other. Symlinks are followed, also to other visible paths.

        Raises:
            NotFound: as `render_listing`; or nothing is there, or the way leads out of what the cache has.
            StorageError: a NAR cannot be read.
        """
        first = path = await self._get_path(cache, hash_part)
        hops = 0
        for _ in range(MAX_HOPS + 1):
            root = await self._list(cache, path.nar_id, path.nar_hash)
            end = follow(root, names, cache.store_dir, hops=hops)
            if isinstance(end, Found):
                if isinstance(end.node, ListedDirectory):
                    return FoundFolder(first.store_path, end.node)
                contents = await self._nar_files.open_contents(path.nar_id)
                return FoundFile(path.nar_hash, end.node.nar_offset, first.store_path, _slice(contents, end.node))
            names, hops = end.names, end.hops
            path = await self._get_neighbour(cache, end.base_name)
        raise NotFound(f"symlinks lead through more than {MAX_HOPS} store paths")

    async def read_text(self, found: FoundFile) -> str | None:
        """What a file contains, if that is text of at most `MAX_TEXT_BYTES`.

        Raises:
            StorageError: the NAR cannot be read.
        """
        size = found.file.file_size
        if size > MAX_TEXT_BYTES:
            return None
        data = bytes(await self._workers.run(partial(found.file.read, 0, size)))
        return data.decode() if is_text(data, is_whole=True) else None

    async def find_debug_nar(self, cache: CacheRow, build_id: bytes) -> bytes:
        """The hash of the NAR that has the debug file of a build id.

        Raises:
            NotFound: no visible path of the cache has it.
        """
        return (await self._find_debug_file(cache, build_id)).nar_hash

    async def open_debug_file(self, cache: CacheRow, build_id: bytes) -> FoundFile:
        """The debug file of a build id. The errors are those of `find`."""
        place = await self._find_debug_file(cache, build_id)
        found = await self.find(cache, place.hash_part, debug_file_names(build_id))
        if isinstance(found, FoundFolder):
            raise NotFound(f"the debug file of build id {build_id.hex()} is a folder")
        return found

    async def _find_debug_file(self, cache: CacheRow, build_id: bytes) -> DebugFilePlace:
        found = await self._database.read(partial(find_debug_file, cache_id=cache.id, build_id=build_id))
        if found is None:
            raise NotFound(f"no path of cache {cache.name!r} has a debug file of build id {build_id.hex()}")
        return found

    async def _get_path(self, cache: CacheRow, hash_part: HashPart) -> _StoredPath:
        found = await self._database.read(partial(_find_path, cache=cache, hash_part=hash_part))
        if found is None:
            raise NotFound(f"cache {cache.name!r} has no visible path {hash_part}")
        return found

    async def _get_neighbour(self, cache: CacheRow, base_name: bytes) -> _StoredPath:
        """The path that a symlink names."""
        missing = (
            f"a symlink leads to {excerpt(base_name)} in {cache.store_dir}, which cache {cache.name!r} does not have"
        )
        try:
            store_path = StorePath.parse(base_name.decode("ascii"))
        except ValueError as exc:  # InvalidFormat is one too
            raise NotFound(missing) from exc
        found = await self._database.read(partial(_find_path, cache=cache, hash_part=store_path.hash_part))
        if found is None or found.store_path != store_path:
            raise NotFound(missing)
        return found

    async def _list(self, cache: CacheRow, nar_id: int, nar_hash: bytes) -> ListedNode:
        key = (cache.domain_id, nar_hash)
        root = self._recall(key)
        if root is not None:
            return root
        contents = await self._nar_files.open_contents(nar_id)
        async with self._making:
            root = self._recall(key)  # someone else may have asked for it meanwhile
            if root is None:
                try:
                    root, size = await self._workers.run(partial(make_listing, contents))
                except InvalidFormat as exc:
                    raise NotFound(f"what is stored cannot be listed: {exc}") from exc
                self._remember(key, root, size)
        return root

    def _recall(self, key: tuple[int, bytes]) -> ListedNode | None:
        found = self._remembered.get(key)
        if found is None:
            return None
        self._remembered.move_to_end(key)
        return found[0]

    def _remember(self, key: tuple[int, bytes], root: ListedNode, size: int) -> None:
        if size > self._most_remembered_bytes or key in self._remembered:  # two may have made it at once
            return
        self._remembered[key] = (root, size)
        self._remembered_bytes += size
        while self._remembered_bytes > self._most_remembered_bytes:
            _, (_, forgotten_bytes) = self._remembered.popitem(last=False)
            self._remembered_bytes -= forgotten_bytes


def is_text(start: bytes, *, is_whole: bool) -> bool:
    """Whether the beginning of a file, or all of it, is UTF-8 without zeros."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=is_whole)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def make_listing(contents: NarContents) -> tuple[ListedNode, int]:
    """The listing of a NAR, and about how many bytes of memory it takes; blocks.

    Raises:
        InvalidFormat: what is stored is no NAR, or has more than `MAX_ENTRIES` entries.
        StorageError: it cannot be read.
    """
    builder = ListingBuilder(max_entries=MAX_ENTRIES)
    size = 0
    for event in read_structure(contents):
        builder.add(event)
        if isinstance(event, (DirectoryStart, RegularStart, Symlink)):
            target = event.target if isinstance(event, Symlink) else b""
            size += _ENTRY_BYTES + len(event.name or b"") + len(target)
    return builder.build(), size


def _slice(contents: NarContents, node: ListedRegular) -> ContentsSlice:
    return ContentsSlice(contents, node.nar_offset, node.size)


def _find_path(connection: Connection, *, cache: CacheRow, hash_part: HashPart) -> _StoredPath | None:
    row = load_paths(connection, cache.id, [hash_part]).get(hash_part)
    if row is None or row.hidden_at is not None:
        return None
    nar = find_nars(connection, cache.domain_id, [row.nar_hash])[row.nar_hash]
    return _StoredPath(row.store_path, nar.id, row.nar_hash)
