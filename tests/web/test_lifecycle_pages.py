"""What becomes of paths, on pages: the trash and the way back."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.http.running import RunningServer, run_server
from tests.services.publishing import nar_of, path_body
from tests.web.browser import PICTURES, check_page, open_context, run_browser, violations_of
from tests.web.client import Client

LIB, APP, DOC = f"{'1' * 32}-lib-1.0", f"{'2' * 32}-app-2.3", f"{'3' * 32}-app-doc-2.3"
DAY = 86_400


class Aged:
    """A server whose data folder is at hand, to make what is in it older."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server = server
        self._folder = folder

    def execute(self, statement: str, *values: object) -> None:
        with contextlib.closing(sqlite3.connect(self._folder / "icehouse.db", isolation_level=None)) as database:
            database.execute(statement, values)

    def fill(self, cache: str, *, days: int = 40, **settings: int) -> None:
        """A cache with an app, its library and its manual, pushed some days ago."""
        body: dict[str, object] = {"name": cache, "is_public": True, "upstreams": [], **settings}
        assert self.server.ask("POST", "/api/v1/caches", body).status == 201
        paths: list[tuple[str, bytes, list[str]]] = [
            (LIB, nar_of(b"lib" * 9_999), []),
            (APP, nar_of(b"app" * 9_999), [LIB]),
            (DOC, nar_of(b"doc" * 9_999), []),
        ]
        nars = [self.server.upload(cache, nar) for _, nar, _ in paths]
        answer = self.server.ask("POST", f"/api/v1/caches/{cache}/nars", msgspec.json.encode({"nars": nars}))
        assert answer.status == 200, answer.body
        bodies = msgspec.json.encode({"paths": [path_body(*path) for path in paths]})
        assert self.server.ask("POST", f"/api/v1/caches/{cache}/paths", bodies).status == 200
        self.execute(
            "UPDATE path SET created_at = created_at - ? WHERE cache_id = (SELECT id FROM cache WHERE name = ?)",
            days * DAY,
            cache,
        )

    def collect(self, cache: str) -> None:
        answer = self.server.ask("POST", f"/api/v1/caches/{cache}/collections", {"is_dry_run": False})
        assert answer.status == 200, answer.body

    def visible(self, cache: str) -> list[str]:
        return [each["store_path"] for each in self.server.ask("GET", f"/api/v1/caches/{cache}/paths").json()["paths"]]

    def client(self) -> Client:
        client = Client(self.server)
        client.log_in()
        return client


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aged]:
    folder = tmp_path_factory.mktemp("server") / "data"
    with run_server(folder) as running:
        yield Aged(running, folder)


def shown(body: bytes) -> list[str]:
    """The names in the table of a page."""
    return re.findall(r'<th scope="row">([^<]*)<', body.decode())


def test_trash_says_why_and_gives_back_what_is_ticked(aged: Aged) -> None:
    aged.fill("ticked", keep_unused_seconds=30 * DAY)
    aged.collect("ticked")
    client = aged.client()
    page = client.get("/ui/caches/ticked/trash")
    assert (page.status, sorted(shown(page.body))) == (200, ["app-2.3", "app-doc-2.3", "lib-1.0"])
    assert b"not used for longer than the cache keeps unused paths" in page.body
    assert shown(client.get("/ui/caches/ticked/trash?name=doc").body) == ["app-doc-2.3"]
    assert "has “zzz” in its name" in client.get("/ui/caches/ticked/trash?name=zzz").body.decode()
    answer = client.post("/ui/caches/ticked/trash/restore", [("path", APP[:32])])
    assert answer.status == 200
    assert "Restored 2 paths: lib-1.0, app-2.3." in answer.body.decode()
    assert aged.visible("ticked") == [LIB, APP]
    nothing = client.post("/ui/caches/ticked/trash/restore")
    assert (nothing.status, b"Nothing was ticked" in nothing.body) == (400, True)
    never = client.post("/ui/caches/ticked/trash/restore", [("path", "9" * 32)])
    assert "1 could not come back" in never.body.decode()


