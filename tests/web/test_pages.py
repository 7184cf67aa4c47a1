"""The pages as any client gets them, and what they are made of."""

from __future__ import annotations

import re

import pytest

from icehouse.api.caches import CacheView
from icehouse.web.assets import Assets
from icehouse.web.cache_page import make_cache_page
from icehouse.web.cache_tabs import CacheHead
from icehouse.web.error_page import ErrorPage
from icehouse.web.pages import Frame, Renderer, show_day, show_moment, show_period, show_size
from tests.http.running import Answer, RunningServer

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FRAME = Frame(path="/", back="/", version="1", public_url="https://cache.example.org", who=None, form_key="")


def browse(server: RunningServer, path: str, method: str = "GET") -> Answer:
    return server.ask(method, path, token="", headers=HTML)


@pytest.mark.parametrize("path", ["/", "/team", "/team/"])
def test_browser_gets_a_page(server: RunningServer, path: str) -> None:
    answer = browse(server, path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert b"team" in answer.body


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
@pytest.mark.parametrize("path", ["/", "/team", "/secret"])
def test_nix_and_curl_get_what_they_got_before_there_were_pages(
    server: RunningServer, path: str, accept: str | None
) -> None:
    answer = server.ask("GET", path, token="", headers={} if accept is None else {"Accept": accept})
    assert (answer.status, answer.body) == (404, b"There is no such file in this binary cache.\n")


@pytest.mark.parametrize("path", ["/team/nix-cache-info", "/team/" + "1" * 32 + ".narinfo", "/api/v1/server"])
def test_files_and_the_api_do_not_heed_what_is_accepted(server: RunningServer, path: str) -> None:
    plain, asked = server.ask("GET", path, token=""), browse(server, path)
    assert (plain.status, plain.body) == (asked.status, asked.body)
    assert plain.headers["content-type"] == asked.headers["content-type"]


def test_first_page_lists_what_the_visitor_may_see(server: RunningServer) -> None:
    body = browse(server, "/").body.decode()
    assert re.findall(r'<h2><a href="/([^"]*)"', body) == ["nightly-builds", "team"]


def test_private_cache_looks_like_one_that_is_not_there(server: RunningServer) -> None:
    private, absent = browse(server, "/secret"), browse(server, "/absent")
    assert private.status == absent.status == 401
    assert private.body == absent.body.replace(b"absent", b"secret")
    assert "www-authenticate" not in private.headers  # else the browser would ask, in a window of its own


@pytest.mark.parametrize("path", ["/", "/team", "/secret", "/static/nothing.css"])
def test_every_answer_forbids_foreign_frames_and_scripts(server: RunningServer, path: str) -> None:
    headers = browse(server, path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_head_of_a_page_has_its_headers_and_no_body(server: RunningServer) -> None:
    head, page = browse(server, "/team", "HEAD"), browse(server, "/team")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(page.body))


def test_all_that_a_page_loads_is_there_and_may_be_kept_for_ever(server: RunningServer) -> None:
    urls = re.findall(r'(?:href|src)="(/static/[^"]*)"', browse(server, "/team").body.decode())
    assert len(urls) == 4
    for url in urls:
        answer = server.ask("GET", url, token="")
        assert answer.status == 200
        assert "immutable" in answer.headers["cache-control"]
    assert server.ask("GET", "/static/htmx.LICENSE", token="").status == 404


def test_name_of_an_asset_follows_its_contents() -> None:
    first, second = Assets([("a.css", b"a {}")]), Assets([("a.css", b"b {}")])
    assert re.fullmatch(r"/static/a\.[0-9a-f]{12}\.css", first.url("a.css"))
    assert first.url("a.css") != second.url("a.css")
    asset = first.find(first.url("a.css").removeprefix("/static/"))
    assert asset is not None
    assert asset.body == b"a {}"
    assert first.find("a.css") is None


def test_what_a_template_gets_is_escaped() -> None:
    page = ErrorPage(heading="<b>", detail="<script>alert(1)</script>", request_id="\"'>")
    body = Renderer(Assets.load()).render(page, FRAME).decode()
    assert "<b>" not in body
    assert "<script>" not in body
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body


def view(*, is_public: bool) -> CacheView:
    return CacheView(
        name="team",
        url="https://cache.example.org/team",
        is_public=is_public,
        priority=41,
        want_mass_query=True,
        store_dir="/nix/store",
        public_keys=["team.cache.example.org-1:" + "A" * 43 + "="],
        upstreams=[],
        created_at=1_700_000_000,
        keep_unused_seconds=None,
        keep_pushed_seconds=None,
        budget_bytes=None,
        limit_bytes=None,
        trash_seconds=604_800,
        stored_bytes=5 * 2**30,
        warning=None,
    )


def test_cache_page_of_a_private_cache_tells_where_the_token_goes() -> None:
    public, private = (
        make_cache_page(CacheHead("team", is_public, (), "/team"), view(is_public=is_public))
        for is_public in (True, False)
    )
    assert public.netrc is None
    assert private.netrc == "machine cache.example.org login icehouse password <token>"
    assert "netrc-file = /etc/nix/netrc" in private.ways[0].text
    assert "netrc" not in public.ways[0].text
    body = Renderer(Assets.load()).render(private, FRAME).decode()
    assert "icehouse login https://cache.example.org" in body
    assert "5.0 GiB" in body


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (240 * 2**30, "240 GiB"),
        (2**62, "4096 PiB"),
    ],
)
def test_sizes_are_shown_short(size: int, text: str) -> None:
    assert show_size(size) == text


def test_day_is_shown_with_its_second() -> None:
    assert show_day(1_700_000_000) == (
        '<time datetime="2023-11-14T22:13:20Z" title="2023-11-14 22:13:20 UTC">14 November 2023</time>'
    )
    assert str(show_moment(1_700_000_000)).endswith(">14 November 2023, 22:13 UTC</time>")


def test_periods_are_shown_in_their_largest_exact_unit() -> None:
    assert [show_period(each) for each in (90, 900, 3600, 86_400 * 7)] == [
        "90 seconds",
        "15 minutes",
        "1 hour",
        "7 days",
    ]
