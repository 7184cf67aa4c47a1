"""Telling what a cache has, and why it does not have something."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from sqlalchemy import Connection

from icehouse.api.paths import PathView, WhyAnswer
from icehouse.db.caches import CacheRow, list_upstreams
from icehouse.db.engine import Database
from icehouse.db.paths import ExternalRow, load_externals, load_paths
from icehouse.db.tokens import get_token
from icehouse.errors import NotFound
from icehouse.nix import nix32
from icehouse.nix.hashes import render_sha256
from icehouse.nix.store_paths import HashPart


async def show_path(database: Database, cache: CacheRow, hash_part: HashPart) -> PathView:
    """The visible path with that hash part.

    Raises:
        NotFound: the cache has none; the message says where to ask why.
    """
    return await database.read(partial(_show_path, cache=cache, hash_part=hash_part))


async def explain_path(database: Database, cache: CacheRow, hash_part: HashPart) -> WhyAnswer:
    """Whether the cache has a path with that hash part, and if not, why."""
    return await database.read(partial(_explain_path, cache=cache, hash_part=hash_part))


def _show_path(connection: Connection, *, cache: CacheRow, hash_part: HashPart) -> PathView:
    row = load_paths(connection, cache.id, [hash_part]).get(hash_part)
    if row is None or row.hidden_at is not None:
        raise NotFound(
            f"cache {cache.name!r} has no visible path {hash_part}; "
            f"GET /api/v1/caches/{cache.name}/why/{hash_part} tells why"
        )
    return PathView(
        store_path=row.store_path.base_name,
        nar_hash=render_sha256(row.nar_hash),
        nar_size=row.nar_size,
        file_hash=f"sha256:{row.file_hash}",
        file_size=row.file_size,
        url=f"nar/{nix32.encode(row.nar_hash)}.nar.zst",
        references=[reference.base_name for reference in row.references],
        deriver=row.deriver,
        system=row.system,
        ca=row.ca,
        signatures=list(row.signatures),
        created_at=row.created_at,
        published_by=None if row.published_by is None else get_token(connection, row.published_by).description,
    )


def _explain_path(connection: Connection, *, cache: CacheRow, hash_part: HashPart) -> WhyAnswer:
    row = load_paths(connection, cache.id, [hash_part]).get(hash_part)
    if row is not None and row.hidden_at is None:
        return WhyAnswer(
            hash_part=hash_part,
            state="visible",
            explanation=(
                f"{row.store_path} is here since {_render_time(row.created_at)}. A client that does not find it may "
                "remember an earlier answer: Nix does so for an hour, unless --refresh is given."
            ),
            since=row.created_at,
        )
    external = load_externals(connection, cache.id, [hash_part]).get(hash_part)
    if external is not None:
        return _explain_external(connection, cache, external)
    if row is not None and row.hidden_at is not None:
        return WhyAnswer(
            hash_part=hash_part,
            state="hidden",
            explanation=(
                f"{row.store_path} was moved to the trash on {_render_time(row.hidden_at)}. Until it is purged, it can "
                "be restored, and a push of it or of a path that refers to it restores it too."
            ),
            since=row.hidden_at,
        )
    return WhyAnswer(
        hash_part=hash_part,
        state="never-pushed",
        explanation=f"Nothing with the hash part {hash_part} was pushed to {cache.name}, or it was purged since.",
    )


def _explain_external(connection: Connection, cache: CacheRow, external: ExternalRow) -> WhyAnswer:
    url = next((row.url for row in list_upstreams(connection, cache.id) if row.id == external.upstream_id), None)
    return WhyAnswer(
        hash_part=external.store_path.hash_part,
        state="external",
        explanation=(
            f"{external.store_path} was not uploaded, because the upstream {url} has it: its signature came with a "
            "path that refers to it. Clients need that upstream among their substituters."
        ),
        upstream=url,
    )


def _render_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
