"""The charts of a cache, and what the first page tells of caches."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.http.running import RunningServer, run_server
from tests.web.browser import check_page, run_browser
from tests.web.client import Client

HOUR = 3_600


def fill(data: Path, hours: int) -> None:
    """As if *hours* had passed, with more to do by day than by night."""
    now = int(time.time()) // HOUR * HOUR
    with closing(sqlite3.connect(data / "access.db")) as database, database:
        for hour in range(hours):
            asked = int(400 + 350 * math.sin(hour / 24 * 2 * math.pi))
            nar_bytes = 70 * 2**30 - hour * 2**27
            row = (1, HOUR, now - hour * HOUR, asked, asked // 9, asked // 3, asked * 2**20, nar_bytes, nar_bytes // 4)
            database.execute("INSERT OR REPLACE INTO traffic VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    with closing(sqlite3.connect(data / "icehouse.db")) as database, database:
        database.execute("UPDATE cache SET stored_bytes = ? WHERE id = 1", (35 * 2**29,))
        sums = "UPDATE cache_sum SET visible_paths = 18234, nar_bytes = ?, last_push_at = ? WHERE cache_id = 1"
        database.execute(sums, (70 * 2**30, now))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("server") / "data"
    with run_server(data) as running:
        running.create_cache("team")
        running.create_cache("empty", is_public=False)
        fill(data, 20 * 24)
        yield running


def test_traffic_is_for_who_may_push(server: RunningServer) -> None:
    stranger = Client(server)
    assert stranger.get("/ui/caches/team/traffic").status == 401
    assert b"Traffic" not in stranger.get("/team").body
    puller = Client(server)
    puller.get("/login")
    puller.log_in(token=server.create_token("pull"))
    assert puller.get("/ui/caches/team/traffic").status == 403
    pusher = Client(server)
    pusher.get("/login")
    pusher.log_in(token=server.create_token("push", pattern="team"))
    answer = pusher.get("/ui/caches/team/traffic?range=month")
    assert answer.status == 200
    assert b"90.1 %" in answer.body
    assert pusher.get("/ui/caches/team/traffic?range=week").status == 400
    assert b'href="/ui/caches/team/traffic"' in pusher.get("/team").body


def test_api_tells_the_same(server: RunningServer) -> None:
    day = server.ask("GET", "/api/v1/caches/team/traffic").json()
    assert day["seconds"] == HOUR
    assert len(day["points"]) == 24
    month = server.ask("GET", "/api/v1/caches/team/traffic?range=month").json()
    assert sum(point["hits"] for point in month["points"]) > sum(point["hits"] for point in day["points"]) > 0
    assert server.ask("GET", "/api/v1/caches/team/traffic?range=week").status == 400


def test_first_page_tells_of_traffic_to_who_may_push(server: RunningServer) -> None:
    asked = server.ask("GET", "/api/v1/caches/team/traffic").json()["points"]
    hits = sum(point["hits"] for point in asked)
    assert hits > 0
    body = Client(server).get("/").body.decode()
    assert "Hit rate" not in body
    admin = Client(server)
    admin.get("/login")
    admin.log_in()
    body = admin.get("/").body.decode()
    assert "90.1 %" in body
    assert "Saved of 70.0 GiB" in body
    assert "75 %" in body
    assert "empty" in body


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


@pytest.mark.end_to_end
def test_pages_are_accessible_and_fit(browser: Browser, server: RunningServer) -> None:
    admin = Client(server)
    admin.get("/login")
    admin.log_in()
    address = f"http://127.0.0.1:{server.port}"
    state = {"cookies": [{"name": "icehouse", "value": admin.cookie, "url": address}], "origins": []}
    check_page(browser, f"{address}/ui/caches/team/traffic", "traffic", storage_state=state)
    check_page(browser, f"{address}/", "overview", storage_state=state)
