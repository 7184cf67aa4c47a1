"""``icehouse key``: the signing keys of a cache, and their rotation."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.cache import CacheArgument
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, time_text
from icehouse.cli.progress import shown
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import NotFound

if TYPE_CHECKING:
    from icehouse.client.server import Server

app = typer.Typer(
    help="List, add, activate and retire the signing keys of a cache.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's name, which stands before its colon.")]


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """A cache, and perhaps one of its keys."""

    cache: str
    key: str = ""
    from_file: Path | None = None


@app.command("list", epilog=EXIT_CODES_HELP)
def list_(cache: CacheArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """List the keys of a cache, with their states."""
    carry_out(run_list, KeyOptions(cache), Printer(is_json=json, is_quiet=quiet))


async def run_list(options: KeyOptions, services: Services, printer: Printer) -> None:
    """List keys."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        keys = await server.list_keys(address.name)
    rows = [(key.state, time_text(key.created_at), key.public_key) for key in keys]
    printer.table(("STATE", "ADDED", "PUBLIC KEY"), rows, keys)


@app.command(epilog=EXIT_CODES_HELP)
def add(
    cache: CacheArgument,
    *,
    from_file: Annotated[
        Path | None,
        typer.Option(help="Import the key in this file, as `nix key generate-secret` and Cachix write it."),
    ] = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Add a key to a cache, a new one or an existing one. It is staged: it does not sign until it is activated.

    Tell your users its public half meanwhile: `icehouse cache show` and `icehouse use` have it.
    """
    carry_out(run_add, KeyOptions(cache, from_file=from_file), Printer(is_json=json, is_quiet=quiet))


async def run_add(options: KeyOptions, services: Services, printer: Printer) -> None:
    """Add a key, and print its public half."""
    from icehouse.api.keys import KeyAdd

    secret: str | None = None
    if options.from_file is not None:
        try:
            secret = options.from_file.read_text(encoding="ascii", errors="replace")
        except OSError as exc:
            raise NotFound(f"{options.from_file}: {exc.strerror}") from exc
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        key = await server.add_key(address.name, KeyAdd(secret_key=secret))
    printer.result(key.public_key, key)


@app.command(epilog=EXIT_CODES_HELP)
def activate(cache: CacheArgument, key: KeyArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Let a key sign, beside those that do, and sign with it what was published before.

    What is interrupted there goes on with `icehouse key resign`.
    """
    carry_out(run_activate, KeyOptions(cache, key), Printer(is_json=json, is_quiet=quiet))


async def run_activate(options: KeyOptions, services: Services, printer: Printer) -> None:
    """Activate a key, and sign again."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        key = await server.activate_key(address.name, options.key)
        signed = await _resign(server, address.name, printer)
    printer.result(f"{key.name} signs now; {signed} paths from before were signed with it.", key)


@app.command(epilog=EXIT_CODES_HELP)
def resign(cache: CacheArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Give all paths of a cache the signatures of its active keys that they lack. It can be stopped at any time."""
    carry_out(run_resign, KeyOptions(cache), Printer(is_json=json, is_quiet=quiet))


async def run_resign(options: KeyOptions, services: Services, printer: Printer) -> None:
    """Sign again."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        signed = await _resign(server, address.name, printer)
    printer.result(f"{signed} paths were signed.", {"signed": signed})


@app.command(epilog=EXIT_CODES_HELP)
def retire(cache: CacheArgument, key: KeyArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Let a key sign no more, and publish it no longer. Its signatures stay; another key must sign."""
    carry_out(run_retire, KeyOptions(cache, key), Printer(is_json=json, is_quiet=quiet))


async def run_retire(options: KeyOptions, services: Services, printer: Printer) -> None:
    """Retire a key."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        key = await server.retire_key(address.name, options.key)
    printer.result(f"{key.name} is retired.", key)


async def _resign(server: "Server", cache: str, printer: Printer) -> int:
    signed, looked_at, left = 0, 0, 0
    after: int | None = 0
    async with shown(lambda: f"{looked_at} of {looked_at + left} paths looked at, {signed} signed", printer):
        while after is not None:
            answer = await server.resign(cache, after)
            after, left = answer.after, answer.left
            signed += answer.signed
            looked_at += answer.looked_at
    return signed
