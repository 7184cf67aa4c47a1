"""A private nginx with one worker, which takes files too: what icehouse is compared with. No other nginx is touched."""

import getpass
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  default_type application/octet-stream;
  types {{ text/x-nix-narinfo narinfo; }}
  client_body_temp_path {prefix}/body;
  proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi;
  scgi_temp_path {prefix}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    root {root};
    client_max_body_size 0;
    dav_methods PUT;
    create_full_put_path on;
  }}
}}
"""
_START_SECONDS = 10.0


def find_free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nginx:
    """Serves the files below *root* while the context is open. *prefix* holds its configuration and logs."""

    def __init__(self, root: Path, prefix: Path) -> None:
        self._root = root.resolve()
        self._prefix = prefix.resolve()
        self._port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The master; its worker is its child."""
        if self._process is None:
            raise RuntimeError("nginx is not running")
        return self._process.pid

    def __enter__(self) -> Self:
        program = shutil.which("nginx", path=None) or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            raise RuntimeError("nginx is neither in PATH nor in /usr/sbin; `make bench` unpacks Debian's")
        self._prefix.mkdir(parents=True, exist_ok=True)
        user = getpass.getuser()
        configuration = self._prefix / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                user=f"user {user};" if user == "root" else "",  # Else its worker may not read the folder.
                prefix=self._prefix,
                port=self._port,
                root=self._root,
            )
        )
        command = [program, "-p", str(self._prefix), "-e", str(self._prefix / "error.log"), "-c", str(configuration)]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._stop()
                    log = (self._prefix / "error.log").read_text(errors="replace")
                    raise RuntimeError(f"nginx did not start: {log[-1000:]}") from error
                time.sleep(0.02)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=_START_SECONDS)
            self._process = None
