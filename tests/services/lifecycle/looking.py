"""What a store has, row by row and byte by byte, as somebody sees it who knows nothing of the services."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backports.zstd import decompress
from blake3 import blake3

from icehouse.nix import nix32
from icehouse.rules.recipes import parse_runs
from icehouse.rules.verification import DAMAGED
from icehouse.services.nar_files import NarFiles
from icehouse.storage.blobs import BlobKey, BlobStore
from icehouse.storage.nars import pack_key


@dataclass(frozen=True, slots=True)
class PathSeen:
    """A row of a path."""

    cache_id: int
    base_name: str
    nar_id: int
    nar_hash: str
    nar_size: int
    file_hash: str
    file_size: int
    references: tuple[str, ...]
    hidden_at: int | None
    hidden_because: str | None

    @property
    def is_damaged(self) -> bool:
        return (self.hidden_because or "").startswith(DAMAGED)


@dataclass(frozen=True, slots=True)
class ChunkSeen:
    """A row of a chunk."""

    pack_id: int
    offset: int
    stored_bytes: int
    is_quarantined: bool


@dataclass(frozen=True, slots=True)
class PackSeen:
    """A row of a pack."""

    key: BlobKey
    size_bytes: int
    created_at: int
    condemned_at: int | None


@dataclass(frozen=True, slots=True)
class NarSeen:
    """A row of a NAR."""

    nar_hash: bytes
    created_at: int
    chunks: tuple[int, ...]
    """Numbers in order."""


@dataclass(frozen=True, slots=True)
class CacheSeen:
    """A row of a cache."""

    name: str
    trash_seconds: int
    stored_bytes: int


@dataclass(slots=True)
class Look:
    """All rows, as they were at one time."""

    now: int
    caches: dict[int, CacheSeen]
    paths: dict[tuple[int, str], PathSeen]
    """By cache and base name."""
    externals: set[tuple[int, str]]
    nars: dict[int, NarSeen]
    chunks: dict[int, ChunkSeen]
    packs: dict[int, PackSeen]
    blobs: dict[BlobKey, int]
    """Bytes of all objects, by key; not those of the journal, which is kept for ever."""
    altered: set[BlobKey] = field(default_factory=set[BlobKey])
    """Packs whose bytes a test changed or took away, and that no push brought back."""

    @property
    def visible(self) -> Mapping[tuple[int, str], PathSeen]:
        return {key: path for key, path in self.paths.items() if path.hidden_at is None}

    def size(self, cache_id: int) -> int:
        """Stored bytes of the distinct chunks that the visible paths of a cache use."""
        return self.size_of(path for path in self.visible.values() if path.cache_id == cache_id)

    def size_of(self, paths: Iterable[PathSeen]) -> int:
        """Stored bytes of the distinct chunks of some paths."""
        numbers = {number for path in paths for number in self.nars[path.nar_id].chunks}
        return sum(self.chunks[number].stored_bytes for number in numbers)

    def reach(self, cache_id: int, base_names: Sequence[str]) -> list[PathSeen]:
        """Those rows of a cache, and all that they reach there."""
        found: dict[str, PathSeen] = {}
        waiting = list(base_names)
        while waiting:
            base_name = waiting.pop()
            path = self.paths.get((cache_id, base_name))
            if path is not None and base_name not in found:
                found[base_name] = path
                waiting += path.references
        return list(found.values())

    def chunks_of(self, path: PathSeen) -> list[ChunkSeen]:
        return [self.chunks[number] for number in self.nars[path.nar_id].chunks]

    def is_altered(self, path: PathSeen) -> bool:
        """Whether a pack that the path needs was altered, or damage was found in it already."""
        return any(
            chunk.is_quarantined or self.packs[chunk.pack_id].key in self.altered for chunk in self.chunks_of(path)
        )


def look(connection: sqlite3.Connection, blobs: BlobStore, altered: set[BlobKey], now: int) -> Look:
    """Read all rows, and list all objects. *altered* is brought up to date."""
    rows = connection.execute
    seen = Look(
        now=now,
        caches={row[0]: CacheSeen(*row[1:]) for row in rows("SELECT id, name, trash_seconds, stored_bytes FROM cache")},
        paths={
            (row[0], row[1]): PathSeen(
                *row[:7], references=tuple(row[7].split()), hidden_at=row[8], hidden_because=row[9]
            )
            for row in rows(
                "SELECT cache_id, hash_part || '-' || name, nar_id, nar_hash, nar_size, file_hash, file_size,"
                ' "references", hidden_at, hidden_because FROM path'
            )
        },
        externals=set(rows("SELECT cache_id, hash_part || '-' || name FROM external")),
        nars={
            row[0]: NarSeen(
                row[1],
                row[2],
                tuple(n for run in parse_runs(row[3]) for n in range(run.first, run.first + run.count)),
            )
            for row in rows("SELECT nar.id, nar_hash, created_at, body FROM nar JOIN recipe ON nar_id = nar.id")
        },
        chunks={
            row[0]: ChunkSeen(*row[1:4], is_quarantined=row[4] is not None)
            for row in rows("SELECT number, pack_id, pack_offset, stored_bytes, quarantined_at FROM chunk")
        },
        packs={
            row[0]: PackSeen(pack_key(row[1], row[2]), *row[3:])
            for row in rows("SELECT id, domain_id, name, size_bytes, created_at, condemned_at FROM pack")
        },
        blobs={info.key: info.size_bytes for info in blobs.list() if not info.key.startswith("journal/")},
        altered=altered,
    )
    for key in list(altered):
        if not any(pack.key == key for pack in seen.packs.values()) or _is_whole(blobs, key, seen.blobs.get(key)):
            altered.discard(key)
    return seen


def changes(before: Look, after: Look) -> dict[str, int]:
    """How often what happened between two looks."""
    gone_dark = [path for key, path in after.paths.items() if path.hidden_at is not None and key in before.visible]
    packs = {pack.key: pack for pack in after.packs.values()}
    both = [(pack, packs[pack.key]) for pack in before.packs.values() if pack.key in packs]
    chunks = [(chunk, after.chunks[number]) for number, chunk in before.chunks.items() if number in after.chunks]
    return {
        "steps": 1,
        "paths became visible": len(after.visible.keys() - before.visible.keys()),
        "of those out of the trash": len(after.visible.keys() & before.paths.keys() - before.visible.keys()),
        "paths were hidden": len(gone_dark),
        "of those for damage": sum(path.is_damaged for path in gone_dark),
        "paths were purged": len(before.paths.keys() - after.paths.keys()),
        "packs were written": len(packs.keys() - {pack.key for pack in before.packs.values()}),
        "packs were condemned": sum(a.condemned_at is None and b.condemned_at is not None for a, b in both),
        "condemnations were lifted": sum(a.condemned_at is not None and b.condemned_at is None for a, b in both),
        "packs were deleted": len({pack.key for pack in before.packs.values()} - packs.keys()),
        "chunks moved": sum(a.pack_id != b.pack_id for a, b in chunks),
        "chunks were quarantined": sum(b.is_quarantined and not a.is_quarantined for a, b in chunks),
        "chunks were healed": sum(a.is_quarantined and not b.is_quarantined for a, b in chunks),
    }


def _is_whole(blobs: BlobStore, key: BlobKey, size: int | None) -> bool:
    if size is None:
        return False
    data = bytearray(size)
    blobs.read_into(key, 0, memoryview(data))
    return blake3(data).hexdigest() == key.rpartition("/")[2]


class Reader:
    """Downloads NARs as clients do. What was right once is decompressed once."""

    def __init__(self, nar_files: NarFiles) -> None:
        self._nar_files = nar_files
        self._right: set[tuple[bytes, str]] = set()

    async def check(self, path: PathSeen) -> None:
        """Read a path's NAR, and compare it with what the narinfo says."""
        file = await self._nar_files.open_nar(path.nar_id)
        data = b"".join([bytes(block) async for block in file.blocks(0, file.file_size)])
        assert len(data) == path.file_size, f"{path.base_name}: the file is {len(data)} long, its narinfo disagrees"
        digest = blake3(data).digest()
        if (digest, path.nar_hash) in self._right:
            return
        assert nix32.encode(hashlib.sha256(data).digest()) == path.file_hash, f"{path.base_name}: another file"
        assert nix32.encode(hashlib.sha256(decompress(data)).digest()) == path.nar_hash, f"{path.base_name}: not it"
        self._right.add((digest, path.nar_hash))
