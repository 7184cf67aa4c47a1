"""Collecting on the command line, through a real server and beside it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_commands import icehouse
from tests.http.running import run_server
from tests.http.test_collection_routes import APP, DAY, LIB, Aged


class Machine:
    """The server's machine, and its administrator."""

    def __init__(self, home: Path, folder: Path, aged: Aged) -> None:
        self.home = home
        self.folder = folder
        self.aged = aged

    def run(self, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        variables = {
            "ICEHOUSE_URL": f"http://127.0.0.1:{self.aged.server.port}",
            "ICEHOUSE_TOKEN": self.aged.server.token if token is None else token,
        }
        return icehouse(self.home, "gc", *arguments, **variables)

    def say(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("server") / "data"
    with run_server(folder) as running:
        yield Machine(tmp_path_factory.mktemp("home"), folder, Aged(running, folder))


def test_plan_is_printed_and_then_done(machine: Machine) -> None:
    machine.aged.fill("team", keep_unused_seconds=30 * DAY)
    planned = machine.say("team", "--dry-run").splitlines()
    assert planned[0].startswith("team: 2 paths would go to the trash; its size: ")
    assert planned[0].endswith(" afterwards 0 B; pins keep 0 paths")
    assert planned[1:3] == [f"  {path}: not used for longer than the cache keeps unused paths" for path in (APP, LIB)]
    assert planned[3:] == [
        "domain 2: nothing to remove",
        "From the disk would come back 0 B, and in a day 0 B more, unless they are needed again.",
    ]
    done = machine.say("team").splitlines()
    assert done[0] == planned[0].replace("would go", "went")
    assert done[1:3] == planned[1:3]
    rows = machine.say("team", "--history").splitlines()
    assert rows[0].split()[:4] == ["BEGAN", "TOOK", "CACHE", "HIDDEN"]
    assert rows[1].split("  ")[-1] == "first administrator"
    assert " team " in rows[1]


def test_collection_beside_the_server_gives_the_same(machine: Machine) -> None:
    machine.aged.fill("here", keep_pushed_seconds=30 * DAY)
    asked = json.loads(machine.say("here", "--dry-run", "--json"))
    planned = json.loads(machine.say("here", "--dry-run", "--json", "--data-dir", str(machine.folder)))
    assert planned == asked
    done = json.loads(machine.say("here", "--json", "--data-dir", str(machine.folder)))
    assert done["report"]["marks"] == planned["report"]["marks"]
    assert "a command on the server's machine" in machine.say("here", "--history")


def test_all_caches_are_collected_without_a_name(machine: Machine) -> None:
    machine.aged.fill("one", keep_unused_seconds=DAY)
    machine.aged.fill("two")
    report = json.loads(machine.say("--json"))["report"]
    assert {mark["cache"]: len(mark["hidden"]) for mark in report["marks"]} | {"one": 2, "two": 0} == {
        mark["cache"]: len(mark["hidden"]) for mark in report["marks"]
    }


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["absent"], 4, "there is no cache 'absent'"),
        (["--data-dir", "/nonexistent"], 4, "expected the data folder of a server"),
        (["--history", "--dry-run"], 2, "--history goes with neither"),
    ],
)
def test_collection_that_cannot_be_leaves_with_a_code(
    machine: Machine, arguments: list[str], code: int, complaint: str
) -> None:
    done = machine.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in " ".join(done.stderr.split())


def test_who_may_not_delete_may_not_collect(machine: Machine) -> None:
    machine.aged.fill("guarded")
    done = machine.run("guarded", "--dry-run", token=machine.aged.server.create_token("push"))
    assert done.returncode == 3
    assert "lacks the permission delete" in done.stderr
