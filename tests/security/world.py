"""A server in this process, with caches and callers of every kind, that notes each statement sent to its databases."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from unittest.mock import patch
from urllib.parse import unquote

import msgspec
import structlog
from litestar.exceptions.base_exceptions import LitestarDeprecationWarning
from sqlalchemy import Connection as SqlConnection

from icehouse import wiring
from icehouse.api.collections import CollectionEvent
from icehouse.config import ServerSettings
from icehouse.db.collection import add_collection
from icehouse.db.engine import READER_THREADS
from icehouse.db.people import put_person
from icehouse.db.sessions import insert_session
from icehouse.db.tokens import find_token, insert_token, revoke_token
from icehouse.http.app import make_app
from icehouse.http.asgi import Application
from icehouse.http.parts import ServerParts
from icehouse.rules.access import Permission, Token, hash_token, make_token, parse_authorization
from icehouse.rules.people import Person
from icehouse.rules.recipes import make_recipe, render_recipe
from icehouse.rules.sessions import SessionSecret, hash_secret, make_form_key, make_secret, parse_secret
from icehouse.services.collection_run import RunRequest
from icehouse.services.collections import Collections
from icehouse.services.signing_passes import SigningPasses
from icehouse.services.start import DataFolder, start
from icehouse.wiring import clock, open_parts
from tests.http.asgi_client import Answer, Connection, make_scope
from tests.security.contents import (
    DERIVATION,
    DERIVATION_FILE,
    HELLO,
    LOG,
    NAR,
    REALISATION_FILE,
    STOCK_FILE,
    STOCK_NARINFO,
    STOCK_PATH,
    TRUST_RULE,
    TRUSTED,
)
from tests.security.routes import CALLERS, ELSEWHERE, RULES, Cache, Caller, Rule, State
from tests.services.publishing import Upload, cut, identity_of, path_body

_LITERAL: Final = re.compile(r"x?'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b|\bNULL\b", re.IGNORECASE)

_FORM_KEY: Final = re.compile(r'name="form_key" value="[^"]*"')
"""Differs with the session."""

_connections: list[sqlite3.Connection] | None = None
"""Those that were opened while a world is; an audit hook can be added, and never removed."""


def _note_connection(event: str, arguments: tuple[object, ...]) -> None:
    if event == "sqlite3.connect/handle" and _connections is not None and isinstance(arguments[0], sqlite3.Connection):
        _connections.append(arguments[0])


sys.addaudithook(_note_connection)


@contextlib.contextmanager
def noted_connections() -> Generator[None]:
    """Note which connections are opened meanwhile."""
    global _connections  # noqa: PLW0603  as above
    _connections = []
    try:
        yield
    finally:
        _connections = None


@contextlib.contextmanager
def noted_statements() -> Generator[list[str]]:
    """What is sent to any SQLite database of this world meanwhile, without its values."""
    assert _connections is not None
    statements: list[str] = []
    for connection in list(_connections):
        try:
            # Values stand in the text; only where they stand may be compared.
            connection.set_trace_callback(lambda text: statements.append(_LITERAL.sub("?", text)))
        except sqlite3.ProgrammingError:  # it was closed
            _connections.remove(connection)
    try:
        yield statements
    finally:
        for connection in _connections:
            connection.set_trace_callback(None)


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer, and the statements that it took."""

    answer: Answer
    statements: tuple[str, ...]

    def without(self, *names: str) -> tuple[object, ...]:
        """All that a caller sees, and the statements, with *names* and what differs by chance left out."""
        headers = {name: value for name, value in self.answer.headers.items() if name != "date"}
        body = _FORM_KEY.sub('name="form_key"', self.answer.body.decode("latin-1"))
        length = int(headers.pop("content-length", "0"))
        for name in names:
            length -= body.count(name) * len(name)
            body = body.replace(name, "…")
        return self.answer.status, headers, length, body, self.statements


async def _start_nothing(collections: Collections, request: RunRequest) -> AsyncGenerator[bytes]:
    """Who may ask for a collection is the question here, not what it does in its process."""
    del collections, request
    return _nothing_to_do()


