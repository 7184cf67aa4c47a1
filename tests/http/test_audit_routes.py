"""The audit log, seen through every route that changes something: one row a change, in the change's own transaction."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from icehouse.http.app import FILE_ROUTES, ROUTES
from tests.http.running import Answer, RunningServer, run_server
from tests.services.publishing import nar_of, path_body

APP = f"{'2' * 32}-app"
CLIENT = "203.0.113.9"

NOT_AUDITED = {
    # What is published tells itself by whom, path by path.
    "POST /api/v1/caches/{cache_name}/missing",
    "POST /api/v1/caches/{cache_name}/chunks/missing",
    "PUT /api/v1/caches/{cache_name}/packs",
    "POST /api/v1/caches/{cache_name}/nars",
    "POST /api/v1/caches/{cache_name}/paths",
    # It takes two caches; tests/services/test_promote.py looks at its entry.
    "POST /api/v1/caches/{cache_name}/promotions",
    # It takes a login; tests/web/test_people_page.py looks at its entry.
    "POST /api/v1/people/{person_id}/revoke",
    # It takes an identity; tests/services/test_exchange.py looks at its entry.
    "POST /api/v1/oidc/token",
}


@dataclass(frozen=True)
class Example:
    """A request that changes something, and what the log must say of it.

    ``CACHE`` stands for the cache's name, ``NUMBER`` for that of the token or rule that it makes or changes.
    """

    path: str
    body: object
    action: str
    subject: str | None
    old: object
    new: object
    pattern: str = "CACHE"
    before: tuple[tuple[str, str, object], ...] = ()
    """Requests that make what it changes."""
    is_repeatable: bool = True
    """Sent again it succeeds, and changes nothing."""


SETTINGS: dict[str, object] = {
    "is_public": False,
    "priority": 41,
    "want_mass_query": True,
    "store_dir": "/nix/store",
    "upstreams": [],
    "keep_unused_seconds": None,
    "keep_pushed_seconds": None,
    "budget_bytes": None,
    "limit_bytes": None,
    "trash_seconds": 604_800,
    "required_keys": [],
    "staging_of": None,
}
TOKEN: dict[str, object] = {"description": "CI", "permissions": ["pull"], "cache_pattern": "team-*"}
OF_TOKEN = {**TOKEN, "expires_at": None}
PIN: dict[str, object] = {"store_path": APP, "revision": 1, "artifacts": [], "keep_days": None, "keep_revisions": 3}
REVOCATION = {"by": {"repository": "nobody/nothing"}, "since": 0}
REVOKED = {"by": "repository=nobody/nothing", "since": 0, "until": None, "paths": 0}
TRUST: dict[str, object] = {
    "issuer": "https://issuer.example.org",
    "audience": "cache",
    "claims": {"repository": ["org/app"]},
    "permissions": ["push"],
    "token_seconds": 600,
}
ADD_KEY: tuple[str, str, object] = ("POST", "/api/v1/caches/CACHE/keys", {})
PUT_PIN = ("PUT", "/api/v1/caches/CACHE/pins/live", {"store_path": APP, "keep_revisions": 3})

EXAMPLES = {
    "POST /api/v1/caches": Example(
        "/api/v1/caches",
        {"name": "CACHE-new", "is_public": False, "upstreams": []},
        "cache.create",
        None,
        None,
        {**SETTINGS, "domain": None},
        pattern="CACHE-new",
        is_repeatable=False,
    ),
    "PATCH /api/v1/caches/{cache_name}": Example(
        "/api/v1/caches/CACHE",
        {"priority": 7, "budget_bytes": 5_000, "trash_seconds": 604_800},
        "cache.configure",
        None,
        {"priority": 41, "budget_bytes": None},
        {"priority": 7, "budget_bytes": 5_000},
    ),
    "DELETE /api/v1/caches/{cache_name}": Example(
        "/api/v1/caches/CACHE", None, "cache.delete", None, SETTINGS, None, is_repeatable=False
    ),
    "POST /api/v1/caches/{cache_name}/paths/{hash_part}/restore": Example(
        f"/api/v1/caches/CACHE/paths/{APP[:32]}/restore",
        None,
        "path.restore",
        APP,
        None,
        {"restored": 1, "paths": [APP]},
        before=(("DELETE", f"/api/v1/caches/CACHE/paths/{APP[:32]}", None),),
    ),
    "POST /api/v1/caches/{cache_name}/trash/restore": Example(
        "/api/v1/caches/CACHE/trash/restore",
        {"hash_parts": [APP[:32]]},
        "path.restore",
        None,
        None,
        {"restored": 1, "paths": [APP]},
        before=(("DELETE", f"/api/v1/caches/CACHE/paths/{APP[:32]}", None),),
    ),
    "DELETE /api/v1/caches/{cache_name}/paths/{hash_part}": Example(
        f"/api/v1/caches/CACHE/paths/{APP[:32]}", None, "path.delete", APP, None, {"deleted": 1, "paths": [APP]}
    ),
    "PUT /api/v1/caches/{cache_name}/pins/{pin_name}": Example(PUT_PIN[1], PUT_PIN[2], "pin.put", "live", None, PIN),
    "DELETE /api/v1/caches/{cache_name}/pins/{pin_name}": Example(
        "/api/v1/caches/CACHE/pins/live", None, "pin.delete", "live", PIN, None, before=(PUT_PIN,), is_repeatable=False
    ),
    "POST /api/v1/caches/{cache_name}/collections": Example(
        "/api/v1/caches/CACHE/collections",
        {"is_dry_run": False},
        "collection.start",
        None,
        None,
        None,
        is_repeatable=False,
    ),
    "POST /api/v1/collections": Example(
        "/api/v1/collections",
        {"is_dry_run": False},
        "collection.start",
        None,
        None,
        None,
        pattern="*",
        is_repeatable=False,
    ),
    "POST /api/v1/caches/{cache_name}/trust": Example(
        "/api/v1/caches/CACHE/trust", TRUST, "trust.add", "NUMBER", None, TRUST, is_repeatable=False
    ),
    "DELETE /api/v1/caches/{cache_name}/trust/{rule_id}": Example(
        "/api/v1/caches/CACHE/trust/NUMBER",
        None,
        "trust.remove",
        "NUMBER",
        TRUST,
        None,
        before=(("POST", "/api/v1/caches/CACHE/trust", TRUST),),
        is_repeatable=False,
    ),
    "POST /api/v1/revocations": Example(
        "/api/v1/revocations", REVOCATION, "revocation.add", "NUMBER", None, REVOKED, pattern="*", is_repeatable=False
    ),
    "POST /api/v1/revocations/{revocation_id}/undo": Example(
        "/api/v1/revocations/NUMBER/undo",
        None,
        "revocation.undo",
        "NUMBER",
        None,
        {"by": "repository=nobody/nothing", "paths": 0},
        pattern="*",
        before=(("POST", "/api/v1/revocations", REVOCATION),),
        is_repeatable=False,
    ),
    "POST /api/v1/caches/{cache_name}/keys": Example(
        "/api/v1/caches/CACHE/keys",
        {},
        "key.add",
        "CACHE.127.0.0.1-2",
        None,
        {"state": "staged", "kept": "database"},
        is_repeatable=False,
    ),
    "POST /api/v1/caches/{cache_name}/keys/activate": Example(
        "/api/v1/caches/CACHE/keys/activate",
        {"name": "CACHE.127.0.0.1-2"},
        "key.activate",
        "CACHE.127.0.0.1-2",
        {"state": "staged"},
        {"state": "active"},
        before=(ADD_KEY,),
    ),
    "POST /api/v1/caches/{cache_name}/keys/retire": Example(
        "/api/v1/caches/CACHE/keys/retire",
        {"name": "CACHE.127.0.0.1-2"},
        "key.retire",
        "CACHE.127.0.0.1-2",
        {"state": "staged"},
        {"state": "retired"},
        before=(ADD_KEY,),
    ),
    "POST /api/v1/tokens": Example(
        "/api/v1/tokens", TOKEN, "token.create", "NUMBER", None, OF_TOKEN, pattern="team-*", is_repeatable=False
    ),
    "DELETE /api/v1/tokens/{token_id}": Example(
        "/api/v1/tokens/NUMBER",
        None,
        "token.revoke",
        "NUMBER",
        OF_TOKEN,
        None,
        pattern="team-*",
        before=(("POST", "/api/v1/tokens", TOKEN),),
    ),
}


MADE_BY = {
    "POST /api/v1/tokens": "token",
    "POST /api/v1/caches/{cache_name}/trust": "trust_rule",
    "POST /api/v1/revocations": "revocation",
}
"""What makes something with a number, and its table."""


def changing_routes() -> list[str]:
    return [
        f"{method} {re.sub(r':[a-z]+}', '}', path)}"
        for route in ROUTES
        for path in route.paths
        for method in route.http_methods
        if method not in {"GET", "HEAD", "OPTIONS"}
    ]


class Audited:
    """A server behind a proxy, with its database at hand."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self._caches = 0

    def connect(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(self._folder / "icehouse.db", isolation_level=None))

    def fill(self) -> str:
        """A private cache with a path; its name."""
        self.server.ask("DELETE", f"/api/v1/caches/cache-{self._caches}")  # collections of all caches stay quick
        self._caches += 1
        cache = f"cache-{self._caches}"
        self.server.create_cache(cache, is_public=False)
        nar = nar_of(cache.encode())
        nars = [self.server.upload(cache, nar)]
        answer = self.server.ask("POST", f"/api/v1/caches/{cache}/nars", msgspec.json.encode({"nars": nars}))
        assert answer.status == 200, answer.body
        body = msgspec.json.encode({"paths": [path_body(APP, nar)]})
        assert self.server.ask("POST", f"/api/v1/caches/{cache}/paths", body).status == 200
        return cache

    def send(self, request_id: str, method: str, path: str, body: object, *, token: str | None = None) -> Answer:
        headers = {"X-Request-Id": request_id, "X-Forwarded-For": f"198.51.100.1, {CLIENT}"}
        return self.server.ask(method, path, body, token=token, headers=headers)

    def entries(self, query: str = "", *, token: str | None = None) -> list[dict[str, Any]]:
        answer = self.server.ask("GET", f"/api/v1/audit?limit=1000{query}", token=token)
        assert answer.status == 200, answer.body
        return answer.json()["entries"]

    def of_request(self, request_id: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries() if entry["request_id"] == request_id]

    def content(self) -> dict[str, list[Any]]:
        """All rows of all tables, but for what requests that change nothing write too, or the server by itself."""
        with self.connect() as database:
            # What indexes words cannot be read; the tables that it keeps them in can.
            stored = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL %'"
            names = [str(name) for (name,) in database.execute(stored)]
            database.execute("UPDATE token SET last_used_at = NULL")
            tables = {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}  # noqa: S608
        tables["signing_pass"] = [
            row[:2] for row in tables["signing_pass"]
        ]  # which are asked for, not how far they are
        return {name: rows for name, rows in tables.items() if name not in {"lease", "sqlite_sequence"}}


