"""``icehouse push``: send store paths and all that they reach to caches."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.completion import complete_caches
from icehouse.cli.durations import parse_duration
from icehouse.cli.exits import EXIT_CODES_HELP, exit_code_of
from icehouse.cli.printer import Printer, bytes_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.cli.sizes import parse_size
from icehouse.errors import IcehouseError, InvalidFormat, Unavailable

if TYPE_CHECKING:
    from icehouse.cli.push_report import Outcome
    from icehouse.client.local_store import LocalStore
    from icehouse.client.logins import CacheAddress
    from icehouse.client.push import Pushed
    from icehouse.client.push_plan import PushPlan, PushSettings
    from icehouse.client.server import Server
    from icehouse.nix.store_paths import StorePath

app = typer.Typer(add_completion=False, rich_markup_mode=None)

MAX_STDIN_BYTES: Final = 64 * 1024 * 1024
BEST_EFFORT_SECONDS: Final = 600
"""How long a push may take that must not hold anything up, unless the user says how long."""

MIN_RATE: Final = 16 * 1024
"""A chunk of 1 MiB then takes a minute. Servers, and what stands before them, wait for minutes only."""

_WAIT_SECONDS: Final = 120
_GRACE_SECONDS: Final = 5
_SUMMARY_VARIABLE: Final = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What to push and where to."""

    caches: tuple[str, ...]
    paths: tuple[str, ...] = ()
    """As they were typed. None: they are read from standard input."""
    store: str | None = None
    with_build_closure: bool = False
    exclude: tuple[str, ...] = ()
    exclude_larger_than: int | None = None
    """Bytes of a NAR."""
    jobs: int | None = None
    bytes_per_second: int | None = None
    memory_bytes: int | None = None
    is_verifying: bool = False
    is_dry_run: bool = False
    is_waiting: bool = False
    is_best_effort: bool = False
    timeout_seconds: int | None = None


