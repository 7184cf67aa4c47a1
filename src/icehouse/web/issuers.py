"""The CIs that pages know, with the claims that matter of what they say about jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that the form asks for by itself."""

    name: str
    label: str
    hint: str
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CI that the form knows."""

    name: str
    title: str
    url: str
    is_fixed: bool
    """Whether there is only this one of its kind."""
    claims: Sequence[Claim]


GITHUB: Final = Issuer(
    "github",
    "GitHub Actions",
    "https://token.actions.githubusercontent.com",
    is_fixed=True,
    claims=(
        Claim("repository", "Repository", "For instance org/app; org/* for all of an owner's.", is_required=True),
        Claim("ref", "Branch or tag", "For instance refs/heads/main. If empty, every branch that somebody may push."),
        Claim("environment", "Environment", "A name such as release, which GitHub can let wait for an approval."),
        Claim(
            "event_name",
            "Event",
            "If empty, all but those that outsiders can bring about, such as pull_request. Name one to let it in.",
        ),
    ),
)
GITLAB: Final = Issuer(
    "gitlab",
    "GitLab",
    "https://gitlab.com",
    is_fixed=False,
    claims=(
        Claim("project_path", "Project", "For instance group/app; group/** for all below.", is_required=True),
        Claim("ref", "Branch or tag", "For instance main. If empty, every one that somebody may push."),
        Claim("ref_protected", "Is it protected?", "true: only jobs of protected branches and tags. Empty: all."),
        Claim(
            "pipeline_source",
            "What began the pipeline",
            "If empty, all but merge requests, which outsiders can open. Name one to let it in.",
        ),
    ),
)
OTHER: Final = Issuer("other", "Another one", "", is_fixed=False, claims=())
ISSUERS: Final[Mapping[str, Issuer]] = {each.name: each for each in (GITHUB, GITLAB, OTHER)}


def issuer_title(url: str) -> str:
    """The name of the CI at *url*, or the address."""
    return next((each.title for each in ISSUERS.values() if each.url == url), url)
