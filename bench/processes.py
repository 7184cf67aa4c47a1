"""What running processes use, as Linux counts it."""

import re
from pathlib import Path


def peak_memory_bytes(pid: int) -> int:
    """The largest resident memory of the process and of each living descendant, added: never less than the truth."""
    return sum(_peak(member) for member in _family(pid))


def reset_peak_memory(pid: int) -> None:
    """Begin to count the peak of the process and its descendants anew."""
    for member in _family(pid):
        Path(f"/proc/{member}/clear_refs").write_text("5")


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
