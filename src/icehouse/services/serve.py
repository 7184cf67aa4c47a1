"""Telling what a cache has, and why it has something or does not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.paths import KeptBy, PathView, Provenance, WhyAnswer
from icehouse.api.trust import JobView
from icehouse.db.cache_settings import load_settings
from icehouse.db.caches import CacheRow, list_upstreams
from icehouse.db.engine import Database
from icehouse.db.path_search import find_referring
from icehouse.db.paths import ExternalRow, PathRow, find_visible, load_externals, load_paths
from icehouse.db.pins import find_links, load_pins
from icehouse.db.tokens import TokenRow, get_token
from icehouse.db.trash import (
    PathFacts,
    PurgedFacts,
    WaitingFacts,
    find_facts,
    find_purged,
    find_visible_names,
    find_waiting_facts,
)
from icehouse.db.trust import find_job
from icehouse.errors import NotFound
from icehouse.nix import nix32
from icehouse.nix.hashes import render_sha256
from icehouse.nix.store_paths import HASH_PART_LENGTH, HashPart
from icehouse.rules.pins import kept_revisions
from icehouse.rules.revocation import REVOCATION
from icehouse.rules.verification import DAMAGED

MAX_SEARCHED: Final = 4_000
"""Paths that pins keep, each of which takes 14 to 20 µs in a cache of a million."""

_MAX_CLIMBED: Final = 300
_CLIMBED_AT_ONCE: Final = 100
_SEARCHED_AT_ONCE: Final = 1_000
_NAMED: Final = 5  # of what a path waits for, in a sentence


async def show_path(
    database: Database, cache: CacheRow, hash_part: HashPart, *, with_address: bool = False
) -> PathView:
    """The visible path with that hash part; *with_address*: and the address that it was published from.

    Raises:
        NotFound: the cache has none; the message says where to ask why.
    """
    return await database.read(partial(_show_path, cache=cache, hash_part=hash_part, with_address=with_address))


async def explain_path(
    database: Database, cache: CacheRow, hash_part: HashPart, *, now: int, max_searched: int = MAX_SEARCHED
) -> WhyAnswer:
    """Whether the cache has a path with that hash part, and why: who pushed it, what keeps it, what hid it."""
    return await database.read(
        partial(_explain_path, cache=cache, hash_part=hash_part, now=now, max_searched=max_searched)
    )


def _show_path(connection: Connection, *, cache: CacheRow, hash_part: HashPart, with_address: bool) -> PathView:
    row = load_paths(connection, cache.id, [hash_part]).get(hash_part)
    if row is None or row.hidden_at is not None:
        raise NotFound(
            f"cache {cache.name!r} has no visible path {hash_part}; "
            f"GET /api/v1/caches/{cache.name}/why/{hash_part} tells why"
        )
    token = None if row.published_by is None else get_token(connection, row.published_by)
    return PathView(
        store_path=row.store_path.base_name,
        nar_hash=render_sha256(row.nar_hash),
        nar_size=row.nar_size,
        file_hash=f"sha256:{row.file_hash}",
        file_size=row.file_size,
        url=f"nar/{nix32.encode(row.nar_hash)}.nar.zst",
        references=[reference.base_name for reference in row.references],
        deriver=row.deriver,
        system=row.system,
        ca=row.ca,
        signatures=list(row.signatures),
        created_at=row.created_at,
        published_by=None if token is None else token.description,
        provenance=None if token is None else _provenance(connection, token, row, with_address=with_address),
    )


def _provenance(connection: Connection, token: TokenRow, row: PathRow, *, with_address: bool) -> Provenance:
    job = None if token.job_id is None else find_job(connection, token.job_id)
    return Provenance(
        token_id=token.id,
        job=None if job is None else JobView(**asdict(job)),
        address=row.published_from if with_address else None,
    )


def _explain_path(
    connection: Connection, *, cache: CacheRow, hash_part: HashPart, now: int, max_searched: int
) -> WhyAnswer:
    facts = find_facts(connection, cache.id, hash_part)
    if facts is not None and facts.hidden_at is None:
        return _explain_visible(connection, cache, facts, now, max_searched)
    external = load_externals(connection, cache.id, [hash_part]).get(hash_part)
    if external is not None:
        return _explain_external(connection, cache, external)
    waiting = find_waiting_facts(connection, cache.id, hash_part)
    if waiting is not None:
        return _explain_waiting(connection, cache, waiting)
    if facts is not None and facts.hidden_at is not None:
        return _explain_hidden(connection, cache, facts, facts.hidden_at)
    purged = find_purged(connection, cache.id, hash_part)
    if purged is not None:
        return _explain_purged(connection, cache, purged)
    return WhyAnswer(
        hash_part=hash_part,
        state="never-pushed",
        explanation=(
            f"Nothing with the hash part {hash_part} was pushed to {cache.name}, or it was purged so long ago that it "
            "is forgotten."
        ),
        upstreams=_list_urls(connection, cache),
    )


def _explain_visible(
    connection: Connection, cache: CacheRow, facts: PathFacts, now: int, max_searched: int
) -> WhyAnswer:
    keeper, is_complete = _find_keeper(connection, cache, facts, now, max_searched)
    if keeper is not None:
        kept = f"The pin {keeper.pin}, revision {keeper.revision}, keeps it"
        kept += f": {' -> '.join(keeper.chain)}." if len(keeper.chain) > 1 else "."
    elif is_complete:
        kept = "No pin keeps it."
    else:
        kept = f"Whether a pin keeps it is not known: they keep more than {max_searched} paths."
    return WhyAnswer(
        hash_part=facts.store_path.hash_part,
        state="visible",
        explanation=(
            f"{facts.store_path} is here since {_render_time(facts.created_at)}{_by(facts.published_by)}. {kept} A "
            "client that does not find it may remember an earlier answer: Nix does so for an hour, unless --refresh is "
            "given."
        ),
        since=facts.created_at,
        published_by=facts.published_by,
        kept_by=keeper,
        is_every_pin_searched=is_complete,
    )


def _explain_hidden(connection: Connection, cache: CacheRow, facts: PathFacts, hidden_at: int) -> WhyAnswer:
    until = hidden_at + load_settings(connection, cache.id)[0].trash_seconds
    if facts.hidden_because is not None and facts.hidden_because.startswith(DAMAGED):
        way_back = (
            f"Until {_render_time(until)} it is kept: a push of what is damaged heals it, and so does `icehouse verify "
            "--repair` on the server."
        )
    elif facts.hidden_because is not None and facts.hidden_because.startswith(REVOCATION):
        way_back = (
            f"Until {_render_time(until)} it is kept: `icehouse revoke --undo` brings it back, and so does a push "
            "by somebody else of what is revoked."
        )
    else:
        way_back = (
            f"Until {_render_time(until)} it can be restored, and a push of it or of a path that refers to it restores "
            "it."
        )
    return WhyAnswer(
        hash_part=facts.store_path.hash_part,
        state="hidden",
        explanation=(
            f"{facts.store_path}, pushed on {_render_time(facts.created_at)}{_by(facts.published_by)}, was moved to "
            f"the trash on {_render_time(hidden_at)}: {facts.hidden_because or 'no reason was noted'}. {way_back}"
        ),
        since=hidden_at,
        published_by=facts.published_by,
        hidden_because=facts.hidden_because,
        hidden_at=hidden_at,
        restorable_until=until,
        upstreams=_list_urls(connection, cache),
    )


def _explain_purged(connection: Connection, cache: CacheRow, purged: PurgedFacts) -> WhyAnswer:
    return WhyAnswer(
        hash_part=purged.store_path.hash_part,
        state="purged",
        explanation=(
            f"{purged.store_path}, pushed on {_render_time(purged.created_at)}{_by(purged.published_by)}, was moved to "
            f"the trash on {_render_time(purged.hidden_at)}: {purged.hidden_because or 'no reason was noted'}. It was "
            f"purged on {_render_time(purged.purged_at)}; only another push brings it back."
        ),
        since=purged.purged_at,
        published_by=purged.published_by,
        hidden_because=purged.hidden_because,
        hidden_at=purged.hidden_at,
        upstreams=_list_urls(connection, cache),
    )


def _list_urls(connection: Connection, cache: CacheRow) -> list[str]:
    return [row.url for row in list_upstreams(connection, cache.id)]


def _explain_waiting(connection: Connection, cache: CacheRow, waiting: WaitingFacts) -> WhyAnswer:
    hash_parts = {HashPart(name[:HASH_PART_LENGTH]) for name in waiting.references}
    present = find_visible(connection, cache.id, hash_parts).keys()
    present |= load_externals(connection, cache.id, hash_parts - present).keys()
    absent = [name for name in waiting.references if name[:HASH_PART_LENGTH] not in present]
    some = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")
    return WhyAnswer(
        hash_part=waiting.store_path.hash_part,
        state="waiting",
        explanation=(
            f"{waiting.store_path} was pushed on {_render_time(waiting.created_at)}{_by(waiting.published_by)}, and "
            f"waits for {some or 'its references'}. It appears once these are here, and is forgotten after 24 hours."
        ),
        since=waiting.created_at,
        published_by=waiting.published_by,
        waiting_for=absent,
        upstreams=_list_urls(connection, cache),
    )


def _explain_external(connection: Connection, cache: CacheRow, external: ExternalRow) -> WhyAnswer:
    url = next((row.url for row in list_upstreams(connection, cache.id) if row.id == external.upstream_id), None)
    return WhyAnswer(
        hash_part=external.store_path.hash_part,
        state="external",
        explanation=(
            f"{external.store_path} was not uploaded, because the upstream {url} has it: its signature came with a "
            "path that refers to it. Clients need that upstream among their substituters."
        ),
        upstream=url,
    )


def _find_keeper(
    connection: Connection, cache: CacheRow, facts: PathFacts, now: int, max_searched: int
) -> tuple[KeptBy | None, bool]:
    """A pin that keeps the path, by one of the shortest chains; and, if none was found, whether all were looked at.

    Up from the path, breadth first, as long as few paths refer to it; else down from all that is pinned: what much
    refers to is near to that. What became visible before the path did cannot refer to it.
    """
    roots = {
        revision.path_id: (pin.name, revision.number)
        for pin in load_pins(connection, cache.id)
        for revision in kept_revisions(pin, now)
    }
    if facts.id in roots:
        pin, number = roots[facts.id]
        return KeptBy(pin=pin, revision=number, chain=[facts.store_path.base_name]), True
    chain, is_complete = _climb(connection, cache, facts, roots.keys(), min(max_searched, _MAX_CLIMBED))
    if chain:
        pin, number = roots[chain[0][0]]
        return KeptBy(pin=pin, revision=number, chain=[base_name for _, base_name in chain]), True
    if is_complete:
        return None, True
    names = find_visible_names(connection, cache.id, roots)
    origins = {store_path.base_name: roots[path_id] for path_id, store_path in names.items()}
    came_from: dict[str, str | None] = dict.fromkeys(origins)
    target = facts.store_path.base_name
    level = list(came_from)
    searched = 0
    while level:
        following: list[str] = []
        for start in range(0, len(level), _SEARCHED_AT_ONCE):
            some = level[start : start + _SEARCHED_AT_ONCE]
            searched += len(some)
            if searched > max_searched:
                return None, False
            hash_parts = [HashPart(name[:HASH_PART_LENGTH]) for name in some]
            for links in find_links(connection, cache.id, hash_parts, since=facts.generation).values():
                new = [reference for reference in links.references if reference not in came_from]
                came_from.update(dict.fromkeys(new, links.base_name))
                following += new
            if target in came_from:
                return _make_chain(came_from, origins, target), True
        level = following
    return None, True


def _climb(
    connection: Connection, cache: CacheRow, facts: PathFacts, roots: Collection[int], most: int
) -> tuple[list[tuple[int, str]], bool]:
    """A shortest chain, by id and base name, from one of *roots* to the path; and whether all referrers were seen."""
    leads_to: dict[str, tuple[int, str] | None] = {facts.store_path.base_name: None}
    level = [(facts.id, facts.store_path.base_name)]
    while level:
        by_name = {each[1]: each for each in level}
        names = list(by_name)
        level.clear()
        for start in range(0, len(names), _CLIMBED_AT_ONCE):
            hash_parts = [HashPart(name[:HASH_PART_LENGTH]) for name in names[start : start + _CLIMBED_AT_ONCE]]
            left = most - len(leads_to) + 2  # the path itself does not count, and one more shows that there are more
            found = find_referring(connection, cache.id, hash_parts, limit=left + len(names))
            for path_id, links in found:
                below = next((by_name[name] for name in links.references if name in by_name), None)
                if links.base_name in leads_to or below is None:
                    continue
                leads_to[links.base_name] = below
                if path_id in roots:
                    return _descend(leads_to, (path_id, links.base_name)), True
                level.append((path_id, links.base_name))
            if len(leads_to) > most + 1 or len(found) >= left + len(names):
                return [], False
    return [], True


def _descend(leads_to: Mapping[str, tuple[int, str] | None], top: tuple[int, str]) -> list[tuple[int, str]]:
    chain = [top]
    while (below := leads_to[chain[-1][1]]) is not None:
        chain.append(below)
    return chain


def _make_chain(came_from: dict[str, str | None], origins: dict[str, tuple[str, int]], target: str) -> KeptBy:
    chain = [target]
    while (previous := came_from[chain[-1]]) is not None:
        chain.append(previous)
    pin, number = origins[chain[-1]]
    return KeptBy(pin=pin, revision=number, chain=chain[::-1])


def _by(description: str | None) -> str:
    return "" if description is None else f" by {description}"


def _render_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
