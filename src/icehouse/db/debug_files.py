"""Rows of debug files: which NARs have one for a build id."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from icehouse.db.schema import debug_file, nar, path
from icehouse.nix.store_paths import HashPart


@dataclass(frozen=True, slots=True)
class DebugFilePlace:
    """Where a debug file is."""

    hash_part: HashPart
    nar_hash: bytes


def put_debug_files(connection: Connection, nar_id: int, build_ids: Sequence[bytes]) -> None:
    """Note the build ids of all debug files in a NAR.

    What a NAR contains does not change, so one whose build ids were noted before is left as it is.
    """
    if not build_ids:
        return
    if connection.execute(select(debug_file.c.nar_id).where(debug_file.c.nar_id == nar_id).limit(1)).first() is None:
        connection.execute(insert(debug_file), [{"build_id": one, "nar_id": nar_id} for one in build_ids])


def find_debug_file(connection: Connection, cache_id: int, build_id: bytes) -> DebugFilePlace | None:
    """The visible path of the cache that has the debug file of *build_id*; of several, the oldest one."""
    row = connection.execute(
        select(path.c.hash_part, nar.c.nar_hash)
        .join(nar, nar.c.id == path.c.nar_id)
        .join(debug_file, debug_file.c.nar_id == nar.c.id)
        .where(debug_file.c.build_id == build_id, path.c.cache_id == cache_id, path.c.hidden_at.is_(None))
        .order_by(path.c.id)
        .limit(1)
    ).first()
    return None if row is None else DebugFilePlace(row.hash_part, row.nar_hash)