async def _nothing_to_do() -> AsyncGenerator[bytes]:
    yield msgspec.json.encode(CollectionEvent(progress="nothing to do")) + b"\n"


NO_COLLECTION: Final = '{"marks": [], "sweeps": []}'


@dataclass
class World:
    """The server, its caches, and a token for each kind of caller."""

    app: Application
    parts: ServerParts
    admin: Token
    credentials: dict[tuple[str, Cache], str | None] = field(default_factory=dict[tuple[str, Cache], "str | None"])
    cookies: dict[tuple[str, Cache], str | None] = field(default_factory=dict[tuple[str, Cache], "str | None"])
    """Of sessions that act by tokens of the same kinds."""
    victims: dict[Cache, int] = field(default_factory=dict[Cache, int])
    trusted: dict[str, int] = field(default_factory=dict[str, int])
    """The trust rule of each cache; in one that is not there, a number."""
    revocation: int = 0
    """Of what nobody published."""
    person: int = 0
    """Somebody who logged in, and has nothing."""
    _drawn: int = 0

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        credential: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request. A *body* that is not `None` is sent as JSON to the API."""
        sent = dict(headers or {})
        if credential is not None:
            sent["authorization"] = credential
        if body is not None:
            sent["content-length"] = str(len(body))
            if path.startswith("/api/"):
                sent.setdefault("content-type", "application/json")
        raw_path, _, query = path.partition("?")
        scope = make_scope(method, raw_path.encode("latin-1"), sent)
        scope.update(path=unquote(raw_path), query_string=query.encode(), root_path="", scheme="http")
        connection = Connection(body=body or b"")
        await self.app(scope, connection.receive, connection.send)
        return connection.answer()

    def _page_request(self, rule: Rule, caller: Caller, cache: Cache) -> tuple[bytes | None, dict[str, str]]:
        """Body and headers of the request of a browser in which *caller* is logged in."""
        cookie = self.cookies[caller.name, cache]
        headers = {"x-request-id": "of-the-matrix", "accept": "text/html"}
        headers |= {} if cookie is None else {"cookie": f"icehouse={cookie}"}
        if rule.body is None:
            return None, headers
        secret = parse_secret(cookie)
        key = "" if secret is None else make_form_key(secret)
        headers["content-type"] = "application/x-www-form-urlencoded"
        return rule.body.replace(b"{cache}", cache.encode()) + f"&form_key={key}".encode(), headers

    def trust_number(self, cache: Cache) -> str:
        """The number of the trust rule of a cache, as long for each: a page that refuses HEAD tells its own length."""
        return f"{self.trusted.get(cache, 999_999_999):09}"

    async def see(self, method: str, rule: Rule, caller: Caller, cache: Cache) -> Seen:
        """Send the request of *rule* as *caller*."""
        path = rule.path.replace("{cache}", cache).replace("{token}", str(self.victims[cache]))
        path = path.replace("{revocation}", str(self.revocation))
        path = path.replace("{person}", str(self.person))
        path = path.replace("{trust}", self.trust_number(cache))
        body = None if rule.body is None else rule.body.replace(b"{cache}", cache.encode())
        credential, headers = self.credentials[caller.name, cache], {"x-request-id": "of-the-matrix"}
        if rule.is_page:
            (body, headers), credential = self._page_request(rule, caller, cache), None
        with noted_statements() as statements:
            answer = await self.ask(
                method,
                path,
                body,
                credential=credential,
                headers=headers,
            )
        return Seen(answer, tuple(statements))

    async def undo(self, rule: Rule, cache: Cache) -> None:  # noqa: C901, PLR0912  a table of steps
        """Bring back what a request of *rule* that was allowed did away with."""
        for step in rule.undo:
            match step:
                case "fill":
                    await self.fill(cache, is_public=cache is Cache.PUBLIC)
                case "delete new cache":
                    if cache is Cache.ABSENT:
                        await self.do("DELETE", f"/api/v1/caches/{cache}")
                case "restore path":
                    await self.do("POST", f"/api/v1/caches/{cache}/paths/{STOCK_PATH[:32]}/restore")
                case "put pin":
                    await self.do("PUT", f"/api/v1/caches/{cache}/pins/passing", {"store_path": HELLO})
                case "log in":
                    await self._log_in(cache)
                case "revoke nobody":
                    await self.revoke_nobody()
                case "add trust":
                    await self.add_trust(cache)
                case "remove trust":
                    rules = await self.do("GET", f"/api/v1/caches/{cache}/trust")
                    for rule_id in [each["id"] for each in msgspec.json.decode(rules.body)]:
                        if rule_id != self.trusted[cache]:
                            await self.do("DELETE", f"/api/v1/caches/{cache}/trust/{rule_id}")
                case _:
                    raise AssertionError(f"there is no step {step!r} in World.undo")

    async def _log_in(self, cache: Cache) -> None:
        for caller in CALLERS:
            self.cookies[caller.name, cache] = await self._cookie(caller, cache)

    async def do(self, method: str, path: str, body: object = None) -> Answer:
        """One request of the administrator's, which must be granted."""
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        answer = await self.ask(method, path, data, credential=f"Bearer {self.admin}")
        assert 200 <= answer.status < 300, (method, path, answer)
        return answer

    async def fill(self, name: str, *, is_public: bool) -> None:
        """Make a cache with one of everything in it."""
        await self.do("POST", "/api/v1/caches", {"name": name, "is_public": is_public, "upstreams": []})
        api = f"/api/v1/caches/{name}"
        await self.push(name, HELLO, NAR)
        for pin in ("kept", "passing"):
            await self.do("PUT", f"{api}/pins/{pin}", {"store_path": HELLO, "artifacts": ["bin"]})
        await self.do("PUT", f"/{name}/nar/{STOCK_FILE.name}", STOCK_FILE.data)
        await self.do("PUT", f"/{name}/{STOCK_PATH[:32]}.narinfo", STOCK_NARINFO)
        for file in (REALISATION_FILE, DERIVATION_FILE, f"log/{DERIVATION}"):
            rule = next(rule for row, rule in RULES.items() if row.startswith("PUT") and rule.path.endswith(file))
            await self.do("PUT", f"/{name}/{file}", LOG if rule.body is None else rule.body)

        await self.add_trust(name)

    async def revoke_nobody(self) -> None:
        """Make a revocation that hides nothing."""
        answer = await self.do("POST", "/api/v1/revocations", {"by": {"repository": "nobody/nothing"}, "since": 0})
        self.revocation = msgspec.json.decode(answer.body)["id"]

    async def add_trust(self, name: str) -> None:
        """Make a cache trust somebody."""
        answer = await self.do("POST", f"/api/v1/caches/{name}/trust", TRUST_RULE)
        self.trusted[name] = msgspec.json.decode(answer.body)["id"]

    async def push(self, name: str, base_name: str, nar: bytes) -> None:
        """Publish a path natively."""
        api = f"/api/v1/caches/{name}"
        chunks = cut(nar)
        upload = Upload.of(chunks)
        answer = await self.do("PUT", f"{api}/packs", upload.render())
        sent = msgspec.json.decode(answer.body)["numbers"]
        numbers = dict(zip((entry.identity for entry in upload.entries), sent, strict=True))
        recipe = make_recipe(
            (numbers[identity_of(chunk)] for chunk in chunks),
            (store_hash for chunk in chunks for store_hash in chunk.hashes),
        )
        path = msgspec.structs.replace(path_body(base_name, nar), deriver=DERIVATION)
        body = {"nar_hash": path.nar_hash, "nar_size": len(nar), "recipe": render_recipe(recipe)}
        await self.do("POST", f"{api}/nars", {"nars": [body]})
        await self.do("POST", f"{api}/paths", {"paths": [path]})

    async def make_token(
        self, permission: Permission, pattern: str, *, expires_at: int | None = None, is_revoked: bool = False
    ) -> tuple[int, Token]:
        """The number and the text of a new token."""
        self._drawn += 1
        token = make_token(self._drawn.to_bytes(32, "big"))
        now = clock()
        row = await self.parts.database.write(
            lambda connection: insert_token(
                connection,
                hash_token(token),
                description=f"{permission} on {pattern}",
                permissions=[permission],
                cache_pattern=pattern,
                created_by=None,
                expires_at=expires_at,
                now=now,
            )
        )
        if is_revoked:
            await self.parts.database.write(lambda connection: revoke_token(connection, row.id, now=now))
        return row.id, token

    async def settle(self) -> None:
        """Make the caches and the callers, and a collection of the past that concerned all caches."""
        past = partial(add_collection, cache_name=None, began_at=0, ended_at=0, started_by="", result=NO_COLLECTION)
        await self.parts.database.write(past)
        for cache in (Cache.PUBLIC, Cache.PRIVATE):
            await self.fill(cache, is_public=cache is Cache.PUBLIC)
        await self.fill(ELSEWHERE, is_public=False)
        for cache in Cache:
            self.victims[cache] = (await self.make_token(Permission.PULL, cache))[0]
            for caller in CALLERS:
                self.credentials[caller.name, cache] = await self._credential(caller, cache)
            await self._log_in(cache)
        self.victims[Cache.ABSENT] = 999_999_999
        await self.revoke_nobody()
        known = Person("https://id.example.org", "1", "Ada", None)
        self.person = (await self.parts.database.write(partial(put_person, known=known, now=clock()))).id
        await self._open_connections()

    async def _open_connections(self) -> None:
        """Have all of the database's connections opened, so that all are watched."""
        barrier = threading.Barrier(READER_THREADS, timeout=30)
        await asyncio.gather(*(self.parts.database.read(lambda _: barrier.wait()) for _ in range(READER_THREADS)))

    async def _cookie(self, caller: Caller, cache: Cache) -> str | None:
        if caller.state is State.NONE:
            return None
        if caller.permission is None:
            return "x" if caller.name == "malformed" else make_secret(b"?" * 32)
        token = parse_authorization(self.credentials[caller.name, cache])
        assert token is not None
        self._drawn += 1
        secret = make_secret(self._drawn.to_bytes(32, "big"))
        await self.parts.database.write(lambda connection: self._insert_session(connection, secret, token))
        return secret

    @staticmethod
    def _insert_session(connection: SqlConnection, secret: SessionSecret, token: Token) -> None:
        row = find_token(connection, hash_token(token))
        assert row is not None
        now = clock()
        insert_session(connection, hash_secret(secret), row.id, expires_at=now + 86_400, now=now)

    async def _credential(self, caller: Caller, cache: Cache) -> str | None:
        if caller.state is State.NONE:
            return None
        if caller.permission is None:
            return "Bearer ice_x" if caller.name == "malformed" else f"Bearer {make_token(b'?' * 32)}"
        _, token = await self.make_token(
            caller.permission,
            caller.pattern.replace("{cache}", cache),
            expires_at=clock() - 1 if caller.name == "expired" else None,
            is_revoked=caller.name == "revoked",
        )
        return f"Bearer {token}"


