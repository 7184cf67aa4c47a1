"""Promotion: what one cache has is published in another of the same domain, without sending bytes again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.publish import PathBody, PathsAnswer, PathsRequest
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.keys import list_keys
from icehouse.db.paths import ExternalRow, PathRow, find_visible, load_externals, load_paths
from icehouse.errors import Conflict, NotFound, TooLarge
from icehouse.nix.hashes import render_sha256
from icehouse.nix.store_paths import HashPart
from icehouse.rules.audit import Action, Actor
from icehouse.services.audit import record
from icehouse.services.publish import MAX_PATHS, Publisher

_NAMED: Final = 100  # of the paths, in the audit log


@dataclass(frozen=True, slots=True)
class _Closure:
    """What of a closure the other cache lacks."""

    paths: Mapping[HashPart, PathRow]
    externals: Mapping[HashPart, ExternalRow]
    key_names: frozenset[str]
    """Of the cache that it comes from: its signatures mean nothing where it goes."""


class Promotions:
    """Promotes closures. Rights on both caches are checked by who calls (`Access.enter`)."""

    def __init__(self, database: Database, publisher: Publisher, clock: Callable[[], int]) -> None:
        """*clock* gives seconds since the epoch."""
        self._database = database
        self._publisher = publisher
        self._clock = clock

    async def promote(self, cache: CacheRow, source: CacheRow, hash_part: HashPart, actor: Actor) -> PathsAnswer:
        """Publish a path of *source*, with all that it reaches there, in *cache*, signed by the keys of that.

        As with any publish all become visible in one transaction, or none; it checks that *source* still has them.
        Repeating it changes nothing.

        Raises:
            NotFound: *source* has no such visible path.
            Conflict: the caches are of two domains or store directories, or *source* lost a path meanwhile.
            InvalidFormat: the closure needs what no upstream of *cache* has signed.
            TooLarge: more than `MAX_PATHS` are to be promoted at once.
        """
        if cache.domain_id != source.domain_id:
            raise Conflict(
                f"{source.name} and {cache.name} share no chunks: they are of different domains, so push the path to "
                f"{cache.name} instead"
            )
        if cache.store_dir != source.store_dir:
            raise Conflict(f"{source.name} is for {source.store_dir}, and {cache.name} for {cache.store_dir}")
        work = partial(_gather, cache=cache, source=source, hash_part=hash_part)
        closure = await self._database.read(work)
        if not closure.paths:
            return PathsAnswer(published=[], merged=[], refused=[])
        root = closure.paths[hash_part].store_path.base_name
        names = sorted(row.store_path.base_name for row in closure.paths.values())

        def settle(connection: Connection) -> None:
            if len(find_visible(connection, source.id, list(closure.paths))) < len(closure.paths):
                raise Conflict(f"{source.name} lost some of these paths meanwhile; repeat yours")
            facts = {"from": source.name, "promoted": len(names), "paths": names[:_NAMED]}
            record(connection, actor, Action.PATH_PROMOTE, cache.name, root, new=facts, now=self._clock())

        request = PathsRequest(
            [_path_body(row, closure.key_names) for row in closure.paths.values()],
            [_external_body(row) for row in closure.externals.values()],
        )
        return await self._publisher.publish_paths(
            cache, request, token_id=actor.token_id, address=actor.address, settle=settle
        )


def _gather(connection: Connection, *, cache: CacheRow, source: CacheRow, hash_part: HashPart) -> _Closure:
    """What a path of *source* reaches and *cache* lacks; below what *cache* has, it has all."""
    if not find_visible(connection, source.id, [hash_part]):
        raise NotFound(f"cache {source.name!r} has no visible path {hash_part}")
    paths: dict[HashPart, PathRow] = {}
    externals: dict[HashPart, ExternalRow] = {}
    frontier = {hash_part}
    while frontier:
        frontier -= find_visible(connection, cache.id, frontier).keys()
        frontier -= load_externals(connection, cache.id, frontier).keys()
        rows = load_paths(connection, source.id, frontier)
        visible = {part: row for part, row in rows.items() if row.hidden_at is None}
        paths |= visible
        externals |= load_externals(connection, source.id, frontier - visible.keys())
        if len(paths) > MAX_PATHS:
            raise TooLarge(f"more than {MAX_PATHS} paths to promote at once; promote some that it needs before")
        reached = {reference.hash_part for row in visible.values() for reference in row.references}
        frontier = reached - paths.keys() - externals.keys()
    names = frozenset(key.public_key.key_name for key in list_keys(connection, source.id))
    return _Closure(paths, externals, names)


def _path_body(row: PathRow, key_names: frozenset[str]) -> PathBody:
    return PathBody(
        store_path=row.store_path.base_name,
        nar_hash=render_sha256(row.nar_hash),
        nar_size=row.nar_size,
        references=[reference.base_name for reference in row.references],
        deriver=row.deriver,
        system=row.system,
        ca=row.ca,
        signatures=[text for text in row.signatures if text.partition(":")[0] not in key_names],
    )


def _external_body(row: ExternalRow) -> PathBody:
    return PathBody(
        store_path=row.store_path.base_name,
        nar_hash=render_sha256(row.nar_hash),
        nar_size=row.nar_size,
        references=[reference.base_name for reference in row.references],
        signatures=[row.signature],
    )
