"""Taking and giving the realisations of content-addressed derivations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.paths import load_paths
from icehouse.db.realisations import RealisationRow, find_realisation, insert_realisation, replace_realisation
from icehouse.errors import Conflict, NotFound
from icehouse.nix.realisation import (
    Realisation,
    RealisationName,
    derive_build_trace,
    merge_realisations,
    parse_realisation,
    render_realisation,
)


class Realisations:
    """The realisations of all caches. Rights are checked by who calls (`Access.enter`)."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        """Join the parts. *clock* gives seconds since the epoch."""
        self._database = database
        self._clock = clock

    async def get_realisation(self, cache: CacheRow, name: RealisationName) -> bytes:
        """The file as it was uploaded.

        Raises:
            NotFound: the cache has none of that name.
        """
        row = await self._database.read(
            partial(find_realisation, cache_id=cache.id, file_name=name.file_name),
        )
        if row is None:
            raise NotFound(f"there is no {name.file_name} in this cache")
        return row.body

    async def put_realisation(self, cache: CacheRow, name: RealisationName, body: bytes, *, token_id: int) -> None:
        """Keep an upload, or add its signatures to what is there. Repeating it changes nothing.

        An upload by hash also gives the entry by derivation where it follows (`derive_build_trace`), until that is
        uploaded itself.

        Raises:
            InvalidFormat: the file is malformed, or not that of its name.
            TooLarge: a limit is exceeded.
            Conflict: the cache has this realisation with another output path.
            NotFound: the cache was deleted meanwhile.
        """
        offered = parse_realisation(body, name)
        now = self._clock()

        def work(connection: Connection) -> None:
            get_cache(connection, cache.name)
            _put(connection, cache, name, RealisationRow(body, token_id), offered, now=now)
            if name.id is not None:
                _derive(connection, cache, name, offered, now=now)

        await self._database.write(work)


def _put(
    connection: Connection,
    cache: CacheRow,
    name: RealisationName,
    row: RealisationRow,
    offered: Realisation,
    *,
    now: int,
) -> None:
    known = find_realisation(connection, cache.id, name.file_name)
    if known is None:
        insert_realisation(connection, cache.id, name.file_name, row, now=now)
        return
    if known.published_by is None:  # Derived: what somebody says of the derivation itself is worth more.
        replace_realisation(connection, cache.id, name.file_name, row, now=now)
        return
    present = parse_realisation(known.body, name)
    if present.out_path != offered.out_path:
        raise Conflict(
            f"{name.file_name} is {present.out_path} in this cache, and {offered.out_path} in this upload; "
            "nothing was changed"
        )
    merged = merge_realisations(present, offered)
    if merged.signatures != present.signatures:
        changed = RealisationRow(render_realisation(merged), known.published_by)
        replace_realisation(connection, cache.id, name.file_name, changed, now=now)


def _derive(connection: Connection, cache: CacheRow, name: RealisationName, offered: Realisation, *, now: int) -> None:
    path = load_paths(connection, cache.id, [offered.out_path.hash_part]).get(offered.out_path.hash_part)
    if path is None or path.hidden_at is not None or path.store_path != offered.out_path:
        return
    if path.ca is None or path.deriver is None:
        return
    derived = derive_build_trace(name, offered.out_path, path.deriver)
    if derived is None:
        return
    derived_name, body = derived
    if find_realisation(connection, cache.id, derived_name.file_name) is None:
        insert_realisation(connection, cache.id, derived_name.file_name, RealisationRow(body, None), now=now)
