"""Logging into the web page, and out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from sqlalchemy import Connection

from icehouse.db.engine import Database
from icehouse.db.people import PersonRow, put_person
from icehouse.db.sessions import (
    SessionRow,
    delete_session,
    find_session,
    insert_session,
    note_session_uses,
    purge_sessions,
)
from icehouse.db.tokens import (
    TokenRow,
    TokenUse,
    find_token,
    insert_token,
    list_tokens_of_person,
    revoke_logins,
    revoke_token,
)
from icehouse.errors import Denied, InvalidFormat
from icehouse.rules.access import (
    TOKEN_RANDOM_BYTES,
    Grant,
    Scope,
    fits_scope,
    hash_token,
    invalid_credentials,
    make_token,
    parse_token,
)
from icehouse.rules.audit import Action, Actor, Origin
from icehouse.rules.people import Person
from icehouse.rules.sessions import (
    IDLE_SECONDS,
    LIFETIME_SECONDS,
    SECRET_BYTES,
    SessionSecret,
    hash_secret,
    make_form_key,
    make_secret,
)
from icehouse.services.access import Access
from icehouse.services.audit import record
from icehouse.services.tokens import audited

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in."""

    id: int
    grant: Grant
    """What they may do now."""
    form_key: str = field(repr=False)
    """What their forms must hold."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that has just begun."""

    secret: SessionSecret = field(repr=False)
    """For the browser's cookie. It is kept nowhere else."""
    expires_at: int


