"""Tokens: one's own, and all that one administers; made and revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.tokens import PermissionName, TokenCreate, TokenCreated
from icehouse.errors import Denied, IcehouseError, InvalidFormat
from icehouse.rules.access import Grant, Permission, Scope, check_may_administer_tokens
from icehouse.rules.sessions import parse_return
from icehouse.rules.token_filter import TokenFilter, TokenState
from icehouse.web.forms import Form
from icehouse.web.links import Asked, Before, link
from icehouse.web.pages import Page
from icehouse.web.token_table import TokenRow, make_rows
from icehouse.web.visits import Visit

ALL_TOKENS_PATH: Final = "/ui/tokens/all"

_PATH: Final = "/ui/tokens"
_TOKENS_A_PAGE: Final = 50

State = Annotated[str, QueryParameter(name="state")]
"""Litestar means something else by the word."""
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

    rows: Sequence[TokenRow]
    may_create: bool
    may_see_all: bool

    @property
    def title(self) -> str:
        """What the page lists."""
        return "Tokens"


@dataclass(frozen=True, slots=True)
class AllTokensPage(Page):
    """All that the template sees."""

    template = "all_tokens.html"

    rows: Sequence[TokenRow]
    states: Sequence[str]
    state: str
    search: str
    cache: str
    older: str | None
    """Where the next ones are."""
    here: str
    """This page, with its filter."""
    is_first: bool
    fault: str | None = None

    @property
    def title(self) -> str:
        """What the page lists."""
        return "All tokens"


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
    rows = make_rows(tokens[::-1], own_id=grant.token_id, now=visit.parts.clock())
    return visit.show(TokensPage(rows, _may_create(grant), bool(grant.admin_patterns)))


@get(ALL_TOKENS_PATH)
async def show_all_tokens(
    visit: NamedDependency[Visit], in_state: State = "", search: Asked = "", cache: Asked = "", before: Before = None
) -> Response[Any]:
    """The tokens that reach no further than the visitor's, a page of them."""
    grant = check_may_administer_tokens(visit.require_session().grant)
    states = ["", *TokenState]
    chosen = in_state if in_state in states else ""
    wanted = TokenFilter(cache or None, TokenState(chosen) if chosen else None, search.strip() or None, before)
    query = {name: text for name, text in (("state", chosen), ("search", search), ("cache", cache)) if text}
    here = link(ALL_TOKENS_PATH, query if before is None else {**query, "before": str(before)})
    try:
        found = await visit.parts.tokens.page_tokens(wanted, grant, limit=_TOKENS_A_PAGE)
    except InvalidFormat as exc:
        page = AllTokensPage((), states, chosen, search, cache, None, here, is_first=True, fault=str(exc))
        return visit.show(page, status=visit.parts.statuses[InvalidFormat][0])
    rows = make_rows(found.tokens, own_id=grant.token_id, now=visit.parts.clock())
    older = link(ALL_TOKENS_PATH, {**query, "before": str(found.tokens[-1].id)}) if found.has_more else None
    return visit.show(AllTokensPage(rows, states, chosen, search, cache, older, here, is_first=before is None))


@get(f"{_PATH}/new")
async def show_new_token(visit: NamedDependency[Visit], cache: Asked = "") -> Response[Any]:
    """The form for a new token; one for *cache*, if that is said."""
    return visit.show(_make_form(visit.require_session().grant, None, pattern=cache))


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
    """Make one of the visitor's own tokens invalid, or one that they administer, at once."""
    await visit.parts.tokens.revoke_listed_token(token_id, visit.require_session().grant, visit.actor)
    back = form.text("back")
    return visit.go(parse_return(back) if back else _PATH)


def _may_create(grant: Grant) -> bool:
    return grant.person_id is not None or bool(grant.admin_patterns)


def _make_form(grant: Grant, form: Form | None, fault: str | None = None, *, pattern: str = "") -> NewTokenPage:
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
        return NewTokenPage("", choices, pattern or scopes[0].cache_pattern, scopes, 90)
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
