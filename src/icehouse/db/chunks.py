"""Rows of packs and chunks."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, TypeVarTuple

from sqlalchemy import BLOB, ColumnElement, Connection, Row, Select, func, insert, literal_column, select, update

from icehouse.db.query_plans import by_id
from icehouse.db.schema import CHUNK_NAME, chunk, pack
from icehouse.errors import Conflict
from icehouse.rules.chunks import CHUNK_NAME_BYTES
from icehouse.rules.packs import PackEntry, render_places
from icehouse.rules.recipes import Run

_BATCH: Final = 1000  # values in one IN list
_LONG_RUN: Final = 100  # chunks from which on a run is cheaper as a statement of its own

T = TypeVar("T")
Columns = TypeVarTuple("Columns")


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A stored chunk, and where its frame is."""

    number: int
    identity: bytes
    pack_name: bytes
    pack_offset: int
    stored_bytes: int
    raw_bytes: int
    places: bytes | None
    """As `rules.packs.render_places` wrote it; None: no store hash."""
    is_sound: bool
    """False: quarantined; counts as missing until a push brings it again."""


@dataclass(frozen=True, slots=True)
class AddedPack:
    """What became of a pack's chunks."""

    numbers: dict[bytes, int]
    """Of all its chunks, by identity."""
    is_new: bool
    """False: each chunk was brought by another upload meanwhile, and no row names the pack."""


def find_numbers(connection: Connection, domain_id: int, identities: Collection[bytes]) -> dict[bytes, int]:
    """The numbers of those chunks that the domain has, by identity.

    Quarantined ones count as absent, and so do those in packs that are condemned.
    """
    is_sound = chunk.c.quarantined_at.is_(None) & (chunk.c.pack_id == pack.c.id) & pack.c.condemned_at.is_(None)
    statement = select(chunk.c.identity, chunk.c.number).where(is_sound)
    wanted = set(identities)
    rows = find_by_names(connection, statement, domain_id, wanted)
    return {row.identity: row.number for row in rows if row.identity in wanted}


def find_by_names(
    connection: Connection, statement: Select[*Columns], domain_id: int, identities: Iterable[bytes]
) -> Iterator[Row[*Columns]]:
    """What *statement* selects of the domain's chunks that have the name of one of *identities*, or are called so."""
    for batch in _batches([identity[:CHUNK_NAME_BYTES] for identity in identities]):
        is_meant = literal_column(CHUNK_NAME, BLOB).in_(batch)
        yield from connection.execute(statement.where(chunk.c.domain_id == domain_id, is_meant))


def load_chunks(connection: Connection, domain_id: int, runs: Sequence[Run]) -> dict[int, ChunkRow]:
    """The rows that *runs* name, by number. Numbers that the domain does not have are left out."""
    found: dict[int, ChunkRow] = {}
    columns = select(
        chunk.c.number,
        chunk.c.identity,
        pack.c.name,
        chunk.c.pack_offset,
        chunk.c.stored_bytes,
        chunk.c.raw_bytes,
        chunk.c.places,
        chunk.c.quarantined_at.is_(None).label("is_sound"),
    ).where(chunk.c.pack_id == pack.c.id, by_id(chunk.c.domain_id) == domain_id)
    for condition in _conditions(merge_runs(runs)):
        for number, identity, name, offset, stored, raw, places, is_sound in connection.execute(
            columns.where(condition)
        ):
            found[number] = ChunkRow(number, identity, name, offset, stored, raw, places, bool(is_sound))
    return found


def are_all_sound(connection: Connection, domain_id: int, runs: Sequence[Run]) -> bool:
    """Whether the domain has each chunk that *runs* name, and none is quarantined."""
    merged = merge_runs(runs)
    statement = select(func.count()).select_from(chunk)
    sound = (by_id(chunk.c.domain_id) == domain_id) & chunk.c.quarantined_at.is_(None)
    count = sum(connection.execute(statement.where(sound, condition)).scalar_one() for condition in _conditions(merged))
    return count == sum(run.count for run in merged)


def lift_condemnation(connection: Connection, runs: Sequence[Run]) -> None:
    """Have the packs of these chunks stay, if they were about to go."""
    if connection.execute(select(pack.c.id).where(pack.c.condemned_at.is_not(None)).limit(1)).first() is None:
        return
    for condition in _conditions(merge_runs(runs)):
        used = select(chunk.c.pack_id).where(condition)
        connection.execute(
            update(pack).where(pack.c.condemned_at.is_not(None), pack.c.id.in_(used)).values(condemned_at=None)
        )


