"""What `ops/` has fits what a server tells: each metric that is named exists, and Prometheus' own tool is content."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import skip_or_fail
from tests.http.running import RunningServer, run_server

ROOT: Final = Path(__file__).parent.parent
RULES: Final = ROOT / "ops/prometheus/alerts.yml"
DASHBOARD: Final = ROOT / "ops/grafana/icehouse.json"
UNPACKED: Final = ROOT / ".bench/usr/bin/promtool"
OURS: Final = re.compile(r"\b(?:icehouse|process|python)_[a-z_]+\b")


@pytest.fixture(scope="module")
def promtool() -> str:
    """The path of promtool. Without it the test is skipped, or fails where CI is set."""
    path = shutil.which("promtool") or (str(UNPACKED) if UNPACKED.exists() else None)
    if path is None:
        skip_or_fail("promtool is not in PATH; scripts/fetch-promtool unpacks it")
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server on which nothing has happened yet."""
    with run_server(tmp_path_factory.mktemp("watched") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def metrics(server: RunningServer) -> str:
    """What Prometheus scrapes."""
    return server.ask("GET", "/metrics").body.decode()


def run(*command: str, text: str = "") -> str:
    """Its output; it must succeed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=RULES.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def names_in(text: str) -> set[str]:
    return set(OURS.findall(text))


def expressions_of_rules() -> str:
    """Every expression of the alerts; what is told to people is left out."""
    return "\n".join(re.findall(r"expr: (.*(?:\n {10,}.*)*)", RULES.read_text()))


def names_of_dashboard() -> set[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return {
        name for panel in dashboard["panels"] for target in panel["targets"] for name in names_in(target["expr"])
    } | {name for variable in dashboard["templating"]["list"] for name in names_in(json.dumps(variable["query"]))}


def test_promtool_finds_nothing_wrong_with_the_metrics(promtool: str, metrics: str) -> None:
    assert run(promtool, "check", "metrics", text=metrics) == ""


def test_alerts_are_right_and_do_what_their_tests_say(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "check", "rules", RULES.name)
    assert "SUCCESS" in run(promtool, "test", "rules", "alerts_test.yml")


@pytest.mark.parametrize("place", ["rules", "dashboard"])
def test_each_metric_that_is_watched_is_one_that_a_fresh_server_tells(metrics: str, place: str) -> None:
    told = set(re.findall(r"^([a-z_]+)(?:\{| )", metrics, re.MULTILINE))
    # No cache yet: these have a sample for each.
    told |= {name for name in re.findall(r"^# TYPE (\S+)", metrics, re.MULTILINE) if name.startswith("icehouse_cache_")}
    named = names_in(expressions_of_rules()) if place == "rules" else names_of_dashboard()
    assert len(named) > 5
    assert named <= told, named - told


def test_the_dashboard_shows_each_metric_of_ours_but_few(metrics: str) -> None:
    families = {name for name in re.findall(r"^# TYPE (\S+)", metrics, re.MULTILINE) if name.startswith("icehouse_")}
    shown = {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in names_of_dashboard()}
    assert {name.removeprefix("icehouse_") for name in families - shown} == {
        "cache_last_push_timestamp_seconds",
        "collection_last_deleted_bytes",
        "collection_last_duration_seconds",
        "verification_findings",
    }


def test_panels_have_titles_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + column, place["y"] + row) for column in range(place["w"]) for row in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells
    titles = [panel["title"] for panel in panels]
    assert all(titles)
    assert len(set(titles)) == len(titles)
