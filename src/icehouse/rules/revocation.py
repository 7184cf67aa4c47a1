"""Revocation: whose publications are held back, and how that is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.rules.provenance import Job

TARGET_FIELDS: Final = ("issuer", "subject", "repository", "ref", "workflow", "commit", "run")
"""By what jobs can be named."""

MAX_VALUE_LENGTH: Final = 300

REVOCATION: Final = "revocation "
"""Opens the `hidden_because` of every path that one hid."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whose publications: those with one token, or of the jobs that have all these values."""

    token_id: int | None
    job: Mapping[str, str]


def parse_target(by: Mapping[str, str]) -> Target:
    """Read who is meant: ``token`` and its number, or one or more of `TARGET_FIELDS` with their whole values.

    Raises:
        InvalidFormat: something else, or nothing.
    """
    values = dict(by)
    number = values.pop("token", None)
    if number is not None and not values and number.isascii() and number.isdigit() and len(number) < len(str(2**63)):
        return Target(int(number), {})
    unknown = [name for name in values if name not in TARGET_FIELDS]
    if number is not None or unknown or not values:
        raise InvalidFormat(
            f"by {excerpt(str(dict(by)))}: expected the number of a token alone, or one or more of "
            f"{', '.join(TARGET_FIELDS)} of jobs"
        )
    if any(not 0 < len(value) <= MAX_VALUE_LENGTH for value in values.values()):
        raise InvalidFormat(f"by: expected values of 1 to {MAX_VALUE_LENGTH} letters")
    return Target(None, values)


def is_meant(target: Target, token_id: int, job: Job | None) -> bool:
    """Tell whether who publishes with that token, exchanged for that job if for any, is meant."""
    if target.token_id is not None:
        return token_id == target.token_id
    return job is not None and all(getattr(job, name) == value for name, value in target.job.items())


def render_target(target: Target) -> str:
    """A target on one line."""
    if target.token_id is not None:
        return f"token {target.token_id}"
    return ", ".join(f"{name}={value}" for name, value in target.job.items())


def reason_prefix(revocation_id: int) -> str:
    """Opens the `hidden_because` of every path that a revocation hid."""
    return f"{REVOCATION}{revocation_id}: "


def own_reason(revocation_id: int, target: Target) -> str:
    """Why a path is hidden that is revoked itself."""
    return f"{reason_prefix(revocation_id)}it was published by {render_target(target)}"


def referrer_reason(revocation_id: int, base_name: str) -> str:
    """Why a path is hidden that reaches a revoked one."""
    return f"{reason_prefix(revocation_id)}it reaches {base_name}"
