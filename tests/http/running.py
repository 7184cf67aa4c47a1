"""A real server in a process of its own, and a client that can do what clients should not."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from icehouse.api.publish import NarBody
from icehouse.rules.recipes import make_recipe, render_recipe
from tests.services.publishing import Upload, cut, identity_of, nar_hash_of

START_SECONDS = 30
STOP_SECONDS = 30


class Pieces(list[bytes]):
    """A body to send in chunks of these bytes, without saying its size before."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401  as json.loads
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers."""

    process: subprocess.Popen[bytes]
    port: int
    token: str
    log: Path

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; a *body* that is not bytes goes as JSON. An empty *token* sends no credentials."""
        chosen = self.token if token is None else token
        sent = {"Authorization": f"Bearer {chosen}"} if chosen else {}
        data = body if body is None or isinstance(body, (bytes, Pieces)) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, data, sent | dict(headers or {}))
            response = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in response.getheaders():  # of a header that comes twice, both
                key = name.lower()
                found[key] = f"{found[key]}, {value}" if key in found else value
            return Answer(response.status, found, response.read())

    def send_raw(self, request: bytes) -> bytes:
        """Send bytes, and give all that comes back until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    def create_cache(self, name: str, *, is_public: bool = True) -> None:
        answer = self.ask("POST", "/api/v1/caches", {"name": name, "is_public": is_public, "upstreams": []})
        assert answer.status == 201, answer.body

    def create_token(self, *permissions: str, pattern: str = "*") -> str:
        body = {"description": "test", "permissions": permissions, "cache_pattern": pattern}
        answer = self.ask("POST", "/api/v1/tokens", body)
        assert answer.status == 201, answer.body
        return str(answer.json()["token"])

    def upload(self, cache: str, nar: bytes) -> NarBody:
        """Send the chunks of a NAR, and give the record that registers it."""
        chunks = cut(nar)
        upload = Upload.of(chunks)
        answer = self.ask("PUT", f"/api/v1/caches/{cache}/packs", upload.render())
        assert answer.status == 200, answer.body
        numbers = dict(zip((entry.identity for entry in upload.entries), answer.json()["numbers"], strict=True))
        recipe = make_recipe(
            (numbers[identity_of(chunk)] for chunk in chunks),
            (store_hash for chunk in chunks for store_hash in chunk.hashes),
        )
        return NarBody(nar_hash=nar_hash_of(nar), nar_size=len(nar), recipe=render_recipe(recipe))

    def events(self) -> list[dict[str, Any]]:
        """What the server logged so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def run_server(folder: Path, *options: str) -> Generator[RunningServer]:
    """A server over *folder*, from the moment when it answers until it ended in good order."""
    with tempfile.TemporaryDirectory() as logs:
        log = Path(logs) / "log"
        arguments = [sys.executable, "-m", "icehouse", "serve", "--port", "0", "--data-dir", str(folder)]
        # Tests send more wrong credentials than people do.
        arguments += ["--failed-logins-per-minute", "0", *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ICEHOUSE_")}
        with log.open("wb") as stderr:
            process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=stderr, env=environment)
        try:
            assert process.stdout is not None
            server = RunningServer(process, _read_port(process.stdout), _read_token(folder), log)
            _wait_until_it_answers(server)
            yield server
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_SECONDS) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _read_port(stdout: IO[bytes]) -> int:
    assert select.select([stdout], [], [], START_SECONDS)[0], "the server printed nothing"
    line = stdout.readline().decode()
    match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    assert match, line
    return int(match[1])


def _read_token(folder: Path) -> str:
    return (folder / "admin-token").read_text().strip()


def _wait_until_it_answers(server: RunningServer) -> None:
    assert server.ask("GET", "/health", token="").status == 200