@app.command(epilog=EXIT_CODES_HELP)
def push(  # noqa: PLR0913  each is an option of the command
    cache: CacheArgument,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Store paths, or symlinks to them such as ./result. Read from standard input, if none is given.",
        ),
    ] = None,
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CACHE", help="Push to this cache as well. Can be repeated.", autocompletion=complete_caches
        ),
    ] = None,
    build_closure: Annotated[
        bool,
        typer.Option("--build-closure", help="Push also all that was needed to build the paths, as far as it is here."),
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out paths whose name matches, such as '*-source'. Can be repeated."),
    ] = None,
    exclude_larger_than: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Leave out paths whose NAR is larger, such as 1GiB.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be pushed, and how much of it is new. Send nothing.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, max=256, help="Threads. One a core by default.")
    ] = None,
    limit_rate: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Send no more than this a second, such as 10MiB.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Take about so much memory, 128MiB at least.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Then wait until a Nix that knows nothing yet could pull all of it.")
    ] = False,
    best_effort: Annotated[
        bool,
        typer.Option(
            "--best-effort",
            help="Leave with 0 whatever happens, and say what was not pushed. Takes 10m at most, or --timeout.",
        ),
    ] = False,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up after this time, such as 90s or 10m.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="The store they are in, as for nix --store; a folder, or local?root=….")
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

    A derivation, PATH.drv, is pushed itself, with the derivations and sources that it needs; 'PATH.drv^*' are its
    outputs, 'PATH.drv^out,dev' some of them.

    With --json: cache, paths (of the closure), paths_present, paths_upstream, paths_excluded, paths_pushed, nar_bytes
    (of the paths to push), new_bytes (of chunks that the server lacked, uncompressed), sent_bytes, stored_bytes,
    excluded, dependents, not_pushed, error, seconds; an array of these with --to.
    """
    if not paths and sys.stdin.isatty():
        raise typer.BadParameter("name the paths to push, or send their names to standard input")
    from icehouse.client.push_memory import MIN_MEMORY_BYTES

    options = PushOptions(
        caches=(cache, *(to or ())),
        paths=tuple(paths or ()),
        store=store,
        with_build_closure=build_closure,
        exclude=tuple(exclude or ()),
        exclude_larger_than=_parse("--exclude-larger-than", exclude_larger_than, parse_size),
        jobs=jobs,
        bytes_per_second=_parse("--limit-rate", limit_rate, parse_size, at_least=MIN_RATE),
        memory_bytes=_parse("--max-memory", max_memory, parse_size, at_least=MIN_MEMORY_BYTES),
        is_verifying=verify,
        is_dry_run=dry_run,
        is_waiting=wait,
        is_best_effort=best_effort,
        timeout_seconds=_parse("--timeout", timeout, parse_duration) or (BEST_EFFORT_SECONDS if best_effort else None),
    )
    with _bounded(options):
        carry_out(run, options, Printer(is_json=json, is_quiet=quiet))


def _parse(option: str, text: str | None, parse: Callable[[str], int], *, at_least: int = 0) -> int | None:
    if text is None:
        return None
    try:
        value = parse(text)
    except InvalidFormat as error:
        raise typer.BadParameter(f"{option}: {error}") from error
    if value < at_least:
        raise typer.BadParameter(f"{option} {text}: expected {bytes_text(at_least)} at least")
    return value


@contextmanager
def _bounded(options: PushOptions) -> Generator[None]:
    """End the process a little after its time, if it does not end itself: a disk that hangs holds threads for ever."""
    if options.timeout_seconds is None:
        yield
        return

    def give_up() -> None:
        sys.stderr.write("icehouse: the time is over, and something that reads the store does not end: leaving\n")
        sys.stderr.flush()
        os._exit(0 if options.is_best_effort else exit_code_of(Unavailable("")))

    timer = threading.Timer(options.timeout_seconds + _GRACE_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


async def run(options: PushOptions, services: Services, printer: Printer) -> None:
    """Push, show how it goes, and print what was done."""
    from icehouse.cli.push_report import Outcome, error_text, markdown_text, not_pushed_text

    work = _Work(options, services, printer)
    outcomes: list[Outcome] = []
    for cache in dict.fromkeys(options.caches):
        outcome = Outcome(cache)
        outcomes.append(outcome)
        started = time.monotonic()
        try:
            await work.push_to(outcome)
        except IcehouseError as error:
            outcome.error = error
        except Exception as error:
            if not options.is_best_effort:
                raise
            outcome.error = error
        outcome.seconds = time.monotonic() - started
    summary_file = services.environment.get(_SUMMARY_VARIABLE)
    if summary_file and not options.is_dry_run and any(outcome.counts.paths or outcome.error for outcome in outcomes):
        _append(summary_file, markdown_text(outcomes), printer)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(failed) < len(outcomes) or options.is_best_effort:
        _print(outcomes, printer)
    for outcome in failed:
        if outcome.error is not None and (options.is_best_effort or outcome is not failed[-1]):
            printer.warning(error_text(outcome.error))
        if options.is_best_effort or outcome.missing:
            printer.warning(not_pushed_text(outcome))
    if failed and failed[-1].error is not None and not options.is_best_effort:
        raise failed[-1].error


def _print(outcomes: "list[Outcome]", printer: Printer) -> None:
    from icehouse.cli.push_report import outcome_data, summary_text

    is_one = len(outcomes) == 1
    texts: list[str] = []
    for outcome in outcomes:
        text = summary_text(outcome) if outcome.counts.paths else "No path was given: nothing to push."
        if outcome.error is None:
            texts.append(text if is_one else f"{outcome.cache}: {text}")
    data = [outcome_data(outcome) for outcome in outcomes]
    printer.result("\n".join(texts), data[0] if is_one else data)


def _append(file: str, text: str, printer: Printer) -> None:
    try:
        with open(file, "a", encoding="utf-8") as summary:  # noqa: PTH123  a few lines at the very end
            summary.write(text)
    except OSError as exc:
        printer.message(f"The summary of the job cannot be written to {file}: {exc.strerror}")


class _Found:
    """The paths to push. Nix is asked at once what they reach, while the rest of the program is still being loaded."""

    def __init__(self, store: "LocalStore", paths: "list[StorePath]") -> None:
        self.store = store
        self.paths = paths
        self.closure = asyncio.get_running_loop().run_in_executor(None, store.read_closure, paths)
        # Whoever waits for it hears of an error; if nobody comes to that, something else failed before.
        self.closure.add_done_callback(lambda done: done.cancelled() or done.exception())


@dataclass(slots=True)
class _Work:
    """What pushes to several caches share: the paths, and the time that there is."""

    options: PushOptions
    services: Services
    printer: Printer
    deadline: float | None = field(init=False)
    found: "_Found | None" = None

    def __post_init__(self) -> None:
        seconds = self.options.timeout_seconds
        self.deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def push_to(self, outcome: "Outcome") -> None:
        """Push to one cache.

        Raises:
            Unavailable: the time is over.
            IcehouseError: as `icehouse.client.push.push`.
        """
        from icehouse.cli.durations import duration_text

        try:
            async with asyncio.timeout_at(self.deadline):
                await self._push_to(outcome)
        except TimeoutError:
            seconds = self.options.timeout_seconds or 0
            raise Unavailable(f"the push was given up after {duration_text(seconds)}, as --timeout says") from None

    async def _push_to(self, outcome: "Outcome") -> None:
        address = self.services.find_cache(outcome.cache)
        found = await self._find_paths()
        if not found.paths:
            return
        async with self.services.server(address.login, bytes_per_second=self.options.bytes_per_second) as server:
            if self.options.is_dry_run:
                await self._plan(server, address, found, outcome)
            else:
                await self._send(server, address, found, outcome)

    async def _find_paths(self) -> "_Found":
        """The paths that the user names, and all that they reach: once, whatever number of caches they go to."""
        from icehouse.client.local_store import LocalStore
        from icehouse.client.named_paths import find_named_paths

        if self.found is None:
            store = LocalStore.locate(self.options.store, self.services.environment)
            texts = self.options.paths or tuple(_read_paths(self.services))
            paths = await asyncio.to_thread(
                find_named_paths, store, texts, with_build_closure=self.options.with_build_closure
            )
            self.found = _Found(store, paths)
        return self.found

    @property
    def _settings(self) -> "PushSettings":
        from icehouse.client.push_plan import PushSettings
        from icehouse.rules.push_selection import Exclusion

        options = self.options
        exclusion = Exclusion(options.exclude, options.exclude_larger_than)
        return PushSettings(options.jobs, options.is_verifying, exclusion, options.memory_bytes)

    async def _plan(self, server: "Server", address: "CacheAddress", found: "_Found", outcome: "Outcome") -> None:
        from icehouse.cli.push_progress import shown
        from icehouse.client.dry_run import measure_new_chunks
        from icehouse.client.push_plan import plan_push

        async with shown(outcome.counts, self.printer):
            settings, counts = self._settings, outcome.counts
            plan = await plan_push(
                server, address.name, found.store, found.paths, settings=settings, counts=counts, closure=found.closure
            )
            await measure_new_chunks(server, found.store, plan, threads=settings.threads, counts=counts)
        outcome.planned = plan.publish
        self._tell_left_out(outcome, plan)

    async def _send(self, server: "Server", address: "CacheAddress", found: "_Found", outcome: "Outcome") -> None:
        from icehouse.cli.push_progress import shown
        from icehouse.client.narinfo_cache import find_narinfo_caches, forget_misses
        from icehouse.client.push import push as push_paths
        from icehouse.client.visibility import wait_until_visible

        async with shown(outcome.counts, self.printer):
            settings, counts = self._settings, outcome.counts
            pushed = await push_paths(
                server, address.name, found.store, found.paths, settings=settings, counts=counts, closure=found.closure
            )
        self._tell_left_out(outcome, pushed)
        # This user's Nix would not ask again for an hour for what it looked for before it was pushed.
        view = pushed.view
        key_names = [key.partition(":")[0] for key in view.public_keys]
        forget_misses(find_narinfo_caches(self.services.environment), view.url, pushed.hash_parts, key_names)
        if self.options.is_waiting:
            # A private cache is asked where the token belongs: nobody else is told it, whatever the server says.
            url = view.url if view.is_public else f"{server.url}/{view.name}"
            token = None if view.is_public else await server.get_token()
            seconds = _WAIT_SECONDS if self.deadline is None else self.deadline - asyncio.get_running_loop().time()
            await wait_until_visible(url, view, found.store.store_dir, pushed.paths, token=token, seconds=seconds)

    def _tell_left_out(self, outcome: "Outcome", plan: "PushPlan | Pushed") -> None:
        from icehouse.cli.push_report import left_out_text

        outcome.excluded, outcome.dependents = plan.excluded, plan.dependents
        text = left_out_text(outcome)
        if text is not None:
            self.printer.message(text)


def _read_paths(services: Services) -> list[str]:
    text = services.stdin.read(MAX_STDIN_BYTES + 1)
    if len(text) > MAX_STDIN_BYTES:
        raise InvalidFormat(f"standard input has more than {MAX_STDIN_BYTES} characters: expected one path a line")
    return text.split()
