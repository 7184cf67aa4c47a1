"""Completion in shells, with names that the server knows, and manual pages."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.scripted_server import ScriptedServer

NAMES = msgspec.json.encode([{"name": name} for name in ("team", "tools", "other", "t$(touch hacked)", "t b", "")])
PINS = msgspec.json.encode([{"name": name} for name in ("app-1", "app.2", "lib", "app`x`")])


def environment(home: Path, url: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"HOME": str(home), "PATH": path, "ICEHOUSE_URL": url, "LANG": "C.UTF-8"}


def complete(home: Path, url: str, line: str) -> tuple[list[str], str]:
    """What a shell is told about the last word of *line*, and what is on stderr."""
    asked = {"_ICEHOUSE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "icehouse"],
        env={**environment(home, url), **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("line", "answer", "names"),
    [
        ("icehouse cache show t", NAMES, ["team", "tools"]),
        ("icehouse push t", NAMES, ["team", "tools"]),
        ("icehouse push team --to t", NAMES, ["team", "tools"]),
        ("icehouse use other t", NAMES, ["team", "tools"]),
        ("icehouse resolve team a", PINS, ["app-1", "app.2"]),
        ("icehouse unpin team l", PINS, ["lib"]),
        ("icehouse pins team a", PINS, ["app-1", "app.2"]),
    ],
)
def test_names_come_from_the_server_and_none_that_a_shell_could_run(
    tmp_path: Path, scripted: Callable[..., ScriptedServer], line: str, answer: bytes, names: list[str]
) -> None:
    server = scripted((200, {}, answer))
    assert complete(tmp_path, server.url, line) == (names, "")


def test_commands_and_options_need_no_server(tmp_path: Path) -> None:
    assert complete(tmp_path, "http://127.0.0.1:9", "icehouse pu") == (["push"], "")
    assert complete(tmp_path, "http://127.0.0.1:9", "icehouse push --best") == (["--best-effort"], "")


@pytest.mark.parametrize("answer", [b"<html>", b"[1]", b"{}"])
def test_another_program_that_answers_completes_nothing_and_says_nothing(
    tmp_path: Path, scripted: Callable[..., ScriptedServer], answer: bytes
) -> None:
    assert complete(tmp_path, scripted((200, {}, answer)).url, "icehouse push t") == ([], "")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", ""])
def test_a_server_that_is_away_or_unknown_completes_nothing_and_says_nothing(tmp_path: Path, url: str) -> None:
    assert complete(tmp_path, url, "icehouse push t") == ([], "")
    assert complete(tmp_path, url, "icehouse resolve team t") == ([], "")


SHELLS = {
    "bash": (
        "source <(icehouse completion bash); COMP_WORDS=(icehouse cache show t); COMP_CWORD=3; "
        '_icehouse_completion icehouse; printf "%s\\n" "${COMPREPLY[@]}"'
    ),
    "zsh": (
        "compdef() { }; _arguments() { print -r -- ${(Q)2} $* }; words=(icehouse cache show t); CURRENT=4; "
        "source <(icehouse completion zsh); _icehouse_completion"
    ),
    "fish": "icehouse completion fish | source; complete -C 'icehouse cache show t'",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_completes_with_its_script(
    tmp_path: Path, scripted: Callable[..., ScriptedServer], require: Callable[[str], str], shell: str
) -> None:
    server = scripted(*[(200, {}, NAMES)] * 3)  # fish asks twice
    done = subprocess.run(
        [require(shell), "-c", SHELLS[shell]],
        env=environment(tmp_path, server.url),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "team" in done.stdout
    assert "tools" in done.stdout
    assert "other" not in done.stdout
    assert list(tmp_path.glob("*hacked*")) == []


def test_there_is_a_manual_page_of_each_command_and_roff_has_nothing_to_say(
    tmp_path: Path, require: Callable[[str], str]
) -> None:
    variables = environment(tmp_path, "")
    folder = tmp_path / "man1"
    subprocess.run([sys.executable, "-m", "icehouse", "man", "--to", folder], env=variables, check=True)
    pages = sorted(page.name for page in folder.iterdir())
    assert {"icehouse.1", "icehouse-push.1", "icehouse-cache.1", "icehouse-cache-create.1"} <= set(pages)
    for page in folder.iterdir():
        done = subprocess.run(
            [require("groff"), "-man", "-ww", "-Tutf8", "-P-cbou", page], capture_output=True, text=True, check=True
        )
        assert done.stderr == "", page.name
        assert all(heading in done.stdout for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"))
        if page.name == "icehouse-push.1":
            assert "--best-effort" in done.stdout
            assert "'PATH.drv^*' are its outputs" in " ".join(done.stdout.split())


def test_a_manual_page_can_be_printed(tmp_path: Path) -> None:
    def man(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "icehouse", "man", *words]
        return subprocess.run(command, env=environment(tmp_path, ""), capture_output=True, text=True, check=False)

    assert man("cache", "create").stdout.startswith('.TH "ICEHOUSE\\-CACHE\\-CREATE" 1 ')
    assert (man("nonsense").returncode, "there is no command icehouse nonsense" in man("nonsense").stderr) == (4, True)
