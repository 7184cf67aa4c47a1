"""The audit log: noting changes in the transactions that make them, and telling of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import structlog
from sqlalchemy import Connection

from icehouse.api.audit import AuditEntry, AuditPage
from icehouse.db.audit import AuditRow, Change, insert_change, look_back, page_changes
from icehouse.db.engine import Database, after_commit
from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.rules.access import Grant, check_may_read_audit, parse_cache_name
from icehouse.rules.audit import Action, Actor, AuditFilter, AuditPlace

ENTRIES_A_PAGE: Final = 100
MAX_ENTRIES_A_PAGE: Final = 1_000
MAX_BY_LENGTH: Final = 200
ROWS_LOOKED_AT: Final = 20_000
"""By `Audit.look_back`."""


_log = structlog.get_logger(__name__)


def record(
    connection: Connection,
    actor: Actor,
    action: Action,
    cache_pattern: str,
    subject: str | None = None,
    *,
    old: object = None,
    new: object = None,
    now: int,
) -> None:
    """Note a change, in the transaction that makes it: neither is there without the other. It is logged once committed.

    Args:
        connection: of that transaction.
        actor: who makes the change.
        action: what they do.
        cache_pattern: the name of the cache that it concerns, or the pattern of all that it does.
        subject: what of it: a pin, a path, the number of a token; `None`: the cache itself.
        old: what was there, as far as it is changed; becomes JSON, so it must hold no secret. `None`: nothing.
        new: what is there now, likewise.
        now: seconds since the epoch.
    """
    change = Change(action, cache_pattern, subject, _render(old), _render(new))
    insert_change(connection, actor, change, now=now)
    after_commit(connection, partial(_tell, actor, change))


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Those values of *old* and *new*, which have the same names, that are not the same."""
    names = [name for name in new if old[name] != new[name]]
    return {name: old[name] for name in names}, {name: new[name] for name in names}


def _render(values: object) -> str | None:
    return None if values is None else msgspec.json.encode(values).decode()


def _tell(actor: Actor, change: Change) -> None:
    facts = {
        "action": change.action.value,
        "cache_pattern": change.cache_pattern,
        "subject": change.subject,
        "who": actor.who,
        "token_id": actor.token_id,
        "client": actor.address,
        "request_id": actor.request_id,
        "old": change.old,
        "new": change.new,
    }
    _log.info("audit", **{name: value for name, value in facts.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the log."""

    entries: Sequence[AuditEntry]
    """Those that are wanted, the newest first."""
    older: AuditPlace | None
    """Where to go on; `None`: there are no further ones."""
    is_full: bool
    """Whether further ones are known, and not only not looked for."""


class Audit:
    """Tells what was changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_changes(self, wanted: AuditFilter, grant: Grant | None, *, limit: int = ENTRIES_A_PAGE) -> AuditPage:
        """The newest changes that are wanted, of those that concern no caches beyond the caller's own.

        Raises:
            InvalidFormat: the filter makes no sense.
            Unauthenticated: there are no credentials.
            Denied: *grant* lacks the permission admin.
        """
        return await self._list(wanted, check_may_read_audit(grant).admin_patterns, limit)

    async def list_changes_on_server(self, wanted: AuditFilter, *, limit: int = ENTRIES_A_PAGE) -> AuditPage:
        """The newest changes that are wanted.

        Raises:
            InvalidFormat: the filter makes no sense.
        """
        return await self._list(wanted, ("*",), limit)

    async def look_back(
        self, wanted: AuditFilter, grant: Grant | None, *, before: AuditPlace | None, limit: int = ENTRIES_A_PAGE
    ) -> Stretch:
        """As `list_changes`, for people: it looks at `ROWS_LOOKED_AT` rows at most, and tells how to go on.

        Raises:
            InvalidFormat: the filter makes no sense.
            Unauthenticated: there are no credentials.
            Denied: *grant* lacks the permission admin.
        """
        reach = check_may_read_audit(grant).admin_patterns
        _check(wanted, limit)
        rows, last = await self._database.read(
            partial(look_back, reach=reach, wanted=wanted, before=before, rows=ROWS_LOOKED_AT, limit=limit + 1)
        )
        is_full = len(rows) > limit
        older = AuditPlace(rows[limit - 1].at, rows[limit - 1].id) if is_full else last
        return Stretch([_entry(row) for row in rows[:limit]], older, is_full=is_full)

    async def _list(self, wanted: AuditFilter, reach: Sequence[str], limit: int) -> AuditPage:
        _check(wanted, limit)
        rows = await self._database.read(partial(page_changes, reach=reach, wanted=wanted, limit=limit + 1))
        return AuditPage(entries=[_entry(row) for row in rows[:limit]], has_more=len(rows) > limit)


def _check(wanted: AuditFilter, limit: int) -> None:
    if not 1 <= limit <= MAX_ENTRIES_A_PAGE:
        raise InvalidFormat(f"limit {limit}: expected 1 to {MAX_ENTRIES_A_PAGE}")
    if wanted.cache_name is not None:
        parse_cache_name(wanted.cache_name)
    kinds = {f"{action.partition('.')[0]}." for action in Action}
    if wanted.action is not None and wanted.action not in kinds | set(Action):
        raise InvalidFormat(f"action {excerpt(wanted.action)}: expected one of {', '.join([*sorted(kinds), *Action])}")
    if wanted.by is not None and not 1 <= len(wanted.by) <= MAX_BY_LENGTH:
        raise InvalidFormat(f"by {excerpt(wanted.by)}: expected 1 to {MAX_BY_LENGTH} characters")


def _entry(row: AuditRow) -> AuditEntry:
    actor, change = row.actor, row.change
    return AuditEntry(
        id=row.id,
        at=row.at,
        action=change.action.value,
        cache_pattern=change.cache_pattern,
        subject=change.subject,
        who=actor.who,
        token_id=actor.token_id,
        address=actor.address,
        request_id=actor.request_id,
        old=_parse(change.old),
        new=_parse(change.new),
    )


def _parse(values: str | None) -> object:
    return None if values is None else msgspec.json.decode(values)
