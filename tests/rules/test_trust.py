"""Trust rules match whole claims, and a rule that would trust everybody is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.rules.trust import TrustRule, check_keys_address, make_rule, matches_glob, matches_rule, parse_issuer

GITHUB = "https://token.actions.githubusercontent.com"


def rule(issuer: str = "https://ci.example.org", **claims: str | list[str]) -> TrustRule:
    globs = {name: [value] if isinstance(value, str) else value for name, value in claims.items()}
    return make_rule(issuer=issuer, audience="us", claims=globs, permissions=["push"], token_seconds=900)


@pytest.mark.parametrize(
    ("glob", "value"),
    [
        ("org/*", "org/app"),
        ("org/app", "org/app"),
        ("refs/heads/release-*", "refs/heads/release-"),
        ("refs/heads/*", "refs/heads/main"),
        ("refs/heads/**", "refs/heads/team/branch"),
        ("**/app", "a/b/app"),
        ("repo:org/*:ref:refs/heads/main", "repo:org/app:ref:refs/heads/main"),
        ("*a*a*", "xaxax"),
        ("**", ""),
    ],
)
def test_glob_matches(glob: str, value: str) -> None:
    assert matches_glob(glob, value)


@pytest.mark.parametrize(
    ("glob", "value"),
    [
        ("org/*", "evil/org/x"),
        ("org/*", "org/a/b"),
        ("org/*", "ORG/app"),
        ("org/*", "org"),
        ("org/app", "org/app2"),
        ("org/app", "xorg/app"),
        ("org/*", "org/app\n/x"),
        ("refs/heads/*", "refs/heads/team/branch"),
        ("refs/heads/main", "refs/heads/main\n"),
        # A pull request and an environment are other parts of a subject than a branch.
        ("repo:org/*:ref:refs/heads/main", "repo:org/app:environment:x:ref:refs/heads/main"),
        ("repo:org/*", "repo:org/app:pull_request"),
        ("a.c", "abc"),
        ("[ab]", "a"),
        ("org/?", "org/a"),
        ("*a*a*", "xax"),
    ],
)
def test_glob_does_not_match(glob: str, value: str) -> None:
    assert not matches_glob(glob, value)


@given(st.text("ab/:", max_size=12))
def test_a_value_without_stars_matches_itself_alone_and_two_stars_match_everything(value: str) -> None:
    assert matches_glob(value, value)
    assert not matches_glob(value, value + "a")
    assert matches_glob("**", value)
    assert matches_glob("*", value) == (not set(value) & set("/:"))


def test_a_glob_of_many_stars_does_not_take_ages() -> None:
    assert not matches_glob("*a" * 250 + "b", "a" * 1024)  # with backtracking, this would outlast the sun


def test_every_claim_must_match_and_of_one_claim_any_glob() -> None:
    trusted = rule(repository=["org/app", "org/lib"], ref="refs/heads/main")
    assert matches_rule(trusted, {"repository": "org/lib", "ref": "refs/heads/main", "other": "x"})
    assert not matches_rule(trusted, {"repository": "org/lib", "ref": "refs/heads/dev"})
    assert not matches_rule(trusted, {"repository": "org/other", "ref": "refs/heads/main"})
    assert not matches_rule(trusted, {"repository": "org/app"})
    assert not matches_rule(trusted, {})


@pytest.mark.parametrize(
    "claims",
    [
        {"repository": "fork/app", "ref": "refs/heads/main", "event_name": "push"},
        {"repository": "org/app", "ref": "refs/pull/7/merge", "event_name": "pull_request"},
        {"repository": "org/app", "ref": "refs/heads/main", "event_name": "pull_request_target"},
        {"repository": "org/app", "ref": "refs/heads/main", "event_name": "workflow_run"},
        {"repository": "org/app", "ref": "refs/heads/main", "event_name": "issue_comment"},
        {"repository": "org/app", "ref": "refs/heads/main", "pipeline_source": "merge_request_event"},
    ],
)
def test_forks_and_what_outsiders_bring_about_do_not_match_a_rule_for_a_branch(claims: dict[str, str]) -> None:
    assert not matches_rule(rule(GITHUB, repository="org/app", ref="refs/heads/main"), claims)


def test_an_event_of_outsiders_matches_a_rule_that_names_it() -> None:
    trusted = rule(GITHUB, repository="org/app", event_name="pull_request")
    assert matches_rule(trusted, {"repository": "org/app", "event_name": "pull_request"})
    assert not matches_rule(trusted, {"repository": "org/app", "event_name": "pull_request_target"})


@pytest.mark.parametrize(
    "claims",
    [
        {"repository": "**"},
        {"repository": "*/app"},
        {"repository": "org*"},
        {"repository": ["org/app", "**"]},
        {"repository_owner": "or*"},
        {"ref": "refs/heads/main"},
        {"sub": "repo:*:ref:refs/heads/main"},
        {"job_workflow_ref": "org/app/.github/workflows/x.yml@refs/heads/main"},
    ],
)
def test_rule_that_anybodys_job_on_github_could_match_is_refused(claims: dict[str, str | list[str]]) -> None:
    with pytest.raises(InvalidFormat, match="everybody can have jobs"):
        rule(GITHUB, **claims)


@pytest.mark.parametrize(
    "claims",
    [{"repository": "org/*"}, {"repository_owner": "org"}, {"sub": "repo:org/*:**"}, {"repository_id": "12"}],
)
def test_rule_that_names_the_owner_is_accepted(claims: dict[str, str]) -> None:
    assert rule(GITHUB, **claims).issuer == GITHUB


@pytest.mark.parametrize(
    ("claims", "permissions", "seconds", "audience"),
    [
        ({}, ["push"], 900, "us"),
        ({"a": [""]}, ["push"], 900, "us"),
        ({"a": ["b"]}, [], 900, "us"),
        ({"a": ["b"]}, ["admin"], 900, "us"),
        ({"a": ["b"]}, ["push"], 59, "us"),
        ({"a": ["b"]}, ["push"], 12 * 3600 + 1, "us"),
        ({"a": ["b"]}, ["push"], 900, ""),
        ({"a": ["b"] * 33}, ["push"], 900, "us"),
        ({"a b": ["b"]}, ["push"], 900, "us"),
        ({"a": ["b\n"]}, ["push"], 900, "us"),
        ({"a": ["b" * 513]}, ["push"], 900, "us"),
    ],
)
def test_malformed_rule_is_refused(
    claims: dict[str, list[str]], permissions: list[str], seconds: int, audience: str
) -> None:
    with pytest.raises(InvalidFormat):
        make_rule(issuer="https://ci", audience=audience, claims=claims, permissions=permissions, token_seconds=seconds)


@pytest.mark.parametrize(
    "url",
    [
        "http://ci.example.org",
        "http://127.0.0.1.example.org",
        "ftp://ci",
        "https://",
        "https://user@ci",
        "https://ci?x",
        "https://ci#x",
        "https://ci /",
        "https://ci:x",
        "https://cí",
        "https://" + "c" * 300,
        "file:///etc/passwd",
        "",
    ],
)
def test_other_issuers_than_https_ones_and_the_machines_own_are_refused(url: str) -> None:
    with pytest.raises(InvalidFormat, match="issuer"):
        parse_issuer(url)


def test_keys_of_an_https_issuer_are_not_fetched_over_http() -> None:
    assert check_keys_address("https://keys.example.org/a?b=c", GITHUB)
    assert check_keys_address("http://127.0.0.1:1/keys", "http://127.0.0.1:1")
    for url in ("http://127.0.0.1/keys", "http://keys.example.org/", "file:///etc/passwd"):
        with pytest.raises(InvalidFormat):
            check_keys_address(url, GITHUB)
