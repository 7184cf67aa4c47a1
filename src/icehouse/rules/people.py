"""People: who they are by their provider, and which of their groups may do what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.rules.access import Permission, Scope, parse_cache_pattern

EVERYBODY: Final = "*"
"""In place of a group: all whom the provider lets in."""

_MAX_GROUPS: Final = 1_000
_MAX_SUBJECT_LENGTH: Final = 255
_MAX_NAME_LENGTH: Final = 100


@dataclass(frozen=True, slots=True)
class Role:
    """What the members of a group may do."""

    group: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, by what their provider says of them."""

    issuer: str
    subject: str
    """What the provider knows them by, whatever they are called."""
    name: str
    email: str | None


def parse_role(text: str) -> Role:
    """Read ``GROUP=PERMISSIONS:PATTERN``, such as ``developers=pull,push:team-*``. The group may hold any letters.

    Raises:
        InvalidFormat: it has another form.
    """
    group, equals, allowed = text.strip().rpartition("=")
    names, colon, pattern = allowed.partition(":")
    known = {permission.value for permission in Permission}
    permissions = {name.strip() for name in names.split(",")}
    if not group.strip() or not equals or not colon or not permissions <= known:
        raise InvalidFormat(
            f"role {excerpt(text)}: expected GROUP=PERMISSIONS:PATTERN, for instance developers=pull,push:team-*, with "
            f"permissions among {', '.join(Permission)}"
        )
    scope = Scope(frozenset(Permission(name) for name in permissions), parse_cache_pattern(pattern.strip()))
    return Role(group.strip(), scope)


def choose_scopes(roles: Sequence[Role], groups: Iterable[str]) -> tuple[Scope, ...]:
    """What a member of *groups* may do, by all roles that fit, in their order."""
    mine = {*groups, EVERYBODY}
    return tuple(dict.fromkeys(role.scope for role in roles if role.group in mine))


def read_groups(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """The groups in the claim called *name*: a list of texts, or one text. Dots lead into claims that hold claims.

    What is of another kind is no group.
    """
    value: object = claims.get(name)
    if value is None:
        value = claims
        for part in name.split("."):
            value = cast("dict[str, object]", value).get(part) if isinstance(value, dict) else None
    items = [value] if isinstance(value, str) else cast("list[object]", value) if isinstance(value, list) else []
    # Nobody gets a role by a group that is called as everybody is.
    return frozenset(item for item in items[:_MAX_GROUPS] if isinstance(item, str)) - {EVERYBODY}


def read_person(issuer: str, subject: str, claims: Mapping[str, Any]) -> Person:
    """Who a login token is about.

    Raises:
        InvalidFormat: the subject is empty or too long.
    """
    if not 0 < len(subject) <= _MAX_SUBJECT_LENGTH:
        raise InvalidFormat(f"sub: expected 1 to {_MAX_SUBJECT_LENGTH} letters")
    texts = [_read_text(claims.get(claim)) for claim in ("name", "preferred_username", "email")]
    name = next((text for text in texts if text is not None), None)
    return Person(issuer, subject, name or _read_text(subject) or "somebody", texts[2])


def _read_text(value: object) -> str | None:
    """A text that may be shown on a line."""
    if not isinstance(value, str):
        return None
    text = " ".join(value.split())[:_MAX_NAME_LENGTH]
    return text if text and text.isprintable() else None
