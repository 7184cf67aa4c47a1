"""A server of ours on a free port with a data folder of its own, and the commands that speak to it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from bench.nginx import find_free_port
from bench.nix_store import NixStore
from bench.processes import cpu_seconds, run_measured

CACHE = "bench"
ICEHOUSE = Path(sys.executable).with_name("icehouse")
_START_SECONDS = 300.0  # a migration copies the database first


@dataclass(frozen=True, slots=True)
class Pushed:
    """What one run of `icehouse push` did and took, from its start to its end."""

    seconds: float
    client_cpu_seconds: float
    server_cpu_seconds: float
    client_peak_bytes: int
    summary: Mapping[str, Any]
    """What it printed with ``--json``."""


class IcehouseServer:
    """Serves one public cache, named `CACHE`, with one worker while the context is open. Owns *folder*."""

    def __init__(self, folder: Path, *, keeps_data: bool = False) -> None:
        """Serve what is in *folder*, emptied before unless *keeps_data*."""
        self.data = folder.resolve()
        self._keeps_data = keeps_data
        self._port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the server, without a slash at its end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def cache_url(self) -> str:
        """Of the cache."""
        return f"{self.url}/{CACHE}"

    @property
    def database(self) -> Path:
        """Its database."""
        return self.data / "icehouse.db"

    @property
    def pid(self) -> int:
        """The server's parent process; its worker is its child."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def push(self, store: NixStore, *roots: str) -> Pushed:
        """Push the closure of *roots* from *store*."""
        before = cpu_seconds(self.pid)
        command = [ICEHOUSE, "push", CACHE, *roots, "--store", store.url, "--json", "--quiet"]
        done = run_measured(command, self.client_environment(store.environment))
        return Pushed(
            seconds=done.seconds,
            client_cpu_seconds=done.cpu_seconds,
            server_cpu_seconds=cpu_seconds(self.pid) - before,
            client_peak_bytes=done.peak_bytes,
            summary=cast("Mapping[str, Any]", json.loads(done.output)),
        )

    @contextlib.contextmanager
    def netrc(self) -> Generator[Path]:
        """A file with the server's credentials, as Nix reads it."""
        with tempfile.NamedTemporaryFile("w", suffix=".netrc") as file:
            token = (self.data / "admin-token").read_text().strip()
            file.write(f"machine 127.0.0.1\nlogin bench\npassword {token}\n")
            file.flush()
            yield Path(file.name)

    def read(self, path: str) -> bytes:
        """A small file of the cache."""
        with urllib.request.urlopen(f"{self.cache_url}/{path}", timeout=60) as answer:  # noqa: S310  our own server
            return cast("bytes", answer.read())

    def call(self, method: str, path: str, body: object = None) -> bytes:
        """Ask the server as its administrator; *body* is bytes, or becomes JSON.

        Raises:
            OSError: it refused.
        """
        token = (self.data / "admin-token").read_text().strip()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, method=method)  # noqa: S310  our own server
        request.add_header("Authorization", f"Bearer {token}")
        if data is not body:
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  our own server
            return cast("bytes", answer.read())

    def __enter__(self) -> Self:
        if not self._keeps_data:
            shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True, exist_ok=True)
        is_new = not self.database.exists()
        log = self.data.with_name(f"{self.data.name}.log")
        # What it does by itself now and then is measured where it is meant: and rows without bytes would be damage.
        alone = ["--verify-speed", "0", "--collect-seconds", "0", "--keep-backups", "0"]
        command = [ICEHOUSE, "serve", "--port", str(self._port), "--data-dir", self.data, *alone]
        with log.open("w") as messages:
            self._process = subprocess.Popen(
                command, env=_without_settings(os.environ), stdout=messages, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._stop()
                raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        if is_new:
            command = [ICEHOUSE, "cache", "create", CACHE, "--public", "--quiet"]
            run_measured(command, self.client_environment(os.environ))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def client_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """An environment in which commands speak to it as its administrator."""
        token = (self.data / "admin-token").read_text().strip()
        return _without_settings(environment) | {"ICEHOUSE_URL": self.url, "ICEHOUSE_TOKEN": token}

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:  # noqa: S310  our own server
                return answer.status == HTTPStatus.OK
        except OSError:
            return False

    def _stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=_START_SECONDS)
            self._process = None


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("ICEHOUSE_")}
