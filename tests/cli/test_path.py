"""Paths on the command line: why they are there, the trash, and the way back."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_commands import icehouse
from tests.http.running import run_server
from tests.http.test_collection_routes import APP, DAY, LIB, Aged

KEY = f"k-1:{base64.b64encode(bytes(32)).decode()}"


class Team:
    """Somebody who may delete."""

    def __init__(self, home: Path, aged: Aged) -> None:
        self.home = home
        self.aged = aged
        self.token = aged.server.create_token("delete", "push")

    def run(self, *arguments: str, token: str = "", stdin: str = "") -> subprocess.CompletedProcess[str]:
        url = f"http://127.0.0.1:{self.aged.server.port}"
        return icehouse(
            self.home, "path", *arguments, stdin=stdin, ICEHOUSE_URL=url, ICEHOUSE_TOKEN=token or self.token
        )

    def say(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("server") / "data"
    with run_server(folder) as running:
        yield Team(tmp_path_factory.mktemp("home"), Aged(running, folder))


def test_path_is_deleted_listed_explained_and_restored(team: Team) -> None:
    team.aged.fill("one")
    assert [line.split()[0] for line in team.say("list", "one").splitlines()] == [LIB, APP]
    refused = team.run("delete", "one", LIB, "--yes")
    assert refused.returncode == 1
    assert f"referred to by 1 visible path: {APP}" in refused.stderr
    assert team.say("delete", "one", LIB, "--with-referrers", "--yes").splitlines() == [
        f"moved to the trash: {LIB}",
        f"moved to the trash: {APP}",
    ]
    assert team.say("list", "one") == ""
    trashed = team.say("list", "one", "--trash").splitlines()
    assert trashed[0].startswith(f"{LIB}  ")
    assert trashed[0].endswith(": deleted by test")
    assert "was moved to the trash" in team.say("why", "one", APP)
    assert team.say("restore", "one", APP) == f"restored {LIB}\nrestored {APP}\n"
    assert team.say("why", "one", APP).startswith(f"visible: {APP} is here since ")
    assert team.say("restore", "one", APP[:32]) == f"{APP[:32]} was not in the trash.\n"


def test_results_can_be_had_as_json(team: Team) -> None:
    team.aged.fill("json")
    assert json.loads(team.say("delete", "json", APP, "--yes", "--json")) == {"deleted": [APP]}
    assert [each["store_path"] for each in json.loads(team.say("list", "json", "--json"))] == [LIB]
    (trashed,) = json.loads(team.say("list", "json", "--trash", "--json"))
    assert trashed["restorable_until"] == trashed["hidden_at"] + 7 * DAY
    assert json.loads(team.say("why", "json", APP, "--json"))["hidden_because"] == "deleted by test"
    assert json.loads(team.say("restore", "json", APP, "--json")) == {"restored": [APP]}


def test_path_that_is_not_there_is_looked_for_in_the_upstreams(team: Team) -> None:
    team.aged.fill("up", is_public=True)
    team.aged.fill("down")
    there = f"http://127.0.0.1:{team.aged.server.port}/up"
    nowhere = "http://127.0.0.1:1"
    for url in (nowhere, there):
        team.aged.execute(
            "INSERT INTO upstream (cache_id, url, public_keys) SELECT id, ?, ? FROM cache WHERE name = 'down'", url, KEY
        )
    team.say("delete", "down", APP, "--yes")
    told = team.say("why", "down", APP).splitlines()
    assert told[0].startswith("hidden: ")
    assert told[1:] == [
        f"The upstream {nowhere} did not tell whether it has it.",
        f"The upstream {there} has it: clients get it from there.",
    ]
    assert json.loads(team.say("why", "down", APP, "--json"))["upstream"] == there
    told = team.say("why", "down", "9" * 32).splitlines()
    assert told[0].startswith("never-pushed: ")
    assert told[2] == f"The upstream {there} does not have it."


def test_pinned_path_is_explained_and_not_deleted(team: Team) -> None:
    team.aged.fill("pinned")
    server = team.aged.server
    assert server.ask("PUT", "/api/v1/caches/pinned/pins/app", {"store_path": APP}).status == 201
    assert f"The pin app, revision 1, keeps it: {APP} -> {LIB}." in team.say("why", "pinned", LIB)
    done = team.run("delete", "pinned", LIB, "--with-referrers", "--yes")
    assert (done.returncode, "kept by 1 pin: app (revision 1)" in done.stderr) == (1, True)


def test_deleting_asks_first(team: Team) -> None:
    team.aged.fill("asked")
    done = team.run("delete", "asked", APP, stdin="n\n")
    assert (done.returncode, done.stdout.strip()) == (0, "")
    assert f"Move {APP} to the trash of asked?" in done.stderr
    assert "Nothing was deleted." in done.stderr
    assert len(team.say("list", "asked").splitlines()) == 2


def test_list_restore_and_delete_need_the_permission_delete_and_why_does_not(team: Team) -> None:
    team.aged.fill("guarded")
    pusher = team.aged.server.create_token("push")
    for arguments in (["list", "guarded"], ["restore", "guarded", APP], ["delete", "guarded", APP, "--yes"]):
        assert team.run(*arguments, token=pusher).returncode == 3
    assert team.run("why", "guarded", APP, token=pusher).returncode == 0
    assert team.run("delete", "guarded", "9" * 32, "--yes").returncode == 4
