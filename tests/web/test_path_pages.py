"""The pages about paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest
from playwright.sync_api import Browser

from icehouse.web.file_pages import show_log_text
from tests.http.running import RunningServer
from tests.web.browser import check_page, open_context, run_browser
from tests.web.built_paths import APP, GLIBC, HOSTILE, NUMPY, OLD, OPENSSL, PYTHON, fill
from tests.web.client import Client

LIST = "/ui/caches/team/paths"


@pytest.fixture(scope="module")
def stranger(server: RunningServer) -> Client:
    fill(server, "team")
    return Client(server)


@pytest.fixture(scope="module")
def admin(stranger: Client) -> Client:
    client = Client(stranger.server)
    assert client.log_in().status == 303
    return client


def page_of(base_name: str) -> str:
    return f"{LIST}/{base_name[:32]}"


def read(client: Client, path: str, *, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status == status, answer.body
    return answer.body.decode()


def hashes(text: str) -> list[str]:
    """The hash parts of the paths that a page links to, in order."""
    return re.findall(rf'href="{LIST}/([^"/?]*)"><span class="name">', text)


def parts(*base_names: str) -> list[str]:
    return [each[:32] for each in base_names]


def test_list_has_the_newest_first_and_the_trash_for_who_may_see_it(stranger: Client, admin: Client) -> None:
    assert hashes(read(stranger, LIST)) == parts(APP, NUMPY, PYTHON, OPENSSL, GLIBC)
    text = read(admin, LIST)
    assert hashes(text) == parts(APP, OLD, NUMPY, PYTHON, OPENSSL, GLIBC)
    assert text.count("In the trash") == 1
    assert "In the trash" not in read(stranger, LIST)


def test_search_finds_by_name_and_by_who_pushed(stranger: Client) -> None:
    assert hashes(read(stranger, f"{LIST}?q=OpenSSL")) == parts(OPENSSL)
    assert hashes(read(stranger, f"{LIST}?q=python3.11-num")) == parts(NUMPY)
    assert hashes(read(stranger, f"{LIST}?q=2.&by=first")) == parts(APP, GLIBC)
    nothing = read(stranger, f"{LIST}?q=%22%3Cb%3E")
    assert "Nothing here matches" in nothing
    assert 'value="&#34;&lt;b&gt;"' in nothing
    assert "Nothing here matches" in read(stranger, f"{LIST}?by=nobody")


def test_search_for_a_store_path_opens_its_page(stranger: Client) -> None:
    for text in (APP, APP[:32], f"/nix/store/{APP}/bin/report"):
        answer = stranger.get(f"{LIST}?q={text}")
        assert (answer.status, answer.headers["location"]) == (303, page_of(APP))
    assert page_of("z" * 32) in read(stranger, f"{LIST}?q={'z' * 32}")


def test_page_tells_what_is_known_of_a_path(stranger: Client) -> None:
    text = read(stranger, page_of(APP))
    assert hashes(text) == parts(NUMPY, OPENSSL)
    narinfo = stranger.server.ask("GET", f"/team/{APP[:32]}.narinfo", token="").body.decode()
    assert narinfo in unescape(text)
    assert "Valid" in text
    assert f"/nix/store/{APP}" in text
    assert "The pin <strong>release</strong> keeps it" in text
    assert "Nothing here refers to it" in text
    assert hashes(read(stranger, page_of(PYTHON))) == parts(GLIBC, PYTHON, OPENSSL, NUMPY)


def test_address_of_the_publisher_is_told_to_administrators(stranger: Client, admin: Client) -> None:
    assert "127.0.0.1" not in read(stranger, page_of(APP)).replace(f"127.0.0.1:{stranger.server.port}", "").replace(
        "127.0.0.1-1", ""
    )
    assert "<dd><code>127.0.0.1</code></dd>" in read(admin, page_of(APP))


def test_last_use_is_told_to_who_may_push(stranger: Client, admin: Client) -> None:
    assert "Last used" not in read(stranger, page_of(APP))
    assert "Last used" in read(admin, page_of(APP))


def test_path_that_is_not_here_has_a_page_that_tells_why(stranger: Client) -> None:
    assert "was pushed to team" in read(stranger, page_of("z" * 32), status=404)
    assert "was moved to the trash" in read(stranger, page_of(OLD))
    read(stranger, f"{LIST}/no-hash", status=400)
    read(stranger, f"{LIST}?before=x", status=400)


def test_why_has_the_chain_from_the_pin(stranger: Client) -> None:
    text = read(stranger, f"{page_of(PYTHON)}/why")
    assert hashes(text) == parts(APP, NUMPY, PYTHON)


def test_referrers_have_a_page(stranger: Client, admin: Client) -> None:
    assert hashes(read(stranger, f"{page_of(NUMPY)}/referrers")) == parts(APP)
    assert hashes(read(admin, f"{page_of(NUMPY)}/referrers")) == parts(APP, OLD)


def test_why_has_the_way_to_another_path_of_the_closure(stranger: Client) -> None:
    text = read(stranger, f"{page_of(APP)}/why?to=GLIBC")
    assert hashes(text.partition("Why it needs")[2]) == parts(APP, NUMPY, GLIBC)
    assert "does not reach such a path" in read(stranger, f"{page_of(GLIBC)}/why?to={APP}")
    assert "itself" in read(stranger, f"{page_of(GLIBC)}/why?to={GLIBC}")


def test_closure_is_a_map_and_a_table(stranger: Client) -> None:
    text = read(stranger, f"{page_of(APP)}/closure?sort=size")
    drawing, _, table = text.partition('class="treemap"')[2].partition("</svg>")
    assert set(re.findall(rf'<a href="{LIST}/([^"/?]*)" tabindex="-1">', drawing)) == set(
        parts(APP, NUMPY, PYTHON, OPENSSL, GLIBC)
    )
    assert hashes(table) == parts(PYTHON, GLIBC, NUMPY, OPENSSL, APP)
    assert hashes(read(stranger, f"{page_of(APP)}/closure"))[:2] == parts(APP, NUMPY)
    assert "style=" not in drawing
    read(stranger, f"{page_of(OLD)}/closure", status=404)


def test_folders_and_files_are_browsed(stranger: Client) -> None:
    files = f"{page_of(APP)}/files"
    top = read(stranger, files)
    assert re.findall(rf'href="{files}/([^"]*)"', top) == ["bin", "current", "python", "share"]
    assert "→ <bdi>/etc/passwd</bdi>" in top
    assert "executable" in read(stranger, f"{files}/bin")
    assert read(stranger, f"{files}/share/doc").count("Download<span") == 5
    assert read(stranger, f"{files}/current/").count("Download<span") == 5
    assert "libpython.so" in read(stranger, f"{files}/python/lib")
    assert "exec python3 -m report" in read(stranger, f"{files}/bin/report")
    odd = re.findall(rf'href="({files}/share/doc/%[^"]*)"', read(stranger, f"{files}/share/doc"))
    assert "<strong><bdi>&lt;b&gt;&amp;\\xff</bdi></strong>" in read(stranger, odd[0])
    for absent in ("nothing", "bin/report/x", "elsewhere", "share/%2e%2e"):
        read(stranger, f"{files}/{absent}", status=400 if "%2e" in absent else 404)


def test_what_strangers_packed_is_text_in_a_page_or_a_download(stranger: Client) -> None:
    text = read(stranger, f"{page_of(APP)}/files/share/doc/page.html")
    assert "&lt;script&gt;document.title" in text
    for name, body in (("page.html", HOSTILE), ("picture.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")):
        answer = stranger.get(f"{page_of(APP)}/download/share/doc/{name}")
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{name}"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    head = stranger.send("HEAD", f"{page_of(APP)}/download/share/doc/table.bin")
    assert (head.status, head.headers["content-length"], head.body) == (200, "30000", b"")
    assert "It is no text" in read(stranger, f"{page_of(APP)}/files/share/doc/table.bin")
    folder = stranger.get(f"{page_of(APP)}/download/share")
    assert (folder.status, folder.headers["location"]) == (303, f"{page_of(APP)}/files/share")


def test_log_is_text_and_a_download(stranger: Client) -> None:
    text = read(stranger, f"{page_of(APP)}/log")
    assert "building\nbuilding\n" in text
    assert "&lt;i&gt;done&lt;/i&gt;" in text
    answer = stranger.get(f"{page_of(APP)}/log/text")
    assert answer.body.endswith(b"<i>done</i>\n")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "Build log" in read(stranger, page_of(APP))
    assert "Build log" not in read(stranger, page_of(GLIBC))
    read(stranger, f"{page_of(GLIBC)}/log", status=404)


@pytest.mark.parametrize(
    ("log", "text"),
    [
        (b"\x1b[1;31mfailed\x1b[0m\r\nnext\n", "failed\nnext\n"),
        (b"tab\there\x1b[", "tab\there"),
        ("\u202eevil\x00\x1b]0;title\x07".encode(), "\\u202eevil\\x00\\x1b]0;title\\x07"),
        (b"caf\xe9", "caf\ufffd"),
    ],
)
def test_log_is_shown_without_what_terminals_do(log: bytes, text: str) -> None:
    assert show_log_text(log) == text


def test_files_of_a_private_cache_open_in_a_session(server: RunningServer, admin: Client) -> None:
    fill(server, "secret")
    page = f"/ui/caches/secret/paths/{APP[:32]}"
    for path in (f"{page}/files/bin/report", f"{page}/download/bin/report", f"{page}/log/text", f"{page}/closure"):
        assert admin.get(path).status == 200
        assert Client(server).get(path).status == 401


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


@pytest.mark.end_to_end
def test_pages_are_accessible_and_fit(browser: Browser, stranger: Client) -> None:
    root = f"http://127.0.0.1:{stranger.server.port}"
    with open_context(browser) as context:
        page = context.new_page()
        page.goto(f"{root}/login?next={LIST}")
        page.get_by_label("Token").fill(stranger.server.token)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("Name, hash or store path").fill("report")
        page.get_by_role("button", name="Search").click()
        page.get_by_text("In the trash").wait_for()
        state = context.storage_state()
    check_page(browser, f"{root}{LIST}", "paths", storage_state=state)
    check_page(browser, f"{root}{page_of(PYTHON)}", "path")
    check_page(browser, f"{root}{page_of(OLD)}", "path-in-trash")
    check_page(browser, f"{root}{page_of(PYTHON)}/why?to=glibc", "path-why")
    check_page(browser, f"{root}{page_of(APP)}/closure", "path-closure")
    check_page(browser, f"{root}{page_of(APP)}/files/share/doc", "path-folder")
    check_page(browser, f"{root}{page_of(APP)}/files/bin/report", "path-file")
    check_page(browser, f"{root}{page_of(APP)}/log", "path-log")
