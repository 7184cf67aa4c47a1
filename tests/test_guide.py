"""The guide and the README tell of everything that users can touch, and their examples run."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from icehouse.cli.app import make_app
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.config import FILE_NAME, ServerSettings
from icehouse.db.sizes import StoredSizes
from icehouse.http.app import ROUTES
from icehouse.http.errors import STATUSES
from icehouse.http.metrics import Observed, ServerCounters, Snapshot, render_metrics
from icehouse.rules.access import Permission
from icehouse.rules.durations import QueueCounts
from icehouse.storage.timed import StorageCounts
from tests.client.private_nix import store_settings
from tests.end_to_end.conftest import ServerProcess

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guide"
PAGES = [README, *sorted(GUIDE.glob("*.md"))]

WRITTEN_BY_A_MEASUREMENT = ROOT / "docs" / "benchmarks.md"
"""There once `make bench` was run and its table kept."""

NIX_CONF = "build-users-group =\nsandbox = false\nsubstituters =\n"


def page(name: str) -> str:
    return (GUIDE / name).read_text()


def section(name: str, title: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page(name), re.MULTILINE | re.DOTALL)
    assert match, f"{name} has no section {title!r}"
    return match[1]


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: what stands behind the opening fence, and the content."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, Any]]:
    """Each command by all its words, from the command line itself."""

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  typer's own type is private
        names = getattr(command, "list_commands", None)
        if names is None:
            yield words, command
            return
        for name in names(None):
            yield from walk(f"{words} {name}", command.get_command(None, name))

    return list(walk("icehouse", typer.main.get_command(make_app())))


def options_of(command: Any) -> list[str]:  # noqa: ANN401  as above
    """All spellings of its options."""
    named = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    return [text for parameter in named for text in (*parameter.opts, *parameter.secondary_opts)]


def options_in(text: str) -> set[str]:
    """The options that stand in the first column of the tables of *text*."""
    return {
        option for row in re.findall(r"^\| (`-.*?) \|", text, re.MULTILINE) for option in re.findall(r"`(.*?)`", row)
    }


COMMON_OPTIONS = options_in(section("commands.md", "Common options"))


@pytest.mark.parametrize(("words", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_guide_has_each_command_with_its_options_and_no_others(words: str, command: Any) -> None:  # noqa: ANN401  as above
    told = options_in(section("commands.md", f"`{words}`"))
    assert told == set(options_of(command)) - COMMON_OPTIONS


def test_guide_has_no_command_that_is_not_there() -> None:
    told = re.findall(r"^## `(icehouse .*)`$", page("commands.md"), re.MULTILINE)
    assert told == [words for words, _ in commands()]


def test_guide_has_each_exit_code_of_the_help() -> None:
    told = re.findall(r"^\| (\d+) \|", section("commands.md", "Exit codes"), re.MULTILINE)
    assert told == re.findall(r"\b\d+\b", EXIT_CODES_HELP)


@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(ServerSettings)])
def test_guide_has_each_setting_as_flag_and_variable_and_key(setting: str) -> None:
    flags = options_of(dict(commands())["icehouse serve"])
    rows = re.findall(r"^\| .*$", section("server.md", "Settings"), re.MULTILINE)
    row = next((row for row in rows if f"`ICEHOUSE_{setting.upper()}`" in row), "")
    flag = next(flag for flag in flags if setting.startswith(flag.removeprefix("--").replace("-", "_")[:-1]))
    assert f"`{flag}`" in row
    assert f"`{setting}`" in row or setting == "data_dir"


def test_settings_file_of_the_guide_is_read(tmp_path: Path) -> None:
    text = dict(blocks(section("server.md", "Settings")))["toml"]
    (tmp_path / FILE_NAME).write_text(text)
    settings = ServerSettings.load({"data_dir": tmp_path}, {})
    assert settings.url == "https://cache.example.org"


def test_guide_has_each_route_of_the_api_and_no_others() -> None:
    told = re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", section("http-api.md", "The API"), re.MULTILINE)
    served = [
        f"{method} {re.sub(r':[a-z]+}', '}', path)}"
        for route in ROUTES
        for path in route.paths
        for method in route.http_methods
        if method not in {"HEAD", "OPTIONS"}
    ]
    assert sorted(told) == sorted(served)


def test_guide_has_each_status_of_an_error() -> None:
    told = re.findall(r"^\| (\d+) \|", section("http-api.md", "The API"), re.MULTILINE)
    assert {str(status) for status, _ in STATUSES.values()} <= set(told)


def test_guide_has_each_metric_and_no_others() -> None:
    counters = ServerCounters()
    counters.route("narinfo").count(200, 0.1, 1)
    observed = Observed({}, StorageCounts(), QueueCounts())
    text = render_metrics(Snapshot(counters, observed, {}, StoredSizes((), ()), None)).decode()
    rows = "".join(re.findall(r"^\| `.*$", page("metrics.md"), re.MULTILINE))
    told = re.findall(r"`((?:icehouse|process|python)_[a-z_]+)`", rows)
    assert sorted(told) == sorted(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def test_guide_has_each_permission() -> None:
    for permission in Permission:
        assert re.search(rf"^\| .*`{permission.value}`", section("security.md", "Tokens"), re.MULTILINE), permission


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_the_documentation_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert [target for target in missing if (path.parent / target).resolve() != WRITTEN_BY_A_MEASUREMENT] == []


def assert_told(promised: str, printed: str) -> None:
    """Each line of the documentation was printed: numbers and widths may differ, and ``…`` stands for anything."""
    for line in promised.splitlines():
        numbers = re.sub(r"\d+(?:\\\.\d+)?", "[0-9.,]+", re.escape(line))
        pattern = re.sub(r"(?:\\ )+", r"\\ +", numbers).replace("…", ".+")
        assert re.search(f"^{pattern}$", printed, re.MULTILINE), f"{line!r} is not in\n{printed}"


@dataclass(frozen=True)
class Reader:
    """Somebody who follows the documentation in an empty folder, where a server runs on `icehouse-data`."""

    folder: Path
    home: Path
    server: ServerProcess

    def run(self, script: str) -> str:
        """Carry out a block of shell, which must succeed; what it prints on both streams."""
        environment = {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NIX_CONF_DIR": str(self.home / "system-wide"),
            # As if this were the machine's own store: the documentation names no other.
            **store_settings(self.home / "root"),
        }
        done = subprocess.run(
            ["bash", "-euc", self.translate(script)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def translate(self, text: str) -> str:
        """The places of the documentation's reader, as they are here."""
        for theirs, here in (
            ("http://127.0.0.1:8080", self.server.url),
            ("/home/you/icehouse", str(self.folder)),
            ("/home/you", str(self.home)),
            ("/nix/store", f"{self.home}/root/nix/store"),
            ("icehouse cache create", f"icehouse cache create --store-dir {self.home}/root/nix/store"),
        ):
            text = text.replace(theirs, here)
        return text