def test_whole_collection_comes_back(aged: Aged) -> None:
    aged.fill("whole", keep_unused_seconds=30 * DAY)
    aged.collect("whole")
    client = aged.client()
    page = client.get("/ui/caches/whole/trash").body.decode()
    (number,) = re.findall(r'name="collection" value="(\d+)"', page)
    answer = client.post("/ui/caches/whole/trash/restore-collection", {"collection": number})
    assert "Restored 3 paths" in answer.body.decode()
    assert "The trash is empty." in answer.body.decode()
    assert aged.visible("whole") == [LIB, APP, DOC]
    for wrong, status in (("x", 400), ("999", 404)):
        assert client.post("/ui/caches/whole/trash/restore-collection", {"collection": wrong}).status == status


def test_path_goes_to_the_trash_with_what_refers_to_it_once_that_was_said(aged: Aged) -> None:
    aged.fill("deleting")
    client = aged.client()
    address = f"/ui/caches/deleting/paths/{LIB[:32]}/delete"
    assert f'href="{address}"' in client.get(address.removesuffix("/delete")).body.decode()
    page = client.get(address)
    assert shown(page.body) == ["app-2.3"]
    assert "One path refers to it" in page.body.decode()
    refused = client.post(address)
    assert (refused.status, b"without it they would not be whole" in refused.body) == (409, True)
    assert aged.visible("deleting") == [LIB, APP, DOC]
    assert client.post(address, {"with_referrers": "yes"}).status == 303
    assert aged.visible("deleting") == [DOC]
    aged.server.ask("PUT", "/api/v1/caches/deleting/pins/manual", {"store_path": DOC})
    kept = client.get(f"/ui/caches/deleting/paths/{DOC[:32]}/delete").body.decode()
    assert "manual (revision 1)" in kept
    assert "Move to the trash" not in kept


def test_api_does_what_the_pages_do(aged: Aged) -> None:
    aged.fill("asked", keep_unused_seconds=30 * DAY)
    plan = aged.server.ask("GET", f"/api/v1/caches/asked/paths/{LIB[:32]}/deletion").json()
    assert (plan["store_path"], plan["referrers"], plan["kept_by"]) == (LIB, [APP], [])
    aged.collect("asked")
    listed = aged.server.ask("GET", "/api/v1/caches/asked/trash?name=lib").json()
    (path,) = listed["paths"]
    assert (path["store_path"], path["reason"], listed["before"]) == (LIB, "retention", None)
    address = "/api/v1/caches/asked/trash/restore"
    assert aged.server.ask("POST", address, {}).status == 400
    assert aged.server.ask("POST", address, {"hash_parts": [], "collection": 1}).status == 400
    one = aged.server.ask("POST", address, {"hash_parts": [APP[:32], "9" * 32]}).json()
    assert (one["restored"], one["refused"]) == ([LIB, APP], ["9" * 32])
    rest = aged.server.ask("POST", address, {"collection": path["collection"]}).json()
    assert (rest["restored"], rest["refused"], rest["after"]) == ([DOC], [], None)


def number_of(body: bytes, label: str) -> str:
    """What a list of facts says of something."""
    found = re.search(rf"<dt>{label}</dt><dd>([^<]*)</dd>", body.decode())
    assert found, label
    return found[1]


