from typing import Any

import pytest

from icehouse.errors import Denied, InvalidFormat
from icehouse.rules.access import (
    Grant,
    Permission,
    Scope,
    allows,
    check_may_create_own_token,
    check_may_create_token,
    fits_scope,
)
from icehouse.rules.people import choose_scopes, parse_role, read_groups, read_person

PULL_TEAM = Scope(frozenset({Permission.PULL}), "team-*")
ADMIN_LAB = Scope(frozenset({Permission.ADMIN}), "lab-*")


def test_role_is_read() -> None:
    role = parse_role(" CN=Developers,O=Example = pull, push : team-* ")
    assert role.group == "CN=Developers,O=Example"
    assert role.scope == Scope(frozenset({Permission.PULL, Permission.PUSH}), "team-*")


@pytest.mark.parametrize("text", ["", "dev", "dev=", "dev=pull", "=pull:*", "dev=pull:", "dev=fly:*", "dev=pull:A b"])
def test_what_is_no_role_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat):
        parse_role(text)


def test_person_has_the_roles_of_all_their_groups_and_of_everybody() -> None:
    roles = [parse_role(text) for text in ("*=pull:open-*", "dev=push:team-*", "ops=admin:*")]
    assert [scope.cache_pattern for scope in choose_scopes(roles, ["dev", "else"])] == ["open-*", "team-*"]
    assert choose_scopes(roles[1:], ["else"]) == ()


@pytest.mark.parametrize(
    ("claims", "name", "groups"),
    [
        ({"groups": ["a", "b"]}, "groups", {"a", "b"}),
        ({"groups": "a"}, "groups", {"a"}),
        ({"groups": ["*", 1, None, ["a"]]}, "groups", set[str]()),
        ({"groups": "*"}, "groups", set[str]()),
        ({"groups": {"a": 1}}, "groups", set[str]()),
        ({}, "groups", set[str]()),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", {"a"}),
        ({"https://example.org/groups": ["a"]}, "https://example.org/groups", {"a"}),
        ({"realm_access": ["roles"]}, "realm_access.roles", set[str]()),
    ],
)
def test_groups_are_read_from_their_claim(claims: dict[str, Any], name: str, groups: set[str]) -> None:
    assert read_groups(claims, name) == groups


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"name": "Ada", "email": "a@b"}, "Ada"),
        ({"name": " Ada\n<b> ", "email": 7}, "Ada <b>"),
        ({"name": "\u202e", "preferred_username": "ada"}, "ada"),
        ({"email": "a@b"}, "a@b"),
        ({}, "the-subject"),
        ({"name": "x" * 500}, "x" * 100),
    ],
)
def test_person_is_called_what_can_be_shown_on_a_line(claims: dict[str, Any], name: str) -> None:
    assert read_person("https://issuer", "the-subject", claims).name == name


def test_each_role_counts_for_its_own_caches_alone() -> None:
    grant = Grant(1, "Ada", PULL_TEAM.permissions, PULL_TEAM.cache_pattern, None, (ADMIN_LAB,), 1)
    assert allows(grant, Permission.PULL, "team-a")
    assert not allows(grant, Permission.PUSH, "team-a")
    assert allows(grant, Permission.DELETE, "lab-a")
    assert not allows(grant, Permission.PULL, "other")
    assert grant.admin_patterns == ("lab-*",)
    check_may_create_token(grant, "lab-x", expires_at=None)
    with pytest.raises(Denied):
        check_may_create_token(grant, "team-a", expires_at=None)


def test_person_makes_tokens_within_one_role() -> None:
    grant = Grant(1, "Ada", PULL_TEAM.permissions, PULL_TEAM.cache_pattern, None, (ADMIN_LAB,), 1)
    check_may_create_own_token(grant, frozenset({Permission.PULL}), "team-a")
    check_may_create_own_token(grant, frozenset({Permission.PUSH, Permission.PIN}), "lab-*")
    for permissions, pattern in (
        ({Permission.PUSH}, "team-a"),
        ({Permission.PULL}, "*"),
        ({Permission.PULL}, "team*"),
        ({Permission.PULL, Permission.ADMIN}, "team-a"),
    ):
        with pytest.raises(Denied):
            check_may_create_own_token(grant, frozenset(permissions), pattern)
    with pytest.raises(Denied):
        check_may_create_own_token(Grant(1, "CI", ADMIN_LAB.permissions, "lab-*"), ADMIN_LAB.permissions, "lab-*")


def test_scope_that_holds_admin_holds_all() -> None:
    assert fits_scope(ADMIN_LAB, frozenset(Permission), "lab-1")
    assert not fits_scope(ADMIN_LAB, frozenset(Permission), "lab*")
