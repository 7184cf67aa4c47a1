"""What the audit log is made of: who changed what, and from where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from icehouse.rules.access import Grant


class Action(StrEnum):
    """What can be done that the audit log tells of. Names stay as they are: the log keeps them for ever."""

    CACHE_CREATE = "cache.create"
    CACHE_CONFIGURE = "cache.configure"
    CACHE_DELETE = "cache.delete"
    TOKEN_CREATE = "token.create"  # noqa: S105  no secret
    TOKEN_REVOKE = "token.revoke"  # noqa: S105  no secret
    TOKEN_EXCHANGE = "token.exchange"  # noqa: S105  no secret
    SESSION_LOGIN = "session.login"
    SESSION_LOGOUT = "session.logout"
    PERSON_REVOKE = "person.revoke"
    TRUST_ADD = "trust.add"
    TRUST_REMOVE = "trust.remove"
    REVOCATION_ADD = "revocation.add"
    REVOCATION_UNDO = "revocation.undo"
    KEY_ADD = "key.add"
    KEY_ACTIVATE = "key.activate"
    KEY_RETIRE = "key.retire"
    SECRET_ROTATE = "secret.rotate"  # noqa: S105  no secret
    PIN_PUT = "pin.put"
    PIN_DELETE = "pin.delete"
    PATH_DELETE = "path.delete"
    PATH_RESTORE = "path.restore"
    PATH_PROMOTE = "path.promote"
    COLLECTION_START = "collection.start"


KEEP_EXCHANGES_SECONDS: Final = 90 * 86_400
"""How long the log keeps that a job got a token. All else it keeps for ever, but jobs come by the thousand a day."""

MAX_EXCHANGES_A_DAY: Final = 5_000
"""Of one cache, in the log: a CI that asks again and again must not fill the disk. Further ones are told by the token
and the job, which are kept beside what they published, and by the server's log."""

DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something. Services get one from the edge, beside the rights that were checked there."""

    who: str
    """A token's description, or one of the sentences below."""
    token_id: int | None = None
    address: str | None = None
    """Of the client, as a trusted proxy gives it; `None`: no request came over the network."""
    request_id: str | None = None


ON_SERVER: Final = Actor("a command on the server's machine")
"""Somebody who has the data folder, and so may do all."""

THE_SERVER: Final = Actor("the server itself")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from."""

    address: str | None
    """Of the client, as far as the server and its trusted proxies know; `None`: they do not."""
    request_id: str

    def job_actor(self, who: str, token_id: int) -> Actor:
        """A job of a CI that got this token just now."""
        return Actor(who, token_id, self.address, self.request_id)

    def actor(self, grant: Grant | None) -> Actor:
        """Who sends it. `None`: somebody without credentials, whom services let change nothing."""
        if grant is None:
            return Actor("anybody", None, self.address, self.request_id)
        return Actor(grant.description, grant.token_id, self.address, self.request_id)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which rows of the log are wanted. `None` lets all through."""

    cache_name: str | None = None
    """Those that concern this cache."""
    action: str | None = None
    """One action, or with a dot at the end all of a kind: ``token.``."""
    by: str | None = None
    """The number of a token, or a part of who did it."""
    since: int | None = None
    until: int | None = None
    """Before this time."""
    before: int | None = None
    """Rows with a lower number than this."""


@dataclass(frozen=True, slots=True)
class AuditPlace:
    """A place in the log as it lies in time: the clock may have been set back, so numbers alone do not tell."""

    at: int
    id: int
