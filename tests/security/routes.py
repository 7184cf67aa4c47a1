"""Who may do what by which route: the table that the security matrix is held against.

A new route fails `test_matrix.py` until it has an entry in `RULES` here: what it needs, and one request that is
harmless where it is allowed. What is expected follows from the need alone, by `expected_status`; nothing is copied from
a server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from icehouse.http.app import FILE_ROUTES, ROUTES
from icehouse.http.hot import HOT_ROUTES
from icehouse.rules.access import Permission
from icehouse.web.app import ROUTES as PAGE_ROUTES
from icehouse.web.assets import Assets
from tests.security.contents import (
    ABSENT,
    BUILD_ID,
    DERIVATION,
    DERIVATION_FILE,
    FORGED_IDENTITY,
    HELLO,
    LOG,
    NAR_LETTERS,
    PACK,
    REALISATION_FILE,
    STOCK_FILE,
    STOCK_NARINFO,
    STOCK_PATH,
    TRUST_RULE,
)

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")
"""Each is tried at each route; those that a route does not have are refused to everybody alike."""


class Cache(StrEnum):
    """What there is under the name in a request. The names are equally long, so that lengths can be compared."""

    PUBLIC = "public-cache"
    PRIVATE = "secret-cache"
    ABSENT = "absent-cache"


ELSEWHERE: Final = "elsewhere"
"""A private cache that other callers administer."""


class State(StrEnum):
    """What becomes of credentials."""

    NONE = "none"
    INVALID = "invalid"
    VALID = "valid"


@dataclass(frozen=True, slots=True)
class Caller:
    """One kind of caller."""

    name: str
    state: State = State.VALID
    permission: Permission | None = None
    """Of a valid token, on one cache or on all."""
    pattern: str = "{cache}"

    def reaches(self, cache: Cache) -> bool:
        """Whether a valid token is for caches of that name."""
        return self.state is State.VALID and self.pattern in {cache, "{cache}", "*"}

    def has(self, permission: Permission, cache: Cache) -> bool:
        """Whether it may do that to a cache of that name."""
        held = {Permission.PULL, self.permission}
        return self.reaches(cache) and (permission in held or self.permission is Permission.ADMIN)


CALLERS: Final = (
    Caller("nobody", State.NONE),
    Caller("malformed", State.INVALID),
    Caller("unknown", State.INVALID),
    Caller("expired", State.INVALID, Permission.ADMIN, "*"),
    Caller("revoked", State.INVALID, Permission.ADMIN, "*"),
    Caller("pull elsewhere", permission=Permission.PULL, pattern=ELSEWHERE),
    Caller("push elsewhere", permission=Permission.PUSH, pattern=ELSEWHERE),
    Caller("admin elsewhere", permission=Permission.ADMIN, pattern=ELSEWHERE),
    *(Caller(permission.value, permission=permission) for permission in Permission),
    Caller("admin of all", permission=Permission.ADMIN, pattern="*"),
)


class Need(StrEnum):
    """What a route needs that is no permission on the cache in its path."""

    NOTHING = "nothing"
    """Credentials are not looked at."""
    NOTHING_WRONG = "no wrong credentials"
    A_TOKEN = "a token"
    ADMIN_SOMEWHERE = "admin somewhere"
    ADMIN_EVERYWHERE = "admin on *"
    ADMIN_OF_NAME = "admin on the name"
    """Whether or not there is such a cache."""
    ADMIN_OF_TOKEN = "admin on the token's pattern"
    """The column is the token of a cache's user; it is absent where the cache is."""
    OWN_TOKEN = "the token is the caller's own, or one that they administer"
    """The one in the path is nobody's, so all but its administrators are told that there is none."""
    AN_IDENTITY = "a job's identity"
    """Credentials do not help, and the request's identity is not valid, so every caller is refused."""
    A_SECRET = "a token in the form"
    """The same: the form's is not valid."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route needs, and a request by it."""

    needs: Permission | Need
    path: str
    """``{cache}`` stands for the cache's name, ``{token}`` for the number of a token of its user, ``{trust}`` for that
    of its trust rule, ``{person}`` for that of somebody who logged in once, ``{revocation}`` for that of the latest
    revocation."""
    body: bytes | None = None
    granted: int | Mapping[Cache, int] = 200
    """The status where it is allowed and done, which is none of those that refuse."""
    undo: tuple[str, ...] = ()
    """What `World.undo` is to do after it was done."""
    is_page: bool = False
    """Whether a browser asks for it."""

    @property
    def is_about_cache(self) -> bool:
        """Whether it names a cache, or something that belongs to one."""
        is_named = "{cache}" in self.path or b"{cache}" in (self.body or b"")
        return is_named or "{token}" in self.path or self.needs is Need.ADMIN_OF_NAME

    def granted_status(self, cache: Cache) -> int:
        """The status where it is done to that cache."""
        return self.granted if isinstance(self.granted, int) else self.granted[cache]