@pytest.fixture
def reader(tmp_path: Path, require: Callable[[str], str]) -> Generator[Reader]:
    for program in ("nix-build", "curl", "sqlite3", "zstd"):
        require(program)
    folder, home = tmp_path / "folder", tmp_path / "home"
    folder.mkdir()
    (home / "system-wide").mkdir(parents=True)
    (home / "system-wide" / "nix.conf").write_text(NIX_CONF)
    server = ServerProcess(folder / "icehouse-data", tmp_path / "server.log")
    server.start()
    yield Reader(folder, home, server)
    server.stop()


def example(path: Path, name: str) -> str:
    """The block of shell called *name*."""
    return dict(blocks(path.read_text()))[f"sh {name}"]


def tour() -> list[tuple[str, str]]:
    """The steps of the README's tour: what is typed in each, and what it prints."""
    found = blocks(README.read_text())
    return [(found[index][1], found[index + 1][1]) for index, (kind, _) in enumerate(found) if kind == "sh tour"]


@pytest.mark.end_to_end
def test_demo_runs_and_prints_the_table_that_the_readme_shows(require: Callable[[str], str]) -> None:
    require("nix-build")
    command = [sys.executable, str(ROOT / "scripts" / "demo.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_told(next(text for kind, text in blocks(README.read_text()) if kind == "text"), done.stdout)


@pytest.mark.end_to_end
def test_tour_of_the_readme_can_be_followed_and_prints_what_it_shows(reader: Reader) -> None:
    for script, promised in tour():
        assert_told(reader.translate(promised), reader.run(script))
    pulled = [path for path in (reader.folder / "elsewhere/nix/store").iterdir() if path.name.endswith("-greeting")]
    assert [path.read_text() for path in pulled] == ["Hello from the cache\n"]


@pytest.mark.end_to_end
def test_publishing_with_curl_works_as_shown(reader: Reader) -> None:
    reader.run(tour()[0][0])  # a cache
    printed = reader.run(example(GUIDE / "http-api.md", "publish"))
    promised = next(text for kind, text in blocks(page("http-api.md")) if kind == "text")
    assert_told(reader.translate(promised.replace("r130anx5p9pfh7qzqrhgmiipqlzw51qa", "…")), printed)
    path = re.search(r"^StorePath: (\S+)", printed, re.MULTILINE)
    assert path
    reader.run(f'icehouse use team; nix-store --store "$PWD/pulled" --realise /nix/store/{Path(path[1]).name}')
    assert (reader.folder / "pulled/nix/store" / Path(path[1]).name).read_text() == "A note for the cache\n"


@pytest.mark.end_to_end
def test_client_can_be_used_from_python_as_shown(reader: Reader) -> None:
    shown = dict(blocks(section("http-api.md", "From Python")))
    script = f"python - <<'END'\n{shown['python client']}END\n"
    assert "exists already" not in reader.run(script)
    assert_told(shown["text"], reader.run(script))


@pytest.mark.end_to_end
def test_copy_made_while_the_server_runs_is_a_whole_server(reader: Reader, tmp_path: Path) -> None:
    for script, _ in tour()[:2]:  # a cache, and a push to it
        reader.run(script)
    reader.run(example(GUIDE / "server.md", "backup"))
    copy = ServerProcess(reader.folder / "backup", tmp_path / "copy.log")
    copy.start()
    try:
        token = "icehouse-data/admin-token"
        reader.run(f'icehouse login {copy.url} --token-file {token}; icehouse path info team "$(readlink result)"')
    finally:
        copy.stop()
