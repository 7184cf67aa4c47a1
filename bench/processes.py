"""What running processes use, as Linux counts it."""

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ran to its end, with all that it started and waited for."""

    output: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """The largest resident memory of any one of its processes."""


def run_measured(command: Sequence[str | Path], environment: Mapping[str, str]) -> Finished:
    """Run a program whose messages go to our stderr.

    Raises:
        RuntimeError: it failed.
    """
    # For `wait4` counts also what a process held before `exec`: the most that we ever did, unless we forget it here.
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed with {process.returncode}")
    return Finished(output, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def cpu_seconds(pid: int) -> float:
    """The processor time that the process and its living descendants have used."""
    return sum(_cpu_ticks(member) for member in _family(pid)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Served:
    """What a server did while it was asked."""

    per_second: float
    """Requests or bytes, as a client counts them."""
    cpu_seconds: float
    """Of the server, for each request."""


def peak_memory_bytes(pid: int) -> int:
    """The largest resident memory of the process and of each living descendant, added: never less than the truth."""
    return sum(_peak(member) for member in _family(pid))


def reset_peak_memory(pid: int) -> None:
    """Begin to count the peak of the process and its descendants anew."""
    for member in _family(pid):
        Path(f"/proc/{member}/clear_refs").write_text("5")


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _family(pid: int) -> list[int]:
    """The process and all that it started, directly or not."""
    members = [pid]
    for member in members:  # Grows while it is walked.
        for task in Path(f"/proc/{member}/task").iterdir():
            members.extend(int(child) for child in (task / "children").read_text().split())
    return members
