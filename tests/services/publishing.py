"""A store in memory with a real database, and the client's side of publishing in its simplest form."""

import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy import Table, func, select

from icehouse.api.publish import ChunksMissingRequest, NarBody, NarResult, NarsRequest, PathBody, PathsRequest
from icehouse.db.caches import PUBLIC_DOMAIN_ID, CacheRow, insert_cache, insert_domain
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.db.nars import find_nars
from icehouse.nix.hashes import render_sha256
from icehouse.nix.nar_write import Regular, write_nar
from icehouse.nix.signing import SecretKey
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.audit import Actor
from icehouse.rules.chunks import Chunker, CutChunk, chunk_identity
from icehouse.rules.frames import make_frame
from icehouse.rules.packs import PackEntry, Places, render_index
from icehouse.rules.recipes import make_recipe, render_recipe
from icehouse.services.nar_files import NarFiles
from icehouse.services.nars import LONG_NAR_BYTES, NarRegistry
from icehouse.services.packs import PackReceiver
from icehouse.services.publish import Publisher
from icehouse.services.recent_chunks import RecentChunks
from icehouse.services.signing import Signed, Signers
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobKey, BlobStore
from icehouse.storage.memory import MemoryBlobStore
from tests.db.sums import check_sums

NOW = 1_700_000_000
"""The clock of these tests stands still, unless a test moves `Store.now`."""

KEY = SecretKey.generate("test.example-1", bytes(range(32)))


class OneKey:
    """Signs for each cache with `KEY`."""

    async def sign(self, cache_id: int, texts: Sequence[bytes]) -> Signed:
        del cache_id
        return Signed((KEY.public_key,), [(KEY.sign(text),) for text in texts])


@dataclass(frozen=True, slots=True)
class Upload:
    """A pack as a client sends it."""

    entries: list[PackEntry]
    frames: list[bytes]

    @classmethod
    def of(cls, chunks: Sequence[CutChunk], level: int = 3) -> Self:
        entries: dict[bytes, PackEntry] = {}
        frames: list[bytes] = []
        for chunk in chunks:
            identity = identity_of(chunk)
            if identity in entries:
                continue
            frame = make_frame(chunk.raw, chunk.positions, level=level)
            places = Places(chunk.positions, frame.patch_offsets, is_split=frame.is_split)
            entries[identity] = PackEntry(identity, len(frame.data), len(chunk.raw), places)
            frames.append(frame.data)
        return cls(list(entries.values()), frames)

    def render(self) -> bytes:
        index = render_index(self.entries)
        return len(index).to_bytes(4, "little") + index + b"".join(self.frames)


