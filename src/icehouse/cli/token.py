"""``icehouse token``: create, list and revoke tokens, over the network or on the server's machine."""

import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.data_folder import log_to_stderr
from icehouse.cli.durations import parse_duration
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import NotFound

if TYPE_CHECKING:
    from icehouse.api.tokens import TokenView
    from icehouse.services.tokens import Tokens

app = typer.Typer(
    help="Create, list and revoke tokens.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

DataDirOption = Annotated[
    Path | None,
    typer.Option(help="On the server's machine: the server's data folder. No token is needed then."),
]


class PermissionOption(StrEnum):
    """What a token may be allowed."""

    PULL = "pull"
    PUSH = "push"
    PIN = "pin"
    DELETE = "delete"
    CONFIGURE = "configure"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """A new token."""

    description: str
    permissions: tuple[PermissionOption, ...]
    cache_pattern: str
    expires: str | None = None
    data_dir: Path | None = None


@app.command(epilog=EXIT_CODES_HELP)
def create(
    description: Annotated[str, typer.Argument(help="What it is for; shown in listings.")],
    *,
    allow: Annotated[list[PermissionOption], typer.Option("--allow", "-a", help="What it may do. Can be repeated.")],
    caches: Annotated[
        str, typer.Option(help="The caches that it is for: a name, or a pattern such as 'team-*' or '*'.")
    ],
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid, such as 30d. For ever if left out.")
    ] = None,
    data_dir: DataDirOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Create a token. It is printed once, and kept nowhere.

    Over the network, the new token can do no more than the one that you are logged in with.
    """
    options = CreateOptions(description, tuple(allow), caches, expires, data_dir)
    carry_out(run_create, options, Printer(is_json=json, is_quiet=quiet))


async def run_create(options: CreateOptions, services: Services, printer: Printer) -> None:
    """Create a token and print it."""
    from icehouse.api.tokens import TokenCreate

    body = TokenCreate(
        description=options.description,
        permissions=[permission.value for permission in options.permissions],
        cache_pattern=options.cache_pattern,
        expires_in_seconds=None if options.expires is None else parse_duration(options.expires),
    )
    if options.data_dir is not None:
        with _tokens_of(options.data_dir) as tokens:
            created = await tokens.create_token_on_server(body)
    else:
        async with services.server(services.default_login()) as server:
            created = await server.create_token(body)
    view = created.view
    printer.message(
        f"Token {view.id}: {', '.join(view.permissions)} on {view.cache_pattern}, "
        f"expires {time_text(view.expires_at)}. It is not shown again:"
    )
    printer.result(created.token, created)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """All tokens that the caller may see."""

    data_dir: Path | None = None


@app.command("list", epilog=EXIT_CODES_HELP)
def list_(*, data_dir: DataDirOption = None, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """List tokens, without their secrets."""
    carry_out(run_list, ListOptions(data_dir), Printer(is_json=json, is_quiet=quiet))


async def run_list(options: ListOptions, services: Services, printer: Printer) -> None:
    """List tokens."""
    if options.data_dir is not None:
        with _tokens_of(options.data_dir) as tokens:
            views = await tokens.list_tokens_on_server()
    else:
        async with services.server(services.default_login()) as server:
            views = await server.list_tokens()
    now = int(time.time())
    rows = [
        (
            str(view.id),
            ",".join(view.permissions),
            view.cache_pattern,
            _state(view, now),
            _last_use(view),
            view.created_by_description or "the server",
            view.description,
        )
        for view in views
    ]
    printer.table(("ID", "ALLOWED", "CACHES", "STATE", "LAST USED", "CREATED BY", "DESCRIPTION"), rows, views)


@dataclass(frozen=True, slots=True)
class RevokeOptions:
    """A token to revoke."""

    token_id: int
    data_dir: Path | None = None


@app.command(epilog=EXIT_CODES_HELP)
def revoke(
    token_id: Annotated[int, typer.Argument(metavar="ID", help="Its number, from `icehouse token list`.")],
    *,
    data_dir: DataDirOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Revoke a token, at once and for good."""
    carry_out(run_revoke, RevokeOptions(token_id, data_dir), Printer(is_json=json, is_quiet=quiet))


async def run_revoke(options: RevokeOptions, services: Services, printer: Printer) -> None:
    """Revoke a token."""
    if options.data_dir is not None:
        with _tokens_of(options.data_dir) as tokens:
            await tokens.revoke_token_on_server(options.token_id)
    else:
        async with services.server(services.default_login()) as server:
            await server.revoke_token(options.token_id)
    printer.result(f"Revoked token {options.token_id}.", {"revoked": options.token_id})


@contextmanager
def _tokens_of(data_dir: Path) -> "Generator[Tokens]":
    """The tokens in a server's data folder, whether the server runs or not."""
    from icehouse.db.engine import Database
    from icehouse.services.tokens import Tokens

    log_to_stderr()
    file = data_dir / "icehouse.db"
    if not file.exists():
        raise NotFound(f"{file} is not there; expected the data folder of a server that was started before")
    database = Database.open(file)
    try:
        yield Tokens(database, clock=lambda: int(time.time()), draw=secrets.token_bytes)
    finally:
        database.close()


def _last_use(view: "TokenView") -> str:
    origin = "" if view.last_used_from is None else f" from {view.last_used_from}"
    return f"{time_text(view.last_used_at)}{origin}"


def _state(view: "TokenView", now: int) -> str:
    if view.revoked_at is not None:
        return "revoked"
    if view.expires_at is None:
        return "valid"
    return "expired" if view.expires_at <= now else f"until {time_text(view.expires_at)}"
