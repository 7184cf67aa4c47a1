"""Jobs of a CI push and pull without any stored secret; those of forks do not. A real server, issuer and Nix."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.services.local_issuer import RUNNER_SECRET, Issuer, run_issuer

pytestmark = pytest.mark.end_to_end

RULE = ("--claim", "repository=org/*", "--claim", "ref=refs/heads/main", "--allow", "push,pull")


@pytest.fixture
def issuer() -> Generator[Issuer]:
    with run_issuer() as issuer:
        yield issuer


@pytest.fixture
def team(admin: User, builder: PrivateNix, issuer: Issuer) -> str:
    """A private cache that trusts the main branches of org's repositories; its name."""
    admin.icehouse("cache", "create", "team", "--store-dir", builder.environment["NIX_STORE_DIR"])
    admin.icehouse("trust", "add", "team", "--issuer", issuer.url, *RULE)
    return "team"


@pytest.fixture
def start_job(make_user: Callable[[str], User], server: ServerProcess, issuer: Issuer) -> Callable[..., User]:
    """`start_job(claim=…)` gives what runs in a job of GitHub Actions with these claims."""

    def start(**claims: object) -> User:
        issuer.job = claims
        user = make_user(f"runner-{len(issuer.job)}-{time.monotonic_ns()}")
        return replace(user, environment=user.environment | issuer.variables() | {"ICEHOUSE_URL": server.url})

    return start


def test_job_pushes_without_any_stored_secret_and_what_it_pushed_tells_of_it(
    admin: User, builder: PrivateNix, team: str, start_job: Callable[..., User], server: ServerProcess
) -> None:
    top = builder.build(CLOSURE, "top")
    job = start_job()
    pushed = job.icehouse("push", team, "--store", str(builder.root), top, "--json").json
    assert pushed["paths_pushed"] == 3
    assert not (job.home / ".config/icehouse").exists()
    shown = admin.icehouse("path", "info", team, top).out
    assert "by org/app at refs/heads/main, run 4711" in shown
    assert re.search(r"^workflow     org/app/\.github/workflows/ci\.yml@refs/heads/main$", shown, re.MULTILINE)
    assert re.search(rf"^commit       {'1f' * 20}$", shown, re.MULTILINE)
    assert re.search(r"^run          http://127\.0\.0\.1:\d+/org/app/actions/runs/4711$", shown, re.MULTILINE)
    assert re.search(r"^from         127\.0\.0\.1$", shown, re.MULTILINE)
    assert "\nfrom " not in job.icehouse("path", "info", team, top).out
    log = server.log.read_text()
    assert RUNNER_SECRET not in log
    assert "eyJ" not in log  # no identity token


def test_job_of_a_fork_is_refused_and_pushes_nothing(
    admin: User, builder: PrivateNix, team: str, start_job: Callable[..., User], server: ServerProcess
) -> None:
    top = builder.build(CLOSURE, "top")
    for claims in (
        {"repository": "mallory/app", "sub": "repo:mallory/app:ref:refs/heads/main"},
        {"repository": "mallory/org/app"},
        {"ref": "refs/pull/7/merge", "event_name": "pull_request", "sub": "repo:org/app:pull_request"},
        {"event_name": "pull_request_target"},
    ):
        done = start_job(**claims).try_icehouse("push", team, "--store", str(builder.root), top)
        assert (done.code, "this identity gets no token for that cache" in done.err) == (3, True), done
    assert admin.icehouse("cache", "show", team, "--json").json["paths"] == 0
    reasons = [json.loads(line)["reason"] for line in server.log.read_text().splitlines() if "identity was" in line]
    assert len(reasons) == 4
    assert all("no trust rule of such a cache matches" in reason for reason in reasons)


def test_job_without_permission_for_an_identity_is_told_so(
    team: str, builder: PrivateNix, make_user: Callable[[str], User], server: ServerProcess
) -> None:
    user = make_user("runner")
    job = replace(user, environment=user.environment | {"GITHUB_ACTIONS": "true", "ICEHOUSE_URL": server.url})
    done = job.try_icehouse("push", team, "--store", str(builder.root), builder.build(CLOSURE, "base"))
    assert (done.code, "permissions: id-token: write" in done.err) == (3, True)


