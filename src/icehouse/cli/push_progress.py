"""How a push goes, while it goes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from icehouse.cli.printer import Printer, bytes_text

if TYPE_CHECKING:
    from icehouse.client.push_counts import PushCounts

_FRAMES_A_SECOND: Final = 8
_PLAIN_SECONDS: Final = 10


@asynccontextmanager
async def shown(counts: "PushCounts", printer: Printer) -> AsyncGenerator[None]:
    """Show *counts* while the body runs: a moving line for a person, a line now and then for a log."""
    if printer.is_quiet:
        yield
        return
    ticker = asyncio.create_task(_show_moving(counts) if printer.shows_progress else _show_plain(counts, printer))
    try:
        yield
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker


async def _show_plain(counts: "PushCounts", printer: Printer) -> None:
    while True:
        await asyncio.sleep(_PLAIN_SECONDS)
        printer.message(
            f"{counts.paths_pushed} of {counts.paths_to_push} paths, {bytes_text(counts.read_bytes)} of "
            f"{bytes_text(counts.nar_bytes)} read, {bytes_text(counts.new_bytes)} new, "
            f"{bytes_text(counts.sent_bytes)} sent"
        )


async def _show_moving(counts: "PushCounts") -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.fields[paths]}"),
        BarColumn(),
        TextColumn("{task.fields[bytes]}"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("push", total=None, paths="Looking for what is missing", bytes="")
        while True:
            if counts.paths_to_push:
                bar.update(
                    task,
                    total=counts.nar_bytes or None,
                    completed=counts.read_bytes,
                    paths=f"{counts.paths_pushed}/{counts.paths_to_push} paths",
                    bytes=f"{bytes_text(counts.read_bytes)} of {bytes_text(counts.nar_bytes)} read, "
                    f"{bytes_text(counts.new_bytes)} new, {bytes_text(counts.sent_bytes)} sent",
                )
            await asyncio.sleep(1 / _FRAMES_A_SECOND)
