"""Record what each command prints: a real server, a real Nix, a terminal of 100 columns; into docs/transcripts.md.

Everything happens in a folder of its own that is removed afterwards. Its name is always the same, since the hashes in
store paths come from it: so a second recording differs from the first only where a command does.
"""

import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from scripts.nix_clients import CLIENTS

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs" / "transcripts.md"
WORK = Path(tempfile.gettempdir()) / "icehouse-transcripts"
PORT = 8080
"""The port that the page shows, whatever the kernel gave."""
ROWS, COLUMNS = 40, 100
LINE_SECONDS = 120

INTRODUCTION = """\
# Transcripts

What each command prints, recorded by `make transcripts` with a real server and a real Nix, in a terminal of 100
columns. Where an exit code is not 0, it stands below. Tokens, public keys, the port, the machine's name, times, and how
long something took are replaced by the same words each time; no colours and no moving lines are shown. The store is a
private one: its directory is in `$NIX_STORE_DIR`, and written `/nix/store` here.
"""

NIX_CONF = """\
build-users-group =
build-hook =
sandbox = false
substituters =
experimental-features = nix-command
"""


@dataclass(frozen=True)
class Chapter:
    """Some lines that belong together, typed one after the other.

    ``NAME& LINE`` starts a line that stays until ``NAME stop``; it is shown where it was started, whole.
    """

    title: str
    lines: tuple[str, ...]


READY = {"server": r"listens? on|at http://", "daemon": "listening at", "watcher": "Pushing to"}
"""What says that a line that stays has started."""

STORY = (
    Chapter(
        "A server",
        (
            "icehouse --version",
            "icehouse --help",
            "server& icehouse serve --log-level warning",
            "icehouse login http://127.0.0.1:8080 --token-file icehouse-data/admin-token",
            "icehouse version",
        ),
    ),
    Chapter(
        "Caches",
        (
            "icehouse cache create team --public --no-upstream --store-dir $NIX_STORE_DIR",
            "icehouse cache create private --no-upstream --store-dir $NIX_STORE_DIR",
            "icehouse cache create staging --public --no-upstream --staging-of team --store-dir $NIX_STORE_DIR",
            "icehouse cache create team",
            "icehouse cache configure team --retention 30d --max-size 10GiB",
            "icehouse cache list",
            "icehouse cache show team",
        ),
    ),
    Chapter(
        "Pushing",
        (
            "nix-build world.nix -A site",
            "icehouse push team ./result --dry-run",
            "icehouse push team ./result --exclude 'words-*' --dry-run",
            "icehouse push team ./result",
            "icehouse push team ./result",
            "icehouse push team ./result --to private --wait",
            "icehouse push team ./result --json",
            "icehouse push team ./no-such-result",
            "icehouse push nobodys ./result",
            "icehouse path info team ./result",
            "icehouse path list team",
            "icehouse cache show team",
        ),
    ),
    Chapter(
        "Pulling, and the configuration as it was",
        (
            "sha256sum .config/nix/*",
            "icehouse use team private",
            "ls .config/nix",
            "cat .config/nix/icehouse.conf",
            "nix-store --store ~/elsewhere -r $(readlink result)",
            "icehouse doctor",
            "icehouse doctor ./result",
            "icehouse remove team private",
            "sha256sum .config/nix/*",
            "icehouse use team --print nixos",
        ),
    ),
    Chapter(
        "Pins, and what is kept",
        (
            "icehouse pin team site-main ./result --artifact index.html --keep-revisions 3",
            "icehouse pins team",
            "icehouse pins team site-main",
            "icehouse resolve team site-main",
            "icehouse path why team ./result",
            "icehouse path delete team ./result --yes",
            "icehouse unpin team site-main",
            "icehouse path delete team ./result --yes",
            "icehouse path list team --trash",
            "icehouse path restore team ./result",
            "icehouse gc team --dry-run",
            "icehouse gc",
            "icehouse gc --history",
        ),
    ),
    Chapter(
        "Pushing while something is built",
        (
            "icehouse watch-exec team -- nix-build world.nix -A extra --no-out-link",
            "icehouse watch-exec team -- sh -c 'exit 7'",
            "watcher& icehouse watch-store team",
            "nix-build world.nix -A nightly -o nightly",
            "watcher stop",
            "icehouse daemon status",
            "daemon& icehouse daemon run team",
            "icehouse daemon push ./result",
            "icehouse daemon status",
            "icehouse hook install --mode user-nixconf",
            "nix-build world.nix -A release -o release",
            "icehouse doctor",
            "icehouse hook remove --mode user-nixconf",
            "icehouse daemon stop",
            "daemon stop",
            "icehouse path list team",
        ),
    ),
    Chapter(
        "Who may do what",
        (
            "icehouse token create 'pull requests' --allow pull --allow push --caches staging --expires 30d",
            "icehouse token create ci --allow pull --allow push --caches staging --quiet > ci-token",
            "icehouse token list",
            "ICEHOUSE_TOKEN=$(cat ci-token) icehouse push staging ./result",
            "ICEHOUSE_TOKEN=$(cat ci-token) icehouse push team ./result",
            "nix-build world.nix -A draft -o draft",
            "ICEHOUSE_TOKEN=$(cat ci-token) icehouse push staging ./draft",
            "icehouse promote team staging ./draft",
            "icehouse promote team staging ./draft",
            "icehouse revoke --by 4 --since 1d --dry-run",
            "icehouse revoke --by 4 --since 1d",
            "ICEHOUSE_TOKEN=$(cat ci-token) icehouse push staging ./draft",
            "icehouse revoke --list",
            "icehouse revoke --undo 1",
            "icehouse token revoke 4",
            "ICEHOUSE_TOKEN=$(cat ci-token) icehouse push staging ./result",
            "icehouse trust add team --issuer https://gitlab.com --claim project_path=group/app --allow push",
            "icehouse trust list team",
            "icehouse trust remove team 1",
            "icehouse person list",
            "icehouse person revoke 1",
            "icehouse audit --limit 10",
        ),
    ),
    Chapter(
        "Keys",
        (
            "icehouse key list team",
            "icehouse key add team",
            "icehouse key activate team team.127.0.0.1-2",
            "icehouse key progress team --wait",
            "icehouse key retire team team.127.0.0.1-1",
            "icehouse key retire team team.127.0.0.1-2",
            "icehouse key list team",
        ),
    ),
    Chapter(
        "Elsewhere and back",
        (
            "icehouse export team ./usb-stick $(readlink result)",
            "find usb-stick -type f | wc -l",
            "icehouse import private ./usb-stick --no-check-sigs",
            "icehouse cache create copy --no-upstream --store-dir $NIX_STORE_DIR",
            "icehouse import copy ./usb-stick",
            "icehouse import copy ./usb-stick --no-check-sigs",
            "echo n | icehouse cache delete copy",
            "icehouse cache delete copy --yes",
        ),
    ),
    Chapter(
        "Care of the server",
        (
            "icehouse verify",
            "icehouse verify --status",
            "icehouse backup",
            "icehouse backup --list",
            "icehouse restore latest",
            "server stop",
            "icehouse push team ./result --best-effort --timeout 3s",
            "icehouse cache list",
            "icehouse doctor",
            "icehouse restore latest",
            "icehouse secret rotate",
            "icehouse rebuild",
            "icehouse verify team",
        ),
    ),
    Chapter(
        "Help in the shell",
        (
            "icehouse completion bash | head -n 5",
            "icehouse man resolve | head -n 12",
            "icehouse resolve --help",
            "icehouse pussh team",
            "icehouse push",
        ),
    ),
)


