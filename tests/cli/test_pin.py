"""Pinning on the command line, against a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from icehouse.nix.nar_write import Directory, Regular, write_nar
from tests.cli.test_commands import icehouse
from tests.http.running import RunningServer, run_server
from tests.services.publishing import path_body

APP, APP2 = f"{'1' * 32}-app-1.0", f"{'2' * 32}-app-2.0"
NAR = b"".join(write_nar(Directory({b"bin": Directory({b"app": Regular(b"app")})})))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose cache `team` has two paths."""
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        running.create_cache("team", is_public=False)
        body = msgspec.json.encode({"nars": [running.upload("team", NAR)]})
        assert running.ask("POST", "/api/v1/caches/team/nars", body).status == 200
        body = msgspec.json.encode({"paths": [path_body(APP, NAR), path_body(APP2, NAR)]})
        assert running.ask("POST", "/api/v1/caches/team/paths", body).status == 200
        yield running


class Team:
    """Somebody who works with the cache `team`."""

    def __init__(self, home: Path, server: RunningServer, token: str) -> None:
        self._home = home
        self._environment = {"ICEHOUSE_URL": f"http://127.0.0.1:{server.port}", "ICEHOUSE_TOKEN": token}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command, *rest = arguments
        return icehouse(self._home, command, "team", *rest, **self._environment)

    def say(self, *arguments: str) -> str:
        """What a command that must succeed prints."""
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture
def team(tmp_path: Path, server: RunningServer) -> Team:
    return Team(tmp_path, server, server.create_token("pin", pattern="team"))


def test_pins_are_put_listed_shown_resolved_and_removed(team: Team) -> None:
    printed = team.say("pin", "app", APP, "--artifact", "bin/app", "--artifact", "bin", "--keep-revisions", "3")
    assert printed == f"Pinned {APP} as app, revision 1; keeps the last 3 revisions.\n"
    assert team.say("pin", "app", f"/nix/store/{APP2}", "--artifact", "bin") == (
        f"Pinned {APP2} as app, revision 2; keeps the last 3 revisions.\n"
    )
    assert team.say("pin", "app", APP2[:32], "--artifact", "bin", "--keep-days", "1") == (
        f"app was on {APP2} already, which stays revision 2; keeps 1 day.\n"
    )
    team.say("pin", "other", APP)
    table = [line.split("  ") for line in team.say("pins").splitlines()]
    assert [[cells[0].strip(), cells[-1]] for cells in table] == [["NAME", "PATH"], ["app", APP2], ["other", APP]]
    assert "all revisions" in team.say("pins").splitlines()[2]
    shown = team.say("pins", "app").splitlines()
    assert shown[:4] == [
        "name         app",
        f"path         /nix/store/{APP2}",
        "artifact     bin",
        "keeps        1 day",
    ]
    assert [(line.split()[0], line.split()[-1]) for line in shown[4:]] == [
        ("REVISION", "PATH"),
        ("2", APP2),
        ("1", APP),
    ]
    assert team.say("resolve", "app") == f"/nix/store/{APP2}\n"
    assert team.say("unpin", "app") == "Unpinned app; its paths stay until the retention of team lets go of them.\n"
    assert [team.run(command, "app").returncode for command in ("pins", "resolve", "unpin")] == [4, 4, 4]


def test_results_can_be_had_as_json(team: Team) -> None:
    answer = json.loads(team.say("pin", "json", APP, "--json"))
    assert (answer["is_new_revision"], answer["pin"]["newest"]["store_path"]) == (True, APP)
    assert answer["pin"] in json.loads(team.say("pins", "--json"))
    shown = json.loads(team.say("pins", "json", "--json"))
    assert (shown["has_older"], [each["number"] for each in shown["revisions"]]) == (False, [1])
    resolved = {"full_path": f"/nix/store/{APP}", "store_path": APP, "number": 1}
    assert json.loads(team.say("resolve", "json", "--json")) == resolved
    assert json.loads(team.say("unpin", "json", "--json")) == {"unpinned": "json"}


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["app", f"{'9' * 32}-absent"], 4, "push it first"),
        (["app", APP, "--artifact", "no"], 4, f"{APP} has no artifact 'no'"),
        (["a b", APP], 1, "pin name 'a b'"),
        (["app", APP, "--keep-days", "1", "--keep-forever"], 2, "give one of"),
        (["app", APP, "--keep-days", "0"], 2, "'--keep-days'"),
        (["app", "./result"], 4, "./result is not there"),
    ],
)
def test_pin_that_cannot_be_leaves_with_a_code(team: Team, arguments: list[str], code: int, complaint: str) -> None:
    done = team.run("pin", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in " ".join(done.stderr.split())


def test_who_may_only_pull_sees_pins_and_changes_none(team: Team, tmp_path: Path, server: RunningServer) -> None:
    team.say("pin", "seen", APP)
    reader = Team(tmp_path, server, server.create_token("pull", pattern="team"))
    assert reader.say("resolve", "seen") == f"/nix/store/{APP}\n"
    for arguments in (["pin", "seen", APP2], ["unpin", "seen"]):
        done = reader.run(*arguments)
        assert (done.returncode, "lacks the permission pin" in done.stderr) == (3, True)


def test_history_longer_than_a_page_is_shown_whole(team: Team, server: RunningServer) -> None:
    for number in range(1, 203):
        body = {"store_path": (APP, APP2)[number % 2]}
        assert server.ask("PUT", "/api/v1/caches/team/pins/long", body).status == 201
    shown = json.loads(team.say("pins", "long", "--json"))
    assert [each["number"] for each in shown["revisions"]] == list(range(202, 0, -1))
    assert (shown["has_older"], shown["newest"]["number"]) == (False, 202)
