"""`icehouse audit`, over the network and on the server's machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from icehouse.cli.audit import parse_since
from icehouse.errors import InvalidFormat
from tests.cli.test_commands import icehouse
from tests.http.running import RunningServer, run_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "data"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    with run_server(folder) as running:
        running.create_cache("team")
        for priority in (1, 2, 3):
            running.ask("PATCH", "/api/v1/caches/team", {"priority": priority})
        yield running


def say(server: RunningServer, home: Path, *arguments: str) -> str:
    url = f"http://127.0.0.1:{server.port}"
    done = icehouse(home, *arguments, ICEHOUSE_URL=url, ICEHOUSE_TOKEN=server.token)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_changes_are_listed_the_newest_first(server: RunningServer, tmp_path: Path) -> None:
    lines = say(server, tmp_path, "audit", "--cache", "team", "--since", "1h").splitlines()
    assert lines[0].split() == ["WHEN", "ACTION", "CACHES", "SUBJECT", "WHO", "FROM"]
    assert [line.split()[3] for line in lines[1:5]] == ["cache.configure"] * 3 + ["cache.create"]
    assert "first administrator (token 1)" in lines[1]
    assert lines[1].endswith("127.0.0.1")


def test_filters_and_count_are_heard(server: RunningServer, tmp_path: Path) -> None:
    arguments = ("audit", "--action", "cache.configure", "--by", "1", "--limit", "2", "--json")
    entries = json.loads(say(server, tmp_path, *arguments))
    assert [(entry["old"], entry["new"]) for entry in entries] == [
        ({"priority": 2}, {"priority": 3}),
        ({"priority": 1}, {"priority": 2}),
    ]
    assert json.loads(say(server, tmp_path, "audit", "--since", "2999-01-01", "--json")) == []


def test_what_is_done_on_the_servers_machine_is_noted_and_listed_there(
    server: RunningServer, folder: Path, tmp_path: Path
) -> None:
    place = ("--data-dir", str(folder))
    token = say(server, tmp_path, "token", "create", "CI", "-a", "push", "--caches", "team", *place, "-q").strip()
    assert token.startswith("ice_")
    (entry,) = json.loads(say(server, tmp_path, "audit", "--by", "server's machine", *place, "--json"))
    assert (entry["action"], entry["token_id"], entry["address"]) == ("token.create", None, None)
    assert entry["new"]["description"] == "CI"
    here, there = (json.loads(say(server, tmp_path, "audit", "--json", *more)) for more in (place, ()))
    assert here == there


def test_log_that_may_not_be_seen_is_refused(server: RunningServer, tmp_path: Path) -> None:
    token = server.create_token("push")
    done = icehouse(tmp_path, "audit", ICEHOUSE_URL=f"http://127.0.0.1:{server.port}", ICEHOUSE_TOKEN=token)
    assert (done.returncode, done.stdout) == (3, "")
    assert "permission admin" in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", 996_400),
        ("100w", 0),
        ("1970-01-02", 86_400),
        ("1970-01-02T01:00", 90_000),
        ("1970-01-02T01:00:00+01:00", 86_400),
    ],
)
def test_time_is_a_span_or_a_date(text: str, seconds: int) -> None:
    assert parse_since(text, 1_000_000) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "1970-13-01", "7"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="expected for instance 7d"):
        parse_since(text, 1_000_000)
