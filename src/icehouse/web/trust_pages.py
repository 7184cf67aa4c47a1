"""Trust rules of a cache: made with a form that explains the claims, and removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from icehouse.api.tokens import PermissionName
from icehouse.api.trust import TrustCreate
from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.rules.access import Permission
from icehouse.services.access import Entry
from icehouse.web.access_page import ACCESS_PATH, access_path
from icehouse.web.cache_tabs import CacheHead, make_head
from icehouse.web.forms import Form
from icehouse.web.issuers import GITHUB, ISSUERS, OTHER, Issuer
from icehouse.web.links import Asked
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_CLAIM: Final = "claim-"
"""Before the name of a claim, in the name of its field."""

_LIFETIMES: Final[Mapping[int, str]] = {900: "15 minutes", 3_600: "1 hour", 21_600: "6 hours", 43_200: "12 hours"}
_WHAT: Final = {
    Permission.PULL: "Read, if the cache is private. Every other one holds it.",
    Permission.PUSH: "Publish paths.",
    Permission.PIN: "Give names to store paths, and take them away.",
    Permission.DELETE: "Move paths to the trash and back, and collect.",
    Permission.CONFIGURE: "Change what the cache keeps.",
}
"""All but `admin`, which no rule gives: who is trusted could trust others then."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A permission that may be ticked."""

    name: str
    what: str
    is_ticked: bool


@dataclass(frozen=True, slots=True)
class NewTrustPage(Page):
    """All that the template sees."""

    template = "new_trust.html"

    head: CacheHead
    path: str
    """Of the page that lists the rules."""
    issuers: Sequence[Issuer]
    issuer: Issuer
    url: str
    values: Mapping[str, str]
    """By claim, what was typed."""
    further: str
    choices: Sequence[Choice]
    lifetimes: Mapping[int, str]
    lifetime: int
    audience: str
    fault: str | None = None

    @property
    def title(self) -> str:
        """What the page is for."""
        return "New trust rule"


@get(f"{ACCESS_PATH}/trust/new")
async def show_new_trust(cache: FromPath[str], visit: NamedDependency[Visit], ci: Asked = "") -> Response[Any]:
    """The form for a new rule."""
    entry = await visit.enter(cache, Permission.ADMIN)
    issuer = ISSUERS.get(ci, GITHUB)
    return visit.show(_make_form(visit, entry, issuer, issuer.url, Form({"permissions": ["pull", "push"]})))


@post(f"{ACCESS_PATH}/trust", status_code=303)
async def add_trust(cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]) -> Response[Any]:
    """Let jobs have tokens of a cache."""
    entry = await visit.enter(cache, Permission.ADMIN)
    issuer = ISSUERS.get(form.text("ci"), OTHER)
    url = issuer.url if issuer.is_fixed else form.text("issuer")
    try:
        await visit.parts.trust.add_rule(entry.cache, _read_form(form, issuer, url), visit.actor)
    except InvalidFormat as exc:
        page = _make_form(visit, entry, issuer, url, form, str(exc))
        return visit.show(page, status=visit.parts.statuses[InvalidFormat][0])
    return visit.go(f"{access_path(cache)}#trust")


@post(f"{ACCESS_PATH}/trust/{{rule_id:int}}/remove", status_code=303)
async def remove_trust(
    cache: FromPath[str], rule_id: FromPath[int], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Remove a rule, and end the tokens that it gave."""
    del form  # It was checked, which is all that is needed of it.
    entry = await visit.enter(cache, Permission.ADMIN)
    await visit.parts.trust.remove_rule(entry.cache, rule_id, visit.actor)
    return visit.go(f"{access_path(cache)}#trust")


def _make_form(
    visit: Visit, entry: Entry, issuer: Issuer, url: str, form: Form, fault: str | None = None
) -> NewTrustPage:
    ticked = form.texts("permissions")
    typed = form.text("lifetime")
    return NewTrustPage(
        head=make_head(visit, entry, "Access"),
        path=access_path(entry.cache.name),
        issuers=tuple(ISSUERS.values()),
        issuer=issuer,
        url=url,
        values={claim.name: form.text(_CLAIM + claim.name) for claim in issuer.claims},
        further=form.text("further"),
        choices=[Choice(each.value, what, each.value in ticked) for each, what in _WHAT.items()],
        lifetimes=_LIFETIMES,
        lifetime=int(typed) if typed in map(str, _LIFETIMES) else next(iter(_LIFETIMES)),
        audience=form.text("audience"),
        fault=fault,
    )


def _read_form(form: Form, issuer: Issuer, url: str) -> TrustCreate:
    claims: dict[str, list[str]] = {}
    for claim in issuer.claims:
        globs = form.text(_CLAIM + claim.name).split()
        if globs:
            claims[claim.name] = globs
        elif claim.is_required:
            raise InvalidFormat(f"{claim.label}: it is what tells whose jobs they are, so it cannot be empty")
    for line in filter(None, map(str.strip, form.text("further").splitlines())):
        name, equals, glob = line.partition("=")
        if not equals:
            raise InvalidFormat(f"further conditions: {excerpt(line)}: expected CLAIM=VALUE, such as workflow=release")
        claims.setdefault(name.strip(), []).append(glob.strip())
    names = form.texts("permissions")
    if not set(names) <= set(_WHAT):
        raise InvalidFormat("permissions: one of them is none that a rule can give")
    if form.text("lifetime") not in map(str, _LIFETIMES):
        raise InvalidFormat(f"lifetime: expected one of {', '.join(map(str, _LIFETIMES))} seconds")
    return TrustCreate(
        issuer=url,
        claims=claims,
        permissions=cast("list[PermissionName]", names),
        audience=form.text("audience") or None,
        token_seconds=int(form.text("lifetime")),
    )