def expected_status(rule: Rule, caller: Caller, cache: Cache) -> int:
    """The status that design section 8 asks for. Of statuses that refuse, 404 stands for an absent cache alone."""
    needs = rule.needs
    if needs in {Need.AN_IDENTITY, Need.A_SECRET}:
        return 401
    is_open = needs is Need.NOTHING or (needs is Permission.PULL and cache is Cache.PUBLIC)
    if is_open or (needs is Need.NOTHING_WRONG and caller.state is State.NONE):
        return rule.granted_status(cache)
    if caller.state is not State.VALID:
        return 401
    is_admin = caller.permission is Permission.ADMIN
    if needs is Need.OWN_TOKEN:
        is_theirs = is_admin and cache is not Cache.ABSENT and caller.reaches(cache)
        return rule.granted_status(cache) if is_theirs else 404
    if isinstance(needs, Permission):
        if cache is Cache.ABSENT or not (cache is Cache.PUBLIC or caller.reaches(cache)):
            return 404
        return rule.granted_status(cache) if caller.has(needs, cache) else 403
    if needs is Need.ADMIN_OF_TOKEN and is_admin and (cache is Cache.ABSENT or not caller.reaches(cache)):
        return 404
    is_allowed = {
        Need.NOTHING_WRONG: True,
        Need.A_TOKEN: True,
        Need.ADMIN_SOMEWHERE: is_admin,
        Need.ADMIN_EVERYWHERE: is_admin and caller.pattern == "*",
        Need.ADMIN_OF_NAME: caller.has(Permission.ADMIN, cache),
        Need.ADMIN_OF_TOKEN: is_admin,
    }[needs]
    return rule.granted_status(cache) if is_allowed else 403


def may_know(rule: Rule, caller: Caller) -> bool:
    """Whether a caller may be told whether there is a private cache, or a token of its user."""
    if rule.needs is Need.AN_IDENTITY:
        return False
    return rule.needs is Need.NOTHING or caller.reaches(Cache.PRIVATE)


def find_rows() -> list[str]:
    """Every method and route that the server has, as ``METHOD /template``, from its own tables."""
    rows = [
        f"{method} {re.sub(r':[a-z]+}', '}', path)}"
        for route in ROUTES
        for path in route.paths
        for method in route.http_methods
    ]
    rows += [f"{method} {template}" for template in HOT_ROUTES for method in ("GET", "HEAD")]
    for route in FILE_ROUTES:
        rows += [f"{method} {route.template}" for method in ("GET", "HEAD") if route.get is not None]
        rows += [f"PUT {route.template}"] if route.put is not None else []
    for page in PAGE_ROUTES:
        methods = {str(method) for method in page.http_methods}
        methods |= {"HEAD"} if "GET" in methods else set()
        rows += [f"{method} {re.sub(r':[a-z]+}', '}', path)}" for path in page.paths for method in methods]
    return sorted(rows, key=lambda row: (row.partition(" ")[2], row))


def _json(**fields: object) -> bytes:
    return msgspec.json.encode(fields)


def _reads(*rules: tuple[str, str]) -> dict[str, Rule]:
    """GET and HEAD of files: those who may pull."""
    return {
        f"{method} {template}": Rule(Permission.PULL, path) for template, path in rules for method in ("GET", "HEAD")
    }


