import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from icehouse.api.tokens import PermissionName, TokenCreate
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.errors import Denied, InvalidFormat, NotFound, Unauthenticated
from icehouse.rules.access import Grant, Permission, Scope, parse_token
from icehouse.rules.token_filter import TokenFilter, TokenState
from icehouse.services.access import Access, Credential
from icehouse.services.tokens import Tokens
from tests.services.publishing import TESTER

NOW = 1_000


def clock() -> int:
    return NOW


def request(
    *permissions: PermissionName, pattern: str = "*", expires_in: int | None = None, description: str = "CI"
) -> TokenCreate:
    return TokenCreate(
        description=description,
        permissions=list(permissions) or ["pull"],
        cache_pattern=pattern,
        expires_in_seconds=expires_in,
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


@pytest.fixture
def access(database: Database) -> Access:
    return Access(database, clock=clock)


@pytest.fixture
def tokens(database: Database) -> Tokens:
    numbers = itertools.count(1)
    return Tokens(database, clock=clock, draw=lambda size: next(numbers).to_bytes(size, "big"))


@pytest.fixture
async def team(tokens: Tokens, access: Access) -> Grant:
    """An administrator of the caches of a team; an administrator of everything is token 1."""
    await tokens.create_token_on_server(request("admin"))
    created = await tokens.create_token_on_server(request("admin", pattern="team-*", expires_in=500))
    grant = await access.identify(Credential(f"Bearer {created.token}"))
    assert grant is not None
    return grant


async def test_a_new_token_opens_what_it_was_made_for(tokens: Tokens, access: Access, team: Grant) -> None:
    created = await tokens.create_token(request("push", "pull", pattern="team-a", expires_in=60), team, TESTER)
    assert parse_token(created.token)
    assert created.view.permissions == ["pull", "push"]
    assert (created.view.created_by, created.view.created_by_description) == (team.token_id, "CI")
    assert created.view.expires_at == NOW + 60
    grant = await access.identify(Credential(f"Bearer {created.token}"))
    assert grant is not None
    assert grant.cache_pattern == "team-a"


async def test_a_stronger_token_is_denied(tokens: Tokens, team: Grant) -> None:
    for stronger in (request("pull"), request("pull", pattern="team-a"), request(pattern="team-a", expires_in=501)):
        with pytest.raises(Denied):
            await tokens.create_token(stronger, team, TESTER)
    assert len(await tokens.list_tokens_on_server()) == 2


async def test_no_credentials_make_no_token(tokens: Tokens) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.create_token(request(), None, TESTER)
    with pytest.raises(Unauthenticated):
        await tokens.list_tokens(None)
    with pytest.raises(Unauthenticated):
        await tokens.revoke_token(1, None, TESTER)


async def test_a_token_revoked_meanwhile_leaves_no_heir(tokens: Tokens, team: Grant) -> None:
    await tokens.revoke_token_on_server(team.token_id)
    with pytest.raises(Unauthenticated):
        await tokens.create_token(request("pull", pattern="team-a", expires_in=60), team, TESTER)
    assert len(await tokens.list_tokens_on_server()) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        request(pattern="A"),
        request(expires_in=0),
        request(expires_in=-1),
        request(expires_in=10**12),
        request(description=""),
        request(description="a\nb"),
        request(description="x" * 201),
        TokenCreate(description="CI", permissions=[], cache_pattern="*"),
    ],
)
async def test_a_wrong_request_is_refused(tokens: Tokens, wrong: TokenCreate) -> None:
    with pytest.raises(InvalidFormat):
        await tokens.create_token_on_server(wrong)


async def test_an_administrator_sees_and_revokes_what_reaches_no_further(
    tokens: Tokens, access: Access, team: Grant
) -> None:
    created = await tokens.create_token(request("pull", pattern="team-a", expires_in=60), team, TESTER)
    assert [view.id for view in await tokens.list_tokens(team)] == [2, 3]
    assert [view.id for view in await tokens.list_tokens_on_server()] == [1, 2, 3]
    for hidden in (1, 99):
        with pytest.raises(NotFound, match=f"no token {hidden}, or none"):
            await tokens.revoke_token(hidden, team, TESTER)
    await tokens.revoke_token(3, team, TESTER)
    await tokens.revoke_token(3, team, TESTER)
    with pytest.raises(Unauthenticated):
        await access.identify(Credential(f"Bearer {created.token}"))
    assert [view.revoked_at for view in await tokens.list_tokens_on_server()] == [None, None, NOW]


