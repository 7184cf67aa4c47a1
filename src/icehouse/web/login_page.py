"""Logging in, and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from icehouse.errors import Unauthenticated
from icehouse.rules.sessions import parse_return
from icehouse.web.forms import LOGIN_PATH, Form
from icehouse.web.pages import Page
from icehouse.web.visits import Visit, begin_cookie, end_cookie

Next = Annotated[str | None, QueryParameter(name="next")]


@dataclass(frozen=True, slots=True)
class LoginPage(Page):
    """All that the template sees."""

    template = "login.html"

    next: str
    """Where the login leads."""
    provider: str | None = None
    """The host of the provider, if there is one."""
    fault: str | None = None
    """What is wrong with the token of the last try."""
    failure: str | None = None
    """Why the last try by the provider failed."""
    is_asked_for: bool = True
    """Whether the visitor wants to log in, rather than to see something that needs it."""

    @property
    def title(self) -> str:
        """What the page is for."""
        return "Log in"


def make_login_page(
    visit: Visit,
    target: str,
    *,
    fault: str | None = None,
    failure: str | None = None,
    is_asked_for: bool = True,
) -> LoginPage:
    """The page whose login leads to *target*."""
    logins = visit.parts.logins
    provider = None if logins is None else urlsplit(logins.issuer).hostname
    return LoginPage(target, provider, fault, failure, is_asked_for)


@get(LOGIN_PATH)
async def show_login(visit: NamedDependency[Visit], *, next_: Next = None) -> Response[Any]:
    """The form of the login."""
    return visit.show(make_login_page(visit, parse_return(next_)))


@post(LOGIN_PATH, status_code=303)
async def log_in(visit: NamedDependency[Visit], form: NamedDependency[Form]) -> Response[Any]:
    """Begin a session."""
    target = parse_return(form.text("next"))
    try:
        begun = await visit.parts.sessions.log_in(form.text("token"), visit.origin, before=visit.secret)
    except Unauthenticated:
        fault = "This token is mistyped, unknown, expired or revoked."
        return visit.show(make_login_page(visit, target, fault=fault), status=401)
    return visit.go(target, cookies=[begin_cookie(visit.parts, begun, visit.parts.clock())])


@post("/logout", status_code=303)
async def log_out(visit: NamedDependency[Visit], form: NamedDependency[Form]) -> Response[Any]:
    """End the session."""
    del form  # It was checked, which is all that is needed of it.
    await visit.parts.sessions.log_out(visit.require_session(), visit.origin)
    return visit.go("/", cookies=[end_cookie(visit.parts)])