def _pages(*rules: tuple[str, Permission | Need, str], granted: Mapping[str, int] | None = None) -> dict[str, Rule]:
    """GET and HEAD of pages."""
    statuses = granted or {}
    return {
        f"{method} {template}": Rule(needs, path, granted=statuses.get(template, 200), is_page=True)
        for template, needs, path in rules
        for method in ("GET", "HEAD")
    }


_CACHE: Final = "/api/v1/caches/{cache}"
_ACCESS: Final = "/ui/caches/{cache}/access"
_PART: Final = HELLO[:32]
_KEY: Final = b'{"name": "{cache}.127.0.0.1-1"}'
_NEW: Final = {Cache.PUBLIC: 409, Cache.PRIVATE: 409, Cache.ABSENT: 201}

RULES: Final[dict[str, Rule]] = {
    # The server
    "GET /health": Rule(Need.NOTHING, "/health"),
    "GET /health/ready": Rule(Need.NOTHING, "/health/ready"),
    "GET /metrics": Rule(Need.ADMIN_EVERYWHERE, "/metrics"),
    "GET /api/v1/server": Rule(Need.NOTHING, "/api/v1/server"),
    "GET /api/v1/openapi.json": Rule(Need.NOTHING, "/api/v1/openapi.json"),
    "GET /api/v1/activity": Rule(Need.ADMIN_SOMEWHERE, "/api/v1/activity"),
    # Caches
    "GET /api/v1/caches": Rule(Need.NOTHING_WRONG, "/api/v1/caches"),
    "POST /api/v1/caches": Rule(
        Need.ADMIN_OF_NAME,
        "/api/v1/caches",
        b'{"name": "{cache}", "is_public": false, "upstreams": []}',
        granted=_NEW,
        undo=("delete new cache",),
    ),
    "GET /api/v1/caches/{cache_name}": Rule(Permission.PULL, _CACHE),
    "PATCH /api/v1/caches/{cache_name}": Rule(Permission.CONFIGURE, _CACHE, _json(priority=41)),
    "DELETE /api/v1/caches/{cache_name}": Rule(Permission.ADMIN, _CACHE, granted=204, undo=("fill",)),
    "GET /api/v1/caches/{cache_name}/size": Rule(Permission.PULL, f"{_CACHE}/size"),
    "GET /api/v1/caches/{cache_name}/traffic": Rule(Permission.PUSH, f"{_CACHE}/traffic"),
    # Paths
    "GET /api/v1/caches/{cache_name}/paths": Rule(Permission.DELETE, f"{_CACHE}/paths"),
    "GET /api/v1/caches/{cache_name}/paths/{hash_part}": Rule(Permission.PULL, f"{_CACHE}/paths/{_PART}"),
    "DELETE /api/v1/caches/{cache_name}/paths/{hash_part}": Rule(
        Permission.DELETE, f"{_CACHE}/paths/{STOCK_PATH[:32]}", undo=("restore path",)
    ),
    "POST /api/v1/caches/{cache_name}/paths/{hash_part}/restore": Rule(
        Permission.DELETE, f"{_CACHE}/paths/{_PART}/restore"
    ),
    "GET /api/v1/caches/{cache_name}/paths/{hash_part}/referrers": Rule(
        Permission.PULL, f"{_CACHE}/paths/{_PART}/referrers"
    ),
    "GET /api/v1/caches/{cache_name}/paths/{hash_part}/closure": Rule(
        Permission.PULL, f"{_CACHE}/paths/{_PART}/closure"
    ),
    "GET /api/v1/caches/{cache_name}/paths/{hash_part}/chain/{other}": Rule(
        Permission.PULL, f"{_CACHE}/paths/{_PART}/chain/{_PART}"
    ),
    "GET /api/v1/caches/{cache_name}/search": Rule(Permission.PULL, f"{_CACHE}/search"),
    "GET /api/v1/caches/{cache_name}/trash": Rule(Permission.DELETE, f"{_CACHE}/trash"),
    "POST /api/v1/caches/{cache_name}/trash/restore": Rule(
        Permission.DELETE, f"{_CACHE}/trash/restore", _json(hash_parts=[_PART])
    ),
    "GET /api/v1/caches/{cache_name}/paths/{hash_part}/deletion": Rule(
        Permission.DELETE, f"{_CACHE}/paths/{_PART}/deletion"
    ),
    "GET /api/v1/caches/{cache_name}/why/{hash_part}": Rule(Permission.PULL, f"{_CACHE}/why/{_PART}"),
    # Publishing
    "POST /api/v1/caches/{cache_name}/missing": Rule(Permission.PULL, f"{_CACHE}/missing", _json(hash_parts=[_PART])),
    "POST /api/v1/caches/{cache_name}/chunks/missing": Rule(
        Permission.PUSH, f"{_CACHE}/chunks/missing", _json(identities=bytes(32))
    ),
    "PUT /api/v1/caches/{cache_name}/packs": Rule(Permission.PUSH, f"{_CACHE}/packs", PACK),
    "POST /api/v1/caches/{cache_name}/nars": Rule(Permission.PUSH, f"{_CACHE}/nars", _json(nars=[])),
    "GET /api/v1/caches/{cache_name}/nars/{nar_hash}": Rule(Permission.PUSH, f"{_CACHE}/nars/{NAR_LETTERS}"),
    "POST /api/v1/caches/{cache_name}/paths": Rule(Permission.PUSH, f"{_CACHE}/paths", _json(paths=[])),
    "POST /api/v1/caches/{cache_name}/promotions": Rule(
        Permission.PUSH, f"{_CACHE}/promotions", b'{"source": "{cache}", "hash_part": "%s"}' % _PART.encode()
    ),
    # Pins
    "GET /api/v1/caches/{cache_name}/pins": Rule(Permission.PULL, f"{_CACHE}/pins"),
    "GET /api/v1/caches/{cache_name}/pins/{pin_name}": Rule(Permission.PULL, f"{_CACHE}/pins/kept"),
    "PUT /api/v1/caches/{cache_name}/pins/{pin_name}": Rule(
        Permission.PIN, f"{_CACHE}/pins/kept", _json(store_path=HELLO, artifacts=["bin"])
    ),
    "DELETE /api/v1/caches/{cache_name}/pins/{pin_name}": Rule(
        Permission.PIN, f"{_CACHE}/pins/passing", granted=204, undo=("put pin",)
    ),
    "GET /api/v1/caches/{cache_name}/difference": Rule(Permission.PULL, f"{_CACHE}/difference?from={HELLO}&to={HELLO}"),
    # Collections
    "POST /api/v1/caches/{cache_name}/collections": Rule(
        Permission.DELETE, f"{_CACHE}/collections", _json(is_dry_run=True)
    ),
    "GET /api/v1/caches/{cache_name}/collections": Rule(Permission.DELETE, f"{_CACHE}/collections"),
    "GET /api/v1/caches/{cache_name}/collections/{collection_id}": Rule(Permission.DELETE, f"{_CACHE}/collections/1"),
    "GET /api/v1/caches/{cache_name}/retention/preview": Rule(
        Permission.CONFIGURE, f"{_CACHE}/retention/preview?budget_bytes=1"
    ),
    "GET /api/v1/caches/{cache_name}/verification": Rule(Permission.DELETE, f"{_CACHE}/verification"),
    "POST /api/v1/collections": Rule(Need.ADMIN_EVERYWHERE, "/api/v1/collections", _json(is_dry_run=True)),
    "GET /api/v1/collections": Rule(Need.ADMIN_EVERYWHERE, "/api/v1/collections"),
    # Tokens
    "GET /api/v1/tokens": Rule(Need.ADMIN_SOMEWHERE, "/api/v1/tokens"),
    "GET /api/v1/tokens/search": Rule(Need.ADMIN_SOMEWHERE, "/api/v1/tokens/search"),
    "GET /api/v1/tokens/self": Rule(Need.A_TOKEN, "/api/v1/tokens/self"),
    "POST /api/v1/tokens": Rule(
        Need.ADMIN_OF_NAME,
        "/api/v1/tokens",
        b'{"description": "matrix", "permissions": ["pull"], "cache_pattern": "{cache}"}',
        granted=201,
    ),
    "DELETE /api/v1/tokens/{token_id}": Rule(Need.ADMIN_OF_TOKEN, "/api/v1/tokens/{token}", granted=204),
    # People
    "GET /api/v1/people": Rule(Need.ADMIN_EVERYWHERE, "/api/v1/people"),
    "POST /api/v1/people/{person_id}/revoke": Rule(
        Need.ADMIN_EVERYWHERE, "/api/v1/people/{person}/revoke", _json(keep_tokens=True)
    ),
    # Trust
    "GET /api/v1/caches/{cache_name}/trust": Rule(Permission.ADMIN, f"{_CACHE}/trust"),
    "POST /api/v1/caches/{cache_name}/trust": Rule(
        Permission.ADMIN, f"{_CACHE}/trust", TRUST_RULE, granted=201, undo=("remove trust",)
    ),
    "DELETE /api/v1/caches/{cache_name}/trust/{rule_id}": Rule(
        Permission.ADMIN, f"{_CACHE}/trust/{{trust}}", granted=204, undo=("add trust",)
    ),
    "POST /api/v1/oidc/token": Rule(
        Need.AN_IDENTITY,
        "/api/v1/oidc/token",
        b'{"cache": "{cache}", "id_token": "%s"}' % FORGED_IDENTITY.encode(),
        granted=201,
    ),
    # Keys
    "GET /api/v1/caches/{cache_name}/keys": Rule(Permission.ADMIN, f"{_CACHE}/keys"),
    "POST /api/v1/caches/{cache_name}/keys": Rule(Permission.ADMIN, f"{_CACHE}/keys", b"{}", granted=201),
    "POST /api/v1/caches/{cache_name}/keys/activate": Rule(Permission.ADMIN, f"{_CACHE}/keys/activate", _KEY),
    "POST /api/v1/caches/{cache_name}/keys/retire": Rule(  # the only one that signs, which is refused to all
        Permission.ADMIN, f"{_CACHE}/keys/retire", _KEY, granted=409
    ),
    "GET /api/v1/caches/{cache_name}/keys/progress": Rule(Permission.ADMIN, f"{_CACHE}/keys/progress"),
    # The audit log
    "GET /api/v1/audit": Rule(Need.ADMIN_SOMEWHERE, "/api/v1/audit"),
    # Revocations
    "POST /api/v1/revocations": Rule(
        Need.ADMIN_EVERYWHERE, "/api/v1/revocations", _json(by={"token": "1"}, since=0, dry_run=True)
    ),
    "GET /api/v1/revocations": Rule(Need.ADMIN_EVERYWHERE, "/api/v1/revocations"),
    "POST /api/v1/revocations/{revocation_id}/undo": Rule(
        Need.ADMIN_EVERYWHERE, "/api/v1/revocations/{revocation}/undo", undo=("revoke nobody",)
    ),
    # The web page
    **_pages(
        ("/", Need.NOTHING, "/"),
        ("/docs", Need.NOTHING, "/docs"),
        ("/{cache}", Permission.PULL, "/{cache}"),
        ("/login", Need.NOTHING, "/login"),
        ("/static/{name}", Need.NOTHING, Assets.load().url("icehouse.css")),
    ),
    **_pages(
        ("/login/provider", Need.NOTHING, "/login/provider"),
        ("/login/callback", Need.NOTHING, "/login/callback?code=x&state=y"),
        granted={"/login/provider": 503, "/login/callback": 400},  # the provider does not answer
    ),
    **_pages(
        ("/ui/caches/{cache}/traffic", Permission.PUSH, "/ui/caches/{cache}/traffic"),
        ("/ui/caches/{cache}/paths", Permission.PULL, "/ui/caches/{cache}/paths"),
        ("/ui/caches/{cache}/paths/{hash_part}", Permission.PULL, f"/ui/caches/{{cache}}/paths/{_PART}"),
        (
            "/ui/caches/{cache}/paths/{hash_part}/referrers",
            Permission.PULL,
            f"/ui/caches/{{cache}}/paths/{_PART}/referrers",
        ),
        (
            "/ui/caches/{cache}/paths/{hash_part}/closure",
            Permission.PULL,
            f"/ui/caches/{{cache}}/paths/{_PART}/closure",
        ),
        *(
            (
                f"/ui/caches/{{cache}}/paths/{{hash_part}}/{template}",
                Permission.PULL,
                f"/ui/caches/{{cache}}/paths/{_PART}/{path}",
            )
            for template, path in (
                ("files", "files"),
                ("files/{names}", "files/bin"),
                ("download/{names}", "download/bin/run"),
                ("log", "log"),
                ("log/text", "log/text"),
            )
        ),
        ("/ui/caches/{cache}/paths/{hash_part}/why", Permission.PULL, f"/ui/caches/{{cache}}/paths/{_PART}/why"),
    ),
    **_pages(
        (
            "/ui/caches/{cache}/paths/{hash_part}/download",
            Permission.PULL,
            f"/ui/caches/{{cache}}/paths/{_PART}/download",
        ),
        granted={"/ui/caches/{cache}/paths/{hash_part}/download": 303},  # it is a folder, which has a page
    ),
    **_pages(("/ui/tokens", Need.A_TOKEN, "/ui/tokens"), ("/ui/tokens/new", Need.ADMIN_SOMEWHERE, "/ui/tokens/new")),
    **_pages(("/ui/new-cache", Need.ADMIN_SOMEWHERE, "/ui/new-cache")),
    "POST /ui/caches": Rule(
        Need.ADMIN_OF_NAME,
        "/ui/caches",
        b"name={cache}&audience=private&store_dir=/nix/store",
        granted={**_NEW, Cache.ABSENT: 303},
        undo=("delete new cache",),
        is_page=True,
    ),
    "POST /ui/tokens": Rule(
        Need.ADMIN_OF_NAME, "/ui/tokens", b"description=x&permissions=pull&cache_pattern={cache}&days=7", is_page=True
    ),
    **_pages(
        ("/ui/caches/{cache}/pins", Permission.PULL, "/ui/caches/{cache}/pins"),
        ("/ui/caches/{cache}/pins/{pin}", Permission.PULL, "/ui/caches/{cache}/pins/kept"),
        ("/ui/caches/{cache}/compare", Permission.PULL, f"/ui/caches/{{cache}}/compare?from={HELLO}&to={HELLO}"),
        ("/ui/caches/{cache}/new-pin", Permission.PIN, "/ui/caches/{cache}/new-pin"),
        ("/ui/caches/{cache}/pins/{pin}/change", Permission.PIN, "/ui/caches/{cache}/pins/kept/change"),
        ("/ui/caches/{cache}/pins/{pin}/unpin", Permission.PIN, "/ui/caches/{cache}/pins/kept/unpin"),
    ),
    "POST /ui/caches/{cache}/pins": Rule(
        Permission.PIN,
        "/ui/caches/{cache}/pins",
        f"name=kept&seen=1&store_path={HELLO}&keep=all&artifacts=bin".encode(),
        granted=303,
        is_page=True,
    ),
    "POST /ui/caches/{cache}/pins/{pin}/unpin": Rule(
        Permission.PIN, "/ui/caches/{cache}/pins/passing/unpin", b"", granted=303, undo=("put pin",), is_page=True
    ),
    "POST /ui/people/{person_id}/revoke": Rule(
        Need.ADMIN_EVERYWHERE, "/ui/people/{person}/revoke", b"", granted=303, is_page=True
    ),
    "POST /ui/tokens/{token_id}/revoke": Rule(
        Need.OWN_TOKEN, "/ui/tokens/{token}/revoke", b"", granted=303, is_page=True
    ),
    **_pages(
        ("/ui/activity", Need.ADMIN_SOMEWHERE, "/ui/activity"),
        ("/ui/activity/stream", Need.ADMIN_SOMEWHERE, "/ui/activity/stream"),
        ("/ui/tokens/all", Need.ADMIN_SOMEWHERE, "/ui/tokens/all"),
        ("/ui/people", Need.ADMIN_EVERYWHERE, "/ui/people"),
        ("/ui/audit", Need.ADMIN_SOMEWHERE, "/ui/audit?action=pin."),
        ("/ui/audit/export", Need.ADMIN_SOMEWHERE, "/ui/audit/export?by=nobody"),
    ),
    **_pages(
        (f"{_ACCESS}", Permission.ADMIN, f"{_ACCESS}"),
        (f"{_ACCESS}/trust/new", Permission.ADMIN, f"{_ACCESS}/trust/new?ci=gitlab"),
    ),
    f"POST {_ACCESS}/keys": Rule(Permission.ADMIN, f"{_ACCESS}/keys", b"", granted=303, is_page=True),
    f"POST {_ACCESS}/keys/activate": Rule(
        Permission.ADMIN, f"{_ACCESS}/keys/activate", b"name={cache}.127.0.0.1-1", granted=303, is_page=True
    ),
    f"POST {_ACCESS}/keys/retire": Rule(  # the only one that signs, which is refused to all
        Permission.ADMIN, f"{_ACCESS}/keys/retire", b"name={cache}.127.0.0.1-1&sure=yes", granted=409, is_page=True
    ),
    f"POST {_ACCESS}/required-keys": Rule(
        Permission.ADMIN, f"{_ACCESS}/required-keys", b"keys=", granted=303, is_page=True
    ),
    f"POST {_ACCESS}/trust": Rule(
        Permission.ADMIN,
        f"{_ACCESS}/trust",
        b"ci=github&claim-repository=org/app&permissions=push&lifetime=900",
        granted=303,
        undo=("remove trust",),
        is_page=True,
    ),
    f"POST {_ACCESS}/trust/{{rule_id}}/remove": Rule(
        Permission.ADMIN, f"{_ACCESS}/trust/{{trust}}/remove", b"", granted=303, undo=("add trust",), is_page=True
    ),
    **_pages(
        ("/ui/caches/{cache}/trash", Permission.DELETE, "/ui/caches/{cache}/trash"),
        (
            "/ui/caches/{cache}/paths/{hash_part}/delete",
            Permission.DELETE,
            f"/ui/caches/{{cache}}/paths/{_PART}/delete",
        ),
    ),
    **_pages(
        ("/ui/caches/{cache}/retention", Permission.CONFIGURE, "/ui/caches/{cache}/retention"),
        ("/ui/caches/{cache}/collections", Permission.DELETE, "/ui/caches/{cache}/collections"),
        ("/ui/caches/{cache}/collections/{number}", Permission.DELETE, "/ui/caches/{cache}/collections/1"),
    ),
    "POST /ui/caches/{cache}/retention": Rule(
        Permission.CONFIGURE, "/ui/caches/{cache}/retention", b"trash_seconds=7", granted=303, is_page=True
    ),
    "POST /ui/caches/{cache}/retention/preview": Rule(
        Permission.CONFIGURE, "/ui/caches/{cache}/retention/preview", b"trash_seconds=7", is_page=True
    ),
    "POST /ui/caches/{cache}/retention/plan": Rule(  # which takes `configure` and `delete`
        Permission.ADMIN, "/ui/caches/{cache}/retention/plan", b"trash_seconds=7", is_page=True
    ),
    "POST /ui/caches/{cache}/collections/plan": Rule(
        Permission.DELETE, "/ui/caches/{cache}/collections/plan", b"", is_page=True
    ),
    "POST /ui/caches/{cache}/collections/run": Rule(
        Permission.DELETE, "/ui/caches/{cache}/collections/run", b"", is_page=True
    ),
    "POST /ui/caches/{cache}/trash/restore": Rule(
        Permission.DELETE, "/ui/caches/{cache}/trash/restore", f"path={_PART}".encode(), is_page=True
    ),
    "POST /ui/caches/{cache}/trash/restore-collection": Rule(  # there is none of that number
        Permission.DELETE, "/ui/caches/{cache}/trash/restore-collection", b"collection=x", granted=400, is_page=True
    ),
    "POST /ui/caches/{cache}/paths/{hash_part}/delete": Rule(
        Permission.DELETE,
        f"/ui/caches/{{cache}}/paths/{STOCK_PATH[:32]}/delete",
        b"with_referrers=yes",
        granted=303,
        undo=("restore path",),
        is_page=True,
    ),
    "POST /login": Rule(Need.A_SECRET, "/login", b"token=ice_x", is_page=True),
    "POST /logout": Rule(Need.A_TOKEN, "/logout", b"", granted=303, undo=("log in",), is_page=True),
    # The binary cache
    **_reads(
        ("/{cache}/nix-cache-info", "/{cache}/nix-cache-info"),
        ("/{cache}/{hash}.narinfo", f"/{{cache}}/{_PART}.narinfo"),
        ("/{cache}/nar/{nar hash}.nar.zst", f"/{{cache}}/nar/{NAR_LETTERS}.nar.zst"),
        ("/{cache}/nar/{file}", f"/{{cache}}/nar/{STOCK_FILE.name}"),
        ("/{cache}/log/{derivation}", f"/{{cache}}/log/{DERIVATION}"),
        ("/{cache}/realisations/{id}.doi", f"/{{cache}}/{REALISATION_FILE}"),
        ("/{cache}/build-trace-v2/{derivation}/{output}.doi", f"/{{cache}}/{DERIVATION_FILE}"),
        ("/{cache}/{hash part}.ls", f"/{{cache}}/{_PART}.ls"),
        ("/{cache}/debuginfo/{build id}", f"/{{cache}}/debuginfo/{BUILD_ID}.debug"),
        ("/{cache}/buildid/{build id}/debuginfo", f"/{{cache}}/buildid/{BUILD_ID}/debuginfo"),
        ("/{cache}/serve/{hash part}/{path}", f"/{{cache}}/serve/{_PART}/bin/run"),
        ("/{cache}/pin/{name}", "/{cache}/pin/kept"),
        ("/{cache}/pin/{name}/{path}", "/{cache}/pin/kept/bin"),
    ),
    "PUT /{cache}/nar/{file}": Rule(Permission.PUSH, f"/{{cache}}/nar/{STOCK_FILE.name}", STOCK_FILE.data),
    "PUT /{cache}/{hash}.narinfo": Rule(Permission.PUSH, f"/{{cache}}/{STOCK_PATH[:32]}.narinfo", STOCK_NARINFO),
    "PUT /{cache}/nix-cache-info": Rule(Permission.PUSH, "/{cache}/nix-cache-info", b"StoreDir: /nix/store\n"),
    "PUT /{cache}/log/{derivation}": Rule(Permission.PUSH, f"/{{cache}}/log/{DERIVATION}", LOG),
    "PUT /{cache}/realisations/{id}.doi": Rule(
        Permission.PUSH,
        f"/{{cache}}/{REALISATION_FILE}",
        _json(id=REALISATION_FILE[13:-4], outPath=HELLO, signatures=[]),
    ),
    "PUT /{cache}/build-trace-v2/{derivation}/{output}.doi": Rule(
        Permission.PUSH, f"/{{cache}}/{DERIVATION_FILE}", _json(outPath=HELLO, signatures=[])
    ),
    "PUT /{cache}/{hash part}.ls": Rule(Permission.PUSH, f"/{{cache}}/{ABSENT}.ls", _json(version=1, root={})),
    "PUT /{cache}/debuginfo/{build id}": Rule(
        Permission.PUSH, f"/{{cache}}/debuginfo/{BUILD_ID}.debug", _json(archive="../nar/x.nar", member="y")
    ),
}

NO_RULE: Final = (
    "{row} has no entry in RULES of tests/security/routes.py. Add one: `Rule(what it needs, a path, a body)`, whose "
    "request is harmless if it is allowed, or is undone by a step of World.undo in tests/security/world.py. Then bring "
    "docs/security-matrix.md up to date: pytest tests/security/test_matrix.py --security-matrix docs/security-matrix.md"
)
