"""Who may do what: permissions, names and patterns of caches, tokens, and the decision about a request."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from icehouse.errors import Denied, InvalidFormat, NotFound, Unauthenticated
from icehouse.nix.excerpts import excerpt

RESERVED_NAMES: Final = frozenset(
    {
        "admin",
        "api",
        "assets",
        "docs",
        "favicon",
        "health",
        "icehouse",
        "login",
        "logout",
        "metrics",
        "nar",
        "nix-cache-info",
        "openapi",
        "robots",
        "schema",
        "static",
        "ui",
        "well-known",
    }
)
"""First segments of other addresses of a server, present or to come."""

MAX_CACHE_NAME_LENGTH: Final = 50
MAX_PATTERN_LENGTH: Final = 100
TOKEN_RANDOM_BYTES: Final = 32

_CACHE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")
_PATTERN: Final = re.compile(rf"[a-z0-9*-]{{1,{MAX_PATTERN_LENGTH}}}")
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN_PREFIX: Final = "ice_"  # noqa: S105  no secret
_TOKEN_RANDOM_LETTERS: Final = 43  # The fewest that hold 32 bytes.
_TOKEN_CHECKSUM_LETTERS: Final = 6  # The fewest that hold 32 bits.
_TOKEN: Final = re.compile(rf"ice_([0-9A-Za-z]{{{_TOKEN_RANDOM_LETTERS}}})([0-9A-Za-z]{{{_TOKEN_CHECKSUM_LETTERS}}})")
_MAX_AUTHORIZATION_LENGTH: Final = 4096


class Permission(StrEnum):
    """What a token may do to the caches that its pattern matches.

    `ADMIN` holds all others. Each of the others holds `PULL` too: who changes a cache must see what is in it, and a
    token that may push to a private cache but is told that there is none would puzzle everyone.
    """

    PULL = "pull"
    PUSH = "push"
    PIN = "pin"
    DELETE = "delete"
    CONFIGURE = "configure"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Scope:
    """Permissions on the caches whose name matches a pattern."""

    permissions: frozenset[Permission]
    cache_pattern: str

    def holds(self, permission: Permission, cache_name: str) -> bool:
        """Tell whether it has that permission on a cache of that name, whether or not there is one."""
        return _holds(self.permissions, permission) and matches(self.cache_pattern, cache_name)


@dataclass(frozen=True, slots=True)
class Grant:
    """What the holder of a valid token may do: *permissions* on caches whose name matches *cache_pattern*."""

    token_id: int
    description: str
    permissions: frozenset[Permission]
    cache_pattern: str
    expires_at: int | None = None
    """Seconds since the epoch; `None`: never."""
    others: tuple[Scope, ...] = ()
    """What it allows beside that: a person may have several roles."""
    person_id: int | None = None
    """Who is logged in by it, if a provider said who. Not of the tokens that they made, which make no others."""

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """All that it allows."""
        return (Scope(self.permissions, self.cache_pattern), *self.others)

    @property
    def admin_patterns(self) -> tuple[str, ...]:
        """The patterns of caches that it administers, one for all first."""
        patterns = [scope.cache_pattern for scope in self.scopes if Permission.ADMIN in scope.permissions]
        return tuple(sorted(patterns, key=lambda pattern: not covers(pattern, "*")))

    def administers(self, pattern: str) -> bool:
        """Tell whether it administers every cache whose name matches *pattern*."""
        return any(covers(mine, pattern) for mine in self.admin_patterns)


Token = NewType("Token", str)
"""A well-formed token, secret and all. Made by `make_token` and `parse_token` only."""


def parse_cache_name(text: str) -> str:
    """Read the name of a cache that may be created.

    Raises:
        InvalidFormat: other than 1 to 50 of ``a-z 0-9 -``, a dash at an end, or a reserved name.
    """
    if _CACHE_NAME.fullmatch(text) is None:
        raise InvalidFormat(
            f"cache name {excerpt(text)}: expected 1 to {MAX_CACHE_NAME_LENGTH} characters of a-z 0-9 and -, "
            "without a dash at the beginning or end"
        )
    if text in RESERVED_NAMES:
        raise InvalidFormat(f"cache name {text!r} is reserved for the server's own pages")
    return text


def parse_cache_pattern(text: str) -> str:
    """Read a pattern on cache names, in which ``*`` stands for any letters or none.

    Raises:
        InvalidFormat: other than 1 to 100 of ``a-z 0-9 - *``.
    """
    if _PATTERN.fullmatch(text) is None:
        raise InvalidFormat(
            f"cache pattern {excerpt(text)}: expected 1 to {MAX_PATTERN_LENGTH} characters of a-z 0-9 - and *"
        )
    return text


def matches(pattern: str, cache_name: str) -> bool:
    """Tell whether *cache_name* matches *pattern*. Takes no longer than their lengths multiplied."""
    first, *others = pattern.split("*")
    if not others:
        return cache_name == pattern
    *between, last = others
    end = len(cache_name) - len(last)
    if end < len(first) or not cache_name.startswith(first) or not cache_name.endswith(last):
        return False
    place = len(first)
    for part in between:  # The earliest place for each part leaves the most room for the next.
        found = cache_name.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def covers(pattern: str, narrower: str) -> bool:
    """Tell whether every name that matches *narrower* matches *pattern*.

    A star of *narrower* may stand for letters that *pattern* does not have, so only a star of *pattern* can take it: it
    is matched as one more letter.
    """
    return matches(pattern, narrower)


def allows(grant: Grant | None, permission: Permission, cache_name: str) -> bool:
    """Tell whether *grant* holds *permission* on a cache of that name, whether or not there is one."""
    if grant is None:
        return False
    if _holds(grant.permissions, permission) and matches(grant.cache_pattern, cache_name):
        return True
    return any(scope.holds(permission, cache_name) for scope in grant.others)


def _holds(permissions: frozenset[Permission], permission: Permission) -> bool:
    return (
        permission in permissions
        or Permission.ADMIN in permissions
        or (permission is Permission.PULL and bool(permissions))
    )


def no_such_cache(name: str) -> NotFound:
    """The error for a cache that is not there, and, in the same words, for one that the caller may not know of."""
    return NotFound(f"there is no cache {excerpt(name)}, or none that these credentials may see")


def check_access(
    grant: Grant | None,
    permission: Permission,
    cache_name: str,
    *,
    is_public: bool | None,
    has_invalid_credentials: bool = False,
) -> None:
    """Return if the request may go on.

    Args:
        grant: of the valid credentials that came with the request, if any did.
        permission: what the request needs; `Permission.PULL` for GET and HEAD of what a cache holds.
        cache_name: of the cache that it is about.
        is_public: of that cache; `None`: there is no such cache.
        has_invalid_credentials: credentials came that are malformed, unknown, expired or revoked.

    Raises:
        Unauthenticated: credentials are needed, and there are no valid ones.
        NotFound: there is no such cache, or this caller may not know of it.
        Denied: the caller knows the cache and lacks the permission.
    """
    if is_public and permission is Permission.PULL:
        return
    if has_invalid_credentials:
        raise invalid_credentials()
    if grant is None:
        raise Unauthenticated("this needs a token: as Bearer, or as the password of Basic authentication")
    if is_public is None or not (is_public or allows(grant, Permission.PULL, cache_name)):
        raise no_such_cache(cache_name)
    if not allows(grant, permission, cache_name):
        raise Denied(f"cache {cache_name!r}: this token lacks the permission {permission.value}")


def check_may_create_cache(grant: Grant | None, cache_name: str) -> None:
    """Return if the holder of *grant* may create a cache of that name.

    Raises:
        Unauthenticated: there are no credentials.
        Denied: they do not administer caches of that name.
    """
    if grant is None:
        raise Unauthenticated("creating a cache needs a token with the permission admin")
    if not allows(grant, Permission.ADMIN, cache_name):
        raise Denied(f"cache {cache_name!r}: creating it needs the permission admin on a pattern that matches its name")


def check_may_administer_tokens(grant: Grant | None) -> Grant:
    """*grant*, if its holder may make and list tokens.

    Raises:
        Unauthenticated: there are no credentials.
        Denied: the token lacks the permission admin. Else a stolen one for pushing could be made to live for ever.
    """
    if grant is None:
        raise Unauthenticated("tokens are administered with a token that has the permission admin")
    if not grant.admin_patterns:
        raise Denied("tokens are administered with the permission admin, which this token lacks")
    return grant


def check_may_read_audit(grant: Grant | None) -> Grant:
    """*grant*, if its holder may see what others changed on the caches that it administers.

    Raises:
        Unauthenticated: there are no credentials.
        Denied: the token lacks the permission admin.
    """
    if grant is None:
        raise Unauthenticated("the audit log is shown to a token that has the permission admin")
    if not grant.admin_patterns:
        raise Denied("the audit log is shown to the permission admin, which this token lacks")
    return grant


def check_may_watch_server(grant: Grant | None) -> None:
    """Return if the holder of *grant* may see figures about all caches, whose names are in them.

    Raises:
        Unauthenticated: there are no credentials.
        Denied: the token is not one for administering all caches.
    """
    if grant is None:
        raise Unauthenticated("metrics are shown to a token that has the permission admin on all caches")
    if not grant.administers("*"):
        raise Denied("metrics name all caches: they need the permission admin on the pattern *, which this token lacks")


def check_may_administer_people(grant: Grant | None) -> None:
    """Return if the holder of *grant* may see who logs in, and revoke what they have.

    Raises:
        Unauthenticated: there are no credentials.
        Denied: the token is not one for administering all caches.
    """
    if grant is None:
        raise Unauthenticated("people are administered with a token that has the permission admin on all caches")
    if not grant.administers("*"):
        raise Denied("people are administered with the permission admin on the pattern *, which this token lacks")


def may_see_token(grant: Grant, token: Grant) -> bool:
    """Tell whether the holder of *grant*, an administrator, may see and revoke *token*: it reaches no further."""
    return grant.token_id == token.token_id or grant.administers(token.cache_pattern)


def check_may_create_token(grant: Grant, cache_pattern: str, *, expires_at: int | None) -> None:
    """Return if the holder of *grant* may create such a token: it reaches no further and lasts no longer than theirs.

    It may have any permissions, since only the permission admin lets one create tokens, and that holds all.

    Raises:
        Denied: it would be stronger, or *grant* lacks the permission admin.
    """
    check_may_administer_tokens(grant)
    if not grant.administers(cache_pattern):
        raise Denied(f"pattern {cache_pattern!r} reaches beyond this token's own, {grant.cache_pattern!r}")
    if grant.expires_at is not None and (expires_at is None or expires_at > grant.expires_at):
        raise Denied("a token cannot create one that expires after itself")


def check_may_create_own_token(grant: Grant, permissions: frozenset[Permission], cache_pattern: str) -> None:
    """Return if a person with *grant* may make such a token for themselves: one role of theirs holds all of it.

    Raises:
        Denied: no provider said who they are, or no role does.
    """
    if grant.person_id is None:
        raise Denied("tokens for oneself are made by people whom a provider knows; others need the permission admin")
    if not any(fits_scope(scope, permissions, cache_pattern) for scope in grant.scopes):
        names = ", ".join(sorted(permissions))
        raise Denied(f"none of your roles allows {names} on {cache_pattern!r}")


def fits_scope(scope: Scope, permissions: frozenset[Permission], cache_pattern: str) -> bool:
    """Tell whether *scope* holds all those permissions on all those caches."""
    is_held = all(_holds(scope.permissions, permission) for permission in permissions)
    return is_held and covers(scope.cache_pattern, cache_pattern)


def make_token(random_bytes: bytes) -> Token:
    """The token that 32 random bytes stand for: ``ice_``, 43 letters, and 6 letters of CRC-32 over these.

    The letters are ``0-9A-Za-z``, the highest digit first. Prefix and checksum let scanners of leaked secrets find
    tokens with certainty.
    """
    if len(random_bytes) != TOKEN_RANDOM_BYTES:
        raise InvalidFormat(f"a token is made of {TOKEN_RANDOM_BYTES} random bytes, not {len(random_bytes)}")
    letters = _base62(int.from_bytes(random_bytes, "big"), _TOKEN_RANDOM_LETTERS)
    return Token(f"{_TOKEN_PREFIX}{letters}{_checksum(letters)}")


def parse_token(text: str) -> Token:
    """Read a token.

    Raises:
        InvalidFormat: it has another form, or the checksum is wrong: a letter was lost or changed. The message does not
            hold the text.
    """
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise InvalidFormat("token: expected ice_ and 49 letters and digits")
    if _checksum(match[1]) != match[2]:
        raise InvalidFormat("token: its checksum is wrong, so a character is missing or was changed")
    return Token(text)


def hash_token(token: Token) -> bytes:
    """What is kept of a token: SHA-256, which 256 random bits need no salt for."""
    return hashlib.sha256(token.encode()).digest()


def parse_authorization(value: str | None) -> Token | None:
    """The token in an ``Authorization`` header: of Bearer, or the password of Basic with any user name.

    `None`: there is no header.

    Raises:
        Unauthenticated: the header has another scheme, is malformed, or holds no well-formed token.
    """
    if value is None:
        return None
    scheme, _, rest = value[:_MAX_AUTHORIZATION_LENGTH].strip().partition(" ")
    try:
        match scheme.lower():
            case "bearer":
                return parse_token(rest.strip())
            case "basic":
                decoded = base64.b64decode(rest.strip(), validate=True).decode()
                return parse_token(decoded.partition(":")[2])
            case _:
                raise Unauthenticated("Authorization: expected Bearer or Basic")
    except (binascii.Error, ValueError):
        # Without its cause, which may quote what was sent.
        raise invalid_credentials() from None


def invalid_credentials() -> Unauthenticated:
    """The one error for all credentials that are not valid; it does not tell in which way."""
    return Unauthenticated("these credentials are malformed, unknown, expired or revoked")


def _checksum(letters: str) -> str:
    return _base62(zlib.crc32(letters.encode()), _TOKEN_CHECKSUM_LETTERS)


def _base62(number: int, length: int) -> str:
    letters: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        letters.append(_BASE62[digit])
    return "".join(reversed(letters))
