"""Finding paths of a cache, and telling what is known of one and what refers to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec
from sqlalchemy import Connection

from icehouse.api.paths import FoundPaths, PathSummary, PathView, SignatureCheck, WhyAnswer
from icehouse.db.access_times import load_uses
from icehouse.db.cache_settings import load_settings
from icehouse.db.caches import CacheRow, list_upstreams
from icehouse.db.engine import Database
from icehouse.db.keys import list_keys
from icehouse.db.path_search import (
    find_by_reference,
    find_by_words,
    find_publishers,
    load_facts,
    page_by_hash,
    page_newest,
    page_published,
    publishers_of,
    refers_to,
)
from icehouse.db.paths import PathRow, load_paths
from icehouse.db.trash import PathFacts, find_facts
from icehouse.errors import InvalidFormat
from icehouse.nix.signing import PathInfo, Signature, fingerprint
from icehouse.nix.store_paths import HashPart
from icehouse.rules.path_queries import MAX_QUERY_LENGTH, PathQuery, has_words, parse_query
from icehouse.services.access_times import AccessTimes
from icehouse.services.serve import MAX_SEARCHED, explain_path, show_path

PATHS_A_PAGE: Final = 100
MAX_PUBLISHERS: Final = 100
"""Tokens with a text in their description whose paths are looked for: those that were made last."""

_ROWS_AT_ONCE: Final = 400
_ROUNDS: Final = 4  # of so many rows, after which a page ends though it is not full
_NEWEST: Final = 2**62
_CURSOR: Final = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?")


class Paths:
    """Finds and shows paths. Rights on the cache are checked by who calls (`Access.enter`)."""

    def __init__(
        self, database: Database, access_database: Database, access_times: AccessTimes, *, clock: Callable[[], int]
    ) -> None:
        """*access_times* are the uses that are not yet in *access_database*; *clock* gives seconds since the epoch."""
        self._database = database
        self._clock = clock
        self._access_database = access_database
        self._access_times = access_times

    async def search(
        self, cache: CacheRow, text: str = "", *, by: str = "", before: str | None = None, with_hidden: bool = False
    ) -> FoundPaths:
        """Paths of the cache, the newest first: all of them, or those that *text* means (`rules.path_queries`).

        With *by* those that a token pushed whose description has that text. *before* is that of the page before.
        A page may have few paths, or none, and others follow, since only so many rows are looked at.

        Raises:
            InvalidFormat: a text is too long, or *before* is none that a page had.
        """
        query = parse_query(text)
        publisher = by.strip()
        if len(publisher) > MAX_QUERY_LENGTH:
            raise InvalidFormat(f"by: {len(publisher)} characters, expected at most {MAX_QUERY_LENGTH}")
        start = _parse_cursor(before)
        work = partial(_search, cache=cache, query=query, by=publisher, start=start, with_hidden=with_hidden)
        return await self._database.read(work)

    async def list_referrers(
        self, cache: CacheRow, hash_part: HashPart, *, before: str | None = None, with_hidden: bool = False
    ) -> FoundPaths:
        """The paths that refer to that one, which need not be there, but for itself; the newest first.

        Raises:
            InvalidFormat: *before* is none that a page had.
        """
        start = _parse_cursor(before)
        work = partial(_list_referrers, cache=cache, hash_part=hash_part, start=start, with_hidden=with_hidden)
        return await self._database.read(work)

    async def show(
        self, cache: CacheRow, hash_part: HashPart, *, with_use: bool = False, with_address: bool = False
    ) -> PathView:
        """The visible path with that hash part, its signatures looked at.

        *with_use*: and when it was last used; *with_address*: and the address that it was published from.

        Raises:
            NotFound: the cache has none; the message says where to ask why.
        """
        view = await show_path(self._database, cache, hash_part, with_address=with_address)
        row, checks = await self._database.read(partial(_check_signatures, cache=cache, hash_part=hash_part))
        used_at = await self._find_last_use(row.id) if with_use and row is not None else None
        return msgspec.structs.replace(view, signature_checks=checks, last_used_at=used_at)

    async def explain(self, cache: CacheRow, hash_part: HashPart, *, max_searched: int = MAX_SEARCHED) -> WhyAnswer:
        """Whether the cache has a path with that hash part, and why: who pushed it, what keeps it, what hid it.

        What pins keep is searched as far as *max_searched* paths.
        """
        now = self._clock()
        return await explain_path(self._database, cache, hash_part, now=now, max_searched=max_searched)

    async def _find_last_use(self, path_id: int) -> int | None:
        noted = await self._access_database.read(partial(load_uses, path_ids=[path_id]))
        times = [await self._access_times.last_use(path_id), *(use.last_used_at for use in noted.values())]
        return max((time for time in times if time is not None), default=None)


def _search(
    connection: Connection,
    *,
    cache: CacheRow,
    query: PathQuery,
    by: str,
    start: tuple[int, int] | None,
    with_hidden: bool,
) -> FoundPaths:
    publishers = find_publishers(connection, cache.id, by, limit=MAX_PUBLISHERS) if by else None
    if query.is_hopeless or publishers == []:
        return FoundPaths(paths=[], before=None)
    if query.hash_part is not None:
        row = find_facts(connection, cache.id, query.hash_part)
        return _answer(connection, cache, _keep([] if row is None else [row], with_hidden=with_hidden), None)
    if not query.words and publishers is None:
        return _list_newest(connection, cache=cache, start=start, with_hidden=with_hidden)
    find = partial(find_by_words, connection, cache.id, query.words)
    if publishers is not None:
        pushed = partial(page_published, connection, cache.id, publishers)
        # Of the two the one that gives less is asked.
        if not query.words or len(pushed(before=_NEWEST, limit=_ROWS_AT_ONCE)) < _ROWS_AT_ONCE:
            find = pushed

    def is_wanted(rows: Sequence[PathFacts]) -> list[PathFacts]:
        named = [row for row in rows if has_words(row.store_path.name, query.words)]
        if publishers is None:
            return named
        tokens = publishers_of(connection, [row.id for row in named])
        return [row for row in named if tokens[row.id] in publishers]

    found = _find_rows(connection, cache, find, is_wanted, start=start, with_hidden=with_hidden)
    if not found.paths and found.before is None and start is None and query.hash_beginning is not None and not by:
        rows = page_by_hash(connection, cache.id, query.hash_beginning, limit=PATHS_A_PAGE)
        return _answer(connection, cache, _keep(rows, with_hidden=with_hidden), None)
    return found


def _list_newest(
    connection: Connection, *, cache: CacheRow, start: tuple[int, int] | None, with_hidden: bool
) -> FoundPaths:
    found: list[PathFacts] = []
    before = start
    for _ in range(_ROUNDS):
        rows = page_newest(connection, cache.id, before=before, limit=_ROWS_AT_ONCE)
        found += _keep(rows, with_hidden=with_hidden)
        if len(found) > PATHS_A_PAGE:
            last = found[PATHS_A_PAGE - 1]
            return _answer(connection, cache, found[:PATHS_A_PAGE], f"{last.generation}.{last.id}")
        if len(rows) < _ROWS_AT_ONCE:
            return _answer(connection, cache, found, None)
        before = rows[-1].generation, rows[-1].id
    return _answer(connection, cache, found, None if before is None else f"{before[0]}.{before[1]}")


def _list_referrers(
    connection: Connection, *, cache: CacheRow, hash_part: HashPart, start: tuple[int, int] | None, with_hidden: bool
) -> FoundPaths:
    def is_wanted(rows: Sequence[PathFacts]) -> list[PathFacts]:
        ids = refers_to(connection, [row.id for row in rows], hash_part)
        return [row for row in rows if row.id in ids]

    find = partial(find_by_reference, connection, cache.id, hash_part)
    return _find_rows(connection, cache, find, is_wanted, start=start, with_hidden=with_hidden)


def _find_rows(
    connection: Connection,
    cache: CacheRow,
    find: Callable[..., list[int]],
    is_wanted: Callable[[Sequence[PathFacts]], list[PathFacts]],
    *,
    start: tuple[int, int] | None,
    with_hidden: bool,
) -> FoundPaths:
    """A page of what *find* gives and *is_wanted* keeps."""
    found: list[PathFacts] = []
    before = _NEWEST if start is None else start[0]
    for _ in range(_ROUNDS):
        ids = find(before=before, limit=_ROWS_AT_ONCE)
        found += _keep(is_wanted(load_facts(connection, cache.id, ids)), with_hidden=with_hidden)
        if len(found) > PATHS_A_PAGE:
            return _answer(connection, cache, found[:PATHS_A_PAGE], str(found[PATHS_A_PAGE - 1].id))
        if len(ids) < _ROWS_AT_ONCE:
            return _answer(connection, cache, found, None)
        before = ids[-1]
    return _answer(connection, cache, found, str(before))


def _keep(rows: Sequence[PathFacts], *, with_hidden: bool) -> list[PathFacts]:
    return [row for row in rows if with_hidden or row.hidden_at is None]


def _answer(connection: Connection, cache: CacheRow, rows: Sequence[PathFacts], before: str | None) -> FoundPaths:
    trash_seconds = load_settings(connection, cache.id)[0].trash_seconds
    return FoundPaths(paths=[summarise(row, trash_seconds) for row in rows], before=before)


def summarise(row: PathFacts, trash_seconds: int) -> PathSummary:
    """A path as lists have it."""
    return PathSummary(
        store_path=row.store_path.base_name,
        nar_size=row.nar_size,
        created_at=row.created_at,
        hidden_at=row.hidden_at,
        hidden_because=row.hidden_because,
        restorable_until=None if row.hidden_at is None else row.hidden_at + trash_seconds,
        published_by=row.published_by,
    )


def _parse_cursor(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidFormat("before: expected what the page before gave")
    return int(match[1]), int(match[2] or 0)


def _check_signatures(
    connection: Connection, *, cache: CacheRow, hash_part: HashPart
) -> tuple[PathRow | None, list[SignatureCheck]]:
    row = load_paths(connection, cache.id, [hash_part]).get(hash_part)
    if row is None:
        return None, []
    text = fingerprint(PathInfo(row.store_path, row.nar_hash, row.nar_size, row.references), cache.store_dir)
    own = [each.public_key for each in list_keys(connection, cache.id)]
    foreign = [key for upstream in list_upstreams(connection, cache.id) for key in upstream.public_keys]
    checks: list[SignatureCheck] = []
    for signature in map(Signature.parse, row.signatures):
        name = signature.key_name
        is_own = any(key.key_name == name for key in own)
        keys = [key for key in (own if is_own else foreign) if key.key_name == name]
        is_valid = any(key.verify(text, signature) for key in keys)
        checks.append(
            SignatureCheck(
                key=name,
                verdict="unknown-key" if not keys else "valid" if is_valid else "wrong",
                whose=None if not keys else "cache" if is_own else "upstream",
            )
        )
    return row, checks
