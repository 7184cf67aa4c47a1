"""A real server in a process of its own, real Nix, and the command line as its users run it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from tests.client.private_nix import CONFIGURATION, PrivateNix, store_settings
from tests.end_to_end.nix_clients import CLIENT_CELL, LINES, SYSTEM_LINE, NixClient

START_SECONDS = 30


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "column(name): of the table of Nix clients; may name parameters, {as_so}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("column")
    if marker is not None and isinstance(item, pytest.Function):
        params = item.callspec.params
        report.user_properties.append((CLIENT_CELL, (str(params["line"]), marker.args[0].format(**params))))
    return report


@dataclass
class ServerProcess:
    """`icehouse serve` on a free port, with a data folder of its own."""

    data_dir: Path
    log: Path
    port: int = 0
    url: str = ""
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, at the same port as before if it was started before."""
        command = [sys.executable, "-m", "icehouse", "serve", "--port", str(self.port), "--data-dir", self.data_dir]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(r"at (http://127\.0\.0\.1:(\d+))", line)
            if found:
                self.url, self.port = found[1], int(found[2])
                return
        self.stop(signal.SIGKILL)
        pytest.fail(f"the server did not start: {self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal to the process that was started; its workers must not outlive that."""
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait(START_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    @property
    def admin_token(self) -> str:
        return (self.data_dir / "admin-token").read_text().strip()


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.out))


@dataclass(frozen=True)
class User:
    """Somebody with a home folder, who runs `icehouse` and Nix."""

    home: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        return subprocess.Popen(
            [sys.executable, "-m", "icehouse", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def try_icehouse(self, *arguments: str, stdin: str = "") -> Done:
        """Run a command to its end, whatever that is."""
        done = subprocess.run(
            [sys.executable, "-m", "icehouse", *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def icehouse(self, *arguments: str, stdin: str = "") -> Done:
        """Run a command that must succeed."""
        done = self.try_icehouse(*arguments, stdin=stdin)
        assert done.code == 0, (arguments, done)
        return done

    def try_nix(self, *command: str) -> Done:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def server(tmp_path: Path) -> Generator[ServerProcess]:
    """A running server without caches."""
    server = ServerProcess(tmp_path / "data", tmp_path / "server.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_user(tmp_path: Path, require: Callable[[str], str]) -> Callable[[str], User]:
    """`make_user("ann")` gives somebody with an empty home folder and a Nix that builds without a network."""
    require("nix-build")

    def make(name: str) -> User:
        home = tmp_path / "homes" / name
        (home / ".config/nix").mkdir(parents=True)
        (home / ".config/nix/nix.conf").write_text(CONFIGURATION)
        environment = {
            "HOME": str(home),
            "NIX_CONF_DIR": str(tmp_path / "no-system-configuration"),
            "PATH": os.environ["PATH"],
            **store_settings(tmp_path / "root"),
        }
        return User(home, environment)

    return make


@pytest.fixture
def admin(server: ServerProcess, make_user: Callable[[str], User]) -> User:
    """Somebody who is logged in with the administrator's token."""
    user = make_user("admin")
    user.icehouse("login", server.url, "--token-file", str(server.data_dir / "admin-token"))
    return user


@pytest.fixture
def builder(admin: User, tmp_path: Path) -> PrivateNix:
    """The Nix of the administrator, who builds what is pushed."""
    return PrivateNix(tmp_path / "root", admin.environment)


CLOSURE = """
let
  make = name: script: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  };
in rec {
  large = make "large" "head -c 4000000 /dev/urandom > $out";
  base = make "base" ''
    mkdir -p $out/dir/empty && cd $out
    echo '#!/bin/sh' > run && chmod +x run
    : > empty-file; echo text > 'h\u00f6her \u96ea'; ln -s dir/empty link; ln -s /nowhere dangling
    echo $out > self
  '';
  top = make "top" ''
    echo made top
    mkdir -p $out/share
    echo ${base} ${large} $out > $out/share/top
    echo text > $out/share/text
  '';
}
"""


@dataclass(frozen=True)
class Published:
    """A public cache with a closure that our command line pushed, for any number of tests that only read."""

    server: ServerProcess
    admin: User
    url: str
    key: str
    other_key: str
    """Of another cache."""
    pusher: NixClient
    top: str
    """A path that refers to itself and to the others."""
    large: str
    """A path whose NAR of 4 MB cannot be compressed."""

    @property
    def closure(self) -> list[str]:
        return self.pusher.closure_of(self.top)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Generator[Published]:
    """A server of its own with a closure that was pushed once."""
    folder = tmp_path_factory.mktemp("published")
    pusher = NixClient.make(SYSTEM_LINE, folder / "pusher")
    server = ServerProcess(folder / "data", folder / "server.log")
    server.start()
    try:
        admin = User(pusher.home, pusher.environment)
        admin.icehouse("login", server.url, "--token-file", str(server.data_dir / "admin-token"))
        options = ("--public", "--store-dir", pusher.environment["NIX_STORE_DIR"], "--json")
        views = [admin.icehouse("cache", "create", name, *options).json for name in ("pub", "other")]
        top = pusher.build(CLOSURE, "top")
        admin.icehouse("push", "pub", "--store", str(pusher.root), top)
        key, other_key = (view["public_keys"][0] for view in views)
        yield Published(server, admin, views[0]["url"], key, other_key, pusher, top, pusher.build(CLOSURE, "large"))
    finally:
        server.stop()


@pytest.fixture(params=LINES)
def line(request: pytest.FixtureRequest) -> str:
    """Each line of versions in turn."""
    return cast("str", request.param)


@pytest.fixture
def reader(line: str, published: Published, tmp_path: Path) -> NixClient:
    """A client of each version with an empty store, for the published closure."""
    return NixClient.make(line, tmp_path / "reader", published.pusher.environment["NIX_STORE_DIR"])
