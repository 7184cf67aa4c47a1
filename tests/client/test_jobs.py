"""A job's identity is found in its environment, shown to the right server only, and exchanged as seldom as may be."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from icehouse.api.trust import ExchangeAnswer, ExchangeRequest
from icehouse.client.job_tokens import JobTokens
from icehouse.client.jobs import AskedIdentity, GivenIdentity, JobLogin, NoIdentity, find_identity
from icehouse.client.logins import Logins, find_cache_address
from icehouse.errors import Denied, Unauthenticated, Unavailable
from icehouse.rules.access import make_token

GITHUB = {
    "GITHUB_ACTIONS": "true",
    "ACTIONS_ID_TOKEN_REQUEST_URL": "https://runner.example.org/id?api-version=2.0",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "secret",
}
GITLAB = {"GITLAB_CI": "true", "ICEHOUSE_ID_TOKEN": "a.b.c"}
A = "https://a.example.org"


def job_of(environment: Mapping[str, str], text: str = f"{A}/team", logins: Logins | None = None) -> JobLogin | None:
    return find_cache_address(text, logins or Logins(), environment).login.job


def test_identity_of_each_ci_is_found_with_its_variables() -> None:
    github = find_identity(GITHUB, may_give=True)
    assert github == AskedIdentity("https://runner.example.org/id?api-version=2.0", "secret")
    assert find_identity(GITLAB, may_give=True) == GivenIdentity("a.b.c")
    assert find_identity({}, may_give=True) is None


@pytest.mark.parametrize(
    ("environment", "remedy"),
    [({"GITHUB_ACTIONS": "true"}, "id-token: write"), ({"GITLAB_CI": "true"}, "ICEHOUSE_ID_TOKEN")],
)
def test_job_without_an_identity_is_told_how_to_get_one(environment: dict[str, str], remedy: str) -> None:
    identity = find_identity(environment, may_give=True)
    assert isinstance(identity, NoIdentity)
    assert remedy in identity.reason


def test_token_that_is_given_wins_over_the_identity() -> None:
    assert job_of(GITHUB | {"ICEHOUSE_TOKEN": make_token(bytes(32))}) is None
    assert job_of(GITHUB, "team", Logins(A, {A: "ice_a"})) is None
    job = job_of(GITHUB, "team", Logins(A, {A: None}))
    assert job is not None
    assert (job.cache, job.audience) == ("team", A)


def test_given_identity_goes_to_the_server_of_the_environment_alone() -> None:
    environment = GITLAB | {"ICEHOUSE_URL": A, "ICEHOUSE_AUDIENCE": "icehouse"}
    job = job_of(environment, "team")
    assert job is not None
    assert job.audience == "icehouse"
    elsewhere = job_of(environment, "https://evil.example.org/team")
    assert elsewhere is None or isinstance(elsewhere.identity, NoIdentity)


def test_identity_that_is_asked_for_names_the_server_that_it_is_shown_to() -> None:
    job = job_of(GITHUB | {"ICEHOUSE_URL": A, "ICEHOUSE_AUDIENCE": "icehouse"}, "https://evil.example.org/team")
    assert job is not None
    assert job.audience == "https://evil.example.org"


def test_secrets_of_a_job_do_not_show_in_repr() -> None:
    assert "secret" not in repr(job_of(GITHUB))
    assert "a.b.c" not in repr(job_of(GITLAB))


class Servers:
    """The server and the runner, as `JobTokens` sees them."""

    def __init__(self) -> None:
        self.exchanged: list[tuple[str, str | None]] = []
        self.asked: list[str] = []
        self.lifetime = 900
        self.refused = False
        self.runner_fails: Exception | None = None

    async def exchange(self, request: ExchangeRequest, earlier: str | None) -> ExchangeAnswer:
        if self.refused:
            raise Unauthenticated("this identity gets no token")
        self.exchanged.append((request.id_token, earlier))
        return ExchangeAnswer(
            token=f"ice_{len(self.exchanged)}",
            cache=request.cache,
            permissions=["push"],
            expires_at=0,
            expires_in_seconds=self.lifetime,
        )

    async def ask(self, url: str, token: str) -> bytes:
        assert token == "secret"
        if self.runner_fails is not None:
            raise self.runner_fails
        self.asked.append(url)
        return json.dumps({"value": f"identity-{len(self.asked)}", "count": 5}).encode()

    def tokens(self, login: JobLogin) -> JobTokens:
        return JobTokens(login, A, self.exchange, self.ask)


@pytest.fixture
def servers() -> Servers:
    return Servers()


def github_login(tmp_path: Path) -> JobLogin:
    return JobLogin(AskedIdentity("https://runner?v=2", "secret"), "team", f"{A}/x", tmp_path / "memory")


def gitlab_login(tmp_path: Path, cache: str = "team", given: str = "a.b.c") -> JobLogin:
    return JobLogin(GivenIdentity(given), cache, A, tmp_path / "folder" / "memory")


async def test_token_of_a_job_is_used_until_shortly_before_its_end(servers: Servers, tmp_path: Path) -> None:
    tokens = servers.tokens(github_login(tmp_path))
    assert [await tokens.get() for _ in range(3)] == ["ice_1"] * 3
    assert servers.asked == ["https://runner?v=2&audience=https%3A%2F%2Fa.example.org%2Fx"]
    servers.lifetime = 0
    short = servers.tokens(github_login(tmp_path))
    assert [await short.get() for _ in range(2)] == ["ice_2", "ice_3"]
    assert [identity for identity, _ in servers.exchanged] == ["identity-1", "identity-2", "identity-3"]
    assert not (tmp_path / "memory").exists()


async def test_token_that_the_server_refuses_is_exchanged_anew(servers: Servers, tmp_path: Path) -> None:
    tokens = servers.tokens(github_login(tmp_path))
    assert await tokens.get() == "ice_1"
    assert await tokens.drop("ice_1")
    assert await tokens.get() == "ice_2"
    assert await tokens.drop("ice_1")  # somebody else saw that before
    assert await tokens.get() == "ice_2"


async def test_refused_job_goes_on_without_a_token_and_knows_why(servers: Servers, tmp_path: Path) -> None:
    servers.refused = True
    tokens = servers.tokens(github_login(tmp_path))
    assert [await tokens.get(), await tokens.get()] == [None, None]
    assert tokens.refusal == "this identity gets no token"
    assert len(servers.asked) == 1
    servers.runner_fails = Denied("the CI gives no identity: it answered with status 403")
    assert await servers.tokens(github_login(tmp_path)).get() is None


async def test_runner_that_does_not_answer_is_asked_again(servers: Servers, tmp_path: Path) -> None:
    servers.runner_fails = Unavailable("away")
    tokens = servers.tokens(github_login(tmp_path))
    with pytest.raises(Unavailable):
        await tokens.get()
    servers.runner_fails = None
    assert await tokens.get() == "ice_1"


async def test_next_command_of_a_job_uses_the_token_of_the_one_before(servers: Servers, tmp_path: Path) -> None:
    login = gitlab_login(tmp_path)
    assert [await servers.tokens(login).get() for _ in range(2)] == ["ice_1", "ice_1"]
    assert stat.S_IMODE(login.memory.stat().st_mode) == 0o600
    assert "a.b.c" not in login.memory.read_text()


async def test_identity_that_counts_once_comes_with_the_token_that_it_gave(servers: Servers, tmp_path: Path) -> None:
    servers.lifetime = 0
    assert await servers.tokens(gitlab_login(tmp_path)).get() == "ice_1"
    assert await servers.tokens(gitlab_login(tmp_path)).get() == "ice_2"
    servers.lifetime = 900
    assert await servers.tokens(gitlab_login(tmp_path, cache="other")).get() == "ice_3"
    assert await servers.tokens(gitlab_login(tmp_path).narrowed("pull")).get() == "ice_4"
    assert servers.exchanged == [("a.b.c", None), ("a.b.c", "ice_1"), ("a.b.c", "ice_2"), ("a.b.c", "ice_3")]
    assert await servers.tokens(gitlab_login(tmp_path, cache="other")).get() == "ice_3"


async def test_tokens_of_another_job_are_not_used(servers: Servers, tmp_path: Path) -> None:
    await servers.tokens(gitlab_login(tmp_path)).get()
    assert await servers.tokens(gitlab_login(tmp_path, given="d.e.f")).get() == "ice_2"
    assert servers.exchanged[1] == ("d.e.f", None)


@pytest.mark.parametrize("text", ["", "no JSON", "{}", '[{"identity": 1}]'])
async def test_broken_memory_is_as_none(servers: Servers, tmp_path: Path, text: str) -> None:
    login = gitlab_login(tmp_path)
    login.memory.parent.mkdir()
    login.memory.write_text(text)
    assert await servers.tokens(login).get() == "ice_1"