@dataclass(frozen=True)
class Prepared:
    """An example with what it changes made, and its placeholders filled in."""

    method: str
    path: str
    body: object
    fill: Callable[[str], str]


def prepare(audited: Audited, route: str) -> Prepared:
    example = EXAMPLES[route]
    cache = audited.fill()
    number = ""

    def fill(text: str) -> str:
        return text.replace("CACHE", cache).replace("NUMBER", number)

    def fill_body(body: object) -> object:
        return None if body is None else msgspec.json.decode(fill(msgspec.json.encode(body).decode()))

    for method, path, body in example.before:
        answer = audited.server.ask(method, fill(path), fill_body(body))
        assert answer.status < 300, answer.body
        if method == "POST":
            made = answer.json()
            number = str(made.get("view", made).get("id"))
    if route in MADE_BY:
        with audited.connect() as database:
            number = str(database.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {MADE_BY[route]}").fetchone()[0])  # noqa: S608
    return Prepared(route.partition(" ")[0], fill(example.path), fill_body(example.body), fill)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    folder = tmp_path_factory.mktemp("server") / "data"
    with run_server(folder, "--trusted-proxy", "127.0.0.1") as running:
        yield Audited(running, folder)


def test_each_route_that_changes_something_has_an_example_here() -> None:
    assert sorted(changing_routes()) == sorted([*EXAMPLES, *NOT_AUDITED])


def test_files_that_stock_nix_puts_are_all_of_publishing() -> None:
    assert [route.template for route in FILE_ROUTES if route.put is not None] == [
        "/{cache}/nar/{file}",
        "/{cache}/{hash}.narinfo",
        "/{cache}/nix-cache-info",
        "/{cache}/log/{derivation}",
        "/{cache}/realisations/{id}.doi",
        "/{cache}/build-trace-v2/{derivation}/{output}.doi",
        "/{cache}/{hash part}.ls",
        "/{cache}/debuginfo/{build id}",
    ]


@pytest.mark.parametrize("route", EXAMPLES)
def test_change_is_one_row_and_one_event_with_who_and_where_and_what(audited: Audited, route: str) -> None:
    example = EXAMPLES[route]
    change = prepare(audited, route)
    request_id = re.sub(r"[^A-Za-z]+", "-", route)
    answer = audited.send(request_id, change.method, change.path, change.body)
    assert answer.status < 300, answer.body
    (entry,) = audited.of_request(request_id)
    old: dict[str, Any] | None = entry["old"]
    new: dict[str, Any] | None = entry["new"]
    if example.action in {"cache.create", "cache.delete"}:
        assert len((old or new or {}).pop("public_keys")) == 1
    if example.action == "key.add":
        assert (new or {}).pop("public_key").startswith(entry["subject"] + ":")
    assert (entry["action"], entry["cache_pattern"]) == (example.action, change.fill(example.pattern))
    assert entry["subject"] == (None if example.subject is None else change.fill(example.subject))
    assert (old, new) == (example.old, example.new)
    assert (entry["who"], entry["token_id"], entry["address"]) == ("first administrator", 1, CLIENT)
    logged = [event for event in audited.server.events() if event.get("request_id") == request_id]
    (event,) = [event for event in logged if event["event"] == "audit"]
    assert (event["action"], event["cache_pattern"]) == (entry["action"], entry["cache_pattern"])
    assert (event["client"], event["who"]) == (CLIENT, "first administrator")


@pytest.mark.parametrize("route", [route for route, example in EXAMPLES.items() if example.is_repeatable])
def test_change_that_is_made_already_is_not_noted_again(audited: Audited, route: str) -> None:
    change = prepare(audited, route)
    assert audited.send("first", change.method, change.path, change.body).status < 300
    request_id = "again-" + re.sub(r"[^A-Za-z]+", "-", route)
    assert audited.send(request_id, change.method, change.path, change.body).status < 300
    assert audited.of_request(request_id) == []


@pytest.mark.parametrize("route", EXAMPLES)
def test_change_that_is_refused_is_not_noted(audited: Audited, route: str) -> None:
    change = prepare(audited, route)
    weak = audited.server.create_token("pull")
    before = audited.content()
    assert audited.send("refused", change.method, change.path, change.body, token=weak).status == 403
    assert audited.content() == before


@pytest.mark.parametrize("route", EXAMPLES)
def test_change_that_cannot_be_noted_is_not_made(audited: Audited, route: str) -> None:
    change = prepare(audited, route)
    with audited.connect() as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no more'); END")
    try:
        before = audited.content()
        assert audited.send("unnoted", change.method, change.path, change.body).status >= 500
        assert audited.content() == before
    finally:
        with audited.connect() as database:
            database.execute("DROP TRIGGER full")
    assert audited.send("noted", change.method, change.path, change.body).status < 300


def test_dry_run_of_a_collection_is_no_change(audited: Audited) -> None:
    cache = audited.fill()
    body = {"is_dry_run": True}
    assert audited.send("dry", "POST", f"/api/v1/caches/{cache}/collections", body).status == 200
    assert audited.of_request("dry") == []


def test_secrets_are_not_in_the_log(audited: Audited) -> None:
    token = audited.server.create_token("push", pattern="secret-*")
    with audited.connect() as database:
        noted = str(database.execute("SELECT * FROM audit").fetchall())
    assert "secret-*" in noted
    assert token not in noted
    assert audited.server.token not in noted


def test_administrator_of_some_caches_sees_what_concerns_these(audited: Audited) -> None:
    for name in ("ours-a", "ours-b", "theirs"):
        audited.server.create_cache(name)
    ours = audited.server.create_token("admin", pattern="ours-*")
    audited.server.create_token("pull", pattern="*")
    audited.server.create_token("pull", pattern="ours-a")
    seen = audited.entries(token=ours)
    assert {entry["cache_pattern"] for entry in seen} == {"ours-a", "ours-b", "ours-*"}
    assert [entry["action"] for entry in seen if entry["cache_pattern"] == "ours-a"] == ["token.create", "cache.create"]
    assert audited.entries("&cache=theirs", token=ours) == []
    assert {entry["cache_pattern"] for entry in audited.entries("&cache=ours-b")} == {"*", "ours-*", "ours-b"}


def test_log_is_shown_to_administrators_only(audited: Audited) -> None:
    statuses = [
        audited.server.ask("GET", "/api/v1/audit", token=token).status
        for token in ("", "ice_wrong", audited.server.create_token("configure", "delete", "push", "pin"))
    ]
    assert statuses == [401, 401, 403]


def test_filters_and_pages(audited: Audited) -> None:
    cache = audited.fill()
    url = f"/api/v1/caches/{cache}"
    token = audited.server.ask("POST", "/api/v1/tokens", {**TOKEN, "permissions": ["admin"], "cache_pattern": cache})
    number, secret = token.json()["view"]["id"], token.json()["token"]
    for priority in (1, 2, 3):
        assert audited.server.ask("PATCH", url, {"priority": priority}, token=secret).status == 200
    of_cache = f"&cache={cache}&before=999999999"
    configured = audited.entries(f"{of_cache}&action=cache.configure")
    assert [entry["new"] for entry in configured] == [{"priority": 3}, {"priority": 2}, {"priority": 1}]
    assert audited.entries(f"{of_cache}&action=cache.&by={number}") == configured
    assert audited.entries(f"&action=cache.configure&by={number}") == configured
    assert len(audited.entries(f"{of_cache}&by=first%20admin&action=cache.create")) == 1
    assert audited.entries(f"{of_cache}&by=_irst") == []
    since = configured[0]["at"]
    assert all(entry["at"] >= since for entry in audited.entries(f"&since={since}"))
    assert audited.entries(f"&since={since + 10_000}") == []
    page = audited.server.ask("GET", f"/api/v1/audit?cache={cache}&action=cache.configure&limit=2").json()
    assert (page["entries"], page["has_more"]) == (configured[:2], True)
    rest = f"/api/v1/audit?cache={cache}&action=cache.configure&limit=2&before={configured[1]['id']}"
    page = audited.server.ask("GET", rest).json()
    assert (page["entries"], page["has_more"]) == (configured[2:], False)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("cache=A", "cache name 'A'"),
        ("action=cache", "expected one of cache."),
        ("action=x.y", "expected one of cache."),
        ("by=", "by ''"),
        ("by=" + "x" * 201, "expected 1 to 200"),
        ("since=-1", "since"),
        ("before=0", "before"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
    ],
)
def test_filter_that_makes_no_sense_is_refused(audited: Audited, query: str, complaint: str) -> None:
    answer = audited.server.ask("GET", f"/api/v1/audit?{query}")
    assert answer.status == 400
    assert complaint in answer.json()["detail"]


def test_first_token_is_noted(audited: Audited) -> None:
    (entry,) = audited.entries("&action=token.create&by=the%20server%20itself")
    assert (entry["subject"], entry["token_id"], entry["address"], entry["new"]["permissions"]) == (
        "1",
        None,
        None,
        ["admin"],
    )
