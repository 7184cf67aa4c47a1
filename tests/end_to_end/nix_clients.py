"""Real Nix of several versions, each user of one with a home, a narinfo cache and a store of their own."""

import functools
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from scripts.nix_clients import CLIENTS
from tests.client.private_nix import store_settings
from tests.conftest import find_program

SYSTEM_LINE = "2.8"
"""Debian 12's, installed. Wherever the tests must not be skipped it must be there; another Debian has a later one."""
LINES = (SYSTEM_LINE, *(client.line for client in CLIENTS))

CLIENT_CELL = "client-cell"
"""What a report says of its place in the table of clients: line and column."""

CONFIGURATION = {
    "build-users-group": "",
    "experimental-features": "nix-command",
    "require-sigs": "true",
    "sandbox": "false",
    "substituters": "",
}


def find_programs(line: str) -> Path:
    """The folder with the programs of a line of versions. Without them the test ends, with the reason."""
    if line == SYSTEM_LINE:
        return Path(find_program("nix-store")).parent
    client = next(client for client in CLIENTS if client.line == line)
    if not client.programs.is_dir():
        known = client.reason_file.read_text().strip() if client.reason_file.is_file() else "`make clients` unpacks it"
        pytest.skip(f"Nix {line} is not here: {known}")
    return client.programs


@functools.cache
def find_version(programs: Path) -> str:
    """The version that the programs in a folder say they are, for instance 2.34.8."""
    done = subprocess.run([programs / "nix", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


@dataclass(frozen=True)
class NixClient:
    """Somebody who runs one version of Nix, and nothing else of it: no system's configuration, no daemon."""

    line: str
    version: str
    home: Path
    root: Path
    """Where its store really lies: files of the store directory's paths are in `nix/store` there."""
    environment: dict[str, str]

    @classmethod
    def make(cls, line: str, folder: Path, store_dir: str | None = None) -> "NixClient":
        """A client with an empty store in *folder*; with another *store_dir* than its store's place it cannot build."""
        programs = find_programs(line)
        home, root = folder / "home", folder / "root"
        environment = {
            "HOME": str(home),
            "NIX_CONF_DIR": str(folder / "no-system-configuration"),
            "PATH": f"{programs}:{os.environ['PATH']}",
            **store_settings(root),
        }
        if store_dir is not None:
            environment["NIX_STORE_DIR"] = store_dir
        client = cls(line, find_version(programs), home, root, environment)
        (home / ".config/nix").mkdir(parents=True)
        client.configure({})
        return client

    def configure(self, settings: Mapping[str, str]) -> None:
        """Write its nix.conf anew: what every client has, and *settings*."""
        hook = {} if self.line == SYSTEM_LINE else {"build-hook": ""}  # as scripts/nix_clients.py tells; 2.8 needs it
        lines = (f"{name} = {value}\n" for name, value in {**CONFIGURATION, **hook, **settings}.items())
        (self.home / ".config/nix/nix.conf").write_text("".join(lines))

    def use_cache(self, url: str, *keys: str) -> None:
        """Substitute from a binary cache, and trust these keys alone."""
        self.configure({"substituters": url, "trusted-public-keys": " ".join(keys)})

    def with_empty_store(self, name: str) -> "NixClient":
        """The same user, with the same narinfo cache, and another store without any path."""
        root = self.root.with_name(name)
        settings = {**store_settings(root), "NIX_STORE_DIR": self.environment["NIX_STORE_DIR"]}
        return replace(self, root=root, environment={**self.environment, **settings})

    def try_run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of it to its end, whatever that is."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def run(self, *command: str | Path) -> str:
        """Run a program of it that must succeed; what it prints."""
        done = self.try_run(*command)
        assert done.returncode == 0, (self.version, command, done.stderr)
        return done.stdout.strip()

    def build(self, expression: str, attribute: str) -> str:
        """Build an attribute of an expression; the full path of its output."""
        command = ("nix-build", "--no-out-link", "--store", self.root, "-E", expression, "-A", attribute)
        return self.run(*command).splitlines()[-1]

    def closure_of(self, path: str) -> list[str]:
        """The full paths that a valid path reaches."""
        return self.run("nix-store", "--store", self.root, "-qR", path).splitlines()

    def nar_hash_of(self, path: str) -> str:
        """What its database says of a valid path, after its files were hashed again and found to agree."""
        self.run("nix-store", "--store", self.root, "--verify-path", path)
        return self.run("nix-store", "--store", self.root, "-q", "--hash", path)

    def try_pull(self, path: str) -> subprocess.CompletedProcess[str]:
        """Substitute a path and its closure."""
        return self.try_run("nix-store", "--store", self.root, "-r", path)

    def pull(self, path: str) -> None:
        """Substitute a path and its closure, which must succeed."""
        done = self.try_pull(path)
        assert done.returncode == 0, (self.version, done.stderr)

    def dump(self, path: str) -> bytes:
        """The NAR of the files of a path in its store."""
        files = self.root / "nix/store" / Path(path).name
        return subprocess.run(
            ["nix-store", "--dump", files], env=self.environment, check=True, capture_output=True
        ).stdout


@dataclass
class ClientTable:
    """Which version of Nix did what: a row a version, a column each `column` that a test is marked with."""

    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """Of the clients that were here, by line."""
    reasons: dict[str, None] = field(default_factory=dict)
    """Why tests were skipped, each once."""

    def note(self, line: str, column: str, report: pytest.TestReport) -> None:
        """Remember how a part of a test of that column ended. One failure outweighs all else."""
        if report.skipped:
            self.cells.setdefault((line, column), "skipped")
            if isinstance(report.longrepr, tuple):
                self.reasons[report.longrepr[2].removeprefix("Skipped: ")] = None
        elif report.failed:
            self.cells[line, column] = "FAILED"
        elif report.when == "call":
            self.versions[line] = find_version(find_programs(line))
            self.cells.setdefault((line, column), "yes")

    def render(self) -> list[str]:
        """The table's lines, and those with the reasons."""
        columns = list(dict.fromkeys(column for _, column in self.cells))
        rows = [["Nix", *columns]]
        for line in LINES:
            cells = [self.cells.get((line, column), "-") for column in columns]
            rows.append([self.versions.get(line, line), *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return [*table, *self.reasons]