class Sessions:
    """Sessions live in the database and are looked up for each request: their end holds at once in every process.

    A session acts by a token, and is over when that is revoked or expires. Belongs to one event loop.
    """

    def __init__(
        self, database: Database, access: Access, *, clock: Callable[[], int], draw: Callable[[int], bytes]
    ) -> None:
        """*draw* gives so many random bytes, fit for secrets."""
        self._database = database
        self._access = access
        self._clock = clock
        self._draw = draw
        self._last_uses: dict[int, int] = {}

    async def find(self, secret: SessionSecret, address: str | None) -> Session | None:
        """The session that a browser at *address* has the secret of; `None`: there is none, or it is over."""
        secret_hash = hash_secret(secret)
        row = await self._database.read(lambda connection: find_session(connection, secret_hash))
        now = self._clock()
        if row is None or not self._is_alive(row, now):
            return None
        self._last_uses[row.id] = now
        grant = row.token.grant()
        self._access.note_use(grant, TokenUse(now, address))
        return Session(row.id, grant, make_form_key(secret))

    async def find_grant(self, secret: SessionSecret) -> Grant | None:
        """What the session's holder may do now; `None`: it is over. This is no use of it: nobody asked for anything."""
        secret_hash = hash_secret(secret)
        row = await self._database.read(lambda connection: find_session(connection, secret_hash))
        return None if row is None or not self._is_alive(row, self._clock()) else row.token.grant()

    async def log_in(self, token_text: str, origin: Origin, *, before: SessionSecret | None) -> Begun:
        """Begin a session that acts by a token. The one that the browser had before, if any, ends.

        Raises:
            Unauthenticated: the token is malformed, unknown, expired or revoked.
        """
        try:
            token_hash = hash_token(parse_token(token_text.strip()))
        except InvalidFormat:
            raise invalid_credentials() from None
        secret = make_secret(self._draw(SECRET_BYTES))
        now = self._clock()

        def work(connection: Connection) -> Begun:
            row = find_token(connection, token_hash)
            if row is None or not row.is_valid(now):
                raise invalid_credentials()
            last = now + LIFETIME_SECONDS
            begun = Begun(secret, last if row.expires_at is None else min(last, row.expires_at))
            _begin(connection, row, begun, before, now=now)
            record(connection, origin.actor(row.grant()), Action.SESSION_LOGIN, row.cache_pattern, now=now)
            return begun

        return await self._database.write(work)

    async def log_in_person(
        self, person: Person, scopes: Sequence[Scope], origin: Origin, *, before: SessionSecret | None
    ) -> Begun:
        """Begin a session of somebody whom their provider vouches for. The one that the browser had before ends.

        Their tokens that allow more than they may do now are revoked, and without any role their sessions end too.

        Raises:
            Denied: they have no role.
        """
        secret = make_secret(self._draw(SECRET_BYTES))
        token_hash = hash_token(make_token(self._draw(TOKEN_RANDOM_BYTES)))  # Nobody gets the token itself.
        now = self._clock()

        def work(connection: Connection) -> Begun | None:
            row = put_person(connection, person, now=now)
            _revoke_excess(connection, row, scopes, origin, now=now)
            if not scopes:
                revoke_logins(connection, row.id, now=now)
                return None
            first, *others = scopes
            token = insert_token(
                connection,
                token_hash,
                description=person.name,
                permissions=first.permissions,
                cache_pattern=first.cache_pattern,
                created_by=None,
                expires_at=now + LIFETIME_SECONDS,
                now=now,
                person_id=row.id,
                is_login=True,
                others=others,
            )
            begun = Begun(secret, now + LIFETIME_SECONDS)
            _begin(connection, token, begun, before, now=now)
            new = {"issuer": person.issuer, "subject": person.subject, "email": person.email}
            record(connection, origin.actor(token.grant()), Action.SESSION_LOGIN, "*", str(row.id), new=new, now=now)
            return begun

        begun = await self._database.write(work)
        if begun is None:
            raise Denied("you are known, but none of your groups may do anything here; ask who administers this server")
        return begun

    async def log_out(self, session: Session, origin: Origin) -> None:
        """End a session, at once and everywhere."""
        now = self._clock()

        def work(connection: Connection) -> None:
            delete_session(connection, session.id)
            actor = origin.actor(session.grant)
            pattern = session.grant.cache_pattern if session.grant.person_id is None else "*"
            record(connection, actor, Action.SESSION_LOGOUT, pattern, now=now)

        await self._database.write(work)
        self._last_uses.pop(session.id, None)

    async def flush(self) -> None:
        """Write when sessions were last used. What could not be written is kept for the next time.

        Raises:
            StorageError: the database could not be written.
        """
        noted, self._last_uses = self._last_uses, {}
        if not noted:
            return
        try:
            await self._database.write(lambda connection: note_session_uses(connection, noted))
        except BaseException:
            self._last_uses = noted | self._last_uses
            raise

    def _is_alive(self, row: SessionRow, now: int) -> bool:
        # What this process knows of uses may not be in the database yet.
        last_used_at = max(row.last_used_at, self._last_uses.get(row.id, 0))
        return row.token.is_valid(now) and now < row.expires_at and now - last_used_at < IDLE_SECONDS


def _begin(connection: Connection, token: TokenRow, begun: Begun, before: SessionSecret | None, *, now: int) -> None:
    purge_sessions(connection, idle_since=now - IDLE_SECONDS, now=now)
    if before is not None:
        earlier = find_session(connection, hash_secret(before))
        if earlier is not None:
            delete_session(connection, earlier.id)
    insert_session(connection, hash_secret(begun.secret), token.id, expires_at=begun.expires_at, now=now)


def _revoke_excess(
    connection: Connection, person: PersonRow, scopes: Sequence[Scope], origin: Origin, *, now: int
) -> None:
    """Revoke what a person made for themselves when they might do more than now."""
    for row in list_tokens_of_person(connection, person.id):
        if row.is_valid(now) and not any(fits_scope(scope, row.permissions, row.cache_pattern) for scope in scopes):
            revoke_token(connection, row.id, now=now)
            actor = Actor(person.person.name, None, origin.address, origin.request_id)
            record(connection, actor, Action.TOKEN_REVOKE, row.cache_pattern, str(row.id), old=audited(row), now=now)
