"""The page that shows the API to people, as any client gets it and in real Chromium."""

from __future__ import annotations

import html
import json
import re
import subprocess

import pytest

from icehouse.http.operations import OPERATIONS
from tests.http.running import RunningServer
from tests.web.browser import check_page, run_browser


@pytest.fixture(scope="module")
def text(server: RunningServer) -> str:
    answer = server.ask("GET", "/docs", token="")
    assert answer.status == 200, answer.body
    return answer.body.decode()


def test_page_has_each_operation_with_an_anchor_and_an_example(text: str) -> None:
    assert re.findall(r'<section class="panel" id="(\w+)"', text) != []
    assert set(re.findall(r'<section class="panel" id="(\w+)"', text)) == set(OPERATIONS)
    assert set(re.findall(r'<pre id="(\w+)-curl"', text)) == set(OPERATIONS)
    assert set(re.findall(r'<li><a href="#(\w+)"', text)) == set(OPERATIONS)


def test_page_tells_the_fields_of_what_stands_in_a_body(text: str) -> None:
    section = re.search(r'<section class="panel" id="publish_paths".*?</section>', text, re.DOTALL)
    assert section
    fields = re.findall(r'<th scope="row"><code>([^<]+)</code>', section[0])
    assert fields[:4] == ["cache_name", "paths", "paths[].store_path", "paths[].nar_hash"]
    assert "externals[].signatures" in fields


def test_page_shows_code_as_code_and_not_its_marks(text: str) -> None:
    assert "`" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)


def test_page_is_the_same_for_everybody_and_tells_of_no_cache(server: RunningServer, text: str) -> None:
    assert "nightly-builds" not in text
    again = server.ask("GET", "/docs", headers={"Accept": "*/*"})
    assert again.body.decode() == text


@pytest.mark.parametrize("name", ["show_server", "list_caches", "show_own_token", "create_token"])
def test_command_of_an_example_can_be_copied_and_run(server: RunningServer, text: str, name: str) -> None:
    found = re.search(rf'<pre id="{name}-curl"[^>]*><code>(.*?)</code>', text, re.DOTALL)
    assert found
    command = html.unescape(found[1]).replace("curl ", "curl --silent --fail-with-body ", 1)
    done = subprocess.run(
        ["bash", "-euc", f"TOKEN=$1; {command}", "bash", server.token], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)


def test_page_looks_right_in_a_browser(server: RunningServer) -> None:
    with run_browser() as browser:
        check_page(browser, f"http://127.0.0.1:{server.port}/docs", "docs")
