"""A job's identity gets a token for what a rule allows, once; whatever is wrong with it, the words are the same."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from pathlib import Path

import pytest
from joserfc.jwk import ECKey, RSAKey
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from icehouse.api.tokens import PermissionName
from icehouse.api.trust import ExchangeAnswer, ExchangeRequest, TrustCreate
from icehouse.client.issuer_documents import issuer_documents
from icehouse.db.audit import AuditRow, page_changes
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.schema import job, token, used_id_token
from icehouse.errors import NotFound, Unauthenticated
from icehouse.rules.access import Permission
from icehouse.rules.audit import Action, Actor, AuditFilter, Origin
from icehouse.rules.id_tokens import MAX_KEYS_BYTES
from icehouse.services.access import Access, Credential
from icehouse.services.exchange import Exchange
from icehouse.services.issuer_keys import (
    FRESH_SECONDS,
    PAUSE_SECONDS,
    RETRY_SECONDS,
    STALE_SECONDS,
    Documents,
    IssuerKeyring,
)
from icehouse.services.tokens import Tokens
from icehouse.services.trust import Trust
from tests.services.local_issuer import Issuer, encode, public_of, run_issuer, sign
from tests.services.publishing import TESTER, Store

ORIGIN = Origin("192.0.2.1", "a-request")
US = "https://cache.example.org"
MAIN = {"repository": ["org/*"], "ref": ["refs/heads/main"]}


class World:
    """A server's part of the exchange, with a clock that a test moves, and an issuer that has the real time."""

    def __init__(self, store: Store, issuer: Issuer, documents: Documents) -> None:
        self.store = store
        self.issuer = issuer
        self.ahead = 0
        keyring = IssuerKeyring(documents, self.clock)
        self.trust = Trust(store.database, public_url=US, clock=self.clock)
        self.exchange = Exchange(store.database, keyring, clock=self.clock, draw=secrets.token_bytes)
        self.access = Access(store.database, clock=self.clock)

    def clock(self) -> int:
        return int(time.time()) + self.ahead

    async def add_rule(
        self,
        cache: str = "main",
        *,
        allow: tuple[PermissionName, ...] = ("push",),
        seconds: int = 900,
        **claims: list[str],
    ) -> int:
        row = await self.find_cache(cache)
        body = TrustCreate(
            issuer=self.issuer.url,
            claims=claims or MAIN,
            permissions=list(allow),
            token_seconds=seconds,
        )
        return (await self.trust.add_rule(row, body, TESTER)).id

    async def find_cache(self, name: str) -> CacheRow:
        return await self.store.database.read(lambda connection: get_cache(connection, name))

    async def ask(
        self, id_token: str, cache: str = "main", earlier: str | None = None, allow: list[PermissionName] | None = None
    ) -> ExchangeAnswer:
        request = ExchangeRequest(cache=cache, id_token=id_token, permissions=allow)
        return await self.exchange.exchange(request, None if earlier is None else f"Bearer {earlier}", ORIGIN)

    def token(self, **claims: object) -> str:
        return self.issuer.token(US, **claims)


@pytest.fixture
def issuer() -> Generator[Issuer]:
    with run_issuer() as issuer:
        yield issuer


@pytest.fixture
async def world(tmp_path: Path, issuer: Issuer) -> AsyncGenerator[World]:
    store = Store.open(tmp_path)
    await store.create_cache("main")
    async with issuer_documents() as documents:
        yield World(store, issuer, documents)
    await store.close()


async def test_job_gets_a_token_for_its_cache_for_some_minutes_with_what_is_known_of_it(world: World) -> None:
    await world.add_rule(allow=("push", "pin"))
    answer = await world.ask(world.token())
    assert (answer.cache, answer.permissions, answer.expires_in_seconds) == ("main", ["push", "pin"], 900)
    entry = await world.access.enter("main", Permission.PUSH, Credential(f"Bearer {answer.token}"))
    assert entry.grant is not None
    assert entry.grant.cache_pattern == "main"
    row = await world.store.database.read(lambda connection: connection.execute(select(job)).one())
    assert (row.repository, row.ref, row.commit, row.run) == ("org/app", "refs/heads/main", "1f" * 20, "4711")
    assert row.workflow == "org/app/.github/workflows/ci.yml@refs/heads/main"
    world.ahead = 900
    with pytest.raises(Unauthenticated):
        await world.access.enter("main", Permission.PUSH, Credential(f"Bearer {answer.token}"))


async def exchanges(world: World) -> list[AuditRow]:
    rows = await world.store.database.read(lambda connection: page_changes(connection, ["*"], AuditFilter(), limit=100))
    return [row for row in rows if row.change.action is Action.TOKEN_EXCHANGE]