@dataclass
class Typed:
    """A line in a terminal of its own, and what came of it."""

    line: str
    process: subprocess.Popen[bytes]
    screen: int
    shown: bytearray = field(default_factory=bytearray)
    has_more: threading.Condition = field(default_factory=threading.Condition)
    is_closed: bool = False
    reader: threading.Thread | None = None

    def read(self) -> None:
        """Take in what it prints, until nobody has the terminal any more."""
        with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
            while data := os.read(self.screen, 65536):
                with self.has_more:
                    self.shown += data
                    self.has_more.notify_all()
        with self.has_more:
            self.is_closed = True
            self.has_more.notify_all()

    def wait_for(self, pattern: str) -> None:
        """Wait until it printed something like *pattern*."""
        with self.has_more:
            self.has_more.wait_for(lambda: self.is_closed or re.search(pattern.encode(), self.shown), LINE_SECONDS)
            if not re.search(pattern.encode(), self.shown):
                raise SystemExit(f"transcripts: `{self.line}` did not start:\n{self.shown.decode()}")

    def finish(self) -> None:
        """Wait for its end."""
        self.process.wait(LINE_SECONDS)
        if self.reader is not None:
            self.reader.join(LINE_SECONDS)
        os.close(self.screen)


def type_line(line: str, environment: dict[str, str]) -> Typed:
    """Start *line* in a shell, in a terminal of its own."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["/bin/bash", "-c", f"exec {line}" if line.startswith("icehouse") and "|" not in line else line],
        cwd=environment["HOME"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    typed = Typed(line, process, screen)
    typed.reader = threading.Thread(target=typed.read, daemon=True)
    typed.reader.start()
    return typed


def record(environment: dict[str, str], to_page: Callable[[str], str], to_line: Callable[[str], str]) -> str:
    """Type the whole story; the page that shows it."""
    staying: dict[str, Typed] = {}
    chapters: list[tuple[str, list[Typed]]] = []
    try:
        for chapter in STORY:
            done: list[Typed] = []
            chapters.append((chapter.title, done))
            for line in chapter.lines:
                if line.endswith(" stop") and line.split()[0] in staying:
                    stop(staying.pop(line.split()[0]))
                    continue
                name, mark, rest = line.partition("& ")
                typed = type_line(to_line(rest if mark else line), environment)
                done.append(typed)
                if mark:
                    staying[name] = typed
                    typed.wait_for(READY[name])
                else:
                    typed.finish()
                print(f"transcripts: {typed.process.returncode} {line}", flush=True)
    finally:
        for typed in staying.values():
            stop(typed)
    return INTRODUCTION + "".join(
        f"\n## {title}\n" + "".join(render(typed, to_page) for typed in done) for title, done in chapters
    )


def stop(typed: Typed) -> None:
    """End a line that stays."""
    if typed.process.poll() is None:
        typed.process.send_signal(signal.SIGTERM)
    typed.finish()


def render(typed: Typed, to_page: Callable[[str], str]) -> str:
    """A line and what came of it, as the page shows them."""
    text = to_page(f"$ {typed.line}\n{plain(typed.shown.decode())}".rstrip())
    code = typed.process.returncode
    return f"\n```console\n{text}\n```\n" + (f"\nExit code {code}.\n" if code else "")


def plain(text: str) -> str:
    """What stays on the screen: without colours, and without the moving lines that were wiped."""
    lines = [""]
    row = column = 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
        elif part[-1] == "A":
            row = max(0, row - int(part[2:-1] or 1))
        elif part[-1] == "K":
            lines[row] = "" if part == "\x1b[2K" else lines[row][:column]
    return "\n".join(line.rstrip() for line in lines)


def replacements(port: int) -> list[tuple[str, str]]:
    """What differs from one recording to the next, as patterns, and what the page has instead."""
    return [
        (re.escape(f"{WORK}/nix/store"), "/nix/store"),
        (re.escape(f"{WORK}/home"), "~"),
        (re.escape(str(WORK)), "/machine"),
        *((re.escape(str(client.programs)), "/usr/bin") for client in CLIENTS),
        (rf"127\.0\.0\.1:{port}\b", f"127.0.0.1:{PORT}"),
        (rf"\b{re.escape(socket.gethostname())}\b", "laptop"),
        (r"\bice_\w+", "TOKEN"),
        (r"\b([\w.-]+-\d+):[A-Za-z0-9+/]{43}=", r"\1:PUBLIC-KEY"),
        (r"\b([\w.-]+-\d+):[A-Za-z0-9+/]{86}==", r"\1:SIGNATURE"),
        (r"\b\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d+)?", r"2026-01-01\g<1>12:00:00"),
        (r"\b\d{4}-\d\d-\d\d([T ])\d\d:\d\d\b(?!:)", r"2026-01-01\g<1>12:00"),
        (r"\b\d{4}-\d\d-\d\d\b(?![T ]\d)", "2026-01-01"),
        (r"\b\d{8}t\d{6}z-\w{4}\b", "20260101t120000z-1234"),
        (r"(before-restore-)\d+", r"\g<1>1767225600"),
        (r"(?<![\w.-])\d+\.\d\d s\b", "0.10 s"),
        (r"(?<![\w.-])\d+(\.\d)? s\b", "0.1 s"),
        (r'"seconds": \d+\.\d+', '"seconds": 0.1'),
    ]


@contextlib.contextmanager
def machine() -> Generator[dict[str, str]]:
    """A home, a Nix with a store of its own, and a free port for the server, as an environment."""
    WORK.mkdir(mode=0o700)
    try:
        home = WORK / "home"
        (home / ".config/nix").mkdir(parents=True)
        (home / ".config/nix/nix.conf").write_text(NIX_CONF)
        (home / "world.nix").write_text(Path(__file__).with_name("transcripts.nix").read_text())
        programs = [str(client.programs) for client in CLIENTS[:1] if client.programs.is_dir()]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        yield {
            "HOME": str(home),
            "ICEHOUSE_PORT": port,
            "LANG": "C.UTF-8",
            "NIX_CONF_DIR": str(WORK / "etc/nix"),
            "NIX_LOG_DIR": str(WORK / "nix/var/log/nix"),
            "NIX_STATE_DIR": str(WORK / "nix/var/nix"),
            "NIX_STORE_DIR": str(WORK / "nix/store"),
            "PATH": ":".join([str(Path(sys.executable).parent), *programs, os.environ["PATH"]]),
            "TERM": "xterm",
        }
    finally:
        for folder, _, _ in os.walk(WORK):
            Path(folder).chmod(0o700)  # Nix's stores are read-only, and could not be removed
        shutil.rmtree(WORK)


def main() -> int:
    """Record the page."""
    with machine() as environment:
        port = int(environment["ICEHOUSE_PORT"])

        def to_page(text: str) -> str:
            for pattern, word in replacements(port):
                text = re.sub(pattern, word, text)
            return text

        text = record(environment, to_page, lambda line: line.replace(f":{PORT}", f":{port}"))
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
