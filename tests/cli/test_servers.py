"""What commands say of a server that is not there, not Icehouse, or not well: one paragraph, a code, no traceback."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from icehouse.api.server import ServerParameters
from icehouse.rules.access import make_token
from tests.scripted_server import Answer, ScriptedServer

HASH = "0123456789abcdfghijklmnpqrsvwxyz"

COMMANDS = [
    "cache list",
    "cache show a",
    "cache create a",
    "cache configure a --priority 30",
    "cache delete a --yes",
    "token list",
    "token create x --allow pull --caches a",
    "token revoke 1",
    "person list",
    "person revoke 1",
    "trust list a",
    "trust add a --issuer https://x --claim repository=org/app --allow push",
    "trust remove a 1",
    "key list a",
    "key add a",
    "key activate a k",
    "key progress a",
    "key retire a k",
    "use a",
    f"pin a name {HASH}-x",
    "pins a",
    "pins a name",
    "resolve a name",
    "unpin a name",
    f"path info a {HASH}-x",
    f"path why a {HASH}-x",
    "path list a",
    f"path restore a {HASH}-x",
    f"path delete a {HASH}-x --yes",
    f"promote a b {HASH}-x",
    "revoke --list",
    "revoke a --by 1 --since 1d",
    "gc a",
    "gc --history",
    "audit",
    "version",
]

WRONG: dict[str, tuple[Answer, int | None, str]] = {
    "HTML": ((200, {}, b"<html>hello</html>"), 1, "is that the address of an Icehouse server"),
    "404": ((404, {}, b"<html>Not Found</html>"), 4, "no explanation that an Icehouse server would give"),
    "502": (
        (502, {"Retry-After": "999"}, b"<html>Bad Gateway</html>"),
        5,
        "what stands before the server answered in its place",
    ),
    "login page": (
        (302, {"Location": "https://login.example.org/"}, b""),
        1,
        "redirects to https://login.example.org/",
    ),
    "403": ((403, {}, b"<html>Forbidden</html>"), 3, "no explanation that an Icehouse server would give"),
}


def icehouse(home: Path, command: str, url: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "ICEHOUSE_URL": url, **more}
    return subprocess.run(
        [sys.executable, "-m", "icehouse", *command.split()],
        env=environment,
        input="",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "what"),
    [(command, what) for command in COMMANDS for what in WRONG if what in {"HTML", "502"} or command == "cache list"],
)
def test_a_wrong_server_is_told_in_one_paragraph(
    tmp_path: Path, scripted: Callable[..., ScriptedServer], command: str, what: str
) -> None:
    answer, code, words = WRONG[what]
    server = scripted(*[answer] * 20)
    done = icehouse(tmp_path, command, server.url)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("icehouse: ")


def test_a_server_that_is_away_is_told_in_one_paragraph(tmp_path: Path) -> None:
    for command in ("cache list", "version", "gc a"):
        done = icehouse(tmp_path, command, "http://127.0.0.1:9")
        assert (done.returncode, done.stdout) == (5, "")
        assert done.stderr == "icehouse: http://127.0.0.1:9 cannot be reached: Connection refused (os error 111)\n"


PARAMETERS = ServerParameters(
    version="7.0.0",
    public_url="http://x",
    chunk_min_bytes=1,
    chunk_average_bytes=1,
    chunk_max_bytes=1,
    chunk_normalization=1,
    zstd_level=3,
    pack_bytes=1,
    max_hash_parts=1,
    max_identities=1,
    max_recipe_bytes=1,
    max_nars=1,
    max_paths=1,
    max_nar_bytes=1,
)


def test_versions_of_both_sides_are_shown_and_compared(tmp_path: Path, scripted: Callable[..., ScriptedServer]) -> None:
    answer: Answer = (200, {}, msgspec.json.encode(PARAMETERS))
    server = scripted(answer, answer)
    done = icehouse(tmp_path, "version --json", server.url)
    shown = json.loads(done.stdout)
    assert (shown["server"], shown["server_url"], shown["is_compatible"]) == ("7.0.0", server.url, False)
    text = icehouse(tmp_path, f"version {server.url}", "http://127.0.0.1:9").stdout
    assert re.fullmatch(r"client  (\S+)\nserver  7\.0\.0, \S+\nthe server has 7\.0\.0, newer than .*\n", text)
    assert icehouse(tmp_path, "version", "").stdout.endswith("\nserver  none is logged in to\n")


def test_verbose_tells_of_each_request_with_the_id_that_was_sent(
    tmp_path: Path, scripted: Callable[..., ScriptedServer]
) -> None:
    server = scripted((503, {"Retry-After": "0"}, b"busy"), (200, {}, b"[]"))
    done = icehouse(tmp_path, "cache list --verbose", server.url)
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    line = rf"icehouse: GET {server.url}/api/v1/caches: status %s, %s bytes, in \d+ ms \(request ([0-9a-f]{{8}}-%s)\)"
    assert re.fullmatch(line % (503, 4, 1), first)
    assert re.fullmatch(line % (200, 2, 2), second)
    away = icehouse(tmp_path, "cache list -v", "http://127.0.0.1:9").stderr.splitlines()
    assert [text.partition(" in ")[0] for text in away[:3]] == [
        "icehouse: GET http://127.0.0.1:9/api/v1/caches: Connection refused (os error 111),"
    ] * 3


def test_secrets_are_not_told_by_verbose(tmp_path: Path, scripted: Callable[..., ScriptedServer]) -> None:
    token = make_token(bytes(32))
    done = icehouse(tmp_path, "cache list -v", scripted((200, {}, b"[]")).url, ICEHOUSE_TOKEN=token)
    assert (done.returncode, token in done.stderr) == (0, False)


@pytest.mark.parametrize(
    ("command", "kept_out"),
    [
        ("--version", {"typer", "rich", "asyncio", "msgspec", "pyreqwest", "icehouse.cli.app"}),
        ("--help", {"sqlalchemy", "litestar", "pyreqwest", "uvicorn"}),
        ("push --help", {"sqlalchemy", "litestar", "pyreqwest", "rich", "pyfastcdc", "cryptography"}),
        ("cache list", {"sqlalchemy", "litestar", "uvicorn", "rich", "pydantic", "alembic"}),
        ("audit", {"sqlalchemy", "litestar", "rich"}),
        ("remove x", {"pyreqwest", "sqlalchemy", "litestar"}),
    ],
)
def test_a_command_loads_only_what_it_needs(tmp_path: Path, command: str, kept_out: set[str]) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "ICEHOUSE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "icehouse", *command.split()],
        env=environment,
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "icehouse.cli" in loaded
    assert loaded & kept_out == set()
