"""Starting and stopping a server. What it answers is tested in `tests/http`."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icehouse.config import ServerSettings
from icehouse.errors import Conflict
from icehouse.wiring import WORKER_SETTINGS, listen, load_worker_settings, render_worker_settings
from tests.http.running import run_server


def serve(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "icehouse", "serve", *options], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_second_server_gets_neither_the_port_nor_the_folder_of_the_first(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as first:
        same_port = serve("--port", str(first.port), "--data-dir", str(tmp_path / "other"))
        assert (same_port.returncode, same_port.stdout) == (1, "")
        assert str(first.port) in same_port.stderr
        same_folder = serve("--port", "0", "--data-dir", str(tmp_path / "data"))
        assert (same_folder.returncode, same_folder.stdout) == (1, "")
        assert str(tmp_path / "data") in same_folder.stderr


def test_ctrl_c_stops_a_server_in_good_order(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0


def test_what_is_under_way_when_a_server_stops_is_finished(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server, server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_faults_of_settings_are_told_all_at_once(tmp_path: Path) -> None:
    result = serve("--data-dir", str(tmp_path), "--zstd-level", "99", "--workers", "0")
    assert result.returncode != 0
    assert "--zstd-level: 99" in result.stderr
    assert "--workers: 0" in result.stderr


def test_workers_get_the_settings_of_their_parent(tmp_path: Path) -> None:
    settings = ServerSettings(
        data_dir=tmp_path,
        trusted_proxies=("10.0.0.0/8",),
        public_url="https://c.example.org",
        oidc_roles=("a=pull:*",),
    )
    assert load_worker_settings({WORKER_SETTINGS: render_worker_settings(settings)}) == settings


@pytest.mark.parametrize("host", ["203.0.113.77", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_cannot_be_listened_on(host: str) -> None:
    with pytest.raises(Conflict, match="cannot listen"):
        listen(host, 0)