def test_push_that_outlasts_its_token_goes_on_with_another(
    builder: PrivateNix, team: str, start_job: Callable[..., User], server: ServerProcess
) -> None:
    # Tokens end once a pack was received, and once a NAR was registered, as if each of these took a quarter of an hour.
    database = server.data_dir / "icehouse.db"
    with closing(sqlite3.connect(database, timeout=30)) as raw, raw:
        for table in ("pack", "nar"):
            end = "UPDATE token SET expires_at = 1 WHERE job_id IS NOT NULL"
            raw.execute(f"CREATE TRIGGER end_at_{table} AFTER INSERT ON {table} BEGIN {end}; END")
    top = builder.build(CLOSURE, "top")
    pushed = start_job().icehouse("push", team, "--store", str(builder.root), top, "--json").json
    assert pushed["paths_pushed"] == 3
    with closing(sqlite3.connect(database, timeout=30)) as raw:
        assert raw.execute("SELECT count(*) FROM job").fetchone()[0] >= 3


def test_job_of_gitlab_pulls_and_pushes_with_the_one_identity_that_it_has(
    admin: User,
    builder: PrivateNix,
    team: str,
    make_user: Callable[[str], User],
    server: ServerProcess,
    issuer: Issuer,
    tmp_path: Path,
) -> None:
    middle, top = builder.build(CLOSURE, "middle"), builder.build(CLOSURE, "top")
    admin.icehouse("push", team, "--store", str(builder.root), middle)
    admin.icehouse("trust", "add", team, "--issuer", issuer.url, "--claim", "project_path=group/app", "--allow", "push")
    user = make_user("runner")
    claims = {"project_path": "group/app", "job_id": "99", "repository": None, "event_name": None, "run_id": None}
    given = {"GITLAB_CI": "true", "ICEHOUSE_ID_TOKEN": issuer.token(server.url, **claims), "ICEHOUSE_URL": server.url}
    job = replace(user, environment=user.environment | given)
    used = job.icehouse("use", team)
    assert "may only pull" in used.err
    pulled = tmp_path / "pulled"
    job_nix = job.try_nix("nix-store", "--store", str(pulled), "--realise", middle, "--option", "substitute", "true")
    assert job_nix.code == 0, job_nix
    for _ in range(2):
        job.icehouse("push", team, "--store", str(builder.root), top)
    shown = admin.icehouse("path", "info", team, top).out
    assert "by group/app at refs/heads/main, run 99" in shown
    # Somebody who finds the identity in the job's log has no use for it.
    thief = replace(make_user("thief"), environment=make_user("thief-2").environment | given)
    assert thief.try_icehouse("push", team, "--store", str(builder.root), top).code == 3


@pytest.mark.parametrize("access", ["--public", "--private"])
def test_pull_request_of_a_fork_pushes_to_staging_alone_and_a_maintainer_promotes(
    admin: User,
    builder: PrivateNix,
    issuer: Issuer,
    start_job: Callable[..., User],
    make_user: Callable[[str], User],
    server: ServerProcess,
    tmp_path: Path,
    access: str,
) -> None:
    admin.icehouse("cache", "create", "main", access, "--store-dir", builder.environment["NIX_STORE_DIR"])
    admin.icehouse("trust", "add", "main", "--issuer", issuer.url, *RULE)
    store_dir = ("--store-dir", builder.environment["NIX_STORE_DIR"])
    admin.icehouse("cache", "create", "pr", access, "--staging-of", "main", *store_dir)
    rule = ("--claim", "repository=*/app", "--claim", "event_name=pull_request", "--allow", "push")
    admin.icehouse("trust", "add", "pr", "--issuer", issuer.url, *rule)
    assert re.search(r"^staging of +main$", admin.icehouse("cache", "show", "pr").out, re.MULTILINE)
    assert re.search(r"^staging +pr$", admin.icehouse("cache", "show", "main").out, re.MULTILINE)
    middle, top = builder.build(CLOSURE, "middle"), builder.build(CLOSURE, "top")
    fork = {"repository": "mallory/app", "event_name": "pull_request", "ref": "refs/pull/7/merge"}

    from_fork = ("push", "main", "--store", str(builder.root), middle)
    assert start_job(**fork).try_icehouse(*from_fork).code == 3
    start_job(**fork).icehouse("push", "pr", "--store", str(builder.root), middle)
    assert start_job(**fork).try_icehouse("promote", "main", "pr", middle).code == 3
    assert admin.icehouse("cache", "show", "main", "--json").json["paths"] == 0

    promoted = admin.icehouse("promote", "main", "pr", middle, "--json").json
    assert {name.partition("-")[2] for name in promoted["published"]} == {"base", "middle"}
    (entry,) = json.loads(admin.icehouse("audit", "--action", "path.promote", "--json").out)
    assert (entry["cache_pattern"], entry["new"]["from"], entry["new"]["promoted"]) == ("main", "pr", 2)
    user = make_user("user")
    token = admin.icehouse("token", "create", "a user", "--allow", "pull", "--caches", "*", "--json").json["token"]
    user = replace(user, environment=user.environment | {"ICEHOUSE_URL": server.url, "ICEHOUSE_TOKEN": token})
    assert "is a staging of main" in user.icehouse("use", "pr", "--print", "nix.conf").err
    user.icehouse("use", "main")
    for path, code in ((middle, 0), (top, 1)):
        store = str(tmp_path / f"pulled-{code}")
        pulled = user.try_nix("nix-store", "--store", store, "--realise", path, "--option", "substitute", "true")
        assert pulled.code == code, pulled
    told = admin.icehouse("revoke", "main", "--by", "1", "--since", "1h", "--dry-run", "--json").json
    (by,) = told["downloaders"]
    assert (by["name"], by["address"]) == ((None, "127.0.0.1") if access == "--public" else ("a user", None))
    assert (by["paths"], by["downloads"]) == (2, 2)
    assert {copy for path in told["paths"] for copy in path["copies"]} == {
        f"pr/{name}" for name in promoted["published"]
    }


