"""Trust rules: whose jobs may have a token of a cache, told by the claims of the identity that their CI gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.rules.access import Permission

MAX_RULES: Final = 100
"""Of one cache."""

MAX_CLAIMS: Final = 32
"""Conditions of one rule."""

MAX_URL_LENGTH: Final = 300
MAX_AUDIENCE_LENGTH: Final = 300
MIN_TOKEN_SECONDS: Final = 60
MAX_TOKEN_SECONDS: Final = 12 * 3600
"""As long as the longest jobs that pull from a private cache while they build."""

_CLAIM_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}")
_MAX_GLOB_LENGTH: Final = 512
_STARS: Final = re.compile(r"(\*+)")
_SEPARATORS: Final = frozenset("/:")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_OWNERS: Final[Mapping[str, frozenset[str]]] = {
    "https://token.actions.githubusercontent.com": frozenset(
        {"repository", "repository_id", "repository_owner", "repository_owner_id", "sub"}
    ),
    "https://gitlab.com": frozenset({"project_path", "project_id", "namespace_path", "namespace_id", "sub"}),
}
"""Issuers that everybody can have a job at, and their claims that tell whose it is."""

_PATHS: Final = frozenset({"repository", "project_path", "namespace_path", "sub"})
"""Those of these claims that are paths: a name of the owner, a slash, and more."""

_OUTSIDE_EVENTS: Final[Mapping[str, frozenset[str]]] = {
    "event_name": frozenset(
        {
            "pull_request",
            "pull_request_target",
            "pull_request_review",
            "pull_request_review_comment",
            "issue_comment",
            "workflow_run",
        }
    ),
    "pipeline_source": frozenset({"merge_request_event", "external_pull_request_event"}),
}
"""By claim: what people without any right on a repository can bring about in it, on GitHub and on GitLab."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A claim and the glob that its value matches."""

    claim: str
    glob: str


@dataclass(frozen=True, slots=True)
class TrustRule:
    """Who may have a token of a cache, and what that may do."""

    issuer: str
    audience: str
    conditions: tuple[Condition, ...]
    """For each claim that is named, one of its globs matches."""
    permissions: frozenset[Permission]
    token_seconds: int


def parse_issuer(text: str) -> str:
    """The address of an issuer, exactly as its tokens name it in ``iss``.

    Raises:
        InvalidFormat: no https URL (http on the loopback interface only), or one with a user, a query or a fragment.
    """
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
    is_plain = parts.username is None and not parts.query and not parts.fragment and text.isascii()
    if not host or not is_safe or not is_plain or len(text) > MAX_URL_LENGTH or re.search(r"[^!-~]|[\"\\]", text):
        raise InvalidFormat(
            f"issuer {excerpt(text)}: expected the https URL that its tokens have as `iss`, for instance "
            "https://token.actions.githubusercontent.com"
        )
    return text


def check_keys_address(url: str, issuer: str) -> str:
    """*url*, if keys of *issuer* may be fetched there: by https, or on the loopback interface where the issuer is too.

    Raises:
        InvalidFormat: they may not.
    """
    parse_issuer(url.partition("?")[0])
    if url.startswith("http:") and not issuer.startswith("http:"):
        raise InvalidFormat(f"the keys of {issuer} are said to be at {excerpt(url)}: expected https")
    return url


