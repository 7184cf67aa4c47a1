"""People who logged in by a provider: who they are, and the end of what they may do here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.people import PeoplePage, PersonRevoked, PersonView, RoleView
from icehouse.db.engine import Database
from icehouse.db.people import SeenPerson, count_sessions, get_person, page_people
from icehouse.db.tokens import list_tokens_of_person, revoke_logins, revoke_token
from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.rules.access import Grant, Permission, check_may_administer_people
from icehouse.rules.audit import Action, Actor
from icehouse.services.audit import record
from icehouse.services.tokens import audited

PEOPLE_A_PAGE: Final = 100
MAX_PEOPLE_A_PAGE: Final = 1_000
MAX_SEARCH_LENGTH: Final = 200


class People:
    """Tells of people, and revokes what they have. It takes `admin` on all caches: roles are not of one cache."""

    def __init__(self, database: Database, *, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock

    async def list_people(
        self, grant: Grant | None, *, search: str | None = None, before: int | None = None, limit: int = PEOPLE_A_PAGE
    ) -> PeoplePage:
        """Those who logged in, who came last first; with *search* those whose name or e-mail address holds it.

        Raises:
            InvalidFormat: the search makes no sense.
            Unauthenticated: there are no credentials.
            Denied: *grant* does not administer all caches.
        """
        check_may_administer_people(grant)
        if not 1 <= limit <= MAX_PEOPLE_A_PAGE:
            raise InvalidFormat(f"limit {limit}: expected 1 to {MAX_PEOPLE_A_PAGE}")
        if search is not None and not 1 <= len(search) <= MAX_SEARCH_LENGTH:
            raise InvalidFormat(f"search {excerpt(search)}: expected 1 to {MAX_SEARCH_LENGTH} characters")
        now = self._clock()
        rows = await self._database.read(partial(page_people, search=search, before=before, limit=limit + 1, now=now))
        return PeoplePage(people=[_view(row) for row in rows[:limit]], has_more=len(rows) > limit)

    async def revoke_person(
        self, person_id: int, grant: Grant | None, actor: Actor, *, keep_tokens: bool = False
    ) -> PersonRevoked:
        """End all sessions of a person, and the tokens that they made for themselves, at once.

        They can log in again as long as their provider lets them and a group of theirs has a role.

        Raises:
            Unauthenticated: there are no credentials.
            Denied: *grant* does not administer all caches.
            NotFound: there is no such person.
        """
        check_may_administer_people(grant)
        now = self._clock()

        def work(connection: Connection) -> PersonRevoked:
            row = get_person(connection, person_id)
            sessions = count_sessions(connection, [person_id], now=now).get(person_id, 0)
            revoke_logins(connection, person_id, now=now)
            tokens = list_tokens_of_person(connection, person_id)
            valid = [token for token in tokens if token.is_valid(now) and not keep_tokens]
            for token in valid:
                revoke_token(connection, token.id, now=now)
                old = audited(token)
                record(connection, actor, Action.TOKEN_REVOKE, token.cache_pattern, str(token.id), old=old, now=now)
            if sessions or valid:
                old = {"name": row.person.name, "email": row.person.email, "issuer": row.person.issuer}
                new = {"sessions": sessions, "tokens": len(valid)}
                record(connection, actor, Action.PERSON_REVOKE, "*", str(person_id), old=old, new=new, now=now)
            return PersonRevoked(sessions=sessions, tokens=len(valid))

        return await self._database.write(work)


def _view(row: SeenPerson) -> PersonView:
    return PersonView(
        id=row.id,
        name=row.person.name,
        email=row.person.email,
        issuer=row.person.issuer,
        subject=row.person.subject,
        roles=[
            RoleView(
                permissions=[each.value for each in Permission if each in scope.permissions],
                cache_pattern=scope.cache_pattern,
            )
            for scope in row.roles
        ],
        created_at=row.created_at,
        last_login_at=row.last_login_at,
        sessions=row.sessions,
        tokens=row.tokens,
    )
