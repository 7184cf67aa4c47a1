"""Rows of paths and of external references."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, insert, select, update

from icehouse.db.nars import find_unsound
from icehouse.db.schema import external, path
from icehouse.nix import nix32
from icehouse.nix.hashes import parse_sha256
from icehouse.nix.store_paths import HashPart, StorePath
from icehouse.rules.verification import DAMAGED

_BATCH: Final = 1000  # values in one IN list


@dataclass(frozen=True, slots=True)
class PathRow:
    """A path of a cache, visible or hidden."""

    id: int
    store_path: StorePath
    nar_hash: bytes
    nar_size: int
    file_hash: str
    """52 letters of Nix32."""
    file_size: int
    references: tuple[StorePath, ...]
    deriver: str | None
    system: str | None
    ca: str | None
    signatures: tuple[str, ...]
    created_at: int
    hidden_at: int | None
    published_by: int | None
    published_from: str | None = None
    """The address that it came from; `None`: not known."""


@dataclass(frozen=True, slots=True)
class ExternalRow:
    """A reference that an upstream has."""

    store_path: StorePath
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...]
    signature: str
    upstream_id: int


def find_visible(connection: Connection, cache_id: int, hash_parts: Collection[HashPart]) -> dict[HashPart, int]:
    """Those of *hash_parts* that are visible in the cache, with the ids of their paths."""
    return {
        row.hash_part: row.id
        for batch in _batches(list(hash_parts))
        for row in connection.execute(
            select(path.c.hash_part, path.c.id).where(
                path.c.cache_id == cache_id, path.c.hash_part.in_(batch), path.c.hidden_at.is_(None)
            )
        )
    }


def load_paths(connection: Connection, cache_id: int, hash_parts: Collection[HashPart]) -> dict[HashPart, PathRow]:
    """The rows of those of *hash_parts* that the cache has, visible or hidden."""
    found: dict[HashPart, PathRow] = {}
    for batch in _batches(list(hash_parts)):
        for row in connection.execute(select(path).where(path.c.cache_id == cache_id, path.c.hash_part.in_(batch))):
            found[row.hash_part] = PathRow(
                id=row.id,
                store_path=StorePath(row.hash_part, row.name),
                nar_hash=parse_sha256(f"sha256:{row.nar_hash}"),
                nar_size=row.nar_size,
                file_hash=row.file_hash,
                file_size=row.file_size,
                references=parse_references(row.references),
                deriver=row.deriver,
                system=row.system,
                ca=row.ca,
                signatures=tuple(row.signatures.split()),
                created_at=row.created_at,
                hidden_at=row.hidden_at,
                published_by=row.published_by,
                published_from=row.published_from,
            )
    return found


def find_names(connection: Connection, cache_id: int, hash_parts: Collection[HashPart]) -> dict[HashPart, StorePath]:
    """Those of *hash_parts* that are visible in the cache, with their names."""
    return {
        row.hash_part: StorePath(row.hash_part, row.name)
        for batch in _batches(list(hash_parts))
        for row in connection.execute(
            select(path.c.hash_part, path.c.name).where(
                path.c.cache_id == cache_id, path.c.hash_part.in_(batch), path.c.hidden_at.is_(None)
            )
        )
    }


def find_barred(connection: Connection, cache_id: int, hash_parts: Collection[HashPart]) -> set[HashPart]:
    """Those of *hash_parts* that damage hid, or hit while they were hidden for another reason, and those revoked.

    They come back when it is mended or undone, or by a push of their own, and by nothing else.
    """
    is_damaged = path.c.hidden_because.startswith(DAMAGED, autoescape=True)
    is_barred = is_damaged | path.c.revocation_id.is_not(None)
    rows = [
        row
        for batch in _batches(list(hash_parts))
        for row in connection.execute(
            select(path.c.hash_part, path.c.nar_id, is_barred.label("is_hit")).where(
                path.c.cache_id == cache_id, path.c.hash_part.in_(batch), path.c.hidden_at.is_not(None)
            )
        )
    ]
    unsound = find_unsound(connection, {row.nar_id for row in rows})
    return {row.hash_part for row in rows if row.is_hit or row.nar_id in unsound}


def find_restorable(
    connection: Connection,
    cache_id: int,
    hash_parts: Collection[HashPart],
    *,
    is_welcome: Callable[[PathRow], bool] | None = None,
) -> dict[HashPart, PathRow]:
    """Those of *hash_parts* that are hidden and can come back, with all hidden paths that must come back with them.

    One can if all that it reaches is in the cache, visible or hidden, or external, and none of it damaged or revoked.
    With *is_welcome*, all that comes back must be so.
    """
    found: dict[HashPart, PathRow] = {}
    absent: set[HashPart] = set()
    frontier = set(hash_parts)
    while frontier:
        rows = load_paths(connection, cache_id, frontier)
        hidden = {hash_part: row for hash_part, row in rows.items() if row.hidden_at is not None}
        barred = find_barred(connection, cache_id, hidden.keys())
        if is_welcome is not None:
            barred |= {hash_part for hash_part, row in hidden.items() if not is_welcome(row)}
        for hash_part in barred:
            hidden.pop(hash_part, None)
        absent |= barred | frontier - rows.keys() - load_externals(connection, cache_id, frontier - rows.keys()).keys()
        found |= hidden
        reached = {reference.hash_part for row in hidden.values() for reference in row.references}
        frontier = reached - found.keys() - absent
        frontier -= find_visible(connection, cache_id, frontier).keys()
    lost = True
    while lost:
        lost = {
            hash_part
            for hash_part, row in found.items()
            if any(reference.hash_part in absent for reference in row.references)
        }
        absent |= lost
        for hash_part in lost:
            del found[hash_part]
    return found


def restore_paths(connection: Connection, path_ids: Sequence[int], *, generation: int) -> None:
    """Make hidden paths visible again, as they were."""
    for start in range(0, len(path_ids), _BATCH):
        batch = path_ids[start : start + _BATCH]
        values = {"hidden_at": None, "hidden_because": None, "generation": generation}
        connection.execute(update(path).where(path.c.id.in_(batch)).values(**values))


def put_paths(connection: Connection, cache_id: int, rows: Sequence[tuple[int, PathRow]], *, generation: int) -> None:
    """Make paths visible, each given with the id of its NAR.

    A hidden one of the same hash part becomes the new one. `PathRow.id` is not looked at.
    """
    hidden: set[HashPart] = set()
    for batch in _batches([row.store_path.hash_part for _, row in rows]):
        same = (path.c.cache_id == cache_id) & path.c.hash_part.in_(batch)
        hidden.update(connection.execute(select(path.c.hash_part).where(same)).scalars())
    new: list[dict[str, object]] = []
    for nar_id, row in rows:
        hash_part = row.store_path.hash_part
        values = {**_values(nar_id, row), "generation": generation}
        if hash_part in hidden:
            same = (path.c.cache_id == cache_id) & (path.c.hash_part == hash_part)
            connection.execute(update(path).where(same).values(**values))
        else:
            new.append({**values, "cache_id": cache_id, "hash_part": hash_part})
    if new:  # In one go: a statement of its own for each costs half a millisecond.
        connection.execute(insert(path), new)


def _values(nar_id: int, row: PathRow) -> dict[str, object]:
    return {
        "nar_id": nar_id,
        "name": row.store_path.name,
        "nar_hash": nix32.encode(row.nar_hash),
        "nar_size": row.nar_size,
        "file_hash": row.file_hash,
        "file_size": row.file_size,
        "references": render_references(row.references),
        "deriver": row.deriver,
        "system": row.system,
        "ca": row.ca,
        "signatures": " ".join(row.signatures),
        "created_at": row.created_at,
        "hidden_at": None,
        "hidden_because": None,
        "published_by": row.published_by,
        "published_from": row.published_from,
        "revocation_id": None,
    }


def set_signatures(connection: Connection, path_id: int, signatures: Sequence[str]) -> None:
    """Replace the signatures of a path."""
    connection.execute(update(path).where(path.c.id == path_id).values(signatures=" ".join(signatures)))


def load_externals(
    connection: Connection, cache_id: int, hash_parts: Collection[HashPart]
) -> dict[HashPart, ExternalRow]:
    """The external rows of those of *hash_parts* that the cache has."""
    found: dict[HashPart, ExternalRow] = {}
    for batch in _batches(list(hash_parts)):
        rows = connection.execute(
            select(external).where(external.c.cache_id == cache_id, external.c.hash_part.in_(batch))
        )
        for row in rows:
            found[row.hash_part] = ExternalRow(
                store_path=StorePath(row.hash_part, row.name),
                nar_hash=row.nar_hash,
                nar_size=row.nar_size,
                references=parse_references(row.references),
                signature=row.signature,
                upstream_id=row.upstream_id,
            )
    return found


def add_external(connection: Connection, cache_id: int, row: ExternalRow, *, now: int) -> None:
    """Add an external reference that the cache does not have yet."""
    connection.execute(
        insert(external).values(
            cache_id=cache_id,
            hash_part=row.store_path.hash_part,
            name=row.store_path.name,
            nar_hash=row.nar_hash,
            nar_size=row.nar_size,
            references=render_references(row.references),
            signature=row.signature,
            upstream_id=row.upstream_id,
            created_at=now,
        )
    )


def parse_references(text: str) -> tuple[StorePath, ...]:
    """References as a column holds them."""
    return tuple(StorePath.parse(base_name) for base_name in text.split())


def render_references(references: Sequence[StorePath]) -> str:
    """The inverse of `parse_references`."""
    return " ".join(reference.base_name for reference in references)


def _batches(values: Sequence[HashPart]) -> Iterator[Sequence[HashPart]]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
