"""``icehouse watch-exec`` and ``icehouse watch-store``: push what is built, while it is built."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.durations import parse_duration
from icehouse.cli.printer import Printer
from icehouse.cli.push import CacheArgument
from icehouse.cli.services import QuietFlag, Services, carry_out
from icehouse.errors import IcehouseError, InvalidFormat

if TYPE_CHECKING:
    from icehouse.client.push import Pushed
    from icehouse.client.server import Server
    from icehouse.client.store_push import PushReport, StorePush

NICENESS: Final = 10
"""A tenth of what others get where all processors are busy; at 19 a push hardly moves there."""
_NAMED_PATHS: Final = 5

StoreOption = Annotated[
    str | None, typer.Option(help="The store to watch, as for nix --store; a folder, or local?root=….")
]
JobsOption = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, max=256, help="Threads of a push. One a core by default.")
]


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What to watch and where to push to."""

    cache: str
    store: str | None
    jobs: int | None
    timeout_seconds: int
    """How long to go on once there is nothing more to watch."""
    command: tuple[str, ...] = ()
    fails_on_push_error: bool = False


def watch_exec(
    cache: CacheArgument,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="What to run, after two dashes.")],
    *,
    store: StoreOption = None,
    jobs: JobsOption = None,
    timeout: Annotated[str, typer.Option(help="Give up pushing this long after the command has ended.")] = "10m",
    fail_on_push_error: Annotated[
        bool, typer.Option("--fail-on-push-error", help="Exit with 1 if the command succeeded and a push did not.")
    ] = False,
    quiet: QuietFlag = False,
) -> None:
    """Run a command, and push what it builds while it builds.

    The command has standard input, output and error to itself, gets the signals that are sent here, and its exit code
    is this one's, whether or not anything could be pushed; 127 and 126 say that it could not be started. What could not
    be pushed is told at the end. Outputs of builds are pushed, with all that they refer to, whoever has them built in
    the store meanwhile; derivations and sources are not.

    For example: icehouse watch-exec mycache -- nix-build -A hello
    """
    options = WatchOptions(cache, store, jobs, parse_seconds(timeout), tuple(command), fail_on_push_error)
    carry_out(run_exec, options, Printer(is_quiet=quiet))


def watch_store(
    cache: CacheArgument,
    *,
    store: StoreOption = None,
    jobs: JobsOption = None,
    timeout: Annotated[str, typer.Option(help="Give up pushing this long after SIGTERM.")] = "30s",
    quiet: QuietFlag = False,
) -> None:
    """Push what is built in a store, until SIGTERM or Ctrl-C.

    What was in the store before is not pushed, nor what was built while this did not run: `icehouse daemon` remembers.
    Tells systemd that it is ready, stops, and lives, for Type=notify and WatchdogSec=.
    """
    carry_out(run_store, WatchOptions(cache, store, jobs, parse_seconds(timeout)), Printer(is_quiet=quiet))


def parse_seconds(text: str) -> int:
    """Seconds, from an option's value."""
    try:
        return parse_duration(text)
    except InvalidFormat as error:
        raise typer.BadParameter(str(error)) from error


async def run_exec(options: WatchOptions, services: Services, printer: Printer) -> None:
    """Run the command, push, report.

    Raises:
        typer.Exit: always, with the command's exit code.
    """
    from icehouse.client.passing_command import PassingCommand, exit_code_for

    # Made before the command starts, so that nothing is missed; whatever fails here is no reason not to run it.
    store_push: StorePush | None = None
    failure: IcehouseError | None = None
    try:
        services.find_cache(options.cache)
        store_push = _make_store_push(options, services)
    except IcehouseError as error:
        failure = error
        printer.message(f"icehouse: nothing will be pushed: {error}")
    try:
        command = PassingCommand(options.command, services.environment)
    except OSError as error:
        printer.err.write(f"icehouse: {options.command[0]} cannot be started: {error.strerror}\n")
        raise typer.Exit(exit_code_for(error)) from error
    niceness = os.nice(0)
    os.nice(NICENESS)  # of this thread, and of all that it starts
    ended = asyncio.Event()
    pushing = asyncio.create_task(_push_until(ended, store_push, options))
    code = await command.wait(pushing.cancel)
    _hurry(niceness)
    ended.set()
    await asyncio.wait([pushing])
    if not pushing.cancelled():
        failure = pushing.result() or failure
    is_whole = failure is None
    if store_push is not None:
        is_whole = _tell(store_push.report(), failure, options, printer) and is_whole
        store_push.close()
    raise typer.Exit(code or int(options.fails_on_push_error and not is_whole))