def make_rule(
    *, issuer: str, audience: str, claims: Mapping[str, Sequence[str]], permissions: Sequence[str], token_seconds: int
) -> TrustRule:
    """A trust rule of what somebody typed.

    Raises:
        InvalidFormat: a part is malformed, or the rule would trust everybody.
    """
    conditions = tuple(Condition(name, glob) for name, globs in claims.items() for glob in globs)
    rule = TrustRule(
        parse_issuer(issuer), audience, conditions, frozenset(Permission(name) for name in permissions), token_seconds
    )
    if not 0 < len(audience) <= MAX_AUDIENCE_LENGTH or not audience.isprintable():
        raise InvalidFormat(f"audience {excerpt(audience)}: expected 1 to {MAX_AUDIENCE_LENGTH} printable characters")
    if not rule.permissions or Permission.ADMIN in rule.permissions:
        raise InvalidFormat("permissions: expected at least one, and not admin: who is trusted could trust others then")
    if not MIN_TOKEN_SECONDS <= token_seconds <= MAX_TOKEN_SECONDS:
        raise InvalidFormat(f"token_seconds {token_seconds}: expected {MIN_TOKEN_SECONDS} to {MAX_TOKEN_SECONDS}")
    if not 0 < len(conditions) <= MAX_CLAIMS:
        raise InvalidFormat(f"{len(conditions)} claims: expected 1 to {MAX_CLAIMS}, since without one all are trusted")
    for condition in conditions:
        _check_condition(condition)
    _check_owner(rule)
    return rule


def matches_rule(rule: TrustRule, claims: Mapping[str, str]) -> bool:
    """Tell whether a job with these claims is one that *rule* means. Its issuer and audience are looked at elsewhere.

    An event that outsiders can bring about counts only if the rule has a condition on the claim that names it. So a
    rule for a repository and a branch does not let in `pull_request_target`, which runs on that branch for a fork.
    """
    globs: dict[str, list[str]] = {}
    for condition in rule.conditions:
        globs.setdefault(condition.claim, []).append(condition.glob)
    for claim, events in _OUTSIDE_EVENTS.items():
        if claim not in globs and claims.get(claim) in events:
            return False
    return all(
        claim in claims and any(matches_glob(glob, claims[claim]) for glob in some) for claim, some in globs.items()
    )


def matches_glob(glob: str, value: str) -> bool:
    """Tell whether the whole of *value* matches *glob*, in which letters stand for themselves, upper and lower apart.

    ``*`` stands for any letters or none, but no ``/`` and no ``:``, which separate the parts of claims; ``**`` stands
    for any. Takes no longer than the two lengths multiplied.
    """
    places = {0}
    for part in _STARS.split(glob):
        if part.startswith("**"):
            places = set(range(min(places), len(value) + 1)) if places else places
        elif part == "*":
            places = _within_parts(value, places)
        else:
            places = {place + len(part) for place in places if value.startswith(part, place)}
    return len(value) in places


def _within_parts(value: str, places: set[int]) -> set[int]:
    """The places that can be reached from *places* without passing a separator."""
    found: set[int] = set()
    can_reach = False
    for place in range(len(value) + 1):
        can_reach = place in places or (can_reach and value[place - 1] not in _SEPARATORS)
        if can_reach:
            found.add(place)
    return found


def _check_condition(condition: Condition) -> None:
    if _CLAIM_NAME.fullmatch(condition.claim) is None:
        raise InvalidFormat(f"claim {excerpt(condition.claim)}: expected a name such as repository")
    if not 0 < len(condition.glob) <= _MAX_GLOB_LENGTH or not condition.glob.isprintable():
        raise InvalidFormat(
            f"claim {condition.claim}: {excerpt(condition.glob)}: expected 1 to {_MAX_GLOB_LENGTH} printable characters"
        )


def _check_owner(rule: TrustRule) -> None:
    """Refuse a rule that anybody's job at a public issuer could match."""
    owners = _OWNERS.get(rule.issuer.rstrip("/"))
    if owners is None:
        return
    fixed: dict[str, bool] = {}
    for condition in rule.conditions:
        if condition.claim in owners:
            # Each glob of a claim is enough to match, so each must name the owner.
            fixed[condition.claim] = fixed.get(condition.claim, True) and _names_owner(condition)
    if not any(fixed.values()):
        raise InvalidFormat(
            f"everybody can have jobs at {rule.issuer}: expected a claim that says whose they are, without a star in "
            f"the owner's name, among {', '.join(sorted(owners))}"
        )


def _names_owner(condition: Condition) -> bool:
    before, star, _ = condition.glob.partition("*")
    return not star or (condition.claim in _PATHS and "/" in before)
