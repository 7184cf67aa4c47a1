"""Changes of the audit log, told to people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from icehouse.api.audit import AuditEntry
from icehouse.rules.audit import Action
from icehouse.web.links import link


@dataclass(frozen=True, slots=True)
class Words:
    """A part of a sentence."""

    text: str
    page: str | None = None
    """The page about it."""
    is_name: bool = False
    """Whether it stands as it was typed."""


@dataclass(frozen=True, slots=True)
class Value:
    """A setting, or another fact, as it was and as it is."""

    name: str
    old: str | None
    new: str | None


Facts = Mapping[str, object]

_COUNTS: Final = ("deleted", "restored", "promoted")
"""Facts that tell of how many paths an entry is."""


def tell(entry: AuditEntry) -> Sequence[Words]:
    """What was done, as the rest of a sentence that begins with who did it."""
    told = _SENTENCES.get(entry.action)
    return [Words(entry.action, is_name=True)] if told is None else told(entry, _facts(entry))


def find_values(entry: AuditEntry) -> Sequence[Value]:
    """What was there before and after, by name."""
    old, new = _mapping(entry.old), _mapping(entry.new)
    return [Value(name, _show(old, name), _show(new, name)) for name in {**old, **new}]


def _facts(entry: AuditEntry) -> Facts:
    return {**_mapping(entry.old), **_mapping(entry.new)}


def _mapping(values: object) -> Facts:
    return cast("Facts", values) if isinstance(values, dict) else {}


def _show(facts: Facts, name: str) -> str | None:
    return _text(facts[name]) if name in facts else None


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_text, cast("list[object]", value))) or "none"
        case dict():
            pairs = cast("dict[str, object]", value).items()
            return ", ".join(f"{name}={_text(each)}" for name, each in pairs) or "none"
        case _:
            return str(value)


def _name(text: object, page: str | None = None) -> Words:
    return Words(str(text), page, is_name=True)


def _cache(entry: AuditEntry, page: str = "") -> Words:
    """The cache, with a link to a page of it; a pattern has none."""
    name = entry.cache_pattern
    if "*" in name:
        return _name(name)
    return _name(name, f"/ui/caches/{name}/{page}" if page else f"/{name}")


def _subject(entry: AuditEntry, page: str) -> Words:
    return _name(entry.subject, None if "*" in entry.cache_pattern else f"/ui/caches/{entry.cache_pattern}/{page}")


def _create_cache(entry: AuditEntry, facts: Facts) -> list[Words]:
    kind = "public" if facts.get("is_public") else "private"
    return [Words(f"created the {kind} cache "), _cache(entry)]


def _configure_cache(entry: AuditEntry, facts: Facts) -> list[Words]:
    return [Words(f"changed {', '.join(facts)} of "), _cache(entry)]


def _delete_cache(entry: AuditEntry, facts: Facts) -> list[Words]:
    del facts
    return [Words("deleted the cache "), _name(entry.cache_pattern)]


def _token(verb: str) -> Callable[[AuditEntry, Facts], list[Words]]:
    def told(entry: AuditEntry, facts: Facts) -> list[Words]:
        description = str(facts.get("description", ""))
        page = link("/ui/tokens/all", {"search": description}) if description else None
        may = f": {_text(facts.get('permissions', []))} on "
        return [Words(f"{verb} the token "), _name(description or entry.subject, page), Words(may), _cache(entry)]

    return told


def _exchange(entry: AuditEntry, facts: Facts) -> list[Words]:
    del facts
    return [Words("got a token of minutes for "), _cache(entry)]


def _plain(text: str) -> Callable[[AuditEntry, Facts], list[Words]]:
    def told(entry: AuditEntry, facts: Facts) -> list[Words]:
        del entry, facts
        return [Words(text)]

    return told


def _trust(verb: str) -> Callable[[AuditEntry, Facts], list[Words]]:
    def told(entry: AuditEntry, facts: Facts) -> list[Words]:
        claims = _text(facts.get("claims", {}))
        which = Words(f"{verb} trust rule {entry.subject} for jobs with ")
        return [which, _name(claims), Words(" at "), _cache(entry, "access#trust")]

    return told


def _key(verb: str) -> Callable[[AuditEntry, Facts], list[Words]]:
    def told(entry: AuditEntry, facts: Facts) -> list[Words]:
        how = " and removes its signatures" if facts.get("state") == "stripped" else ""
        return [Words(f"{verb} the key "), _subject(entry, "access#keys"), Words(f"{how} of "), _cache(entry)]

    return told


def _pin(verb: str, between: str) -> Callable[[AuditEntry, Facts], list[Words]]:
    def told(entry: AuditEntry, facts: Facts) -> list[Words]:
        del facts
        return [Words(f"{verb} the pin "), _subject(entry, f"pins/{entry.subject}"), Words(between), _cache(entry)]

    return told


def _path(verb: str, between: str) -> Callable[[AuditEntry, Facts], list[Words]]:
    def told(entry: AuditEntry, facts: Facts) -> list[Words]:
        count = next((facts[name] for name in _COUNTS if name in facts), None)
        others = f" and {count - 1} with it" if isinstance(count, int) and count > 1 else ""
        path = _subject(entry, f"paths/{(entry.subject or '')[:32]}")
        return [Words(f"{verb} "), path, Words(f"{others}{between}"), _cache(entry)]

    return told


def _revocation(verb: str) -> Callable[[AuditEntry, Facts], list[Words]]:
    def told(entry: AuditEntry, facts: Facts) -> list[Words]:
        return [
            Words(f"{verb} what was published by "),
            _name(_text(facts.get("by", f"revocation {entry.subject}"))),
            Words(" in "),
            _cache(entry),
        ]

    return told


def _person(entry: AuditEntry, facts: Facts) -> list[Words]:
    what = "the sessions" if facts.get("tokens") == 0 else "the sessions and tokens"
    name = str(facts.get("name", f"person {entry.subject}"))
    return [Words(f"ended {what} of "), _name(name, link("/ui/people", {"search": name}))]


def _collect(entry: AuditEntry, facts: Facts) -> list[Words]:
    del facts
    return [Words("started a collection of "), _cache(entry)]


_SENTENCES: Final[Mapping[str, Callable[[AuditEntry, Facts], list[Words]]]] = {
    Action.CACHE_CREATE: _create_cache,
    Action.CACHE_CONFIGURE: _configure_cache,
    Action.CACHE_DELETE: _delete_cache,
    Action.TOKEN_CREATE: _token("made"),
    Action.TOKEN_REVOKE: _token("revoked"),
    Action.TOKEN_EXCHANGE: _exchange,
    Action.SESSION_LOGIN: _plain("logged in"),
    Action.SESSION_LOGOUT: _plain("logged out"),
    Action.PERSON_REVOKE: _person,
    Action.TRUST_ADD: _trust("made"),
    Action.TRUST_REMOVE: _trust("removed"),
    Action.REVOCATION_ADD: _revocation("revoked"),
    Action.REVOCATION_UNDO: _revocation("brought back"),
    Action.KEY_ADD: _key("staged"),
    Action.KEY_ACTIVATE: _key("activated"),
    Action.KEY_RETIRE: _key("retired"),
    Action.SECRET_ROTATE: _plain("changed the server's secret"),
    Action.PIN_PUT: _pin("put", " in "),
    Action.PIN_DELETE: _pin("removed", " from "),
    Action.PATH_DELETE: _path("moved", " to the trash of "),
    Action.PATH_RESTORE: _path("restored", " in "),
    Action.PATH_PROMOTE: _path("promoted", " to "),
    Action.COLLECTION_START: _collect,
}