def test_rules_are_listed_and_removed(admin: User, team: str, issuer: Issuer, start_job: Callable[..., User]) -> None:
    (view,) = json.loads(admin.icehouse("trust", "list", team, "--json").out)
    assert (view["issuer"], view["claims"]) == (issuer.url, {"repository": ["org/*"], "ref": ["refs/heads/main"]})
    assert "repository=org/* ref=refs/heads/main" in admin.icehouse("trust", "list", team).out
    assert start_job().icehouse("cache", "show", team, "--json").json["name"] == team
    admin.icehouse("trust", "remove", team, str(view["id"]))
    assert start_job().try_icehouse("cache", "show", team).code == 3
    assert admin.try_icehouse("trust", "remove", team, str(view["id"])).code == 4


def test_rule_that_trusts_everybody_on_github_is_refused(admin: User, team: str) -> None:
    github = "https://token.actions.githubusercontent.com"
    done = admin.try_icehouse("trust", "add", team, "--issuer", github, "--claim", "ref=refs/heads/main", "-a", "push")
    assert (done.code, "everybody can have jobs" in done.err) == (1, True)


def test_what_a_run_published_is_revoked_and_that_is_undone(
    admin: User, builder: PrivateNix, team: str, start_job: Callable[..., User]
) -> None:
    middle, top = builder.build(CLOSURE, "middle"), builder.build(CLOSURE, "top")
    start_job(run_id="666").icehouse("push", team, "--store", str(builder.root), middle)
    admin.icehouse("push", team, "--store", str(builder.root), top)
    by = ("--by", "repository=org/app", "--by", "run=666", "--since", "1h")
    told = admin.icehouse("revoke", team, *by, "--dry-run").out
    assert told.endswith("3 paths would be hidden.\n")
    assert admin.icehouse("cache", "show", team, "--json").json["paths"] == 3
    done = admin.icehouse("revoke", team, *by, "--json").json
    assert {path["path"].partition("-")[2] for path in done["paths"]} == {"base", "middle", "top"}
    assert admin.icehouse("cache", "show", team, "--json").json["paths"] == 0
    assert "`icehouse revoke --undo`" in admin.icehouse("path", "why", team, middle).out
    again = start_job(run_id="666").try_icehouse("push", team, "--store", str(builder.root), middle)
    assert (again.code, f"is revoked (revocation {done['id']})" in again.err) == (3, True)
    assert admin.icehouse("revoke", "--undo", str(done["id"])).out.count("restored team/") == 3
    assert admin.icehouse("cache", "show", team, "--json").json["paths"] == 3
    assert "undone" in admin.icehouse("revoke", "--list").out
    assert admin.try_icehouse("revoke", team).code == 2