async def _do_nothing(_: object) -> None:
    return None


@contextlib.asynccontextmanager
async def open_world(folder: Path) -> AsyncGenerator[World]:
    """A server over *folder* without maintenance, ready to be asked."""
    settings = ServerSettings(
        data_dir=folder,
        collect_seconds=0,
        keep_backups=0,
        verify_speed=0,
        requests_per_second=0,
        failed_logins_per_minute=0,
        download_days=0,  # to write them is half a minute away from any request, and looks before for room
        oidc_issuer=TRUSTED,
        oidc_client_id="icehouse",
        oidc_roles=("*=pull:*",),
    )
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    with noted_connections(), start(DataFolder(folder), clock=clock, draw=lambda size: bytes([size]) * size) as started:
        assert started.first_token is not None
        # What the server does by itself in the background would stand among the statements of requests.
        idle = patch.object(SigningPasses, "run", _do_nothing), patch.object(wiring, "flush_regularly", _do_nothing)
        async with contextlib.AsyncExitStack() as stack:
            with idle[0], idle[1]:
                found, hot, pages = await stack.enter_async_context(open_parts(settings))
            stack.enter_context(patch.object(Collections, "start", _start_nothing))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LitestarDeprecationWarning)  # it is about our own dependencies' names
                app = make_app(found, hot, pages)
            world = World(app, found, started.first_token)
            await world.settle()
            yield world
    structlog.reset_defaults()