async def test_audit_log_tells_which_job_got_which_token_and_holds_no_secret(world: World) -> None:
    await world.add_rule()
    id_token = world.token()
    answer = await world.ask(id_token)
    with pytest.raises(Unauthenticated):
        await world.ask(id_token)  # what is refused has no row
    again = await world.ask(id_token, earlier=answer.token)
    rows = await exchanges(world)
    assert [(row.change.cache_pattern, row.change.subject) for row in rows] == [("main", "2"), ("main", "1")]
    assert rows[1].actor == Actor("org/app at refs/heads/main, run 4711", 1, "192.0.2.1", "a-request")
    told = json.loads(rows[1].change.new or "")
    assert told["permissions"] == ["push"]
    assert told["expires_at"] == answer.expires_at
    assert (told["issuer"], told["repository"], told["run"]) == (world.issuer.url, "org/app", "4711")
    assert not [secret for secret in (answer.token, again.token, id_token) if secret in repr(rows)]


async def test_exchange_that_cannot_be_audited_gives_no_token(world: World) -> None:
    await world.add_rule()
    with closing(sqlite3.connect(world.store.database.path)) as raw:
        raw.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(IntegrityError):
        await world.ask(world.token())
    assert [await world.store.count(table) for table in (token, job, used_id_token)] == [0, 0, 0]


