"""``icehouse daemon``: push what the post-build hook tells of, and remember what could not be pushed yet."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.cli.watch import NICENESS, JobsOption, heal, parse_seconds, stopping

if TYPE_CHECKING:
    from icehouse.client.daemon import Connect
    from icehouse.client.daemon_messages import CacheStatus, DaemonAnswer
    from icehouse.client.daemon_places import DaemonPlaces
    from icehouse.client.server import Server

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Push in the background what is built."
)

FolderOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where it keeps its queue. $ICEHOUSE_DAEMON_DIR, or ~/.local/state/icehouse."),
]
StoreOption = Annotated[
    str | None, typer.Option(help="The store the paths are in, as for nix --store; a folder, or local?root=….")
]


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """What a daemon does, or is asked."""

    folder: Path | None
    caches: tuple[str, ...] = ()
    store: str | None = None
    jobs: int | None = None
    spool: Path | None = None
    timeout_seconds: int | None = None
    paths: tuple[str, ...] = ()


@app.command(epilog=EXIT_CODES_HELP)
def run(
    caches: Annotated[
        list[str], typer.Argument(metavar="CACHE", help="Names of caches on the logged-in server, or their whole URLs.")
    ],
    *,
    folder: FolderOption = None,
    spool: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the hook tells of builds. The user's, and /var/spool/icehouse."),
    ] = None,
    store: StoreOption = None,
    jobs: JobsOption = None,
    timeout: Annotated[str, typer.Option(help="Give up pushing this long after SIGTERM; the rest is kept.")] = "30s",
    quiet: QuietFlag = False,
) -> None:
    """Push what the hook and `icehouse daemon push` tell of, until SIGTERM, Ctrl-C or `icehouse daemon stop`.

    What it was told of is kept on disk until it is pushed, and survives a kill and a reboot. While a server is away,
    it is tried again after waits that grow to a minute. Tells systemd that it is ready, stops, and lives.
    """
    options = DaemonOptions(folder, tuple(dict.fromkeys(caches)), store, jobs, spool, parse_seconds(timeout))
    carry_out(run_daemon, options, Printer(is_quiet=quiet))


@app.command(epilog=EXIT_CODES_HELP)
def push(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Store paths, or symlinks to them.")],
    *,
    cache: Annotated[str | None, typer.Option(help="Only to this one of the daemon's caches.")] = None,
    folder: FolderOption = None,
    store: StoreOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Have the daemon push store paths, and all that they refer to. Returns once it will not forget them.

    With --json: as for `icehouse daemon status`.
    """
    options = DaemonOptions(folder, () if cache is None else (cache,), store, paths=tuple(paths))
    carry_out(run_push, options, Printer(is_json=json, is_quiet=quiet))


