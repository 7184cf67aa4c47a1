"""Copying the living chunks of mostly dead packs into a new one, frames as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from icehouse.db.collection import CompactableChunk, load_compactable, move_chunks
from icehouse.db.engine import Database
from icehouse.errors import Corrupt, InvalidFormat, NotFound
from icehouse.rules.collection import PackFacts
from icehouse.rules.frames import Frame, prove_frame
from icehouse.rules.packs import PackEntry
from icehouse.services.pack_writing import PackWriter
from icehouse.storage.blobs import BlobStore
from icehouse.storage.nars import pack_key, places_of

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Compaction:
    """What one copy did."""

    packs: int
    """That were left behind, and are condemned."""
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class _Placed:
    """A chunk as `places_of` reads it."""

    pack_name: bytes
    pack_offset: int
    stored_bytes: int
    raw_bytes: int
    places: bytes | None


def compact(
    database: Database,
    blobs: BlobStore,
    domain_id: int,
    packs: Sequence[PackFacts],
    live: bytearray,
    *,
    now: int,
) -> Compaction:
    """Copy what is alive of *packs*: the new pack is durable before the rows of its chunks point at it. Blocks.

    Every frame is proved on the way. A group with a damaged one stays as it is, for verification to find.

    Args:
        database: with the rows.
        blobs: with the packs.
        domain_id: of the packs.
        packs: a group that makes one pack.
        live: one byte a chunk number.
        now: seconds since the epoch.
    """
    names = {pack.id: pack.name for pack in packs}
    chunks = [
        chunk
        for chunk in database.read_now(partial(load_compactable, pack_ids=list(names)))
        if chunk.number < len(live) and live[chunk.number]
    ]
    if not chunks:
        return Compaction(0, 0)
    writer = PackWriter(blobs)
    try:
        moves: list[tuple[CompactableChunk, int]] = []
        offset = 0
        for chunk in chunks:
            entry, frame = _read(blobs, domain_id, names[chunk.pack_id], chunk)
            writer.write([entry], [frame])
            moves.append((chunk, offset))
            offset += chunk.stored_bytes
        name = writer.finish(domain_id)
    except (NotFound, Corrupt, InvalidFormat) as exc:
        _log.error("packs could not be compacted", packs=[pack.name.hex() for pack in packs], error=str(exc))
        return Compaction(0, 0)
    finally:
        writer.abort()
    move = partial(move_chunks, domain_id=domain_id, name=name, size_bytes=writer.size_bytes, moves=moves, now=now)
    database.write_now(move)
    return Compaction(len(packs), offset)


def _read(blobs: BlobStore, domain_id: int, pack_name: bytes, chunk: CompactableChunk) -> tuple[PackEntry, Frame]:
    data = bytearray(chunk.stored_bytes)
    blobs.read_into(pack_key(domain_id, pack_name), chunk.pack_offset, memoryview(data))
    places = places_of(_Placed(pack_name, chunk.pack_offset, chunk.stored_bytes, chunk.raw_bytes, chunk.places))
    frame = Frame(bytes(data), places.patch_offsets, is_split=places.is_split)
    prove_frame(frame, chunk.raw_bytes, places.positions, chunk.identity)
    return PackEntry(chunk.identity, chunk.stored_bytes, chunk.raw_bytes, places), frame
