"""What must hold of a server after it was fuzzed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.http.running import RunningServer

MAX_PEAK_BYTES: Final = 300 * 1024 * 1024


def peak_bytes(server: RunningServer) -> int:
    """The most memory that the server had."""
    match = re.search(r"^VmHWM:\s*(\d+) kB$", Path(f"/proc/{server.process.pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def check_health(server: RunningServer) -> None:
    """It answers, kept its memory, and logged no fault of ours."""
    assert server.ask("GET", "/health", token="").status == 200
    assert peak_bytes(server) <= MAX_PEAK_BYTES
    assert [event for event in server.events() if event["level"] in {"error", "critical"}] == []
