"""``icehouse revoke``: hide what a token or a CI's jobs published, and take that back."""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from icehouse.cli.durations import parse_duration
from icehouse.cli.printer import Printer, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import InvalidFormat


@dataclass(frozen=True, slots=True)
class RevokeOptions:
    """What to revoke, as it was typed; or the number of a revocation to undo; or neither, to list them."""

    cache: str | None = None
    by: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    is_dry_run: bool = False
    undo: int | None = None
    is_list: bool = False


def revoke(  # noqa: PLR0913  each is an option of the command
    cache: Annotated[
        str | None, typer.Argument(metavar="CACHE", help="The cache. All caches of the server, if it is left out.")
    ] = None,
    *,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN|NAME=VALUE",
            help="A token's number; or what a CI's jobs have in common, such as repository=org/app. Can be repeated.",
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From when on: 2026-11-25T14:00Z, or 3d for three days ago.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Before when. If left out, they may publish nothing any more.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be hidden.")] = False,
    undo: Annotated[
        int | None, typer.Option(metavar="ID", help="End the revocation of that number, and bring back what it hid.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the revocations.")] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Hide all that a token, or a CI's jobs, published, with all that reaches it; and refuse it from them again.

    It tells how often each path was used, who downloaded what, and which caches have copies.
    """
    options = RevokeOptions(cache, tuple(by or ()), since, until, dry_run, undo, list_)
    if (undo is not None) + list_ + bool(by) != 1 or (by and since is None):
        raise typer.BadParameter("give --by and --since, or --undo, or --list")
    carry_out(run_revoke, options, Printer(is_json=json, is_quiet=quiet))


async def run_revoke(options: RevokeOptions, services: Services, printer: Printer) -> None:
    """Revoke, undo, or list."""
    if options.undo is not None:
        await _undo(options.undo, services, printer)
    elif options.is_list:
        await _list(services, printer)
    else:
        await _revoke(options, services, printer)


async def _revoke(options: RevokeOptions, services: Services, printer: Printer) -> None:
    from icehouse.api.revocations import RevocationCreate

    address = None if options.cache is None else services.find_cache(options.cache)
    body = RevocationCreate(
        by=_parse_by(options.by),
        since=_parse_time(options.since or ""),
        until=None if options.until is None else _parse_time(options.until),
        cache=None if address is None else address.name,
        dry_run=options.is_dry_run,
    )
    async with services.server(services.default_login() if address is None else address.login) as server:
        answer = await server.revoke(body)
    lines: list[str] = []
    for path in answer.paths:
        used = f"used {_times(path.uses)}, last {time_text(path.last_used_at)}" if path.uses else "not used"
        by = f"  downloaded by {len(path.downloads)}" if path.downloads else ""
        lines.append(f"{path.path}  {used}{by}" + (f"  reaches {path.reaches}" if path.reaches else ""))
    if len(answer.paths) < answer.count:
        lines.append(f"and {answer.count - len(answer.paths)} more")
    lines += [f"pin {pin} is on one of them" for pin in answer.pins]
    copies = [copy for path in answer.paths for copy in path.copies]
    lines += [f"{copy} has the same, and stays visible" for copy in copies]
    if copies:
        lines.append(
            "Each of those was promoted, or published there by somebody: `icehouse path info CACHE PATH` tells by "
            "whom, and `icehouse path delete CACHE PATH --with-referrers` hides it."
        )
    for by in answer.downloaders:
        who = by.address if by.token_id is None else f"token {by.token_id}" + (f" ({by.name})" if by.name else "")
        times = f"{_times(by.downloads)}, {time_text(by.first_at)} to {time_text(by.last_at)}"
        lines.append(f"{who} downloaded {by.paths} of them, {times}")
    if answer.id is None:
        lines.append(f"{_paths(answer.count)} would be hidden.")
    else:
        undo = f"`icehouse revoke --undo {answer.id}` brings them back."
        lines.append(f"Revocation {answer.id}: {_paths(answer.count)} hidden. {undo}")
    printer.result("\n".join(lines), answer)


def _paths(count: int) -> str:
    return "1 path" if count == 1 else f"{count} paths"


def _times(count: int) -> str:
    return "1 time" if count == 1 else f"{count} times"


async def _undo(number: int, services: Services, printer: Printer) -> None:
    async with services.server(services.default_login()) as server:
        answer = await server.undo_revocation(number)
    lines = [f"restored {name}" for name in answer.restored]
    if answer.left:
        lines.append(f"{answer.left} paths stay hidden; `icehouse path why` tells why.")
    printer.result("\n".join([*lines, f"Revocation {number} is undone."]), answer)


async def _list(services: Services, printer: Printer) -> None:
    async with services.server(services.default_login()) as server:
        views = await server.list_revocations()
    rows = [
        (
            str(view.id),
            view.by,
            view.cache or "all",
            time_text(view.since),
            "on" if view.until is None else time_text(view.until),
            "in force" if view.undone_at is None else f"undone {time_text(view.undone_at)}",
        )
        for view in views
    ]
    printer.table(("ID", "BY", "CACHE", "SINCE", "UNTIL", "STATE"), rows, views)


def _parse_by(texts: tuple[str, ...]) -> dict[str, str]:
    if len(texts) == 1 and texts[0].isdigit():
        return {"token": texts[0]}
    by: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name in by:
            raise InvalidFormat(f"--by {text!r}: expected a token's number, or NAME=VALUE such as repository=org/app")
        by[name] = value
    return by


def _parse_time(text: str) -> int:
    if re.fullmatch(r"\d+[smhdw]", text):
        return int(time.time()) - parse_duration(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidFormat(
            f"time {text!r}: expected for instance 2026-11-25T14:00Z, or 3d for three days ago"
        ) from error
    return int((parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp())
