"""Telling who sends a request, and whether they may do what they ask."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from icehouse.db.caches import CacheRow, find_cache
from icehouse.db.engine import Database, database_errors
from icehouse.db.tokens import TokenUse, find_grant_now, find_token, note_uses
from icehouse.errors import Unauthenticated
from icehouse.rules.access import (
    Grant,
    Permission,
    check_access,
    hash_token,
    invalid_credentials,
    no_such_cache,
    parse_authorization,
)

MAX_ACCEPTED: Final = 10_000
"""Tokens of which a process remembers that they were valid."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request says of who sends it."""

    header: str | None = field(default=None, repr=False)
    """``Authorization``, if it has that."""
    address: str | None = None
    """That of `rules.audit.Origin`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A cache, and who may do to it what was asked for."""

    cache: CacheRow
    grant: Grant | None
    """`None`: anyone may, so nobody was asked."""


class Access:
    """Checks credentials against the database each time, so that a revocation holds at once in every process.

    Belongs to one event loop. A token is found by its SHA-256 in an index. That takes no constant time, and need not:
    whoever measures it learns about the hash of what they sent, from which no way leads to a token of another hash.
    """

    def __init__(self, database: Database, *, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock
        self._last_uses: dict[int, TokenUse] = {}
        self._accepted: OrderedDict[bytes, None] = OrderedDict()

    async def identify(self, credential: Credential) -> Grant | None:
        """What *credential* allows; `None`: it has no header.

        Raises:
            Unauthenticated: the credentials are malformed, unknown, expired or revoked.
        """
        token = parse_authorization(credential.header)
        if token is None:
            return None
        token_hash = hash_token(token)
        grant = await self._database.read(lambda connection: self._find_grant(connection, token_hash))
        self._note_use(token_hash, grant, TokenUse(self._clock(), credential.address))
        return grant

    def identify_now(self, reader: sqlite3.Connection, credential: Credential, now: int) -> Grant | None:
        """As `identify`, over a plain connection and at once: one indexed read. Errors of SQLite pass as they are.

        Raises:
            Unauthenticated: the credentials are malformed, unknown, expired or revoked.
        """
        token = parse_authorization(credential.header)
        if token is None:
            return None
        token_hash = hash_token(token)
        grant = find_grant_now(reader, token_hash, now)
        if grant is None:
            raise invalid_credentials()
        self._note_use(token_hash, grant, TokenUse(now, credential.address))
        return grant

    async def enter(self, cache_name: str, permission: Permission, credential: Credential) -> Entry:
        """The cache of that name, if who sends *credential* has *permission* on it.

        Raises:
            Unauthenticated: credentials are needed, and there are no valid ones.
            NotFound: there is no such cache, or this caller may not know of it.
            Denied: the caller knows the cache and lacks the permission.
        """
        token_hash: bytes | None = None
        is_malformed = False
        try:
            token = parse_authorization(credential.header)
            token_hash = None if token is None else hash_token(token)
        except Unauthenticated:
            is_malformed = True

        def work(connection: Connection) -> Entry:
            # The same two look-ups whatever there is, so that the time tells nothing about private caches.
            cache = find_cache(connection, cache_name)
            grant: Grant | None = None
            is_invalid = is_malformed
            if token_hash is not None:
                try:
                    grant = self._find_grant(connection, token_hash)
                except Unauthenticated:
                    is_invalid = True
            check_access(
                grant,
                permission,
                cache_name,
                is_public=None if cache is None else cache.is_public,
                has_invalid_credentials=is_invalid,
            )
            if cache is None:
                raise no_such_cache(cache_name)
            return Entry(cache, grant)

        entry = await self._database.read(work)
        if entry.grant is not None and token_hash is not None:
            self._note_use(token_hash, entry.grant, TokenUse(self._clock(), credential.address))
        return entry

    async def flush(self) -> None:
        """Write when and from where tokens were last used. What could not be written is kept for the next time.

        Raises:
            StorageError: the database could not be written.
        """
        noted, self._last_uses = self._last_uses, {}
        if not noted:
            return
        try:
            await self._database.write(lambda connection: note_uses(connection, noted))
        except BaseException:
            self._last_uses = noted | self._last_uses
            raise

    def note_use(self, grant: Grant, use: TokenUse) -> None:
        """Note that a token was used by way of a session."""
        self._last_uses[grant.token_id] = use

    async def enter_as(self, cache_name: str, permission: Permission, grant: Grant | None) -> Entry:
        """As `enter`, for who was identified already.

        Raises:
            Unauthenticated: credentials are needed, and there are none.
            NotFound: there is no such cache, or this caller may not know of it.
            Denied: the caller knows the cache and lacks the permission.
        """
        cache = await self._database.read(lambda connection: find_cache(connection, cache_name))
        check_access(grant, permission, cache_name, is_public=None if cache is None else cache.is_public)
        if cache is None:
            raise no_such_cache(cache_name)
        return Entry(cache, grant)

    def is_accepted(self, header: str) -> bool:
        """Tell whether the token in an ``Authorization`` header was valid lately, in this process. Asks nobody."""
        try:
            token = parse_authorization(header)
        except Unauthenticated:
            return False
        return token is not None and hash_token(token) in self._accepted

    def _note_use(self, token_hash: bytes, grant: Grant, use: TokenUse) -> None:
        self._last_uses[grant.token_id] = use
        accepted = self._accepted
        accepted[token_hash] = None
        accepted.move_to_end(token_hash)
        if len(accepted) > MAX_ACCEPTED:
            accepted.popitem(last=False)

    def _find_grant(self, connection: Connection, token_hash: bytes) -> Grant:
        row = find_token(connection, token_hash)
        if row is None or not row.is_valid(self._clock()):
            raise invalid_credentials()
        return row.grant()


class HotAccess:
    """The same decision for the hot routes, over one plain connection, in the event loop."""

    def __init__(self, access: Access, reader: sqlite3.Connection, path: Path, *, clock: Callable[[], int]) -> None:
        self._access = access
        self._reader = reader
        self._path = path
        self._clock = clock

    def check_pull(self, header: bytes | None, address: str, cache_name: str, *, has_cache: bool) -> int:
        """The number of the token in the ``Authorization`` header, if it may pull from a cache that is not public.

        Raises:
            Unauthenticated: there are no valid credentials.
            NotFound: there is no such cache, or this caller may not know of it.
        """
        credential = Credential(None if header is None else header.decode("latin-1"), address)
        with database_errors(self._path):
            grant = self._access.identify_now(self._reader, credential, self._clock())
        check_access(grant, Permission.PULL, cache_name, is_public=False if has_cache else None)
        assert grant is not None  # noqa: S101  else there was no access
        return grant.token_id
