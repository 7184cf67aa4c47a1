"""Load on an HTTP server: many small requests by wrk, and downloads by a client that costs next to nothing."""

import json
import re
import socket
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_name("random_paths.lua")
_BUFFER_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class RequestRate:
    """What wrk counted. *not_found* are answers of status 400 and above."""

    requests: int
    seconds: float
    not_found: int
    p99_seconds: float

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def measure_requests(url: str, paths: Sequence[str], *, connections: int, seconds: int, seed: int) -> RequestRate:
    """Ask *url* for random ones of *paths* (each begins with a slash) from one thread of wrk.

    Raises:
        RuntimeError: a connection failed, or some answers but not all are errors: paths must be all there or all not.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        prefix = urllib.parse.urlsplit(url).path.rstrip("/")
        file.writelines(f"{prefix}{path}\n" for path in paths)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(_SCRIPT), url, "--", file.name]
        done = subprocess.run([*command, str(seed)], capture_output=True, text=True, check=True)
    counted = json.loads(done.stdout.rpartition("RESULT ")[2])
    if counted["broken"] or counted["not_found"] not in {0, counted["requests"]}:
        raise RuntimeError(f"{url}: {counted}")
    return RequestRate(
        requests=counted["requests"],
        seconds=counted["microseconds"] / 1e6,
        not_found=counted["not_found"],
        p99_seconds=counted["p99_microseconds"] / 1e6,
    )


def measure_download(url: str, *, connections: int, discard: bool = False) -> float:
    """Download *url* once over each of *connections* at the same time; the bytes a second of all together.

    With *discard* the kernel drops the bytes instead of copying them to us, as TCP's ``MSG_TRUNC`` does: then the
    client takes hardly any of the machine, and only the server is measured.
    """
    started = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        downloads = [pool.submit(_download, url, discard=discard) for _ in range(connections)]
        sizes = [download.result() for download in downloads]
    return sum(sizes) / (time.perf_counter() - started)


def _download(url: str, *, discard: bool) -> int:
    """Read one answer to its end; the bytes of its body, which must be as many as it promised."""
    place = urllib.parse.urlsplit(url)
    request = f"GET {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n"
    flags = socket.MSG_TRUNC if discard else 0
    with socket.create_connection((place.hostname or "", place.port or 80), timeout=60) as connection:
        connection.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            block = connection.recv(_HEAD_BYTES)
            if not block:
                raise RuntimeError(f"{url}: the connection ended within the head of the answer")
            head += block
        head, _, body = head.partition(b"\r\n\r\n")
        promised = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if b" 200 " not in head.partition(b"\r\n")[0] or promised is None:
            raise RuntimeError(f"{url}: not a 200 with a length: {head[:500]!r}")
        size = len(body)
        buffer = bytearray(_BUFFER_BYTES)
        while size < int(promised[1]):
            received = connection.recv_into(buffer, _BUFFER_BYTES, flags)
            if received == 0:
                raise RuntimeError(f"{url}: ended after {size} of {promised[1].decode()} bytes")
            size += received
        return size
