"""``icehouse key``: the signing keys of a cache, and their rotation."""

import asyncio
import secrets
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.data_folder import FolderOption, clock, open_folder
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, time_text
from icehouse.cli.progress import shown
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import Conflict, InvalidFormat, NotFound

if TYPE_CHECKING:
    from icehouse.api.keys import SigningProgress

app = typer.Typer(
    help="List, add, activate and retire the signing keys of a cache.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_ASK_SECONDS: Final = 0.5

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
    """Let a key sign, beside those that do. The server signs what was published before in the background.

    How far that is, tells `icehouse key progress`.
    """
    carry_out(run_activate, KeyOptions(cache, key), Printer(is_json=json, is_quiet=quiet))


async def run_activate(options: KeyOptions, services: Services, printer: Printer) -> None:
    """Activate a key."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        key = await server.activate_key(address.name, options.key)
    printer.result(f"{key.name} signs now.", key)
    printer.message(f"The server signs what was published before too: icehouse key progress {options.cache}")


@dataclass(frozen=True, slots=True)
class RetireOptions:
    """A key that is to sign no more."""

    cache: str
    key: str
    is_stripped: bool = False


@app.command(epilog=EXIT_CODES_HELP)
def retire(
    cache: CacheArgument,
    key: KeyArgument,
    *,
    strip: Annotated[
        bool, typer.Option("--strip", help="Remove its signatures too, in the background; also of one that is retired.")
    ] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Let a key sign no more, and publish it no longer. Its signatures stay; another key must sign."""
    carry_out(run_retire, RetireOptions(cache, key, is_stripped=strip), Printer(is_json=json, is_quiet=quiet))


async def run_retire(options: RetireOptions, services: Services, printer: Printer) -> None:
    """Retire a key."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        key = await server.retire_key(address.name, options.key, strip=options.is_stripped)
    if options.is_stripped:
        printer.message(f"The server removes its signatures: icehouse key progress {options.cache}")
    printer.result(f"{key.name} is {key.state}.", key)


@dataclass(frozen=True, slots=True)
class ProgressOptions:
    """The signatures of a cache's paths."""

    cache: str
    is_patient: bool = False


@app.command(epilog=EXIT_CODES_HELP)
def progress(
    cache: CacheArgument,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Come back when it is done, or cannot go on.")] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Tell how far the server is in giving paths the signatures of the keys that sign, and removing others."""
    carry_out(run_progress, ProgressOptions(cache, is_patient=wait), Printer(is_json=json, is_quiet=quiet))


async def run_progress(options: ProgressOptions, services: Services, printer: Printer) -> None:
    """Tell of the progress; with `is_patient` until there is no more of it."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        told = await server.signing_progress(address.name)
        async with shown(lambda: _describe(told), printer):
            while options.is_patient and told.state == "running" and told.error is None:
                await asyncio.sleep(_ASK_SECONDS)
                told = await server.signing_progress(address.name)
    if options.is_patient and told.error is not None:
        raise Conflict(told.error)
    printer.result(_describe(told), told)


def _describe(told: "SigningProgress") -> str:
    match told.state:
        case "none":
            return "The keys of this cache never changed."
        case "running":
            counts = f"{told.looked_at} of {told.looked_at + told.left} paths looked at, {told.changed} changed"
            return counts if told.error is None else f"{counts}; it cannot go on: {told.error}"
        case "done":
            ended = "" if told.ended_at is None else f" on {time_text(told.ended_at)}"
            return f"Done{ended}: {told.looked_at} paths looked at, {told.changed} changed."
