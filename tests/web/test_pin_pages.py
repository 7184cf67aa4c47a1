"""The pages about a cache's pins, as any client gets them and in real Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest
from playwright.sync_api import Browser

from icehouse.nix.nar_write import Directory, Regular, write_nar
from tests.http.running import RunningServer
from tests.services.publishing import path_body
from tests.web.browser import check_page, open_context, run_browser
from tests.web.client import Client

LIBRARY, APP, APP2 = f"{'0' * 32}-lib-3.1", f"{'1' * 32}-app-1.0", f"{'2' * 32}-app-2.0"
REFERENCES = {LIBRARY: [], APP: [LIBRARY], APP2: [LIBRARY]}
TREES = {
    name: b"".join(write_nar(Directory({b"bin": Directory({b"app": Regular(f"the {name}".encode())})})))
    for name in REFERENCES
}
LIST = "/ui/caches/pinned/pins"


def publish(server: RunningServer, cache: str, paths: dict[str, bytes], *, token: str | None = None) -> None:
    nars = [server.upload(cache, nar) for nar in paths.values()]
    server.ask("POST", f"/api/v1/caches/{cache}/nars", msgspec.json.encode({"nars": nars}))
    bodies = [path_body(name, nar, REFERENCES.get(name, [])) for name, nar in paths.items()]
    body = msgspec.json.encode({"paths": bodies})
    answer = server.ask("POST", f"/api/v1/caches/{cache}/paths", body, token=token)
    assert answer.status == 200, answer.body


@pytest.fixture(scope="module", autouse=True)
def _filled(server: RunningServer) -> None:
    server.create_cache("pinned")
    publish(server, "pinned", TREES)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Client:
    client = Client(server)
    client.log_in()
    client.get("/")
    return client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


def put(server: RunningServer, name: str, path: str, **more: object) -> None:
    answer = server.ask("PUT", f"/api/v1/caches/pinned/pins/{name}", {"store_path": path, **more})
    assert answer.status in {200, 201}, answer.body


def pin_form(name: str, path: str, **more: str) -> dict[str, str]:
    return {"name": name, "store_path": path, "seen": "0", "keep": "all", **more}


def test_cache_without_pins_says_so(server: RunningServer) -> None:
    body = Client(server).get("/ui/caches/team/pins").body.decode()
    assert "Nothing is pinned here yet" in body
    assert "New pin" not in body


def test_pins_are_listed_with_what_they_stand_for_and_keep(server: RunningServer) -> None:
    put(server, "listed", APP2, keep_revisions=4)
    body = Client(server).get(LIST).body.decode()
    row = body[body.index(f'href="{LIST}/listed"') :].partition("</tr>")[0]
    assert f'href="/ui/caches/pinned/paths/{APP2[:32]}"' in row
    assert "app-2.0" in row
    assert "the last 4 revisions" in row
    assert "by first administrator" in row


def test_many_pins_come_page_by_page(server: RunningServer) -> None:
    server.create_cache("many")
    publish(server, "many", {LIBRARY: TREES[LIBRARY]})
    for number in range(102):
        server.ask("PUT", f"/api/v1/caches/many/pins/p{number:03}", {"store_path": LIBRARY})
    first = Client(server).get("/ui/caches/many/pins").body.decode()
    assert len(re.findall(r'href="/ui/caches/many/pins/p', first)) == 100
    found = re.search(r'href="(/ui/caches/many/pins\?[^"]*)"', first)
    assert found
    second = Client(server).get(found[1]).body.decode()
    assert re.findall(r'href="/ui/caches/many/pins/(p\d+)"', second) == ["p100", "p101"]
    assert "More pins" not in second


def test_pin_shows_its_revisions_and_leads_to_the_difference_of_each_to_the_one_before(server: RunningServer) -> None:
    put(server, "shown", APP, artifacts=["bin"])
    put(server, "shown", APP2, artifacts=["bin/app"])
    put(server, "shown", LIBRARY, artifacts=["bin/app"])
    body = Client(server).get(f"{LIST}/shown").body.decode()
    assert re.findall(r'<th scope="row" class="revision">(\d+)', body) == ["3", "2", "1"]
    compared = re.findall(r'href="/ui/caches/pinned/compare\?from=([^&]*)&amp;to=([^"]*)"', body)
    assert compared == [(APP2, LIBRARY), (APP, APP2)]
    assert 'href="/pinned/pin/shown/bin/app"' in body
    assert "Move or change" not in body  # for who may only look
    older = Client(server).get(f"{LIST}/shown?before=2").body.decode()
    assert re.findall(r'<th scope="row" class="revision">(\d+)', older) == ["1"]


def test_revision_in_the_trash_is_marked_and_not_compared(server: RunningServer) -> None:
    nar, gone = b"".join(write_nar(Regular(b"short lived"))), f"{'3' * 32}-gone"
    token = server.create_token("push", pattern="pinned")
    publish(server, "pinned", {gone: nar}, token=token)
    for path in (APP, gone, APP2, LIBRARY):
        put(server, "trashed", path)
    number = server.ask("GET", "/api/v1/tokens/self", token=token).json()["id"]
    revoked = server.ask("POST", "/api/v1/revocations", {"by": {"token": str(number)}, "since": 0})
    assert revoked.status == 200, revoked.body
    rows = Client(server).get(f"{LIST}/trashed").body.decode().split("<tr>")[2:]
    assert ["compare?" in row for row in rows] == [True, False, False, False]
    assert ["in the trash" in row for row in rows] == [False, False, True, False]


@pytest.mark.parametrize("path", [f"{LIST}/absent", f"{LIST}/absent/change", f"{LIST}/absent/unpin", f"{LIST}/%2e%2e"])
def test_pin_that_is_not_there_is_not_found(client: Client, path: str) -> None:
    assert client.get(path).status in {400, 404}


def test_pin_is_made_moved_and_removed_by_forms(server: RunningServer, client: Client) -> None:
    assert client.get(f"/ui/caches/pinned/new-pin?path={APP}").body.count(f'value="{APP}"'.encode()) == 1
    made = client.post(
        LIST, pin_form("made", APP, keep="days", keep_days="7", keep_revisions="5", artifacts="bin\n \n")
    )
    assert (made.status, made.headers["location"]) == (303, f"{LIST}/made")
    change = client.get(f"{LIST}/made/change").body.decode()
    assert 'name="seen" value="1"' in change
    assert re.search(r'value="days" checked', change)
    assert ">bin</textarea>" in change
    moved = pin_form("made", APP2, seen="1", keep="revisions", keep_revisions="3")
    assert client.post(LIST, moved).status == 303
    pin = server.ask("GET", "/api/v1/caches/pinned/pins/made").json()
    assert [each["store_path"] for each in pin["revisions"]] == [APP2, APP]
    assert (pin["keep_days"], pin["keep_revisions"], pin["newest"]["artifacts"]) == (None, 3, [])
    assert b"Remove this pin?" in client.get(f"{LIST}/made/unpin").body
    removed = client.post(f"{LIST}/made/unpin")
    assert (removed.status, removed.headers["location"]) == (303, LIST)
    assert server.ask("GET", "/api/v1/caches/pinned/pins/made").status == 404


def test_name_that_is_taken_is_asked_about_before_that_pin_is_moved(server: RunningServer, client: Client) -> None:
    put(server, "taken", APP)
    asked = client.post(LIST, pin_form("taken", APP2))
    body = asked.body.decode()
    assert asked.status == 409
    assert "There is a pin taken already" in body
    assert server.ask("GET", "/api/v1/caches/pinned/pins/taken").json()["newest"]["store_path"] == APP
    assert 'name="seen" value="1"' in body
    assert client.post(LIST, pin_form("taken", APP2, seen="1")).status == 303
    assert server.ask("GET", "/api/v1/caches/pinned/pins/taken").json()["newest"]["store_path"] == APP2


def test_change_of_a_pin_that_moved_meanwhile_does_not_move_it_back(server: RunningServer, client: Client) -> None:
    put(server, "moved", APP)
    put(server, "moved", APP2)
    answer = client.post(LIST, pin_form("moved", APP, seen="1", keep="revisions", keep_revisions="2"))
    assert answer.status == 409
    assert b"by now, revision 2" in answer.body
    pin = server.ask("GET", "/api/v1/caches/pinned/pins/moved").json()
    assert (pin["newest"]["store_path"], pin["keep_revisions"]) == (APP2, None)


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        (pin_form(".x", APP), 400, "pin name"),
        (pin_form("x", "nonsense"), 400, "nonsense"),
        (pin_form("x", f"{'9' * 32}-absent"), 404, "push it first"),
        (pin_form("x", APP, artifacts="nowhere"), 404, "has no artifact"),
        (pin_form("x", APP, keep="often"), 400, "expected all, revisions or days"),
        (pin_form("x", APP, keep="days", keep_days="many"), 400, "a number of days"),
        (pin_form("x", APP, keep="revisions", keep_revisions="0"), 400, "keep_revisions 0"),
    ],
    ids=["name", "path", "absent", "artifact", "rule", "days", "revisions"],
)
def test_form_that_is_wrong_is_shown_again_with_what_was_typed(
    client: Client, fields: dict[str, str], status: int, text: str
) -> None:
    answer = client.post(LIST, fields)
    body = answer.body.decode()
    assert answer.status == status
    assert text in body
    assert f'value="{fields["store_path"]}"' in body


def test_who_may_only_pull_is_refused_the_forms(server: RunningServer) -> None:
    reader = Client(server)
    reader.log_in(token=server.create_token("pull"))
    reader.get("/")
    assert reader.get("/ui/caches/pinned/new-pin").status == 403
    assert reader.post(LIST, pin_form("x", APP)).status == 403
    assert b"New pin" not in reader.get(LIST).body


def test_pages_are_accessible_and_fit(browser: Browser, server: RunningServer) -> None:
    put(server, "release-24.05", APP, artifacts=["bin"])
    put(server, "release-24.05", APP2, artifacts=["bin/app"])
    put(server, "release-24.05", LIBRARY, artifacts=["bin/app"], keep_revisions=10)
    address = f"http://127.0.0.1:{server.port}"
    with open_context(browser) as context:
        page = context.new_page()
        page.goto(f"{address}/login?next={LIST}")
        page.get_by_label("Token").fill(server.token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"**{LIST}")
        state = context.storage_state()
        for path, name in (
            (LIST, "pins"),
            (f"{LIST}/release-24.05", "pin"),
            (f"{LIST}/release-24.05/change", "pin-change"),
            (f"{LIST}/release-24.05/unpin", "pin-remove"),
            ("/ui/new-cache", "new-cache"),
        ):
            check_page(browser, f"{address}{path}", name, storage_state=state)