def _hurry(niceness: int) -> None:
    """Be as quick as others, now that the command needs nothing any more. Only root may, or whom RLIMIT_NICE lets."""
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), niceness)


async def _push_until(
    ended: asyncio.Event, store_push: "StorePush | None", options: WatchOptions
) -> IcehouseError | None:
    if store_push is None:
        return None
    try:
        await store_push.run(ended, options.timeout_seconds)
    except IcehouseError as error:
        return error
    return None


async def run_store(options: WatchOptions, services: Services, printer: Printer) -> None:
    """Push until a signal comes, then the rest.

    Raises:
        typer.Exit: something was not pushed.
    """
    from icehouse.client.service_manager import ServiceManager

    services.find_cache(options.cache)
    os.nice(NICENESS)
    store_push = _make_store_push(options, services)
    manager = ServiceManager(services.environment)
    stopped = asyncio.Event()
    async with stopping(stopped), manager.watched():
        manager.ready()
        printer.message(f"Pushing to {options.cache} what is built.")
        pushing = asyncio.create_task(store_push.run(stopped, options.timeout_seconds))
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait([pushing, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        manager.stopping()
        await pushing
    is_whole = _tell(store_push.report(), None, options, printer)
    store_push.close()
    if not is_whole:
        raise typer.Exit(1)


@asynccontextmanager
async def stopping(stopped: asyncio.Event) -> AsyncGenerator[None]:
    """Have SIGTERM and Ctrl-C set *stopped* while the body runs."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _make_store_push(options: WatchOptions, services: Services) -> "StorePush":
    from icehouse.client.local_store import LocalStore
    from icehouse.client.push_plan import PushSettings
    from icehouse.client.store_push import StorePush

    store = LocalStore.locate(options.store, services.environment)

    @asynccontextmanager
    async def connect() -> "AsyncGenerator[tuple[Server, str]]":
        address = services.find_cache(options.cache)
        async with services.server(address.login) as server:
            yield server, address.name

    return StorePush(store, connect, settings=PushSettings(options.jobs), pushed=lambda pushed: heal(pushed, services))


def heal(pushed: "Pushed", services: Services) -> None:
    """Let this user's Nix ask the cache again for what it looked for before it was built."""
    from icehouse.client.narinfo_cache import find_narinfo_caches, forget_misses

    key_names = [key.partition(":")[0] for key in pushed.view.public_keys]
    forget_misses(find_narinfo_caches(services.environment), pushed.view.url, pushed.hash_parts, key_names)


def _tell(report: "PushReport", failure: IcehouseError | None, options: WatchOptions, printer: Printer) -> bool:
    """Say what became of all; whether all that was built is in the cache."""
    totals = report.totals
    printer.message(f"icehouse: {_paths(totals.done)} pushed to {options.cache}")
    if totals.gone:
        printer.message(f"icehouse: {_paths(totals.gone)} no longer in the store when it was to be pushed")
    for refusal in report.refusals[:_NAMED_PATHS]:
        printer.err.write(f"icehouse: not pushed to {options.cache}: {refusal.reason}\n")
    trouble = failure or report.trouble
    if report.waiting:
        named = [path.base_name for path in report.waiting[:_NAMED_PATHS]]
        more = f" and {totals.waiting - len(named)} more" if totals.waiting > len(named) else ""
        why = "time was up, see --timeout" if trouble is None else " ".join(str(trouble).split())
        printer.err.write(f"icehouse: not pushed to {options.cache}: {', '.join(named)}{more}: {why}\n")
    elif trouble is not None:
        printer.err.write(f"icehouse: what was built may not be in {options.cache}: {trouble}\n")
    return not (report.waiting or report.refusals or trouble)


def _paths(count: int) -> str:
    return "1 path" if count == 1 else f"{count} paths"
