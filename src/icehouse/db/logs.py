"""Rows of build logs."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from icehouse.db.schema import build_log


@dataclass(frozen=True, slots=True)
class LogRow:
    """A stored build log."""

    blob_name: bytes
    """BLAKE3 of the object's bytes."""
    stored_bytes: int
    log_bytes: int


def find_log(connection: Connection, cache_id: int, derivation: str) -> LogRow | None:
    """The log of the derivation with this base name, or `None`."""
    row = connection.execute(
        select(build_log.c.blob_name, build_log.c.stored_bytes, build_log.c.log_bytes).where(
            build_log.c.cache_id == cache_id, build_log.c.derivation == derivation
        )
    ).first()
    return None if row is None else LogRow(row.blob_name, row.stored_bytes, row.log_bytes)


def put_log(
    connection: Connection, cache_id: int, derivation: str, log: LogRow, *, now: int, token_id: int | None
) -> None:
    """Keep *log* as that of the derivation, in place of another one. The same one changes nothing."""
    present = find_log(connection, cache_id, derivation)
    if present == log:
        return
    values = {
        "blob_name": log.blob_name,
        "stored_bytes": log.stored_bytes,
        "log_bytes": log.log_bytes,
        "created_at": now,
        "published_by": token_id,
    }
    if present is None:
        connection.execute(insert(build_log).values(cache_id=cache_id, derivation=derivation, **values))
    else:
        same = (build_log.c.cache_id == cache_id) & (build_log.c.derivation == derivation)
        connection.execute(update(build_log).where(same).values(**values))
