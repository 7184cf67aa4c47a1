"""What differs between two paths: the page, as any client gets it and in real Chromium, and the API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlencode

import msgspec
import pytest
from playwright.sync_api import Browser

from icehouse.api.differences import ChangedPackage, ChangedPath, DifferenceView, SideView
from icehouse.web.difference_page import make_found
from tests.http.running import RunningServer
from tests.services.publishing import nar_of, path_body
from tests.web.browser import PICTURES, check_page, open_context, run_browser
from tests.web.client import Client


def name(letter: str, text: str) -> str:
    return f"{letter * 32}-{text}"


def text_of(size: int, *needed: str) -> bytes:
    return nar_of("".join(f"/nix/store/{each[:32]}-x\n" for each in needed).encode() + b"x" * size)


BASE, BASE2 = name("1", "glibc-2.39-52"), name("2", "glibc-2.40-66")
LIBRARY, LIBRARY2 = name("3", "zlib-1.3.1"), name("4", "zlib-1.3.1")
CURL, JQ = name("5", "curl-8.7.1"), name("6", "jq-1.7.1-bin")
DATA, DATA2 = name("7", "motd"), name("8", "motd")
APP, APP2 = name("9", "app-1.0"), name("a", "app-1.1")
PATHS: dict[str, tuple[int, list[str]]] = {
    BASE: (400_000, []),
    BASE2: (420_000, []),
    LIBRARY: (1_000, [BASE]),
    LIBRARY2: (1_000, [BASE2]),
    CURL: (90_000, []),
    JQ: (50_000, []),
    DATA: (10, []),
    DATA2: (20, []),
    APP: (5_000, [LIBRARY, CURL, DATA]),
    APP2: (4_000, [LIBRARY2, JQ, DATA2]),
}
PAGE = "/ui/caches/compared/compare"
API = "/api/v1/caches/compared/difference"


@pytest.fixture(scope="module", autouse=True)
def _filled(server: RunningServer) -> None:
    server.create_cache("compared")
    nars = {path: text_of(size, *needed) for path, (size, needed) in PATHS.items()}
    bodies = [server.upload("compared", nar) for nar in nars.values()]
    server.ask("POST", "/api/v1/caches/compared/nars", msgspec.json.encode({"nars": bodies}))
    paths = [path_body(path, nars[path], PATHS[path][1]) for path in PATHS]
    answer = server.ask("POST", "/api/v1/caches/compared/paths", msgspec.json.encode({"paths": paths}))
    assert answer.status == 200, answer.body


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


def between(before: str, after: str) -> str:
    return urlencode({"from": before, "to": after})


def test_api_tells_the_difference_package_by_package(server: RunningServer) -> None:
    found = server.ask("GET", f"{API}?{between(APP, APP2)}", token="").json()
    assert [(each["name"], each["change"]) for each in found["packages"]] == [
        ("curl", "removed"),
        ("jq", "added"),
        ("glibc", "version"),
        ("app", "version"),
        ("motd", "contents"),
        ("zlib", "rebuilt"),
    ]
    assert (found["before"]["paths"], found["after"]["paths"], found["common_paths"]) == (5, 5, 0)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        (between(APP, "nonsense"), 400),
        (between(APP, name("z", "absent")), 404),
        (between(APP, "x" * 5_000), 400),
    ],
)
def test_api_refuses_what_it_cannot_compare(server: RunningServer, query: str, status: int) -> None:
    assert server.ask("GET", f"{API}?{query}", token="").status == status


def test_page_shows_changes_by_size_and_rebuilds_apart(server: RunningServer) -> None:
    body = Client(server).get(f"{PAGE}?{between(APP, APP2)}").body.decode()
    assert re.findall(r"<summary>([a-z]+)</summary>", body) == ["curl", "jq", "glibc", "app", "motd", "zlib"]
    assert body.index('id="rebuilt"') < body.index("<summary>zlib</summary>")
    assert "2.39-52 → 2.40-66" in body
    assert "2 changed version, 1 added, 1 removed, 1 changed in contents alone" in body
    assert f'href="/ui/caches/compared/paths/{CURL[:32]}"' in body
    assert f"{PAGE}?{between(APP2, APP)}".replace("&", "&amp;") in body


def test_page_asks_for_two_paths_and_offers_those_that_are_pinned(server: RunningServer) -> None:
    server.ask("PUT", "/api/v1/caches/compared/pins/app", {"store_path": APP})
    body = Client(server).get(PAGE).body.decode()
    assert f'<option value="{APP}">app</option>' in body
    assert 'id="packages"' not in body
    assert f'value="{APP}"' in Client(server).get(f"{PAGE}?from={APP}").body.decode()


@pytest.mark.parametrize(
    ("after", "status", "text"),
    [("<b>", 400, "&lt;b&gt;"), (name("z", "absent"), 404, "no visible path")],
    ids=["malformed", "absent"],
)
def test_page_says_what_cannot_be_compared(server: RunningServer, after: str, status: int, text: str) -> None:
    answer = Client(server).get(f"{PAGE}?{between(APP, after)}")
    assert answer.status == status
    assert text in answer.body.decode()


def test_page_of_what_was_only_rebuilt_and_of_no_difference_says_so(server: RunningServer) -> None:
    client = Client(server)
    assert "There is no difference" in client.get(f"{PAGE}?{between(APP, APP)}").body.decode()
    assert "1 changed version" in client.get(f"{PAGE}?{between(LIBRARY, LIBRARY2)}").body.decode()


def test_large_difference_is_cut_and_tells_how_much_is_left_out() -> None:
    side = SideView(store_path=APP, paths=9, nar_bytes=9, unknown=0)
    paths = [ChangedPath(store_path=APP, nar_size=1)] * 25
    packages = [
        ChangedPackage(
            name=f"p{number}",
            change="rebuilt" if number > 400 else "version",
            versions_before=["1", "2"],
            versions_after=["2", "3", ""],
            bytes_before=number,
            bytes_after=0,
            gone=paths,
            new=paths[:1],
        )
        for number in range(800)
    ]
    view = DifferenceView(before=side, after=side, common_paths=0, packages=packages)
    found = make_found("compared", view)
    assert (len(found.rows), found.more_rows, len(found.rebuilt), found.more_rebuilt) == (300, 101, 300, 99)
    assert (len(found.rows[0].gone), found.rows[0].more_paths) == (20, 5)
    assert found.rows[0].versions == "1 → 3, no version"
    assert [(row.bar.x, row.bar.width) for row in (found.rows[0], found.rows[1], found.rows[200])] == [
        (50, 0),
        (49, 1),
        (25, 25),
    ]


def test_page_is_accessible_and_fits(browser: Browser, server: RunningServer) -> None:
    address = f"http://127.0.0.1:{server.port}{PAGE}?{between(APP, APP2)}"
    check_page(browser, address, "difference")
    with open_context(browser) as context:
        page = context.new_page()
        page.goto(address)
        page.get_by_text("Show it").click()
        page.get_by_text("glibc", exact=True).click()
        page.get_by_role("link", name="glibc-2.40-66").wait_for()
        page.screenshot(path=PICTURES / "difference-opened-light-wide.png", full_page=True)
