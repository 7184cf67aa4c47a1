"""Making a pack: its bytes become durable, and then the rows of its chunks."""

from collections.abc import Callable, Sequence
from functools import partial

from blake3 import blake3
from sqlalchemy import Connection

from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.chunks import AddedPack, add_pack
from icehouse.db.engine import Database
from icehouse.rules.collection import check_is_fresh
from icehouse.rules.frames import Frame
from icehouse.rules.packs import PackEntry, render_pack_end
from icehouse.services.quotas import count_added, warn
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore, BlobWriter
from icehouse.storage.nars import pack_key


class PackWriter:
    """One pack in the making. Its methods block and belong in worker threads, one at a time."""

    def __init__(self, blobs: BlobStore) -> None:
        """Begin an empty pack, of which nothing is on the disk yet."""
        self.entries: list[PackEntry] = []
        self.size_bytes = 0
        self._blobs = blobs
        self._writer: BlobWriter | None = None  # made for the first frame: most repeated uploads need none
        self._hasher = blake3()

    def write(self, entries: Sequence[PackEntry], frames: Sequence[Frame]) -> None:
        """Append frames that were proved."""
        self.entries.extend(entries)
        self._append(b"".join(frame.data for frame in frames))

    def finish(self, domain_id: int) -> bytes:
        """Append the index and make the pack durable; give its name."""
        writer = self._append(render_pack_end(self.entries))
        name = self._hasher.digest()
        writer.commit(pack_key(domain_id, name))
        return name

    def abort(self) -> None:
        """Drop what was written, unless it is durable."""
        if self._writer is not None:
            self._writer.abort()

    def _append(self, data: bytes) -> BlobWriter:
        if self._writer is None:
            self._writer = self._blobs.create()
        self._hasher.update(data)
        self._writer.write(data)
        self.size_bytes += len(data)
        return self._writer


async def publish_pack(
    pack: PackWriter, cache: CacheRow, *, database: Database, workers: Workers, clock: Callable[[], int]
) -> AddedPack:
    """Make a pack's bytes durable, then its rows, with which the cache grows by its frames.

    Raises:
        OverQuota: the disk is full.
        NotFound: the cache was deleted meanwhile.
        Unavailable: half a day lies between the two.
    """
    made_at = clock()
    name = await workers.run(partial(pack.finish, cache.domain_id))

    def add(connection: Connection) -> tuple[AddedPack, str | None]:
        now = clock()
        check_is_fresh(made_at, now)
        get_cache(connection, cache.name)
        added = add_pack(connection, cache.domain_id, name, pack.size_bytes, pack.entries, now=now)
        added_bytes = sum(entry.stored_bytes for entry in pack.entries) if added.is_new else 0
        return added, count_added(connection, cache, added_bytes)

    added, warning = await database.write(add)
    warn(cache, warning)
    return added
