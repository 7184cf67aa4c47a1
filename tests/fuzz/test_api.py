"""Requests made from the API's own OpenAPI document, right ones and wrong ones, by schemathesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.watching import check_health
from tests.http.running import RunningServer, run_server

CHECKS = "not_a_server_error,response_schema_conformance,response_headers_conformance"
SEED = 1
PARTS = {
    # In a cache that is there, so that requests get beyond its name.
    "one cache": ('[parameters]\n"path.cache_name" = "main"\n', ["--exclude-method", "DELETE"]),
    "any cache": ("", ["--exclude-path", "/api/v1/tokens/{token_id}"]),
    # Last, since it may revoke the token that is used.
    "tokens": ("", ["--include-path", "/api/v1/tokens/{token_id}", "--include-path", "/api/v1/tokens"]),
}


SHORT = ["--phases", "coverage", "--max-examples", "1"]
LONG = ["--max-examples", "300"]


def run_schemathesis(server: RunningServer, folder: Path, part: str, options: list[str]) -> None:
    parameters, filters = PARTS[part]
    config = folder / "schemathesis.toml"
    config.write_text(parameters)
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config), "run"]
    arguments = [
        f"http://127.0.0.1:{server.port}/api/v1/openapi.json",
        *("--header", f"Authorization: Bearer {server.token}", "--checks", CHECKS, "--seed", str(SEED)),
        *(
            "--request-timeout",
            "60",
        ),  # a collection begins with a process of its own, which a busy machine starts slowly
        *("--generation-database", "none", "--warnings", "off", "--no-color", "--continue-on-failure"),
    ]
    done = subprocess.run(
        [*command, *arguments, *filters, *options], cwd=folder, check=False, capture_output=True, text=True
    )
    print(done.stdout)  # noqa: T201  how many requests there were
    assert done.returncode == 0, done.stdout


def test_requests_on_the_edges_of_the_description_get_no_error_of_ours(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server:
        server.create_cache("main")
        run_schemathesis(server, tmp_path, "one cache", SHORT)
        check_health(server)


@pytest.mark.long
def test_campaign_by_the_description_gets_no_error_of_ours(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server:
        server.create_cache("main")
        for part in PARTS:
            run_schemathesis(server, tmp_path, part, LONG)
        check_health(server)