def merge_runs(runs: Iterable[Run]) -> list[Run]:
    """The same numbers as runs that ascend and do not overlap."""
    merged: list[Run] = []
    for run in sorted(runs, key=lambda run: run.first):
        last = merged[-1] if merged else None
        if last is not None and run.first <= last.first + last.count:
            merged[-1] = Run(last.first, max(last.count, run.first + run.count - last.first))
        else:
            merged.append(run)
    return merged


def _conditions(merged: Sequence[Run]) -> Iterator[ColumnElement[bool]]:
    """Conditions that together select the chunks of *merged*, each once."""
    for run in merged:
        if run.count >= _LONG_RUN:
            yield chunk.c.number.between(run.first, run.first + run.count - 1)
    single = [run.first + step for run in merged if run.count < _LONG_RUN for step in range(run.count)]
    for batch in _batches(single):
        yield chunk.c.number.in_(batch)


def add_pack(
    connection: Connection,
    domain_id: int,
    name: bytes,
    size_bytes: int,
    entries: Sequence[PackEntry],
    *,
    now: int,
) -> AddedPack:
    """Add a pack that is durable already, with those of its chunks that the domain does not have yet.

    A quarantined chunk keeps its number and gets the new frame. A chunk that another upload brought meanwhile stays as
    it is; if that goes for all, no row is added. Numbers of new chunks are consecutive.

    Raises:
        Conflict: a chunk that is there has the name of another one in the pack. Nothing was added.
    """
    identities = {entry.identity for entry in entries}
    rows = find_by_names(connection, select(chunk.c.identity, chunk.c.number), domain_id, identities)
    known = {row.identity: row.number for row in rows}
    strangers = known.keys() - identities
    if strangers:
        raise Conflict(
            f"chunk {min(strangers).hex()} is there, and one of this pack begins with the same {CHUNK_NAME_BYTES} "
            "bytes; it can be pushed once that one was collected"
        )
    sound = find_numbers(connection, domain_id, list(known))
    offsets: list[int] = []
    end = 0
    for entry in entries:
        offsets.append(end)
        end += entry.stored_bytes
    wanted = [(entry, offset) for entry, offset in zip(entries, offsets, strict=True) if entry.identity not in sound]
    if not wanted:
        return AddedPack(sound, is_new=False)
    pack_id = put_pack(connection, domain_id, name, size_bytes, now=now)
    new: list[dict[str, object]] = []
    for entry, offset in wanted:
        values: dict[str, object] = {
            "pack_id": pack_id,
            "pack_offset": offset,
            "stored_bytes": entry.stored_bytes,
            "raw_bytes": entry.raw_bytes,
            "places": render_places(entry.places) if entry.places.positions else None,
            "quarantined_at": None,
        }
        if entry.identity in known:
            connection.execute(update(chunk).where(chunk.c.number == known[entry.identity]).values(**values))
        else:
            new.append({**values, "domain_id": domain_id, "identity": entry.identity})
    if new:
        connection.execute(insert(chunk), new)
    numbers = known | find_numbers(connection, domain_id, [entry.identity for entry, _ in wanted])
    return AddedPack(numbers, is_new=True)


def put_pack(connection: Connection, domain_id: int, name: bytes, size_bytes: int, *, now: int) -> int:
    """Add a pack whose bytes are durable, and give its id.

    One that heals a damaged pack, or brings back one that is about to go, may have the same bytes and so its name: then
    that row is the pack's, and counts as new.
    """
    present = connection.execute(select(pack.c.id).where(pack.c.domain_id == domain_id, pack.c.name == name)).scalar()
    if present is not None:
        connection.execute(update(pack).where(pack.c.id == present).values(created_at=now, condemned_at=None))
        return present
    statement = insert(pack).values(domain_id=domain_id, name=name, size_bytes=size_bytes, created_at=now)
    return connection.execute(statement.returning(pack.c.id)).scalar_one()


def quarantine(connection: Connection, rows: Collection[ChunkRow], *, now: int) -> None:
    """Mark chunks whose frames are damaged. They count as missing from here on.

    One that has got another frame since its row was read stays as it is.
    """
    for row in rows:
        packs = select(pack.c.id).where(pack.c.name == row.pack_name, pack.c.domain_id == chunk.c.domain_id)
        is_same = (
            (chunk.c.number == row.number)
            & (chunk.c.pack_offset == row.pack_offset)
            & chunk.c.pack_id.in_(packs.correlate(chunk))
        )
        connection.execute(update(chunk).where(is_same, chunk.c.quarantined_at.is_(None)).values(quarantined_at=now))


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
