"""One's own tokens: listed, made and revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from icehouse.api.tokens import PermissionName, TokenCreate, TokenCreated, TokenView
from icehouse.errors import Denied, IcehouseError, InvalidFormat
from icehouse.rules.access import Grant, Permission, Scope
from icehouse.web.forms import Form
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_PATH: Final = "/ui/tokens"
_DAY: Final = 86_400
_DAYS: Final = (7, 30, 90, 365)
_WHAT: Final = {
    Permission.PULL: "Read, private caches too. Every other one holds it.",
    Permission.PUSH: "Publish paths.",
    Permission.PIN: "Give names to store paths, and take them away.",
    Permission.DELETE: "Move paths to the trash and back, and collect.",
    Permission.CONFIGURE: "Change what a cache keeps.",
    Permission.ADMIN: "Everything, making tokens too.",
}


@dataclass(frozen=True, slots=True)
class TokensPage(Page):
    """All that the template sees."""

    template = "tokens.html"

    tokens: Sequence[TokenView]
    own_id: int
    """Of the token that the session acts by."""
    may_create: bool
    now: int

    @property
    def title(self) -> str:
        """What the page lists."""
        return "Tokens"

    def state(self, token: TokenView) -> str:
        """`valid`, `revoked` or `expired`."""
        if token.revoked_at is not None:
            return "revoked"
        return "expired" if token.expires_at is not None and token.expires_at <= self.now else "valid"


@dataclass(frozen=True, slots=True)
class Choice:
    """A permission that may be ticked."""

    name: str
    what: str
    is_ticked: bool


@dataclass(frozen=True, slots=True)
class NewTokenPage(Page):
    """All that the template sees."""

    template = "new_token.html"

    description: str
    choices: Sequence[Choice]
    pattern: str
    scopes: Sequence[Scope]
    """What the visitor may do, and so at most the token."""
    days: int
    all_days: Sequence[int] = _DAYS
    fault: str | None = None

    @property
    def title(self) -> str:
        """What the page is for."""
        return "New token"


@dataclass(frozen=True, slots=True)
class MadeTokenPage(Page):
    """All that the template sees."""

    template = "made_token.html"

    made: TokenCreated

    @property
    def title(self) -> str:
        """What was done."""
        return "Token made"


@get(_PATH)
async def show_tokens(visit: NamedDependency[Visit]) -> Response[Any]:
    """The visitor's own tokens."""
    grant = visit.require_session().grant
    tokens = await visit.parts.tokens.list_own_tokens(grant)
    return visit.show(TokensPage(tokens[::-1], grant.token_id, _may_create(grant), visit.parts.clock()))


@get(f"{_PATH}/new")
async def show_new_token(visit: NamedDependency[Visit]) -> Response[Any]:
    """The form for a new token."""
    return visit.show(_make_form(visit.require_session().grant, None))


@post(_PATH, status_code=200)
async def create_token(visit: NamedDependency[Visit], form: NamedDependency[Form]) -> Response[Any]:
    """Make a token. This page is the only one that ever shows it."""
    grant = visit.require_session().grant
    try:
        made = await visit.parts.tokens.create_own_token(_read_form(form), grant, visit.actor)
    except (InvalidFormat, Denied) as exc:
        kind: type[IcehouseError] = InvalidFormat if isinstance(exc, InvalidFormat) else Denied
        return visit.show(_make_form(grant, form, str(exc)), status=visit.parts.statuses[kind][0])
    return visit.show(MadeTokenPage(made))


@post(f"{_PATH}/{{token_id:int}}/revoke", status_code=303)
async def revoke_token(
    token_id: FromPath[int], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Make one of the visitor's own tokens invalid, at once."""
    del form  # It was checked, which is all that is needed of it.
    await visit.parts.tokens.revoke_own_token(token_id, visit.require_session().grant, visit.actor)
    return visit.go(_PATH)


def _may_create(grant: Grant) -> bool:
    return grant.person_id is not None or bool(grant.admin_patterns)


def _make_form(grant: Grant, form: Form | None, fault: str | None = None) -> NewTokenPage:
    if not _may_create(grant):
        raise Denied("this token cannot make others: that needs the permission admin")
    scopes = (
        grant.scopes
        if grant.person_id is not None
        else tuple(scope for scope in grant.scopes if Permission.ADMIN in scope.permissions)
    )
    held = frozenset[Permission]().union(*(scope.permissions for scope in scopes))
    ticked = {Permission.PULL.value} if form is None else set(form.texts("permissions"))
    choices = [
        Choice(permission.value, what, permission.value in ticked)
        for permission, what in _WHAT.items()
        if permission in held or Permission.ADMIN in held or permission is Permission.PULL
    ]
    if form is None:
        return NewTokenPage("", choices, scopes[0].cache_pattern, scopes, 90)
    days = form.text("days")
    chosen = int(days) if days in map(str, _DAYS) else 90
    return NewTokenPage(form.text("description"), choices, form.text("cache_pattern"), scopes, chosen, fault=fault)


def _read_form(form: Form) -> TokenCreate:
    names = form.texts("permissions")
    if not set(names) <= set(Permission):
        raise InvalidFormat("permissions: one of them is none")
    if form.text("days") not in map(str, _DAYS):
        raise InvalidFormat(f"days: expected one of {', '.join(map(str, _DAYS))}")
    return TokenCreate(
        description=form.text("description"),
        permissions=cast("list[PermissionName]", names),
        cache_pattern=form.text("cache_pattern"),
        expires_in_seconds=int(form.text("days")) * _DAY,
    )
