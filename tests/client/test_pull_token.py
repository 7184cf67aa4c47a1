"""Which token `icehouse use` asks for."""

import pytest

from icehouse.api.tokens import PermissionName, TokenView
from icehouse.client.pull_token import plan_pull_token

NOW = 1000


def view(pattern: str, *permissions: PermissionName, expires_at: int | None = None) -> TokenView:
    return TokenView(
        id=1,
        description="x",
        permissions=list(permissions),
        cache_pattern=pattern,
        created_at=0,
        created_by=None,
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
        last_used_from=None,
        created_by_description=None,
    )


@pytest.mark.parametrize(
    ("before", "pattern"),
    [
        (None, "team-a"),
        (view("team-b", "pull"), "team-*"),
        (view("team-b", "push"), "team-a"),
        (view("elsewhere", "pull"), "team-a"),
    ],
    ids=["the first", "one more", "not one for pulling", "beyond reach"],
)
def test_a_token_is_for_one_cache_until_it_must_serve_more(before: TokenView | None, pattern: str) -> None:
    planned = plan_pull_token(view("team-*", "admin"), "team-a", before, now=NOW)
    assert planned is not None
    assert (planned.permissions, planned.cache_pattern, planned.expires_in_seconds) == (["pull"], pattern, None)


@pytest.mark.parametrize(
    "own",
    [view("*", "push"), view("other", "admin"), view("*", "admin", expires_at=NOW + 1)],
    ids=["no administrator", "of other caches", "about to expire"],
)
def test_whoever_may_make_no_token_asks_for_none(own: TokenView) -> None:
    assert plan_pull_token(own, "team-a", None, now=NOW) is None


def test_a_token_ends_before_the_one_that_made_it() -> None:
    planned = plan_pull_token(view("*", "admin", expires_at=NOW + 86_400), "a", None, now=NOW)
    assert planned is not None
    assert planned.expires_in_seconds is not None
    assert 0 < planned.expires_in_seconds < 86_400
