"""Making, listing and revoking tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.tokens import TokenCreate, TokenCreated, TokenPage, TokenView
from icehouse.db.engine import Database
from icehouse.db.tokens import (
    TokenRow,
    find_descriptions,
    get_token,
    insert_token,
    list_tokens,
    list_tokens_of_person,
    no_such_token,
    page_tokens,
    revoke_token,
)
from icehouse.errors import InvalidFormat, Unauthenticated
from icehouse.nix.excerpts import excerpt
from icehouse.rules.access import (
    TOKEN_RANDOM_BYTES,
    Grant,
    Permission,
    check_may_administer_tokens,
    check_may_create_own_token,
    check_may_create_token,
    hash_token,
    invalid_credentials,
    make_token,
    may_see_token,
    parse_cache_name,
    parse_cache_pattern,
)
from icehouse.rules.audit import ON_SERVER, Action, Actor
from icehouse.rules.token_filter import TokenFilter
from icehouse.services.audit import record

MAX_DESCRIPTION_LENGTH: Final = 200
MAX_TOKENS_A_PAGE: Final = 1_000
MAX_LIFETIME_SECONDS: Final = 100 * 365 * 86_400
MAX_OWN_LIFETIME_SECONDS: Final = 366 * 86_400
"""Of what people make for themselves: who left does not log in again, which would revoke it."""


class Tokens:
    """Administers tokens.

    Callers over the network bring a grant, and none means nobody. Methods named `…_on_server` are for people on the
    server's machine, who have the data folder and may do all.
    """

    def __init__(self, database: Database, *, clock: Callable[[], int], draw: Callable[[int], bytes]) -> None:
        """*draw* gives so many random bytes, fit for secrets."""
        self._database = database
        self._clock = clock
        self._draw = draw

    async def create_token(self, request: TokenCreate, grant: Grant | None, actor: Actor) -> TokenCreated:
        """Make a token no stronger than *grant*. The answer alone holds its secret.

        Raises:
            InvalidFormat: the description, pattern, permissions or lifetime is not valid.
            Unauthenticated: there are no credentials, or no longer.
            Denied: *grant* lacks the permission admin, or the new token would be stronger.
        """
        administrator = check_may_administer_tokens(grant)
        return await self._create(request, administrator, actor)

    async def create_token_on_server(self, request: TokenCreate) -> TokenCreated:
        """Make any token.

        Raises:
            InvalidFormat: the description, pattern, permissions or lifetime is not valid.
        """
        return await self._create(request, None, ON_SERVER)

    async def create_own_token(self, request: TokenCreate, grant: Grant, actor: Actor) -> TokenCreated:
        """Make a token for a person whom a provider knows, within one of their roles; for others, as `create_token`.

        Raises:
            InvalidFormat: the description, pattern, permissions or lifetime is not valid.
            Unauthenticated: the grant has ended.
            Denied: the new token would be stronger, or *grant* lacks the permission admin.
        """
        if grant.person_id is None:
            return await self.create_token(request, grant, actor)
        return await self._create(request, grant, actor, is_own=True)

    async def list_own_tokens(self, grant: Grant) -> list[TokenView]:
        """The tokens of a person; of others, their own and those that it made. Ended ones too, oldest first."""
        return [view for _, view in _views(await self._database.read(partial(_list_own, grant=grant)))]

    async def revoke_listed_token(self, token_id: int, grant: Grant, actor: Actor) -> None:
        """Make one of `list_own_tokens` or `page_tokens` invalid at once; one that is so already stays so.

        Raises:
            NotFound: there is no such token.
        """
        now = self._clock()

        def work(connection: Connection) -> None:
            row = next((row for row in _list_own(connection, grant) if row.id == token_id), None)
            if row is None:
                row = get_token(connection, token_id)
                if not grant.administers(row.cache_pattern):
                    raise no_such_token(token_id)
            _revoke(connection, row, actor, now=now)

        await self._database.write(work)

    async def list_tokens(self, grant: Grant | None) -> list[TokenView]:
        """The tokens whose pattern reaches no further than the caller's, revoked and expired ones too, oldest first.

        Raises:
            Unauthenticated: there are no credentials.
            Denied: *grant* lacks the permission admin.
        """
        administrator = check_may_administer_tokens(grant)
        rows = await self._database.read(list_tokens)
        return [view for row, view in _views(rows) if may_see_token(administrator, row.grant())]

    async def page_tokens(self, wanted: TokenFilter, grant: Grant | None, *, limit: int) -> TokenPage:
        """The newest of the tokens of `list_tokens` that are wanted, the newest first.

        Raises:
            InvalidFormat: the filter makes no sense.
            Unauthenticated: there are no credentials.
            Denied: *grant* lacks the permission admin.
        """
        administrator = check_may_administer_tokens(grant)
        _check(wanted, limit)
        now = self._clock()

        def work(connection: Connection) -> TokenPage:
            reach = administrator.admin_patterns
            rows = page_tokens(connection, reach, administrator.token_id, wanted, now=now, limit=limit + 1)
            makers = find_descriptions(connection, {row.created_by for row in rows[:limit] if row.created_by})
            views = [view_of(row, makers.get(row.created_by or 0)) for row in rows[:limit]]
            return TokenPage(tokens=views, has_more=len(rows) > limit)

        return await self._database.read(work)

    async def list_tokens_on_server(self) -> list[TokenView]:
        """All tokens, revoked and expired ones too, oldest first."""
        return [view for _, view in _views(await self._database.read(list_tokens))]

    async def show_own_token(self, grant: Grant | None) -> TokenView:
        """The caller's own token, which needs no permission.

        Raises:
            Unauthenticated: there are no credentials.
        """
        if grant is None:
            raise Unauthenticated("which token? None came with the request")

        def work(connection: Connection) -> TokenView:
            row = get_token(connection, grant.token_id)
            return view_of(row, None if row.created_by is None else get_token(connection, row.created_by).description)

        return await self._database.read(work)

    async def revoke_token(self, token_id: int, grant: Grant | None, actor: Actor) -> None:
        """Make a token invalid at once; one that is so already stays so. A token may always revoke itself.

        Raises:
            Unauthenticated: there are no credentials.
            Denied: *grant* lacks the permission admin, and it is another token.
            NotFound: there is no such token, or its pattern reaches further than the caller's.
        """
        administrator = (
            grant if grant is not None and grant.token_id == token_id else check_may_administer_tokens(grant)
        )
        now = self._clock()

        def work(connection: Connection) -> None:
            row = get_token(connection, token_id)
            if not may_see_token(administrator, row.grant()):
                raise no_such_token(token_id)
            _revoke(connection, row, actor, now=now)

        await self._database.write(work)

    async def revoke_token_on_server(self, token_id: int) -> None:
        """Make any token invalid at once.

        Raises:
            NotFound: there is no such token.
        """
        now = self._clock()

        def work(connection: Connection) -> None:
            _revoke(connection, get_token(connection, token_id), ON_SERVER, now=now)

        await self._database.write(work)

    async def _create(
        self, request: TokenCreate, administrator: Grant | None, actor: Actor, *, is_own: bool = False
    ) -> TokenCreated:
        now = self._clock()
        description = _parse_description(request.description)
        pattern = parse_cache_pattern(request.cache_pattern)
        permissions = frozenset(Permission(name) for name in request.permissions)
        if not permissions:
            raise InvalidFormat("permissions: expected at least one")
        expires_at = _parse_lifetime(request.expires_in_seconds, now)
        if administrator is not None and is_own:
            check_may_create_own_token(administrator, permissions, pattern)
            if expires_at is None or expires_at > now + MAX_OWN_LIFETIME_SECONDS:
                raise InvalidFormat(f"expires_in_seconds: expected at most {MAX_OWN_LIFETIME_SECONDS} for one's own")
            description = f"{administrator.description}: {description}"[:MAX_DESCRIPTION_LENGTH]
        elif administrator is not None:
            check_may_create_token(administrator, pattern, expires_at=expires_at)
        token = make_token(self._draw(TOKEN_RANDOM_BYTES))

        def work(connection: Connection) -> TokenRow:
            # Looked at again by the transaction that acts: a revocation since then must not leave an heir.
            if administrator is not None and not get_token(connection, administrator.token_id).is_valid(now):
                raise invalid_credentials()
            row = insert_token(
                connection,
                hash_token(token),
                description=description,
                permissions=permissions,
                cache_pattern=pattern,
                created_by=None if administrator is None else administrator.token_id,
                expires_at=expires_at,
                now=now,
                person_id=administrator.person_id if administrator is not None and is_own else None,
            )
            record(connection, actor, Action.TOKEN_CREATE, pattern, str(row.id), new=audited(row), now=now)
            return row

        creator = None if administrator is None else administrator.description
        return TokenCreated(token=token, view=view_of(await self._database.write(work), creator))


def _list_own(connection: Connection, grant: Grant) -> tuple[TokenRow, ...]:
    if grant.person_id is not None:
        return list_tokens_of_person(connection, grant.person_id)
    return tuple(row for row in list_tokens(connection) if grant.token_id in {row.id, row.created_by})


def _revoke(connection: Connection, row: TokenRow, actor: Actor, *, now: int) -> None:
    if row.revoked_at is None:
        revoke_token(connection, row.id, now=now)
        record(connection, actor, Action.TOKEN_REVOKE, row.cache_pattern, str(row.id), old=audited(row), now=now)


def audited(row: TokenRow) -> dict[str, object]:
    """What the audit log holds of a token."""
    view = view_of(row, None)
    return {
        "description": view.description,
        "permissions": view.permissions,
        "cache_pattern": view.cache_pattern,
        "expires_at": view.expires_at,
    }


def view_of(row: TokenRow, created_by_description: str | None) -> TokenView:
    """What is told of a token."""
    return TokenView(
        id=row.id,
        description=row.description,
        permissions=[permission.value for permission in Permission if permission in row.permissions],
        cache_pattern=row.cache_pattern,
        created_at=row.created_at,
        created_by=row.created_by,
        created_by_description=created_by_description,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        last_used_from=row.last_used_from,
    )


def _views(rows: Sequence[TokenRow]) -> list[tuple[TokenRow, TokenView]]:
    """All tokens that people made, each with what is told of it."""
    descriptions = {row.id: row.description for row in rows}
    return [(row, view_of(row, descriptions.get(row.created_by or 0))) for row in rows]


def _check(wanted: TokenFilter, limit: int) -> None:
    if not 1 <= limit <= MAX_TOKENS_A_PAGE:
        raise InvalidFormat(f"limit {limit}: expected 1 to {MAX_TOKENS_A_PAGE}")
    if wanted.cache_name is not None:
        parse_cache_name(wanted.cache_name)
    if wanted.search is not None and not 1 <= len(wanted.search) <= MAX_DESCRIPTION_LENGTH:
        raise InvalidFormat(f"search {excerpt(wanted.search)}: expected 1 to {MAX_DESCRIPTION_LENGTH} characters")


def _parse_description(text: str) -> str:
    if len(text) > MAX_DESCRIPTION_LENGTH or not text.strip() or not text.isprintable():
        raise InvalidFormat(
            f"description {excerpt(text)}: expected 1 to {MAX_DESCRIPTION_LENGTH} printable characters on one line"
        )
    return text.strip()


def _parse_lifetime(seconds: int | None, now: int) -> int | None:
    if seconds is None:
        return None
    if not 0 < seconds <= MAX_LIFETIME_SECONDS:
        raise InvalidFormat(f"expires_in_seconds {seconds}: expected 1 to {MAX_LIFETIME_SECONDS}, or null for never")
    return now + seconds
