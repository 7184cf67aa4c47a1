"""The identity of the job of a CI that a command runs in: GitHub Actions, and GitLab."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from icehouse.api.tokens import PermissionName
from icehouse.client.private_files import config_home

ID_TOKEN_VARIABLE: Final = "ICEHOUSE_ID_TOKEN"  # noqa: S105  the name of a variable
AUDIENCE_VARIABLE: Final = "ICEHOUSE_AUDIENCE"

_GITHUB_URL: Final = "ACTIONS_ID_TOKEN_REQUEST_URL"
_GITHUB_TOKEN: Final = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105  as above
_REQUEST_URL: Final = re.compile(r"https?://[!-~]{1,2000}")


@dataclass(frozen=True, slots=True)
class AskedIdentity:
    """GitHub Actions gives a new identity token for any audience, as often as it is asked.

    Source: GitHub's documentation, "OpenID Connect reference", on the two variables.
    """

    request_url: str
    request_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GivenIdentity:
    """GitLab puts one identity token for the whole job into a variable, as `id_tokens` says; so may any other CI."""

    id_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NoIdentity:
    """A job that could have an identity and has none."""

    reason: str


Identity = AskedIdentity | GivenIdentity | NoIdentity


@dataclass(frozen=True, slots=True)
class JobLogin:
    """How a job gets a token for one cache."""

    identity: Identity
    cache: str
    audience: str
    memory: Path
    """Where the token for a given identity is kept for the job's next command: the identity counts once."""
    permissions: tuple[PermissionName, ...] | None = None
    """What the token is to be for; `None`: all that the job may."""

    def narrowed(self, *permissions: PermissionName) -> Self:
        """The same for fewer permissions."""
        return replace(self, permissions=permissions)


def find_identity(environment: Mapping[str, str], *, may_give: bool) -> Identity | None:
    """The identity of the job that this environment is of; `None`: it is of none.

    Args:
        environment: the variables of the process.
        may_give: whether the server may see what was given for the one that the user named. One that is asked for
            names its server itself.
    """
    given = environment.get(ID_TOKEN_VARIABLE, "").strip()
    if given:
        return GivenIdentity(given) if may_give else None
    url, token = environment.get(_GITHUB_URL, ""), environment.get(_GITHUB_TOKEN, "")
    if _REQUEST_URL.fullmatch(url) and token:
        return AskedIdentity(url, token)
    if environment.get("GITHUB_ACTIONS") == "true":
        return NoIdentity(
            "this job of GitHub Actions has no identity: give it `permissions: id-token: write` (pull requests from "
            "forks never have one)"
        )
    if environment.get("GITLAB_CI") == "true":
        return NoIdentity(f"this job of GitLab has no identity: give it {ID_TOKEN_VARIABLE} under `id_tokens`")
    return None


def make_job_login(environment: Mapping[str, str], url: str, cache: str, *, may_give: bool) -> JobLogin | None:
    """How the job that this environment is of gets a token for a cache of the server at *url*; `None`: it is of none.

    The arguments are those of `find_identity`.
    """
    identity = find_identity(environment, may_give=may_give)
    if identity is None:
        return None
    chosen = environment.get(AUDIENCE_VARIABLE) if may_give else None
    memory = config_home(environment) / "icehouse" / "job-token.json"
    return JobLogin(identity, cache, chosen or url, memory)
