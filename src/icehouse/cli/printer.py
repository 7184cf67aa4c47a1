"""What commands say: results on stdout, for people or as JSON; messages and errors on stderr."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from icehouse.errors import IcehouseError

VERBOSE_VARIABLE: Final = "ICEHOUSE_VERBOSE"
"""Not empty: a line about each request is written to stderr. The option ``--verbose`` of every command sets it."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024
_WHOLE_FROM = 100


@dataclass(frozen=True, slots=True)
class Printer:
    """Where a command's words go. Results are always printed; messages are not when `is_quiet`."""

    is_json: bool = False
    is_quiet: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    @property
    def shows_progress(self) -> bool:
        """Whether a moving line makes sense: a person watches, and sees nothing else."""
        others = os.environ.get("TERM") == "dumb" or os.environ.get(VERBOSE_VARIABLE)
        return self.err.isatty() and not self.is_quiet and not others

    def result(self, text: str, data: object) -> None:
        """Print the result: *text* for people, or *data* as JSON."""
        if self.is_json:
            import msgspec

            text = msgspec.json.format(msgspec.json.encode(data)).decode()
        self.out.write(text if text.endswith("\n") or not text else f"{text}\n")
        self.out.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], data: object) -> None:
        """Print rows under the names of their columns, or *data* as JSON."""
        if self.is_json:
            self.result("", data)
            return
        lines = [columns, *rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
        text = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )
        self.result(text, data)

    def message(self, text: str) -> None:
        """Tell a person something beside the result."""
        if not self.is_quiet:
            self.err.write(f"{text}\n")
            self.err.flush()

    def error(self, error: IcehouseError) -> None:
        """Say why the command failed, in one paragraph."""
        self.warning(str(error))

    def warning(self, text: str) -> None:
        """Say what went wrong, in one paragraph, also to who wants quiet."""
        self.err.write(f"icehouse: {' '.join(text.split())}\n")
        self.err.flush()


def bytes_text(size: float) -> str:
    """A number of bytes for people, in powers of 1024."""
    unit = 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size /= _STEP
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= _WHOLE_FROM else f"{size:.1f} {_UNITS[unit]}"


def time_text(seconds: int | None) -> str:
    """A time in seconds since the epoch for people, in UTC."""
    from datetime import UTC, datetime

    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