def test_preview_tells_what_would_go_and_changes_nothing_before_it_is_saved(aged: Aged) -> None:
    aged.fill("kept")
    client = aged.client()
    address = "/ui/caches/kept/retention"
    before = client.get(address)
    assert b"was not summed up yet" in before.body
    planned = client.post("/ui/caches/kept/collections/plan")
    assert (planned.status, number_of(planned.body, "To the trash")) == (200, "0 paths")
    open_fields = {"unit": "MiB", "trash_seconds": "7"}
    seen = client.post(f"{address}/preview", {**open_fields, "keep_unused_seconds": "30"}).body.decode()
    assert "<strong>3 of 3 paths</strong>" in seen
    assert "Not used: 3 paths" in seen
    assert shown(seen.encode())[0] in {"app-2.3", "lib-1.0", "app-doc-2.3"}
    old = client.post(f"{address}/preview", {**open_fields, "keep_pushed_seconds": "41"}).body.decode()
    assert "<strong>0 of 3 paths</strong>" in old
    small = client.post(f"{address}/preview", {**open_fields, "budget_bytes": "0.000001"}).body.decode()
    assert "Over the budget: 3 paths" in small
    settings = aged.server.ask("GET", "/api/v1/caches/kept").json()
    assert (settings["keep_unused_seconds"], settings["budget_bytes"]) == (None, None)
    saved = client.post(address, {**open_fields, "keep_unused_seconds": "30.5", "limit_bytes": "1.5"})
    assert (saved.status, saved.headers["location"]) == (303, f"{address}?saved=true")
    settings = aged.server.ask("GET", "/api/v1/caches/kept").json()
    assert (settings["keep_unused_seconds"], settings["limit_bytes"]) == (30.5 * DAY, 1.5 * 2**20)
    again = client.get(f"{address}?saved=true").body.decode()
    assert 'value="30.5"' in again
    assert "Saved. It holds" in again
    assert client.post(address, {**open_fields, "keep_unused_seconds": "30.5", "limit_bytes": "1.5"}).status == 303
    assert aged.server.ask("GET", "/api/v1/caches/kept").json() == settings, "what is shown is what is kept"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"keep_unused_seconds": "soon"}, "Type a number above 0"),
        ({"keep_pushed_seconds": "-3"}, "Type a number above 0"),
        ({"keep_pushed_seconds": "NaN"}, "Type a number above 0"),
        ({"budget_bytes": "1e999999999"}, "Type a number above 0"),
        ({"trash_seconds": ""}, "Type a number, such as 30."),
        ({"budget_bytes": "20", "limit_bytes": "10"}, "pushes would be refused before anything is evicted"),
    ],
)
def test_numbers_that_make_no_sense_are_named_and_not_saved(aged: Aged, fields: dict[str, str], fault: str) -> None:
    if aged.server.ask("GET", "/api/v1/caches/wrong").status == 404:
        aged.server.create_cache("wrong")
    client = aged.client()
    client.get("/ui/caches/wrong/retention")
    before = aged.server.ask("GET", "/api/v1/caches/wrong").json()
    answer = client.post("/ui/caches/wrong/retention", {"unit": "MiB", "trash_seconds": "7", **fields})
    assert (answer.status, fault in answer.body.decode()) == (400, True)
    seen = client.post("/ui/caches/wrong/retention/preview", {"unit": "MiB", "trash_seconds": "7", **fields})
    assert "One of the numbers makes no sense yet." in seen.body.decode()
    assert aged.server.ask("GET", "/api/v1/caches/wrong").json() == before


def test_plan_with_other_settings_is_exact_and_cannot_be_carried_out(aged: Aged) -> None:
    aged.fill("planned")
    client = aged.client()
    client.get("/ui/caches/planned/retention")
    fields = {"unit": "MiB", "trash_seconds": "7", "keep_pushed_seconds": "30"}
    answer = client.post("/ui/caches/planned/retention/plan", fields)
    body = answer.body.decode()
    assert (answer.status, number_of(answer.body, "To the trash")) == (200, "3 paths")
    assert "3 pushed longer ago than the cache keeps paths" in body
    assert "Collect now" not in body
    assert body.rstrip().endswith("</html>")
    assert aged.visible("planned") == [LIB, APP, DOC]
    preview = aged.server.ask("GET", f"/api/v1/caches/planned/retention/preview?keep_pushed_seconds={30 * DAY}").json()
    assert (preview["old_paths"], preview["stored_bytes_after"], len(preview["largest"])) == (3, 0, 3)
    wanted = {"is_dry_run": True, "retention": {"budget_bytes": 1}}
    result = aged.server.ask("POST", "/api/v1/caches/planned/collections", wanted)
    assert b"used least recently while the cache was over its budget" in result.body
    refused = aged.server.ask("POST", "/api/v1/caches/planned/collections", {**wanted, "is_dry_run": False})
    assert refused.status == 400


