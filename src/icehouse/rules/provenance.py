"""Provenance: what is kept of a job's identity beside what it published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final
from urllib.parse import quote, urlsplit

from icehouse.rules.id_tokens import Identity

_MAX_LENGTH: Final = 300
_GITHUB: Final = "https://token.actions.githubusercontent.com"
_REPOSITORY: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)+")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a CI, by the claims of its identity. `None`: its issuer does not say."""

    issuer: str
    subject: str
    repository: str | None = None
    ref: str | None = None
    """The branch or tag, as the issuer writes it."""
    workflow: str | None = None
    """The file that describes the job, where the issuer tells, else its name."""
    commit: str | None = None
    run: str | None = None
    """The number of the run, or of the job."""
    run_url: str | None = None


@dataclass(frozen=True, slots=True)
class PublishedBy:
    """Who publishes, and from where."""

    token_id: int | None
    address: str | None = None
    """That of `rules.audit.Origin`."""


JOB_FIELDS: Final = tuple(field.name for field in fields(Job))


def describe_job(identity: Identity) -> Job:
    """What is kept of an identity: that of GitHub Actions, of GitLab, or of an issuer with claims of the same names.

    Source: GitHub's and GitLab's reference of the claims of their ID tokens.
    """
    claims = identity.claims
    repository = _first(claims, "repository", "project_path")
    run = _first(claims, "run_id", "job_id")
    return Job(
        issuer=identity.issuer,
        subject=identity.subject[:_MAX_LENGTH],
        repository=repository,
        ref=_first(claims, "ref"),
        workflow=_first(claims, "workflow_ref", "ci_config_ref_uri", "workflow"),
        commit=_first(claims, "sha"),
        run=run,
        run_url=_run_url(identity.issuer, repository, run, is_gitlab="project_path" in claims),
    )


def job_text(job: Job) -> str:
    """A job on one line: its repository, branch and run; of other issuers, the subject."""
    if job.repository is None:
        return f"{job.subject} of {job.issuer}"[:_MAX_LENGTH]
    ref = "" if job.ref is None else f" at {job.ref}"
    run = "" if job.run is None else f", run {job.run}"
    return f"{job.repository}{ref}{run}"[:_MAX_LENGTH]


def _first(claims: Mapping[str, str], *names: str) -> str | None:
    """The first of these claims that is there and may be shown on a line."""
    values = (claims.get(name, "")[:_MAX_LENGTH] for name in names)
    return next((value for value in values if value and value.isprintable()), None)


def _run_url(issuer: str, repository: str | None, run: str | None, *, is_gitlab: bool) -> str | None:
    """Where the run can be looked at. Only from names and numbers, so that nobody's claim makes a link elsewhere."""
    if repository is None or run is None or not _REPOSITORY.fullmatch(repository) or not _NUMBER.fullmatch(run):
        return None
    place = quote(repository)
    if is_gitlab:
        return f"{issuer.rstrip('/')}/{place}/-/jobs/{run}"
    # An issuer of GitHub Enterprise is a path on the host that has the runs.
    parts = urlsplit(issuer)
    host = "https://github.com" if issuer.rstrip("/") == _GITHUB else f"{parts.scheme}://{parts.netloc}"
    return f"{host}/{place}/actions/runs/{run}"
