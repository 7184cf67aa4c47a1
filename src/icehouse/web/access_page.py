"""Who may do what to a cache, and by which keys it is known: its page "Access"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from icehouse.api.caches import CacheConfigure
from icehouse.api.keys import KeyAdd, KeyState, KeyView, SigningProgress
from icehouse.api.trust import TrustView
from icehouse.errors import InvalidFormat
from icehouse.rules.access import Permission
from icehouse.rules.token_filter import TokenFilter, TokenState
from icehouse.services.access import Entry
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.forms import Form
from icehouse.web.issuers import issuer_title
from icehouse.web.links import link
from icehouse.web.pages import Page
from icehouse.web.token_pages import ALL_TOKENS_PATH
from icehouse.web.token_table import TokenRow, make_rows
from icehouse.web.visits import Visit

ACCESS_PATH: Final = f"{CACHE_PATH}/access"

_TOKENS: Final = 20
"""How many of the newest valid tokens stand on the page."""

_MEANINGS: Final[Mapping[KeyState, str]] = {
    "active": "Signs what is published. Machines that trust it take every path from here.",
    "staged": "Does not sign yet. It stands among the cache's public keys, so that your users can trust it in time.",
    "retired": "Signs no more, and is published no longer. What it signed keeps its signatures.",
    "stripped": "Signs no more, and its signatures are removed. Pushes bring none of them back.",
}
_KEPT: Final = {"database": "", "file": "kept in a file on the server's machine", "command": "kept behind a command"}


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key, and what may be done with it."""

    view: KeyView
    meaning: str
    kept: str
    may_retire: bool
    """Another one signs."""

    @property
    def is_published(self) -> bool:
        """Whether it stands among the cache's public keys."""
        return self.view.state in {"active", "staged"}


@dataclass(frozen=True, slots=True)
class AccessPage(Page):
    """All that the template sees."""

    template = "access.html"

    head: CacheHead
    keys: Sequence[Key]
    progress: SigningProgress
    required: str
    """The demanded keys, a line each; or what was typed."""
    demands: bool
    rules: Sequence[tuple[str, TrustView]]
    """Each with the name of the CI."""
    rows: Sequence[TokenRow]
    has_more_tokens: bool
    fault: str | None = None
    """What is wrong with the demanded keys that were typed."""

    @property
    def title(self) -> str:
        """What the page is about."""
        return f"Access to {self.head.name}"

    @property
    def path(self) -> str:
        """Its own address."""
        return access_path(self.head.name)

    @property
    def tokens_link(self) -> str:
        """All tokens that reach the cache."""
        return link(ALL_TOKENS_PATH, {"cache": self.head.name})


def access_path(cache_name: str) -> str:
    """The address of the page about that cache."""
    return f"/ui/caches/{cache_name}/access"


@get(ACCESS_PATH)
async def show_access(cache: FromPath[str], visit: NamedDependency[Visit]) -> Response[Any]:
    """Keys, demands, trust rules and tokens of a cache."""
    entry = await visit.enter(cache, Permission.ADMIN)
    return visit.show(await _make_page(visit, entry))


@post(f"{ACCESS_PATH}/keys", status_code=303)
async def stage_key(cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]) -> Response[Any]:
    """Make a key, which does not sign yet."""
    del form  # It was checked, which is all that is needed of it.
    entry = await visit.enter(cache, Permission.ADMIN)
    await visit.parts.keys.add_key(entry.cache, KeyAdd(), visit.actor)
    return visit.go(f"{access_path(cache)}#keys")


@post(f"{ACCESS_PATH}/keys/activate", status_code=303)
async def activate_key(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Let a key sign."""
    entry = await visit.enter(cache, Permission.ADMIN)
    await visit.parts.keys.activate_key(entry.cache, form.text("name"), visit.actor)
    return visit.go(f"{access_path(cache)}#keys")


@post(f"{ACCESS_PATH}/keys/retire", status_code=303)
async def retire_key(cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]) -> Response[Any]:
    """Let a key sign no more."""
    entry = await visit.enter(cache, Permission.ADMIN)
    if form.text("sure") != "yes":
        raise InvalidFormat("tick that everybody trusts another key of this cache; else they could pull nothing new")
    await visit.parts.keys.retire_key(entry.cache, form.text("name"), visit.actor, strip=form.text("strip") == "yes")
    return visit.go(f"{access_path(cache)}#keys")


@post(f"{ACCESS_PATH}/required-keys", status_code=303)
async def demand_signatures(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Say by which keys what becomes visible must be signed."""
    entry = await visit.enter(cache, Permission.ADMIN)
    text = form.text("keys")
    try:
        request = CacheConfigure(required_keys=text.split())
        await visit.parts.caches.configure_cache(entry.cache, request, entry.grant, visit.actor)
    except InvalidFormat as exc:
        page = await _make_page(visit, entry, required=text, fault=str(exc))
        return visit.show(page, status=visit.parts.statuses[InvalidFormat][0])
    return visit.go(f"{access_path(cache)}#demands")


async def _make_page(
    visit: Visit, entry: Entry, *, required: str | None = None, fault: str | None = None
) -> AccessPage:
    parts, cache = visit.parts, entry.cache
    keys = await parts.keys.list_keys(cache)
    active = sum(key.state == "active" for key in keys)
    demanded = (await parts.caches.show_cache(cache, entry.grant)).required_keys
    wanted = TokenFilter(cache.name, TokenState.VALID)
    grant = visit.require_session().grant
    found = await parts.tokens.page_tokens(wanted, grant, limit=_TOKENS)
    return AccessPage(
        head=make_head(visit, entry, "Access"),
        keys=[
            Key(key, _MEANINGS[key.state], _KEPT[key.kept], active > (key.state == "active"))
            for key in sorted(keys, key=lambda key: list(_MEANINGS).index(key.state))
        ],
        progress=await parts.signing_passes.show_progress(cache),
        required="\n".join(demanded) if required is None else required,
        demands=bool(demanded),
        rules=[(issuer_title(rule.issuer), rule) for rule in await parts.trust.list_rules(cache)],
        rows=make_rows(found.tokens, own_id=grant.token_id, now=parts.clock()),
        has_more_tokens=found.has_more,
        fault=fault,
    )
