"""The page that shows what the server does, and the stream that keeps it up to date."""

from __future__ import annotations

import contextlib
import http.client
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from icehouse.services.live_streams import MAX_STREAMS_OF_SESSION
from tests.http.running import START_SECONDS, STOP_SECONDS, RunningServer, run_server
from tests.web.browser import check_page, open_context, run_browser
from tests.web.client import Client

PAGE = "/ui/activity"
STREAM = f"{PAGE}/stream"
EVENTS = "text/event-stream"
NAR = f"{'0' * 52}.nar"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        running.create_cache("team")
        running.create_cache("hidden", is_public=False)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


def log_in(server: RunningServer, token: str | None = None) -> Client:
    client = Client(server)
    client.log_in(token=token or server.token)
    return client


@contextlib.contextmanager
def half_an_upload(server: RunningServer, cache: str) -> Generator[None]:
    """Somebody who has sent the beginning of a NAR, of which the server took note."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=START_SECONDS)
    with contextlib.closing(connection):
        connection.putrequest("PUT", f"/{cache}/nar/{NAR}")
        connection.putheader("Authorization", f"Bearer {server.token}")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders(b"\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00")
        yield


@contextlib.contextmanager
def open_stream(client: Client) -> Generator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=START_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", STREAM, headers={"Accept": EVENTS, "Cookie": f"icehouse={client.cookie}"})
        yield connection.getresponse()


def read_event(response: http.client.HTTPResponse) -> tuple[str, str]:
    """The name and the data of the next event."""
    name, data = "", ""
    while line := response.readline().decode():
        kind, _, text = line.rstrip("\n").partition(": ")
        if kind == "event":
            name = text
        elif kind.startswith("data"):
            data += f"{text}\n"
        elif not line.strip() and name:
            return name, data
    return "end", ""


def read_until(response: http.client.HTTPResponse, text: str) -> str:
    while True:
        name, data = read_event(response)
        assert name == "now", f"{text!r} never came"
        if text in data:
            return data


def test_page_and_api_show_what_is_pushed_and_what_the_server_does_by_itself(server: RunningServer) -> None:
    client = log_in(server)
    assert b"Nobody pushes anything" in client.get(PAGE).body
    with half_an_upload(server, "team"), open_stream(client) as stream:
        part = read_until(stream, "24 bytes")
        assert '<a href="/team">team</a>' in part
        assert "<td>first administrator</td>" in part
        assert f'title="{NAR}"' in part
        assert "1 NAR" in part
        page = client.get(PAGE).body.decode()
        assert "24 bytes" in page
        assert "There was none yet." in page
        api = server.ask("GET", "/api/v1/activity").json()
        assert [(push["cache"], push["received_bytes"]) for push in api["pushes"]] == [("team", 24)]
        assert [upload["file"] for upload in api["pushes"][0]["uploads"]] == [NAR]
        assert api["maintenance"]["next_at"] > api["now"]
    answer = server.ask("POST", "/api/v1/collections", {})
    assert answer.status == 200
    page = client.get(PAGE).body.decode()
    assert "of all caches" in page
    assert "0 paths to the trash" in page


def test_who_administers_some_caches_sees_pushes_to_these_alone(server: RunningServer) -> None:
    token = server.create_token("admin", pattern="team")
    client = log_in(server, token)
    with half_an_upload(server, "team"), half_an_upload(server, "hidden"), open_stream(log_in(server)) as all_of_it:
        read_until(all_of_it, ">hidden<")
        page = client.get(PAGE).body.decode()
        assert ">team<" in page
        assert "hidden" not in page.partition("<main")[2].replace("aria-hidden", "")
        assert "collection" not in page
        assert "hidden" not in client.get(STREAM).body.decode()
        api = server.ask("GET", "/api/v1/activity", token=token).json()
        assert {push["cache"] for push in api["pushes"]} == {"team"}
        assert api["maintenance"] is None


def test_who_administers_nothing_sees_nothing_and_no_way_to_it(server: RunningServer) -> None:
    assert Client(server).get(PAGE).status == 401
    assert Client(server).get(STREAM).status == 401
    client = log_in(server, server.create_token("push"))
    assert client.get(PAGE).status == 403
    assert client.get(STREAM).status == 403
    assert PAGE.encode() not in client.get("/").body
    assert PAGE.encode() in log_in(server).get("/").body


def test_stream_is_not_kept_by_proxies_and_begins_with_the_present(server: RunningServer) -> None:
    with open_stream(log_in(server)) as stream:
        assert (stream.status, stream.getheader("content-type")) == (200, f"{EVENTS}; charset=utf-8")
        assert (stream.getheader("cache-control"), stream.getheader("x-accel-buffering")) == ("no-store", "no")
        assert read_event(stream)[0] == "now"


def test_stream_ends_with_the_session(server: RunningServer) -> None:
    client = log_in(server)
    with open_stream(client) as stream:
        assert read_event(stream)[0] == "now"
        client.get(PAGE)
        assert client.post("/logout").status == 303
        while (event := read_event(stream))[0] == "now":
            pass
        assert event[0] == "over"
        assert stream.read() == b""


def test_session_has_a_few_streams_and_room_comes_back_when_one_is_closed(server: RunningServer) -> None:
    client = log_in(server)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_STREAMS_OF_SESSION):
            assert read_event(stack.enter_context(open_stream(client)))[0] == "now"
        refused = client.send("GET", STREAM, Accept=EVENTS)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "30"
        with open_stream(log_in(server)) as other:
            assert other.status == 200
    for _ in range(100):  # the server hears in its own time that they are gone
        with open_stream(client) as again:
            if again.status == 200:
                return
    pytest.fail("no room came back")


def test_server_stops_in_good_order_while_streams_are_open(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server:
        with open_stream(log_in(server)) as stream:
            assert read_event(stream)[0] == "now"
            server.process.send_signal(signal.SIGTERM)
            # Within less time than answers get that do not end: then they would be cut off, which the log tells.
            assert server.process.wait(STOP_SECONDS) == 0
            assert read_event(stream)[0] == "end"
        assert not [event for event in server.events() if event["level"] in {"error", "critical"}]


def test_page_is_kept_up_to_date_in_a_browser(server: RunningServer, browser: Browser) -> None:
    client = log_in(server)
    cookie = {"name": "icehouse", "value": client.cookie, "domain": "127.0.0.1", "path": "/"}
    state = {"cookies": [cookie], "origins": []}
    url = f"http://127.0.0.1:{server.port}{PAGE}"
    with half_an_upload(server, "team"):
        with open_context(browser, storage_state=state) as context:
            page = context.new_page()
            page.goto(url)
            expect(page.locator("#live-state")).to_have_text("Kept up to date.")
            expect(page.locator("#live")).to_contain_text("team")
            with half_an_upload(server, "hidden"):
                expect(page.locator("#live")).to_contain_text("hidden")
        check_page(browser, url, "activity", storage_state=state)
        with open_context(browser, storage_state=state, java_script_enabled=False) as context:
            page = context.new_page()
            page.goto(url)
            expect(page.locator("#live")).to_contain_text("team")
            expect(page.get_by_role("link", name="Reload")).to_be_visible()
