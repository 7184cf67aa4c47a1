"""What a cache keeps, as it is typed and shown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icehouse.cli.durations import duration_text, parse_duration
from icehouse.cli.sizes import parse_size
from icehouse.errors import InvalidFormat
from tests.cli.test_commands import icehouse
from tests.http.running import RunningServer, run_server

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("500kB", 500_000),
        ("20GB", 20 * 10**9),
        ("100GiB", 100 * 2**30),
        ("5 KiB", 5_120),
        ("7B", 7),
        ("3TiB", 3 * 2**40),
    ],
)
def test_size_is_a_number_with_or_without_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "GiB", "1.5GiB", "1Gi", "1gib", "1  KB", "1" * 19, "\u0661GB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="such as 100GiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1s", "90m", "12h", "30d", "4w"])
def test_span_of_time_is_shown_as_it_is_typed(text: str) -> None:
    assert duration_text(parse_duration(text)) == text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture
def run(tmp_path: Path, server: RunningServer) -> Run:
    def run(*arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        variables = {
            "ICEHOUSE_URL": f"http://127.0.0.1:{server.port}",
            "ICEHOUSE_TOKEN": server.token if token is None else token,
        }
        return icehouse(tmp_path, *arguments, **variables)

    return run


def test_cache_is_created_configured_and_shown(run: Run) -> None:
    created = run("cache", "create", "kept", "--retention", "30d", "--max-size", "100GiB", "--trash", "none")
    assert (created.returncode, created.stderr) == (0, "")
    assert created.stdout.splitlines()[-3:] == [
        "keeps        what was used in the last 30d",
        "keeps        up to 100 GiB, what was used last",
        "trash        none",
    ]
    changed = run(
        "cache", "configure", "kept", "--max-size", "none", "--keep-pushed", "90d", "--limit", "120GB", "--trash", "12h"
    )
    assert (changed.returncode, changed.stderr) == (0, "")
    facts = json.loads(run("cache", "show", "kept", "--json").stdout)
    assert (facts["keep_unused_seconds"], facts["keep_pushed_seconds"]) == (30 * 86_400, 90 * 86_400)
    assert (facts["budget_bytes"], facts["limit_bytes"], facts["trash_seconds"]) == (None, 120 * 10**9, 43_200)
    assert facts["warning"] is None
    shown = run("cache", "show", "kept").stdout
    assert "limit        112 GiB, from which on pushes are refused\n" in shown
    assert "priority     20\n" in run("cache", "configure", "kept", "--priority", "20").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "name at least one setting"),
        (["--retention", "30"], 1, "--retention: span of time '30'"),
        (["--max-size", "many"], 1, "--max-size: size 'many'"),
        (["--max-size", "2GiB", "--limit", "1GiB"], 1, "is below budget_bytes"),
        (["--priority", "x"], 2, "'--priority'"),
        (["--require-signature", "key-1"], 1, "--require-signature: public key"),
    ],
)
def test_setting_that_cannot_be_is_refused(
    run: Run, server: RunningServer, arguments: list[str], code: int, complaint: str
) -> None:
    if not any(cache["name"] == "strict" for cache in server.ask("GET", "/api/v1/caches").json()):
        server.create_cache("strict")
    done = run("cache", "configure", "strict", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in " ".join(done.stderr.split())


def test_configuring_needs_its_permission(run: Run, server: RunningServer) -> None:
    server.create_cache("guarded")
    for permission, code in (("delete", 3), ("push", 3), ("configure", 0)):
        done = run("cache", "configure", "guarded", "--retention", "1d", token=server.create_token(permission))
        assert done.returncode == code, done.stderr