async def test_audit_log_has_only_so_many_exchanges_of_a_cache_and_day(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icehouse.services.exchange.MAX_EXCHANGES_A_DAY", 2)
    await world.store.create_cache("other")
    for cache in ("main", "other"):
        await world.add_rule(cache)
    for _ in range(3):
        await world.ask(world.token())
    assert ["more" in (row.change.new or "") for row in await exchanges(world)] == [True, False]
    assert await world.store.count(token) == 3
    await world.ask(world.token(), "other")
    assert len(await exchanges(world)) == 3


async def test_tokens_of_jobs_are_not_in_the_list_of_tokens(world: World) -> None:
    await world.add_rule()
    await world.ask(world.token())
    tokens = Tokens(world.store.database, clock=world.clock, draw=secrets.token_bytes)
    assert await tokens.list_tokens_on_server() == []


async def refuse(world: World, id_token: str, cache: str = "main", earlier: str | None = None) -> str:
    with pytest.raises(Unauthenticated) as raised:
        await world.ask(id_token, cache, earlier)
    return str(raised.value)


async def test_every_refusal_has_the_same_words(world: World) -> None:
    await world.add_rule()
    await world.store.create_cache("other")
    used = world.token()
    await world.ask(used)
    stranger, unknown = RSAKey.generate_key(2048, {"kid": "rsa"}), ECKey.generate_key("P-256", {"kid": "x"})
    refusals = {
        "used before": await refuse(world, used),
        "no cache": await refuse(world, world.token(), "absent"),
        "no cache's name": await refuse(world, world.token(), "../x" * 1000),
        "no rule": await refuse(world, world.token(), "other"),
        "fork": await refuse(world, world.token(repository="evil/app")),
        "anchored": await refuse(world, world.token(repository="evil/org/app")),
        "pull request": await refuse(world, world.token(ref="refs/pull/1/merge", event_name="pull_request")),
        "target": await refuse(world, world.token(event_name="pull_request_target")),
        "audience": await refuse(world, world.issuer.token("https://other.example.org")),
        "longer audience": await refuse(world, world.issuer.token(US + "/")),
        "issuer": await refuse(world, world.token(iss="https://evil.example.org")),
        "expired": await refuse(world, world.token(exp=int(time.time()) - 61, iat=int(time.time()) - 400)),
        "future": await refuse(world, world.token(nbf=int(time.time()) + 120)),
        "signature": await refuse(world, sign(world.issuer.claims(US), stranger)),
        "no key": await refuse(world, sign(world.issuer.claims(US), unknown, "ES256")),
        "alg none": await refuse(world, f"{encode({'alg': 'none'})}.{encode(world.issuer.claims(US))}."),
        "huge": await refuse(world, "a" * 100_000),
        "empty": await refuse(world, ""),
    }
    assert len(set(refusals.values())) == 1, refusals
    assert await world.store.count(token) == 1


async def test_only_issuers_of_rules_are_ever_asked(world: World, issuer: Issuer) -> None:
    await refuse(world, world.token())  # no rule names it yet
    await world.add_rule()
    with run_issuer() as evil:
        await refuse(world, evil.token(US))
        assert (evil.paths, issuer.paths) == ([], [])
    await world.ask(world.token())
    assert issuer.paths == ["/.well-known/openid-configuration", "/keys"]


async def test_identity_counts_once_even_if_it_comes_many_times_at_once(world: World) -> None:
    await world.add_rule()
    for id_token in (world.token(), world.token(jti=None)):
        answers = await asyncio.gather(*(world.ask(id_token) for _ in range(8)), return_exceptions=True)
        assert sorted(isinstance(answer, ExchangeAnswer) for answer in answers) == [False] * 7 + [True]


async def test_use_is_seen_by_another_process(world: World, tmp_path: Path) -> None:
    await world.add_rule()
    used = world.token()
    await world.ask(used)
    other = Store.open(tmp_path)
    async with issuer_documents() as documents:
        await refuse(World(other, world.issuer, documents), used)
    await other.close()


async def test_who_has_the_token_that_an_identity_gave_may_use_the_identity_again(world: World) -> None:
    await world.add_rule()
    given = world.token(exp=int(time.time()) + 7200)
    first = await world.ask(given)
    world.ahead = 1000  # the first one has expired
    second = await world.ask(given, earlier=first.token)
    assert second.token != first.token
    await refuse(world, given, earlier=first.token)  # the last one counts
    await refuse(world, given)
    third = await world.ask(given, earlier=second.token)
    assert await world.store.count(job) == 1
    tokens = Tokens(world.store.database, clock=world.clock, draw=secrets.token_bytes)
    entry = await world.access.enter("main", Permission.PUSH, Credential(f"Bearer {third.token}"))
    assert entry.grant is not None
    await tokens.revoke_token_on_server(entry.grant.token_id)
    await refuse(world, given, earlier=third.token)


async def test_uses_are_forgotten_once_the_identity_has_expired(world: World) -> None:
    await world.add_rule()
    old = world.token()
    await world.ask(old)
    world.ahead = 300 + 62
    await refuse(world, old)
    await world.ask(world.token(exp=int(time.time()) + 600, iat=int(time.time()) + 360, nbf=int(time.time())))
    assert await world.store.count(used_id_token) == 1


async def test_permissions_are_those_of_all_rules_that_match_or_fewer_that_are_asked_for(world: World) -> None:
    await world.add_rule(allow=("push",), seconds=600)
    await world.add_rule(allow=("pull",), seconds=7200, repository=["org/app"])
    await world.add_rule(allow=("delete",), seconds=60, repository=["org/other"])
    both = await world.ask(world.token())
    assert (both.permissions, both.expires_in_seconds) == (["pull", "push"], 600)
    pull = await world.ask(world.token(), allow=["pull"])
    assert (pull.permissions, pull.expires_in_seconds) == (["pull"], 7200)
    with pytest.raises(Unauthenticated):
        await world.ask(world.token(), allow=["push", "delete"])


async def test_removed_rule_ends_the_tokens_that_it_gave(world: World) -> None:
    rule = await world.add_rule()
    answer = await world.ask(world.token())
    main = await world.find_cache("main")
    await world.trust.remove_rule(main, rule, TESTER)
    with pytest.raises(Unauthenticated):
        await world.access.enter("main", Permission.PUSH, Credential(f"Bearer {answer.token}"))
    await refuse(world, world.token())
    with pytest.raises(NotFound):
        await world.trust.remove_rule(main, rule, TESTER)


async def test_rotated_keys_are_fetched_and_old_ones_count_no_more(world: World, issuer: Issuer) -> None:
    await world.add_rule()
    await world.ask(world.token())
    old = world.token()
    new = ECKey.generate_key("P-256", {"kid": "next"})
    issuer.keys, issuer.signing_key, issuer.algorithm = [public_of(new)], new, "ES256"
    await refuse(world, world.token())  # asked for a moment ago
    assert issuer.paths.count("/keys") == 1
    world.ahead = PAUSE_SECONDS
    await world.ask(world.token())
    await refuse(world, old)
    assert issuer.paths.count("/keys") == 2


async def test_tokens_of_unknown_keys_make_one_fetch_a_minute_at_most(world: World, issuer: Issuer) -> None:
    await world.add_rule()
    for round_ in range(1, 4):
        stranger = ECKey.generate_key("P-256", {"kid": secrets.token_hex()})
        forged = [sign(issuer.claims(US), stranger, "ES256", kid=secrets.token_hex()) for _ in range(20)]
        await asyncio.gather(*(refuse(world, each) for each in forged))
        assert issuer.paths.count("/keys") == round_
        world.ahead += PAUSE_SECONDS


async def test_keys_are_remembered_while_they_are_fresh_and_while_the_issuer_is_away(
    world: World, issuer: Issuer
) -> None:
    await world.add_rule()

    def token_later() -> str:
        now = world.clock()
        return world.token(iat=now, nbf=now, exp=now + 300)

    await world.ask(token_later())
    world.ahead = FRESH_SECONDS - 5
    await world.ask(token_later())
    assert issuer.paths.count("/keys") == 1
    issuer.documents["/keys"] = b"away"
    world.ahead = STALE_SECONDS - 60
    await world.ask(token_later())
    world.ahead = STALE_SECONDS + 60
    await refuse(world, token_later())
    del issuer.documents["/keys"]
    world.ahead += RETRY_SECONDS
    await world.ask(token_later())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/keys", b"x" * (MAX_KEYS_BYTES + 1)),
        ("/keys", b"no JSON"),
        ("/.well-known/openid-configuration", b'{"issuer": "https://evil", "jwks_uri": "https://evil/keys"}'),
        ("/.well-known/openid-configuration", b"{}"),
    ],
)
async def test_issuer_that_answers_nonsense_is_not_believed(
    world: World, issuer: Issuer, path: str, body: bytes
) -> None:
    await world.add_rule()
    issuer.documents[path] = body
    await refuse(world, world.token())


async def test_redirect_of_an_issuer_is_not_followed(world: World, issuer: Issuer) -> None:
    await world.add_rule()
    issuer.status = 302
    issuer.location = "/keys"
    await refuse(world, world.token())
    assert issuer.paths == ["/.well-known/openid-configuration"]