def test_collection_runs_from_its_page_and_is_in_the_history(aged: Aged) -> None:
    aged.fill("run", keep_unused_seconds=30 * DAY)
    assert aged.server.ask("GET", "/api/v1/caches/run/retention/preview").json() is None
    client = aged.client()
    assert b"There was none yet" in client.get("/ui/caches/run/collections").body
    planned = client.post("/ui/caches/run/collections/plan").body.decode()
    assert "Collect now" in planned
    assert aged.visible("run") == [LIB, APP, DOC]
    done = client.post("/ui/caches/run/collections/run")
    assert number_of(done.body, "To the trash") == "3 paths"
    assert aged.visible("run") == []
    listed = client.get("/ui/caches/run/collections").body.decode()
    (number,) = re.findall(r'href="/ui/caches/run/collections/(\d+)"', listed)
    one = client.get(f"/ui/caches/run/collections/{number}").body.decode()
    assert "started by first administrator" in one
    assert "3 not used for longer than the cache keeps unused paths" in one
    assert client.get("/ui/caches/run/collections/999").status == 404
    told = aged.server.ask("GET", f"/api/v1/caches/run/collections/{number}").json()
    assert told["marks"][0]["hidden_by_reason"] == {"not used for longer than the cache keeps unused paths": 3}
    assert aged.server.ask("GET", "/api/v1/caches/run/retention/preview").json()["paths"] == 0


def test_collections_page_names_what_is_damaged(aged: Aged) -> None:
    aged.fill("hurt")
    aged.execute(
        "UPDATE path SET hidden_at = 1700000000, hidden_because = 'damaged: its NAR cannot be read whole' "
        "WHERE hash_part = ? AND cache_id = (SELECT id FROM cache WHERE name = 'hurt')",
        LIB[:32],
    )
    page = aged.client().get("/ui/caches/hurt/collections").body.decode()
    assert "1 path of this cache is hidden for damage" in page
    state = aged.server.ask("GET", "/api/v1/caches/hurt/verification").json()
    assert [each["store_path"] for each in state["damaged_paths"]] == [LIB]
    assert (state["phase"], state["completed_at"], state["damaged_path_count"]) == (None, None, 1)


@pytest.mark.end_to_end
def test_pages_are_accessible_and_fit_and_sliders_show_what_goes(aged: Aged) -> None:
    aged.fill("seen", keep_unused_seconds=30 * DAY, budget_bytes=2**20)
    aged.collect("seen")
    aged.server.ask("POST", f"/api/v1/caches/seen/paths/{APP[:32]}/restore")
    aged.server.ask("POST", "/api/v1/caches/seen/collections", {"is_dry_run": True})
    base = f"http://127.0.0.1:{aged.server.port}"
    with run_browser() as browser, open_context(browser) as context:
        page = context.new_page()
        page.goto(f"{base}/login?next=/ui/caches/seen/trash")
        page.get_by_label("Token").fill(aged.server.token)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("Restore app-doc-2.3").wait_for()
        state = context.storage_state()
        number = aged.server.ask("GET", "/api/v1/caches/seen/collections").json()[0]["id"]
        for path, name in (
            ("trash", "trash"),
            (f"paths/{LIB[:32]}/delete", "delete"),
            ("retention", "retention"),
            ("collections", "collections"),
            (f"collections/{number}", "collection"),
        ):
            check_page(browser, f"{base}/ui/caches/seen/{path}", name, storage_state=state)
        page.get_by_label("Restore app-doc-2.3").check()
        page.get_by_role("button", name="Restore what is ticked").click()
        page.get_by_text("Restored 1 path: app-doc-2.3.").wait_for()
        page.goto(f"{base}/ui/caches/seen/retention")
        assert "0 of 2 paths" in page.locator("#preview").inner_text()
        slider = page.get_by_role("slider", name="Size from which on the least recently used goes")
        slider.press("Home")
        assert page.locator("#budget_bytes").input_value() == slider.get_attribute("min")
        page.locator("#budget_bytes").fill("0.000001")
        page.get_by_text("2 of 2 paths").wait_for()
        assert violations_of(page) == []
        page.screenshot(path=PICTURES / "retention-moved-light-wide.png", full_page=True)
        unused = page.get_by_role("slider", name="Keep what is not used for")
        with page.expect_response("**/retention/preview"):
            unused.press("End")
        assert page.locator("#keep_unused_seconds").input_value() == ""
        assert unused.get_attribute("aria-valuetext") == "for ever"
        page.get_by_role("button", name="Plan exactly").click()
        page.get_by_role("heading", name="What would be done").wait_for()
        assert violations_of(page) == []
        page.screenshot(path=PICTURES / "plan-light-wide.png", full_page=True)
    assert aged.server.ask("GET", "/api/v1/caches/seen").json()["budget_bytes"] == 2**20
