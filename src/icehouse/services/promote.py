"""Promotion: what one cache has is published in another, without sending bytes again.

Within a domain no byte moves. Into another domain the server copies what that lacks, as whoever promotes could do by
pulling and pushing: so a domain tells no more than it tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.publish import PathBody, PathsRequest, PromoteAnswer
from icehouse.db.cache_settings import load_required_keys
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.keys import list_keys
from icehouse.db.nars import find_nars, find_unsound
from icehouse.db.paths import ExternalRow, PathRow, find_visible, load_externals, load_paths
from icehouse.errors import Conflict, NotFound, TooLarge
from icehouse.nix.hashes import render_sha256
from icehouse.nix.store_paths import HashPart
from icehouse.rules.audit import Action, Actor
from icehouse.services.audit import record
from icehouse.services.nar_copies import NarCopies
from icehouse.services.publish import MAX_PATHS, Publisher

MAX_COPIED_BYTES: Final = 256 * 1024 * 1024
"""NARs that one request copies to another domain, one in any case: it takes some seconds, and is repeated."""

_NAMED: Final = 100  # of the paths, in the audit log


@dataclass(frozen=True, slots=True)
class _Closure:
    """What of a closure the other cache lacks."""

    paths: Mapping[HashPart, PathRow]
    externals: Mapping[HashPart, ExternalRow]
    key_names: frozenset[str]
    """Of the cache that it comes from: its signatures mean nothing where it goes, unless they are demanded there."""


class Promotions:
    """Promotes closures. Rights on both caches are checked by who calls (`Access.enter`)."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        copies: NarCopies,
        clock: Callable[[], int],
        *,
        max_copied_bytes: int = MAX_COPIED_BYTES,
    ) -> None:
        """*clock* gives seconds since the epoch."""
        self._database = database
        self._publisher = publisher
        self._copies = copies
        self._clock = clock
        self._max_copied_bytes = max_copied_bytes

    async def promote(self, cache: CacheRow, source: CacheRow, hash_part: HashPart, actor: Actor) -> PromoteAnswer:
        """Publish a path of *source*, with all that it reaches there, in *cache*, signed by the keys of that.

        As with any publish all become visible in one transaction, or none; it checks that *source* still has them.
        Repeating it changes nothing, but if there is too much to copy at once: then it copies more.

        Raises:
            NotFound: *source* has no such visible path.
            Conflict: the caches are for two store directories, or *source* lost a path meanwhile or has damage.
            OverQuota: what would be copied does not fit *cache*.
            InvalidFormat: the closure needs what no upstream of *cache* has signed.
            TooLarge: more than `MAX_PATHS` are to be promoted at once.
        """
        if cache.store_dir != source.store_dir:
            raise Conflict(f"{source.name} is for {source.store_dir}, and {cache.name} for {cache.store_dir}")
        work = partial(_gather, cache=cache, source=source, hash_part=hash_part)
        closure = await self._database.read(work)
        if not closure.paths:
            return PromoteAnswer(published=[], merged=[], refused=[])
        if cache.domain_id != source.domain_id and (left := await self._copy(cache, source, closure)):
            return PromoteAnswer(published=[], merged=[], refused=[], left_nars=left)
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
        answer = await self._publisher.publish_paths(
            cache, request, token_id=actor.token_id, address=actor.address, settle=settle
        )
        return PromoteAnswer(published=answer.published, merged=answer.merged, refused=answer.refused)

    async def _copy(self, cache: CacheRow, source: CacheRow, closure: _Closure) -> int:
        """Copy NARs of a closure that the domain of *cache* lacks; how many it lacks still."""
        sizes = {row.nar_hash: row.nar_size for row in closure.paths.values()}
        whole = await self._database.read(partial(_find_whole, domain_id=cache.domain_id, nar_hashes=sizes.keys()))
        lacking = [nar_hash for nar_hash in sizes if nar_hash not in whole]
        copied_bytes = 0
        for count, nar_hash in enumerate(lacking):
            if count and copied_bytes + sizes[nar_hash] > self._max_copied_bytes:
                return len(lacking) - count
            await self._copies.copy(nar_hash, source, cache)
            copied_bytes += sizes[nar_hash]
        return 0


def _find_whole(connection: Connection, domain_id: int, nar_hashes: Collection[bytes]) -> set[bytes]:
    """Those of the NARs that a domain has, with all their chunks."""
    found = find_nars(connection, domain_id, nar_hashes)
    unsound = find_unsound(connection, [row.id for row in found.values()])
    return {nar_hash for nar_hash, row in found.items() if row.id not in unsound}


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
    names = {key.public_key.key_name for key in list_keys(connection, source.id)}
    names -= {key.key_name for key in load_required_keys(connection, cache.id)}
    return _Closure(paths, externals, frozenset(names))


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
