"""One line that tells how a long command goes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from icehouse.cli.printer import Printer

_FRAMES_A_SECOND: Final = 4
_PLAIN_SECONDS: Final = 10


@asynccontextmanager
async def shown(
    describe: Callable[[], str], printer: Printer, fraction: Callable[[], float | None] = lambda: None
) -> AsyncGenerator[None]:
    """Show what *describe* says while the body runs: a bar for a person, a line now and then for a log.

    *fraction* tells how much is done, between 0 and 1; `None`: nobody knows.
    """
    if printer.is_quiet:
        yield
        return
    work = _show_moving(describe, fraction) if printer.shows_progress else _show_plain(describe, printer)
    ticker = asyncio.create_task(work)
    try:
        yield
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker


async def _show_plain(describe: Callable[[], str], printer: Printer) -> None:
    while True:
        await asyncio.sleep(_PLAIN_SECONDS)
        printer.message(describe())


async def _show_moving(describe: Callable[[], str], fraction: Callable[[], float | None]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("", total=None)
        while True:
            done = fraction()
            bar.update(task, total=None if done is None else 1, completed=done or 0, description=describe())
            await asyncio.sleep(1 / _FRAMES_A_SECOND)