def make_chunk(seed: int, positions: Sequence[int] = (), *, size: int = 2_000) -> CutChunk:
    """A chunk of its own for each seed, half random and half text, with store hashes at *positions*."""
    raw = bytearray(random.Random(seed).randbytes(size // 2) + b"text " * size)[:size]
    for position in positions:
        raw[position : position + 32] = bytes(32)
    return CutChunk(bytes(raw), tuple(positions), tuple(b"%032d" % index for index, _ in enumerate(positions)))


def nar_of(contents: bytes) -> bytes:
    """The NAR of a file."""
    return b"".join(write_nar(Regular(contents)))


def identity_of(chunk: CutChunk) -> bytes:
    return chunk_identity(chunk.raw, chunk.positions)


def cut(nar: bytes) -> list[CutChunk]:
    chunker = Chunker(NIX_STORE)
    return [*chunker.feed(nar), *chunker.finish()]


async def in_pieces(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


TESTER = Actor("a test")


class Store:
    """All services of publishing over one database."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        *,
        long_nar_bytes: int = LONG_NAR_BYTES,
        workers: Workers | None = None,
        keys: Signers | None = None,
    ) -> None:
        self.now = NOW
        self.database = database
        self.blobs = blobs
        self.workers = workers or Workers(2)
        self.recent = RecentChunks()
        self.packs = PackReceiver(database, blobs, self.workers, self.recent, lambda: self.now)
        self.nars = NarRegistry(
            database, blobs, self.workers, self.recent, lambda: self.now, long_nar_bytes=long_nar_bytes
        )
        self.reader = database.open_reader()
        self.nar_files = NarFiles(database, self.reader, blobs)
        self.uses: list[tuple[int, int]] = []
        self.publisher = Publisher(
            database,
            blobs,
            self.workers,
            keys or OneKey(),
            lambda: self.now,
            note_use=lambda path_id, now: self.uses.append((path_id, now)),
        )

    @classmethod
    def open(cls, folder: Path, blobs: BlobStore | None = None, *, long_nar_bytes: int = LONG_NAR_BYTES) -> Self:
        prepare_database(folder / "icehouse.db")
        database = Database.open(folder / "icehouse.db")
        return cls(database, MemoryBlobStore() if blobs is None else blobs, long_nar_bytes=long_nar_bytes)

    async def close(self) -> None:
        """End it. Whatever the test did, the sums are right."""
        await self.nars.close()
        self.workers.close()
        check_sums(self.reader)
        self.reader.close()
        self.database.close()

    async def create_cache(self, name: str, *, domain_id: int = PUBLIC_DOMAIN_ID) -> CacheRow:
        return await self.database.write(
            lambda connection: insert_cache(
                connection,
                name=name,
                domain_id=domain_id,
                is_public=True,
                store_dir=NIX_STORE,
                priority=41,
                want_mass_query=True,
                now=NOW,
            )
        )

    async def create_domain(self) -> int:
        return await self.database.write(lambda connection: insert_domain(connection, None, now=NOW))

    async def count(self, table: Table) -> int:
        """Rows of a table."""
        return await self.database.read(
            lambda connection: connection.execute(select(func.count()).select_from(table)).scalar_one()
        )

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of all blobs, unfinished ones too."""
        return sorted(info.key for info in self.blobs.list(prefix))

    def read_blob(self, key: str) -> bytes:
        data = bytearray(self.blobs.size(BlobKey(key)))
        self.blobs.read_into(BlobKey(key), 0, memoryview(data))
        return bytes(data)

    async def send_chunks(self, cache: CacheRow, chunks: Sequence[CutChunk]) -> dict[bytes, int]:
        """Send the chunks that are missing, in one pack; give the numbers of all."""
        identities = list(dict.fromkeys(identity_of(chunk) for chunk in chunks))
        answer = await self.packs.find_missing_chunks(cache, ChunksMissingRequest(b"".join(identities)))
        missing = [i for i, _ in enumerate(identities) if not answer.known[i >> 3] >> (i & 7) & 1]
        wanted = {identities[index] for index in missing}
        numbers = dict(zip((i for i in identities if i not in wanted), answer.numbers, strict=True))
        upload = Upload.of([chunk for chunk in chunks if identity_of(chunk) in wanted])
        if upload.entries:
            sent = await self.packs.receive_pack(cache, in_pieces(upload.render()))
            numbers |= dict(zip((entry.identity for entry in upload.entries), sent.numbers, strict=True))
        return numbers

    async def nar_body(self, cache: CacheRow, nar: bytes) -> NarBody:
        """Send what is missing of a NAR, and describe it."""
        chunks = cut(nar)
        numbers = await self.send_chunks(cache, chunks)
        recipe = make_recipe(
            (numbers[identity_of(chunk)] for chunk in chunks),
            (store_hash for chunk in chunks for store_hash in chunk.hashes),
        )
        return NarBody(nar_hash=nar_hash_of(nar), nar_size=len(nar), recipe=render_recipe(recipe))

    async def register(self, cache: CacheRow, *bodies: NarBody, verify: bool = False) -> list[NarResult]:
        """Register NARs; give the results."""
        return (await self.nars.register_nars(cache, NarsRequest(list(bodies), verify=verify))).results

    async def push(self, cache: CacheRow, *paths: "tuple[str, bytes, list[str]]") -> PathsRequest:
        """Publish paths given as (base name, NAR, base names of references)."""
        bodies = [await self.nar_body(cache, nar) for _, nar, _ in paths]
        answer = await self.nars.register_nars(cache, NarsRequest(bodies))
        assert [result.state for result in answer.results] == ["stored"] * len(paths)
        request = PathsRequest([path_body(*path) for path in paths])
        published = await self.publisher.publish_paths(cache, request, token_id=None)
        assert not published.refused
        return request

    async def download(self, cache: CacheRow, nar: bytes) -> bytes:
        """The NAR's file, from its stored recipe."""
        found = await self.database.read(
            lambda connection: find_nars(connection, cache.domain_id, [hashlib.sha256(nar).digest()])
        )
        file = await self.nar_files.open_nar(found[hashlib.sha256(nar).digest()].id)
        return b"".join([bytes(block) async for block in file.blocks(0, file.file_size)])


def nar_hash_of(nar: bytes) -> str:
    return render_sha256(hashlib.sha256(nar).digest())


def path_body(base_name: str, nar: bytes, references: Sequence[str] = ()) -> PathBody:
    return PathBody(store_path=base_name, nar_hash=nar_hash_of(nar), nar_size=len(nar), references=list(references))
