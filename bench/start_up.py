"""How long a command takes to start: to its end, or until its first request leaves."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.rounds import Series
from bench.table import Row, at_most, compared, measured

_PROGRAM = Path(sys.executable).parent / "icehouse"
STORE_PATH = "0123456789abcdfghijklmnpqrsvwxyz-x"
_REQUESTING = ("cache list", "push a PATH", "pins a", "use a", "key list a", "audit", "doctor")


def measure_start_up(rounds: int) -> list[Row]:
    """Help and version to their end, and commands until a server would hear of them; beside an empty Python."""
    nothing: list[float] = []
    ended: dict[str, list[float]] = {"--version": [], "--help": [], "push --help": []}
    heard: dict[str, list[float]] = {command: [] for command in _REQUESTING}
    with tempfile.TemporaryDirectory(prefix="icehouse-start-") as folder:
        (Path(folder) / STORE_PATH).touch()
        for _ in range(rounds):
            nothing.append(_seconds_to_end([sys.executable, "-c", "pass"], folder))
            for command, values in ended.items():
                values.append(_seconds_to_end([_PROGRAM, *command.split()], folder))
            for command, values in heard.items():
                values.append(_seconds_to_request(command, folder))
    rows: list[Row] = []
    for command, values in ended.items():
        goal = at_most(0.15, "150 ms") if command == "--version" else at_most(0.3, "300 ms")
        rows.append(measured(f"start of icehouse {command}, to its end", Series(values).median, "s", goal))
        rows.append(compared(f"{command} beside python -c pass", Series(values), Series(nothing), "s"))
    for command, values in heard.items():
        title = f"start of icehouse {command}, to its first request"
        rows.append(measured(title, Series(values).median, "s", at_most(0.3, "300 ms")))
    return rows


def _seconds_to_end(command: Sequence[str | Path], home: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=_environment(home, 9), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _seconds_to_request(command: str, home: str) -> float:
    """From the start until a server that never answers is connected to; then it is ended."""
    words = [str(Path(home) / STORE_PATH) if word == "PATH" else word for word in command.split()]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        environment = _environment(home, server.getsockname()[1])
        began = time.perf_counter()
        process = subprocess.Popen(
            [_PROGRAM, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            server.accept()[0].close()
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def _environment(home: str, port: int) -> dict[str, str]:
    return {"NIX_STORE_DIR": home, "HOME": home, "PATH": os.environ["PATH"], "ICEHOUSE_URL": f"http://127.0.0.1:{port}"}
