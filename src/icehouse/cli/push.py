"""``icehouse push``: send store paths and all that they reach to a cache."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.cache import CacheArgument
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, bytes_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import InvalidFormat

if TYPE_CHECKING:
    from icehouse.client.push import Pushed
    from icehouse.client.push_counts import PushCounts

app = typer.Typer(add_completion=False, rich_markup_mode=None)

MAX_STDIN_BYTES: Final = 64 * 1024 * 1024
_FRAMES_A_SECOND: Final = 8
_PLAIN_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What to push and where to."""

    cache: str
    paths: tuple[str, ...] = ()
    """As they were typed. None: they are read from standard input."""
    store: str | None = None
    jobs: int | None = None
    is_verifying: bool = False


@app.command(epilog=EXIT_CODES_HELP)
def push(
    cache: CacheArgument,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Store paths, or symlinks to them such as ./result. Read from standard input, if none is given.",
        ),
    ] = None,
    *,
    store: Annotated[
        str | None, typer.Option(help="The store they are in, as for nix --store; a folder, or local?root=….")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, max=256, help="Threads. One a core by default.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Have the server prove the paths that it has already, and mend them.")
    ] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Push store paths, and all that they refer to, to a cache.

    Only what the cache lacks is sent. A push that was interrupted goes on where it stopped when it is run again.
    Paths that an upstream of the cache has signed are not sent.

    With --json: paths (of the closure), paths_present, paths_upstream, paths_pushed, nar_bytes (of the paths to
    push), new_bytes (of chunks that the server lacked, uncompressed), sent_bytes, stored_bytes, seconds.
    """
    if not paths and sys.stdin.isatty():
        raise typer.BadParameter("name the paths to push, or send their names to standard input")
    options = PushOptions(cache, tuple(paths or ()), store, jobs, verify)
    carry_out(run, options, Printer(is_json=json, is_quiet=quiet))


async def run(options: PushOptions, services: Services, printer: Printer) -> None:
    """Push, show how it goes, and print what was done."""
    from icehouse.client.local_store import LocalStore
    from icehouse.client.push import push as push_paths
    from icehouse.client.push_counts import PushCounts

    started = time.monotonic()
    address = services.find_cache(options.cache)
    local_store = LocalStore.locate(options.store, services.environment)
    texts = options.paths or _read_paths(services)
    paths = list(dict.fromkeys(local_store.find(text) for text in texts))
    counts = PushCounts()
    if paths:
        async with services.server(address.login) as server, _progress(counts, printer):
            pushed = await push_paths(
                server,
                address.name,
                local_store,
                paths,
                jobs=options.jobs,
                is_verifying=options.is_verifying,
                counts=counts,
            )
        _heal(pushed, services)
    seconds = time.monotonic() - started
    summary = {name: value for name, value in asdict(counts).items() if name not in {"paths_to_push", "read_bytes"}}
    printer.result(_summary(counts, seconds), {**summary, "seconds": round(seconds, 3)})


def _heal(pushed: "Pushed", services: Services) -> None:
    """Let this user's Nix ask the cache again for what it looked for before it was pushed: it would not for an hour."""
    from icehouse.client.narinfo_cache import find_narinfo_caches, forget_misses

    key_names = [key.partition(":")[0] for key in pushed.view.public_keys]
    forget_misses(find_narinfo_caches(services.environment), pushed.view.url, pushed.hash_parts, key_names)


def _read_paths(services: Services) -> list[str]:
    text = services.stdin.read(MAX_STDIN_BYTES + 1)
    if len(text) > MAX_STDIN_BYTES:
        raise InvalidFormat(f"standard input has more than {MAX_STDIN_BYTES} characters: expected one path a line")
    return text.split()


def _summary(counts: "PushCounts", seconds: float) -> str:
    if not counts.paths:
        return "No path was given: nothing to push."
    others: list[str] = []
    if counts.paths_present:
        others.append(f"{counts.paths_present} were there already")
    if counts.paths_upstream:
        others.append(f"{counts.paths_upstream} are upstream")
    beside = f" ({', '.join(others)})" if others else ""
    pushed = f"Pushed {counts.paths_pushed} of {counts.paths} paths{beside}"
    if not counts.paths_pushed:
        return f"{pushed} in {seconds:.1f} s."
    return (
        f"{pushed}: {bytes_text(counts.nar_bytes)} of NARs, {bytes_text(counts.new_bytes)} new, "
        f"{bytes_text(counts.sent_bytes)} sent, in {seconds:.1f} s."
    )


@asynccontextmanager
async def _progress(counts: "PushCounts", printer: Printer) -> AsyncGenerator[None]:
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
