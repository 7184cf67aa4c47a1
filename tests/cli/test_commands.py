"""Commands: what they print, what they ask, and what they leave with. A real process each."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from icehouse.cli.durations import parse_duration
from icehouse.cli.exits import exit_code_of
from icehouse.cli.printer import Printer, bytes_text
from icehouse.cli.use import may_be_there
from icehouse.errors import (
    Conflict,
    Corrupt,
    Denied,
    IcehouseError,
    InvalidFormat,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from icehouse.rules.access import make_token


def icehouse(home: Path, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "COLUMNS": "200", **variables}
    command = [sys.executable, "-m", "icehouse", *arguments]
    return subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Conflict("x"), 1),
        (InvalidFormat("x"), 1),
        (Corrupt("x"), 1),
        (Unauthenticated("x"), 3),
        (Denied("x"), 3),
        (NotFound("x"), 4),
        (Unavailable("x"), 5),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: IcehouseError, code: int) -> None:
    assert exit_code_of(error) == code


def test_the_version_is_printed_without_loading_the_commands(tmp_path: Path) -> None:
    code = "import sys; from icehouse.cli import main; main(['--version']); print('typer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "icehouse 0.1.0\nFalse\n"


COMMANDS = [
    "",
    "serve",
    "login",
    "cache create",
    "cache configure",
    "cache list",
    "cache show",
    "cache delete",
    "token create",
    "token list",
    "token revoke",
    "person list",
    "person revoke",
    "trust add",
    "trust list",
    "trust remove",
    "promote",
    "revoke",
    "key list",
    "key add",
    "key activate",
    "key retire",
    "key progress",
    "secret rotate",
    "use",
    "remove",
    "doctor",
    "version",
    "push",
    "watch-exec",
    "watch-store",
    "daemon run",
    "daemon push",
    "daemon status",
    "daemon stop",
    "hook install",
    "hook remove",
    "import",
    "export",
    "pin",
    "path why",
    "path list",
    "path restore",
    "path delete",
    "gc",
    "audit",
    "pins",
    "resolve",
    "unpin",
    "path info",
    "verify",
    "backup",
    "restore",
    "rebuild",
    "completion",
    "man",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_names_the_exit_codes(tmp_path: Path, command: str) -> None:
    done = icehouse(tmp_path, *command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert " ".join(done.stdout.split()).count("Exit codes:") == 1
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage" in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_values_in_capitals_and_no_types(tmp_path: Path, command: str) -> None:
    text = icehouse(tmp_path, *command.split(), "--help").stdout
    assert re.findall(r"<.*?>|list\[|PATH…|\{[a-z_]+\}|default: \(", text) == []


def test_the_help_shows_what_to_type(tmp_path: Path) -> None:
    text = " ".join(icehouse(tmp_path, "serve", "--help").stdout.split())  # where lines end is up to the longest option
    assert "--data-dir DIR Where everything is kept. [default: ./icehouse-data]" in text
    text = icehouse(tmp_path, "token", "create", "--help").stdout
    assert "--allow pull|push|pin|delete|configure|admin" in text
    assert "DESCRIPTION" in text


def test_wrong_settings_are_told_a_line_each(tmp_path: Path) -> None:
    flags = ["--port", "99999999", "--zstd-level", "30", "--data-dir", str(tmp_path / "data")]
    done = icehouse(tmp_path, "serve", *flags, ICEHOUSE_LOG_LEVEL="loud")
    assert (done.returncode, done.stdout) == (2, "")
    lines = sorted(done.stderr.splitlines())
    assert [line.split(": ")[1] for line in lines] == ["$ICEHOUSE_LOG_LEVEL", "--port", "--zstd-level"]
    done = icehouse(tmp_path, "serve", "--data-dir", str(tmp_path / "data"), ICEHOUSE_LOG_LEVEL="loud")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_server_behind_a_proxy_says_also_where_it_listens(tmp_path: Path) -> None:
    options = ["--port", "0", "--data-dir", str(tmp_path / "data"), "--public-url", "https://cache.example.org"]
    command = [sys.executable, "-m", "icehouse", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert re.search(r"at https://cache\.example\.org, and listens on http://127\.0\.0\.1:[1-9]\d*$", line)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["push"],
        ["push", "a", "--nonsense"],
        ["cache", "create", "a", "--upstream", "https://x", "--no-upstream"],
        ["login", "https://x", "--token", "a", "--token-file", "b"],
        ["token", "create", "x", "--allow", "fly", "--caches", "*"],
    ],
)
def test_wrong_usage_leaves_with_2(tmp_path: Path, arguments: list[str]) -> None:
    done = icehouse(tmp_path, *arguments)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)


def test_an_error_is_one_paragraph_on_stderr(tmp_path: Path) -> None:
    done = icehouse(tmp_path, "cache", "list")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert done.stderr.startswith("icehouse: which server? None is logged in to; run `icehouse login URL`")


def test_a_server_that_is_not_there_leaves_with_5(tmp_path: Path) -> None:
    done = icehouse(tmp_path, "cache", "list", ICEHOUSE_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr


def test_a_login_that_fails_is_not_kept(tmp_path: Path) -> None:
    done = icehouse(tmp_path, "login", "http://127.0.0.1:9", "--token", make_token(bytes(32)))
    assert done.returncode == 5
    assert not (tmp_path / ".config").exists()


def test_a_mistyped_token_is_found_out_before_any_request(tmp_path: Path) -> None:
    wrong = f"{make_token(bytes(32))[:-1]}x"
    for done in (
        icehouse(tmp_path, "login", "http://127.0.0.1:9", "--token", wrong),
        icehouse(tmp_path, "cache", "list", ICEHOUSE_URL="http://127.0.0.1:9", ICEHOUSE_TOKEN=wrong),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert "token: its checksum is wrong, so a character is missing or was changed" in done.stderr
        assert wrong not in done.stderr


def test_pushing_no_path_is_no_error(tmp_path: Path) -> None:
    done = icehouse(tmp_path, "push", "http://127.0.0.1:9/a", "--json", stdin="\n")
    assert (done.returncode, json.loads(done.stdout)["paths"]) == (0, 0)


def test_a_path_that_is_not_there_is_found_out_before_any_request(tmp_path: Path) -> None:
    done = icehouse(tmp_path, "push", "http://127.0.0.1:9/a", "./result")
    assert (done.returncode, "./result is not there" in done.stderr) == (4, True)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)])
def test_a_span_of_time_has_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1y", "1.5h", "30 d", "9999999999d"])
def test_other_spans_of_time_are_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="such as 30d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 * 10**8, "286 MiB")]
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_quiet_keeps_results_and_errors_only() -> None:
    printer = Printer(is_quiet=True, out=io.StringIO(), err=io.StringIO())
    printer.message("hello")
    printer.table(("A", "BB"), [("xyz", "1")], [])
    printer.error(NotFound("gone\n  away"))
    assert isinstance(printer.out, io.StringIO)
    assert isinstance(printer.err, io.StringIO)
    assert printer.out.getvalue() == "A    BB\nxyz  1\n"
    assert printer.err.getvalue() == "icehouse: gone away\n"


def test_a_file_in_a_folder_that_is_closed_to_the_user_counts_as_there(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert not may_be_there(tmp_path / "socket")
    user = os.geteuid()
    os.seteuid(user or 65_534)  # folders are closed to everybody but root
    try:
        assert may_be_there(tmp_path / "closed" / "socket")
    finally:
        os.seteuid(user)
