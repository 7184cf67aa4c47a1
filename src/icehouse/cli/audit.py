"""``icehouse audit``: who changed what, and when."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.data_folder import open_folder
from icehouse.cli.durations import parse_duration
from icehouse.cli.printer import Printer, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import InvalidFormat

if TYPE_CHECKING:
    from icehouse.api.audit import AuditEntry, AuditPage
    from icehouse.rules.audit import AuditFilter

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """Which changes to list."""

    cache: str | None = None
    action: str | None = None
    by: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 50
    data_dir: Path | None = None


def audit(  # noqa: PLR0913  each is an option of the command
    *,
    cache: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what concerns this cache of the server.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, such as token.create, or a kind of them, such as token.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="WHO", help="Only what was done by the token of this number, or of this name.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what was done in the last 7d, say, or from 2026-11-30 on.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what was done before that: 7d ago, or before 2026-11-30.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="COUNT", help="List so many of the newest changes.")] = 50,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="On the server's machine: the server's data folder. No token is needed then."),
    ] = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """List what was changed on a server, by whom and from where, the newest first.

    A token needs the permission admin, and is told what concerns the caches that it is for.
    """
    options = AuditOptions(cache, action, by, since, until, limit, data_dir)
    carry_out(run, options, Printer(is_json=json, is_quiet=quiet))


async def run(options: AuditOptions, services: Services, printer: Printer) -> None:
    """List changes."""
    from icehouse.rules.audit import AuditFilter

    now = int(time.time())
    wanted = AuditFilter(
        cache_name=options.cache,
        action=options.action,
        by=options.by,
        since=None if options.since is None else parse_since(options.since, now),
        until=None if options.until is None else parse_since(options.until, now),
    )
    if options.data_dir is not None:
        from icehouse.services.audit import Audit

        with open_folder(options.data_dir) as opened:
            entries = await _list(wanted, options.limit, Audit(opened.database).list_changes_on_server)
    else:
        async with services.server(services.default_login()) as server:

            async def ask(wanted: AuditFilter, *, limit: int) -> "AuditPage":
                return await server.list_changes(_query(wanted, limit))

            entries = await _list(wanted, options.limit, ask)
    printer.table(("WHEN", "ACTION", "CACHES", "SUBJECT", "WHO", "FROM"), [_row(each) for each in entries], entries)


async def _list(wanted: "AuditFilter", count: int, ask: "Callable[..., Awaitable[AuditPage]]") -> "list[AuditEntry]":
    entries: list[AuditEntry] = []
    has_more = True
    while has_more and len(entries) < count:
        page = await ask(wanted, limit=min(_PAGE, count - len(entries)))
        entries += page.entries
        has_more = page.has_more and bool(page.entries)
        if has_more:
            wanted = replace(wanted, before=entries[-1].id)
    return entries


def _query(wanted: "AuditFilter", limit: int) -> dict[str, str]:
    values = {
        "cache": wanted.cache_name,
        "action": wanted.action,
        "by": wanted.by,
        "since": wanted.since,
        "until": wanted.until,
        "before": wanted.before,
        "limit": limit,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _row(entry: "AuditEntry") -> tuple[str, ...]:
    who = entry.who if entry.token_id is None else f"{entry.who} (token {entry.token_id})"
    return (
        time_text(entry.at),
        entry.action,
        entry.cache_pattern,
        entry.subject or "",
        who,
        entry.address or "",
    )


def parse_since(text: str, now: int) -> int:
    """A time: so long before *now*, or a day or time of UTC in ISO 8601.

    Raises:
        InvalidFormat: it is neither.
    """
    try:
        return max(0, now - parse_duration(text))
    except InvalidFormat:
        pass
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidFormat(f"{text!r} is no time: expected for instance 7d, 2026-11-30 or 2026-11-30T12:00") from exc
    return max(0, int((time_ if time_.tzinfo is not None else time_.replace(tzinfo=UTC)).timestamp()))
