"""Collections asked for over the network, and what became of them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.http.running import Answer, RunningServer, run_server
from tests.services.publishing import nar_of, path_body

LIB, APP = f"{'1' * 32}-lib", f"{'2' * 32}-app"
DAY = 86_400


class Aged:
    """A server whose data folder is at hand, to make what is in it older."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server = server
        self._folder = folder

    def execute(self, statement: str, *values: object) -> None:
        with contextlib.closing(sqlite3.connect(self._folder / "icehouse.db", isolation_level=None)) as database:
            database.execute(statement, values)

    def fill(self, cache: str, **settings: int) -> None:
        """A cache with an app and its library, which were pushed 40 days ago."""
        body: dict[str, object] = {"name": cache, "is_public": False, "upstreams": [], **settings}
        assert self.server.ask("POST", "/api/v1/caches", body).status == 201
        paths: list[tuple[str, bytes, list[str]]] = [
            (LIB, nar_of(b"lib" * 9_999), []),
            (APP, nar_of(b"app" * 9_999), [LIB]),
        ]
        nars = [self.server.upload(cache, nar) for _, nar, _ in paths]
        answer = self.server.ask("POST", f"/api/v1/caches/{cache}/nars", msgspec.json.encode({"nars": nars}))
        assert answer.status == 200, answer.body
        bodies = msgspec.json.encode({"paths": [path_body(*path) for path in paths]})
        assert self.server.ask("POST", f"/api/v1/caches/{cache}/paths", bodies).status == 200
        self.execute("UPDATE path SET created_at = created_at - ?", 40 * DAY)

    def collect(self, cache: str, *, is_dry_run: bool = False) -> Any:  # noqa: ANN401  JSON
        answer = self.server.ask("POST", f"/api/v1/caches/{cache}/collections", {"is_dry_run": is_dry_run})
        assert answer.status == 200, answer.body
        return events(answer)[-1]["result"]


def events(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.body.splitlines() if line]


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aged]:
    folder = tmp_path_factory.mktemp("server") / "data"
    with run_server(folder) as running:
        yield Aged(running, folder)


def test_dry_run_tells_what_the_collection_then_does(aged: Aged) -> None:
    aged.fill("team", keep_unused_seconds=30 * DAY)
    planned = aged.collect("team", is_dry_run=True)
    (mark,) = planned["report"]["marks"]
    assert [hidden["store_path"] for hidden in mark["hidden"]] == [APP, LIB]
    assert aged.server.ask("GET", f"/api/v1/caches/team/paths/{APP[:32]}").status == 200
    done = aged.collect("team")
    assert done["report"]["marks"] == planned["report"]["marks"]
    assert done["report"]["is_dry_run"] is False
    assert aged.server.ask("GET", f"/api/v1/caches/team/paths/{APP[:32]}").status == 404
    assert aged.server.ask("GET", "/api/v1/caches/team").json()["stored_bytes"] == mark["stored_bytes_after"] == 0


def test_what_was_restored_a_moment_ago_does_not_go_again(aged: Aged) -> None:
    """Uses are counted in memory, and written every half minute: the next collection did not know of them."""
    aged.fill("restored", keep_unused_seconds=30 * DAY)
    aged.collect("restored")
    assert aged.server.ask("POST", f"/api/v1/caches/restored/paths/{APP[:32]}/restore").status == 200
    assert aged.collect("restored")["report"]["marks"][0]["hidden"] == []
    assert aged.server.ask("GET", f"/api/v1/caches/restored/paths/{APP[:32]}").status == 200


def test_dry_run_tells_what_each_pin_holds(aged: Aged) -> None:
    aged.fill("pinned", keep_unused_seconds=30 * DAY)
    for name, path in (("app", APP), ("lib", LIB)):
        assert aged.server.ask("PUT", f"/api/v1/caches/pinned/pins/{name}", {"store_path": path}).status == 201
    planned = aged.collect("pinned", is_dry_run=True)
    assert planned["report"]["marks"][0]["hidden"] == []
    held = [(pin["pin"], pin["revisions"], pin["paths"], pin["stored_bytes"]) for pin in planned["pins"]]
    size = planned["report"]["marks"][0]["stored_bytes_after"]
    assert [hold[:3] for hold in held] == [("app", 1, 2), ("lib", 1, 1)]
    assert held[0][3] == size > held[1][3] > 0


def test_history_lists_what_concerns_a_cache_and_who_asked(aged: Aged) -> None:
    aged.fill("past")
    aged.fill("other")
    aged.collect("past")
    answer = aged.server.ask("POST", "/api/v1/collections", {})
    assert answer.status == 200
    aged.collect("other")
    listed = aged.server.ask("GET", "/api/v1/caches/past/collections").json()
    assert [each["cache"] for each in listed[:2]] == [None, "past"]
    assert [mark["cache"] for mark in listed[0]["marks"]] == ["past"]
    assert len(listed[0]["sweeps"]) == 1
    assert listed[0]["started_by"] == "first administrator"
    everything = aged.server.ask("GET", "/api/v1/collections").json()
    assert [each["cache"] for each in everything[:3]] == ["other", None, "past"]
    older = aged.server.ask("GET", f"/api/v1/collections?before={everything[0]['id']}").json()
    assert older[0] == everything[1]


def test_collection_is_refused_while_another_holds_the_lease(aged: Aged) -> None:
    aged.fill("busy")
    aged.execute("INSERT INTO lease VALUES ('a collection', 'ann (1)', 9999999999)")
    try:
        answer = aged.server.ask("POST", "/api/v1/caches/busy/collections", {})
        assert answer.status == 409
        assert "under way, started by ann;" in answer.json()["detail"]
        aged.collect("busy", is_dry_run=True)
    finally:
        aged.execute("DELETE FROM lease")
    aged.collect("busy")


def test_collecting_needs_its_permission(aged: Aged) -> None:
    aged.fill("guarded")
    server = aged.server
    for permission, status in (("push", 403), ("configure", 403), ("delete", 200)):
        token = server.create_token(permission, pattern="guarded")
        for method, body in (("POST", {"is_dry_run": True}), ("GET", None)):
            assert server.ask(method, "/api/v1/caches/guarded/collections", body, token=token).status == status
            assert server.ask(method, "/api/v1/collections", body, token=token).status == 403
    assert server.ask("POST", "/api/v1/collections", {}, token="").status == 401
    assert server.ask("POST", "/api/v1/caches/none/collections", {}).status == 404


def test_collection_stops_when_who_asked_leaves_and_the_next_one_can_begin(aged: Aged) -> None:
    aged.fill("left")
    body = b"{}"
    head = (
        f"POST /api/v1/caches/left/collections HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {aged.server.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with aged.server.connect() as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(12) == b"HTTP/1.1 200"
    while aged.server.ask("POST", "/api/v1/caches/left/collections", {}).status == 409:
        pass


@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_collects_and_backs_up_by_itself(tmp_path: Path, workers: str) -> None:
    options = ["--collect-seconds", "1s", "--keep-backups", "2", "--workers", workers]
    with run_server(tmp_path / "data", *options) as running:
        Aged(running, tmp_path / "data").fill("team", keep_unused_seconds=30 * DAY)
        while not any(event.get("hidden_paths") == 2 for event in running.events()):
            assert running.ask("GET", "/health").status == 200
        while not any(event["event"] == "backed up the database" for event in running.events()):
            assert running.ask("GET", "/health").status == 200
        listed = running.ask("GET", "/api/v1/collections").json()
        assert [each["started_by"] for each in listed] == ["the server itself"] * len(listed)