@app.command(epilog=EXIT_CODES_HELP)
def status(*, folder: FolderOption = None, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Tell what waits, what was pushed, and what is the matter.

    With --json: store_dir, spools, trouble, is_stopping, and caches, each with cache, waiting, pushed, refused, gone,
    trouble, refusals.
    """
    carry_out(run_status, DaemonOptions(folder), Printer(is_json=json, is_quiet=quiet))


@app.command(epilog=EXIT_CODES_HELP)
def stop(
    *,
    folder: FolderOption = None,
    timeout: Annotated[str | None, typer.Option(help="Give up pushing after this time; the rest is kept.")] = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Have the daemon push what it can, and end. What could not be pushed is kept, and told.

    With --json: as for `icehouse daemon status`.
    """
    options = DaemonOptions(folder, timeout_seconds=None if timeout is None else parse_seconds(timeout))
    carry_out(run_stop, options, Printer(is_json=json, is_quiet=quiet))


async def run_daemon(options: DaemonOptions, services: Services, printer: Printer) -> None:
    """Be the daemon."""
    from icehouse.client.daemon import Daemon, locked
    from icehouse.client.local_store import LocalStore
    from icehouse.client.push_plan import PushSettings
    from icehouse.client.service_manager import ServiceManager
    from icehouse.client.spool import make_spool

    places = _places(options, services)
    store = LocalStore.locate(options.store, services.environment)
    caches = {_name_in_queue(text, services): _connect(text, services) for text in options.caches}
    os.nice(NICENESS)
    with locked(places):
        if options.spool is None:
            make_spool(places.spool, daemon_user=os.geteuid(), daemon_group=os.getegid())
        daemon = Daemon(
            places,
            store,
            caches,
            settings=PushSettings(options.jobs),
            spools=places.spools(options.spool),
            pushed=lambda pushed: heal(pushed, services),
        )
        manager = ServiceManager(services.environment)
        stopped = asyncio.Event()
        async with stopping(stopped), manager.watched():
            waiting = asyncio.create_task(_stop_when(stopped, daemon.stop))

            def ready() -> None:
                manager.ready()
                printer.message(f"Pushing to {' and '.join(caches)}; listening at {places.socket}.")

            await daemon.run(timeout_seconds=options.timeout_seconds or 0, ready=ready, stopping=manager.stopping)
            waiting.cancel()
        _tell(daemon.answer(), printer)
        daemon.close()


async def _stop_when(stopped: asyncio.Event, stop: Any) -> None:  # noqa: ANN401  a callable with a default argument
    await stopped.wait()
    stop()


async def run_push(options: DaemonOptions, services: Services, printer: Printer) -> None:
    """Tell the daemon of paths."""
    from icehouse.client.daemon_messages import DaemonRequest, ask_daemon
    from icehouse.client.local_store import LocalStore

    store = LocalStore.locate(options.store, services.environment)
    paths = list(dict.fromkeys(store.find(text) for text in options.paths))
    cache = _name_in_queue(options.caches[0], services) if options.caches else None
    request = DaemonRequest(verb="push", paths=[path.base_name for path in paths], cache=cache)
    answer = await ask_daemon(_places(options, services).socket, request)
    count = "1 path" if len(paths) == 1 else f"{len(paths)} paths"
    printer.result(f"The daemon pushes {count}.", answer)


async def run_status(options: DaemonOptions, services: Services, printer: Printer) -> None:
    """Ask the daemon how it stands."""
    from icehouse.client.daemon_messages import DaemonRequest, ask_daemon

    answer = await ask_daemon(_places(options, services).socket, DaemonRequest(verb="status"))
    printer.result("\n".join(_lines(answer)), answer)


async def run_stop(options: DaemonOptions, services: Services, printer: Printer) -> None:
    """Have the daemon end."""
    from icehouse.client.daemon_messages import DaemonRequest, ask_daemon

    request = DaemonRequest(verb="stop", timeout_seconds=options.timeout_seconds)
    answer = await ask_daemon(_places(options, services).socket, request)
    printer.result("\n".join(_lines(answer)), answer)


def _places(options: DaemonOptions, services: Services) -> "DaemonPlaces":
    from icehouse.client.daemon_places import DaemonPlaces

    return DaemonPlaces.locate(options.folder, services.environment)


def _name_in_queue(text: str, services: Services) -> str:
    """The cache's whole URL: it means the same whoever logs in where."""
    address = services.find_cache(text)
    return f"{address.login.url}/{address.name}"


def _connect(text: str, services: Services) -> "Connect":
    @asynccontextmanager
    async def connect() -> "AsyncGenerator[tuple[Server, str]]":
        address = services.find_cache(text)
        async with services.server(address.login) as server:
            yield server, address.name

    return connect


def _tell(answer: "DaemonAnswer", printer: Printer) -> None:
    for line in _lines(answer):
        printer.message(line)


def _lines(answer: "DaemonAnswer") -> list[str]:
    lines: list[str] = []
    for status in answer.caches:
        lines.append(f"{status.cache}: {_counts(status)}")
        if status.trouble is not None:
            lines.append(f"  {' '.join(status.trouble.split())}")
        lines += [f"  refused: {' '.join(reason.split())}" for reason in status.refusals]
    if answer.trouble is not None:
        lines.append(f"The hook's files are not taken: {' '.join(answer.trouble.split())}")
    if not answer.spools:
        lines.append("No hook tells of builds: see `icehouse hook install`.")
    return lines


def _counts(status: "CacheStatus") -> str:
    counts = f"{status.waiting} waiting, {status.pushed} pushed"
    if status.refused:
        counts += f", {status.refused} refused"
    return f"{counts}, {status.gone} deleted before" if status.gone else counts