async def test_any_token_may_see_itself(tokens: Tokens, access: Access, team: Grant) -> None:
    created = await tokens.create_token(request("pull", pattern="team-a", expires_in=60), team, TESTER)
    view = await tokens.show_own_token(await access.identify(Credential(f"Bearer {created.token}")))
    assert (view.id, view.permissions, view.cache_pattern, view.expires_at) == (3, ["pull"], "team-a", NOW + 60)
    with pytest.raises(Unauthenticated):
        await tokens.show_own_token(None)


async def test_a_token_without_admin_may_revoke_itself_only(tokens: Tokens, access: Access, team: Grant) -> None:
    created = await tokens.create_token(request("pull", pattern="team-a", expires_in=60), team, TESTER)
    grant = await access.identify(Credential(f"Bearer {created.token}"))
    assert grant is not None
    for refused in (
        tokens.revoke_token(2, grant, TESTER),
        tokens.create_token(request(), grant, TESTER),
        tokens.list_tokens(grant),
    ):
        with pytest.raises(Denied):
            await refused
    await tokens.revoke_token(grant.token_id, grant, TESTER)
    assert (await tokens.list_tokens_on_server())[2].revoked_at == NOW


async def test_revoking_an_absent_token_says_so(tokens: Tokens) -> None:
    with pytest.raises(NotFound):
        await tokens.revoke_token_on_server(1)


async def ids(tokens: Tokens, grant: Grant, wanted: TokenFilter = TokenFilter()) -> list[int]:  # noqa: B008  frozen
    return [view.id for view in (await tokens.page_tokens(wanted, grant, limit=10)).tokens]


async def test_page_of_tokens_holds_those_that_the_whole_list_holds(tokens: Tokens, team: Grant) -> None:
    for pattern in ("team-*", "team-a", "*", "tea*", "team-*-x", "xteam-a", "team_a".replace("_", "-")):
        await tokens.create_token_on_server(request(pattern=pattern))
    assert await ids(tokens, team) == [view.id for view in await tokens.list_tokens(team)][::-1]


async def test_page_of_tokens_reaches_as_far_as_all_roles_of_its_reader(tokens: Tokens, team: Grant) -> None:
    for pattern in ("team-a", "other", "third"):
        await tokens.create_token_on_server(request(pattern=pattern))
    both = dataclasses.replace(team, others=(Scope(frozenset({Permission.ADMIN}), "other"),))
    assert await ids(tokens, both) == [4, 3, 2]
    pulls = dataclasses.replace(team, others=(Scope(frozenset({Permission.PULL}), "other"),))
    assert await ids(tokens, pulls) == [3, 2]


async def test_page_of_tokens_is_filtered(database: Database, tokens: Tokens, team: Grant) -> None:
    everything = dataclasses.replace(team, cache_pattern="*")
    await tokens.create_token_on_server(request(pattern="team-*", description="100% CI"))
    await tokens.create_token_on_server(request(pattern="team-b", expires_in=1))
    await tokens.create_token_on_server(request(pattern="team-a"))
    await tokens.revoke_token_on_server(5)
    assert await ids(tokens, everything, TokenFilter(cache_name="team-a")) == [5, 3, 2, 1]
    assert await ids(tokens, everything, TokenFilter(search="% c")) == [3]
    assert await ids(tokens, everything, TokenFilter(before=3)) == [2, 1]
    later = Tokens(database, clock=lambda: NOW + 1, draw=bytes)
    found = {state: await ids(later, everything, TokenFilter(state=state)) for state in TokenState}
    assert found == {TokenState.VALID: [3, 2, 1], TokenState.REVOKED: [5], TokenState.EXPIRED: [4]}
