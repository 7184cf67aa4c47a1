"""``icehouse key``: the signing keys of a cache, and their rotation."""

import secrets
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.cache import CacheArgument
from icehouse.cli.data_folder import FolderOption, clock, open_folder
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, time_text
from icehouse.cli.progress import shown
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import InvalidFormat, NotFound

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


@dataclass(frozen=True, slots=True)
class OutsideOptions:
    """A key that stays in a file, or behind a command, on the server's machine."""

    cache: str
    file: Path | None = None
    command: str | None = None
    public_key: str | None = None
    data_dir: Path | None = None


@app.command("list", epilog=EXIT_CODES_HELP)
def list_(cache: CacheArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """List the keys of a cache, with their states."""
    carry_out(run_list, KeyOptions(cache), Printer(is_json=json, is_quiet=quiet))


async def run_list(options: KeyOptions, services: Services, printer: Printer) -> None:
    """List keys."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        keys = await server.list_keys(address.name)
    rows = [(key.state, time_text(key.created_at), key.kept, key.public_key) for key in keys]
    printer.table(("STATE", "ADDED", "KEPT IN", "PUBLIC KEY"), rows, keys)


@app.command(epilog=EXIT_CODES_HELP)
def add(
    cache: CacheArgument,
    *,
    from_file: Annotated[
        Path | None,
        typer.Option(help="Import the key in this file, as `nix key generate-secret` and Cachix write it."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="On the server's machine: leave the key in this file, which the server reads to sign."),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(help="On the server's machine: have this command sign, for instance by asking a KMS."),
    ] = None,
    public_key: Annotated[
        str | None, typer.Option(metavar="NAME:BASE64", help="The public half of the key behind --command.")
    ] = None,
    data_dir: FolderOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Add a key to a cache, a new one or an existing one. It is staged: it does not sign until it is activated.

    Tell your users its public half meanwhile: `icehouse cache show` and `icehouse use` have it.
    """
    printer = Printer(is_json=json, is_quiet=quiet)
    if sum(each is not None for each in (from_file, file, command)) > 1:
        raise typer.BadParameter("give one of --from-file, --file and --command")
    if (command is None) != (public_key is None):
        raise typer.BadParameter("--command and --public-key go together")
    if file is None and command is None:
        if data_dir is not None:
            raise typer.BadParameter("--data-dir goes with --file or --command")
        carry_out(run_add, KeyOptions(cache, from_file=from_file), printer)
    else:
        carry_out(run_add_outside, OutsideOptions(cache, file, command, public_key, data_dir), printer)


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


async def run_add_outside(options: OutsideOptions, services: Services, printer: Printer) -> None:
    """Add a key that is kept outside of the database, if it signs."""
    from icehouse.nix.signing import PublicKey
    from icehouse.rules.key_places import KeyCommand, KeyFile
    from icehouse.services.keys import add_outside_key
    from icehouse.services.outside_keys import read_key_file
    from icehouse.services.signing import NONCE_BYTES, Sealer, try_place

    del services
    with open_folder(options.data_dir) as opened:
        if options.file is not None:
            place = KeyFile(str(options.file.absolute()))
            key = read_key_file(options.file).public_key
        else:
            place = KeyCommand(_find_command(options.command or ""))
            key = PublicKey.parse(options.public_key or "")
        await try_place(place, key)
        sealer = Sealer(opened.folder.secret.read_bytes())
        nonce = secrets.token_bytes(NONCE_BYTES)
        view = add_outside_key(opened.database, sealer, options.cache, place, key, nonce=nonce, now=clock())
    printer.result(view.public_key, view)


def _find_command(text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise InvalidFormat(f"--command {text!r}: {exc}") from exc
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise NotFound(f"--command {text!r}: there is no such program")
    return (str(Path(program).absolute()), *words[1:])


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
