"""The binary cache's own routes as plain ASGI, in front of everything else: few steps from bytes to an answer.

They match the path as it was sent, so that nothing that was hidden by percent signs or dots can name anything. All
other paths go to the application behind, or, where their first segment can only be a cache, are answered here.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

import structlog

from icehouse.db.serving import CacheInfoRow, NarinfoRow, NarRow, ServingQueries
from icehouse.errors import Corrupt, IcehouseError, InvalidFormat, NotFound, Unauthenticated
from icehouse.http.asgi import (
    Application,
    Head,
    Header,
    Receive,
    Scope,
    Send,
    SmallAnswer,
    answer,
    find_peer,
    find_value,
)
from icehouse.http.files import (
    ACCEPT_RANGES,
    PRIVATE,
    PRIVATE_FOREVER,
    PUBLIC_FOREVER,
    PUBLIC_HOUR,
    VARY,
    OpenFile,
    plan_file_answer,
)
from icehouse.http.metrics import RouteCounters, ServerCounters
from icehouse.http.ranges import ByteRange
from icehouse.http.recent_answers import KeptNar, RecentAnswers, Subject
from icehouse.http.streaming import ClientLeft, send_blocks, takes_pieces
from icehouse.nix import nix32
from icehouse.services.flushing import Settle
from icehouse.services.traffic import CacheTraffic
from icehouse.storage.blobs import Piece

_LETTER: Final = "[0-9a-df-np-sv-z]"
HOT_ROUTES: Final = {
    "/{cache}/{hash}.narinfo": rf"({_LETTER}{{32}})\.narinfo",
    "/{cache}/nar/{nar hash}.nar.zst": rf"nar/({_LETTER}{{52}})\.nar\.zst",
    "/{cache}/nix-cache-info": "nix-cache-info",
}
"""The routes answered here for GET and HEAD, and what each has below the cache's name."""

HOT_PATH: Final = re.compile(rf"/([a-z0-9](?:[a-z0-9-]{{0,48}}[a-z0-9])?)/(?:{'|'.join(HOT_ROUTES.values())})".encode())

_NARINFO_TYPE: Final[Header] = (b"content-type", b"text/x-nix-narinfo")
_CACHE_INFO_TYPE: Final[Header] = (b"content-type", b"text/x-nix-cache-info")
_NAR_TYPE: Final[Header] = (b"content-type", b"application/x-nix-nar")
_PLAIN_TEXT: Final[Header] = (b"content-type", b"text/plain; charset=utf-8")

_NO_STORE: Final[Header] = (b"cache-control", b"no-store")
_CHALLENGE: Final[Header] = (b"www-authenticate", b'Basic realm="icehouse"')

_PUBLIC_NARINFO: Final = Head(200, _NARINFO_TYPE, PUBLIC_HOUR)
_PRIVATE_NARINFO: Final = Head(200, _NARINFO_TYPE, PRIVATE, VARY)
_PUBLIC_CACHE_INFO: Final = Head(200, _CACHE_INFO_TYPE, PUBLIC_HOUR)
_PRIVATE_CACHE_INFO: Final = Head(200, _CACHE_INFO_TYPE, PRIVATE, VARY)
_UNKNOWN_CALLER: Final = Head(401, _PLAIN_TEXT, _NO_STORE, _CHALLENGE)
_NOT_FOUND: Final = Head(404, _PLAIN_TEXT, _NO_STORE)
# Without Accept-Ranges Nix gives up a download that had begun, where it would ask again for the rest.
_FAILED: Final = Head(503, _PLAIN_TEXT, _NO_STORE, ACCEPT_RANGES)

_FOR_PARTS: Final = frozenset({b"range", b"if-range", b"if-none-match"})
_SMALL_NAR_BYTES: Final = 64 * 1024
"""Of a NAR's file that is answered at once. More would keep other requests waiting, and gain little."""

_NEXT_SIGNATURE: Final = "\nSig: "

_NO_CACHE: Final = b"There is no such cache here, or none that these credentials may pull from.\n"
_NO_CREDENTIALS: Final = b"This needs credentials: a token as the password of Basic, in netrc for Nix, or as Bearer.\n"
_NO_FILE: Final = b"There is no such file in this binary cache.\n"
_OUR_FAULT: Final = b"The server could not read its database; its log has the rest.\n"

_log = structlog.get_logger(__name__)


class OpenNar(OpenFile, Protocol):
    """The file of a NAR."""

    def parts(self, start: int, stop: int) -> AsyncIterator[bytearray | list[Piece]]:
        """As `blocks`, with parts of files in place of some."""
        ...


class NarSource(Protocol):
    """Where the bodies of NARs come from."""

    async def open_nar(self, nar_id: int) -> OpenNar:
        """The NAR with that number.

        Raises:
            NotFound: it was purged meanwhile.
        """
        ...

    def read_small(self, nar_id: int) -> bytes | None:
        """The whole file of that NAR, if it can be had at once.

        Raises:
            NotFound: it was purged meanwhile.
        """
        ...


class PullCheck(Protocol):
    """Decides about a cache that is not public."""

    def __call__(self, header: bytes | None, address: str, cache_name: str, *, has_cache: bool) -> int:
        """The number of the token in the ``Authorization`` header, if it may pull from a cache that is not public.

        Raises:
            Unauthenticated: there are no valid credentials.
            NotFound: there is no such cache, or this caller may not know of it.
        """
        ...


@dataclass(frozen=True, slots=True)
class HotParts:
    """What the hot routes work with."""

    queries: ServingQueries
    check_pull: PullCheck
    nars: NarSource
    note_use: Callable[[int, int, int], None]
    """Notes in memory that a path was used, last at or before a time, so many times."""
    settle_first: Callable[[Settle], None]
    """Has a function called before uses and traffic are looked at, which notes those that were counted elsewhere."""
    note_download: Callable[[int, int | None, str, int], None]
    """Notes in memory that the NAR of a path was downloaded: with a token, by number, or from an address, at a time."""
    traffic_of: Callable[[str], CacheTraffic]
    """Where to count what is asked of a cache, by its name."""
    clock: Callable[[], int]
    """Seconds since the epoch."""
    counters: ServerCounters
    call_soon: Callable[[Callable[[], None]], object]
    """Has a function called in the next turn of the event loop."""
    find_client: Callable[[str, Iterable[Header]], str]
    """The address of the client, given that of who connected, and what the request has in its head."""


class HotRoutes:
    """The ASGI application: answers the binary cache's routes and hands all else to *rest*."""

    __slots__ = (
        "_cache_info",
        "_check_pull",
        "_clock",
        "_find_client",
        "_nar",
        "_narinfo",
        "_nars",
        "_note_download",
        "_note_use",
        "_queries",
        "_recent",
        "_rest",
        "_traffic_of",
    )

    def __init__(self, parts: HotParts, rest: Application) -> None:
        self._queries = parts.queries
        self._check_pull = parts.check_pull
        self._nars = parts.nars
        self._note_use = parts.note_use
        self._note_download = parts.note_download
        self._traffic_of = parts.traffic_of
        self._clock = parts.clock
        self._find_client = parts.find_client
        self._narinfo = parts.counters.route("narinfo")
        self._nar = parts.counters.route("nar")
        self._cache_info = parts.counters.route("nix-cache-info")
        self._recent = RecentAnswers(parts.queries, parts.call_soon, self._note_given)
        parts.settle_first(self._recent.settle)
        self._rest = rest

    def answer_now(self, raw_path: bytes, headers: Iterable[Header], *, peer: str, is_head: bool) -> SmallAnswer | None:
        """The answer to GET or HEAD for a narinfo, a nix-cache-info or a small NAR; `None` for every other path.

        *headers* are the request's, with their names in small letters; *peer* is the address of who connected. All
        of it happens here, so the caller must send the answer. With *is_head* the body, which the answer has
        nevertheless, is not counted as sent.
        """
        # The shortest way of all: every step of it is in the requests per second that `make bench` compares.
        began = time.perf_counter()
        kept = None if is_head else self._find_kept(raw_path)
        if kept is not None:
            self._narinfo.from_memory += 1
            self._narinfo.count(kept.head.status, time.perf_counter() - began, len(kept.body))
            return kept
        match = HOT_PATH.fullmatch(raw_path)
        if match is None:
            return None
        cache, hash_part, nar_hash = match.groups()
        if hash_part is not None:
            return self._answer_narinfo(raw_path, cache.decode(), hash_part.decode(), headers, peer, is_head=is_head)
        if nar_hash is None:
            return self._answer_cache_info(cache.decode(), headers, peer, is_head=is_head)
        return self._answer_small_nar(raw_path, cache.decode(), nar_hash.decode(), headers, peer, is_head=is_head)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            await self._rest(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        match = HOT_PATH.fullmatch(scope["raw_path"])
        if match is None:
            await self._rest(scope, receive, send)
            return
        cache, _, nar_hash = match.groups()
        small = self.answer_now(scope["raw_path"], scope["headers"], peer=find_peer(scope), is_head=is_head)
        if small is not None:
            await answer(send, small.head.status, small.head.headers, small.body, is_head=is_head)
        else:
            await self._answer_nar(scope, receive, send, cache.decode(), nar_hash.decode())

    def _find_kept(self, raw_path: bytes) -> SmallAnswer | None:
        """The answer to GET that is kept in memory. HEAD, which Nix asks once for a path, goes to the database."""
        try:
            found = self._recent.find(raw_path)
        except sqlite3.Error:
            return None  # what is asked next says so
        if found is not None:
            return SmallAnswer(_PUBLIC_NARINFO, found)
        absent = self._recent.find_absent(raw_path)
        return None if absent is None else SmallAnswer(_NOT_FOUND, absent)

    def _answer_narinfo(
        self, raw_path: bytes, cache: str, hash_part: str, headers: Iterable[Header], peer: str, *, is_head: bool
    ) -> SmallAnswer:
        began = time.perf_counter()
        try:
            row = self._queries.find_narinfo(cache, hash_part)
            if row is None or not row[0]:
                self._check(headers, peer, cache, has_cache=row is not None)
        except (IcehouseError, sqlite3.Error) as exc:
            return _refuse(exc, counters=self._narinfo, began=began, is_head=is_head)
        assert row is not None  # noqa: S101  `check_pull` never passes for an absent cache
        path_id = row[2]
        traffic = self._traffic_of(cache)
        if path_id is None:
            traffic.misses += 1
            head = _NOT_FOUND
            body = _no_such_path(cache.encode(), hash_part.encode())
            if row[0] and not is_head:
                self._recent.keep_absent(raw_path, body, traffic)
        else:
            head = _PUBLIC_NARINFO if row[0] else _PRIVATE_NARINFO
            body = render_row(row, hash_part)
            traffic.hits += 1
            if not is_head:
                traffic.sent_bytes += len(body)
                if row[0]:
                    self._recent.keep(raw_path, body, Subject(path_id, traffic))
            self._note_use(path_id, self._clock(), 1)
        self._narinfo.count(head.status, time.perf_counter() - began, 0 if is_head else len(body))
        return SmallAnswer(head, body)

    def _answer_cache_info(self, cache: str, headers: Iterable[Header], peer: str, *, is_head: bool) -> SmallAnswer:
        began = time.perf_counter()
        try:
            row = self._queries.find_cache_info(cache)
            if row is None or not row.is_public:
                self._check(headers, peer, cache, has_cache=row is not None)
        except (IcehouseError, sqlite3.Error) as exc:
            return _refuse(exc, counters=self._cache_info, began=began, is_head=is_head)
        assert row is not None  # noqa: S101  as above
        body = render_cache_info(row)
        head = _PUBLIC_CACHE_INFO if row.is_public else _PRIVATE_CACHE_INFO
        self._cache_info.count(head.status, time.perf_counter() - began, 0 if is_head else len(body))
        return SmallAnswer(head, body)

    def _answer_small_nar(
        self, raw_path: bytes, cache: str, nar_hash: str, headers: Iterable[Header], peer: str, *, is_head: bool
    ) -> SmallAnswer | None:
        began = time.perf_counter()
        if any(name in _FOR_PARTS for name, _ in headers):
            return None
        token_id: int | None = None
        missing = _NO_CACHE
        try:
            kept = self._recent.find_nar(raw_path)
            if kept is not None:
                body, row, head = kept
                self._nar.from_memory += 1
            else:
                row, token_id = self._find_nar(headers, peer, cache, nar_hash)
                if row.nar_id is None or row.path_id is None or row.file_size > _SMALL_NAR_BYTES:
                    return None
                missing = _NO_FILE
                found = self._nars.read_small(row.nar_id)
                if found is None:
                    return None
                body, head = found, Head(200, *_nar_headers(row), ACCEPT_RANGES, (b"etag", _nar_etag(row)))
                # What is damaged on the disk is read again each time, until it is healed.
                if row.is_public and row.hidden_at is None and sha256(body).digest() == row.file_hash:
                    self._recent.keep_nar(raw_path, KeptNar(body, row, head))
        except (IcehouseError, sqlite3.Error) as exc:
            return _refuse(exc, counters=self._nar, began=began, is_head=is_head, missing=missing)
        self._note_nar(row, token_id, headers, peer, has_body=not is_head)
        self._nar.count(200, time.perf_counter() - began, 0 if is_head else len(body))
        if not is_head:
            self._count_nar(cache, len(body))
        return SmallAnswer(head, body)

    async def _answer_nar(self, scope: Scope, receive: Receive, send: Send, cache: str, nar_hash: str) -> None:
        began = time.perf_counter()
        is_head = scope["method"] == "HEAD"
        missing = _NO_CACHE
        try:
            row, token_id = self._find_nar(scope["headers"], find_peer(scope), cache, nar_hash)
            missing = _NO_FILE
            if row.nar_id is None or row.path_id is None:
                return await self._rest(scope, receive, send)  # it may be the name under which stock Nix uploaded one
            nar = await self._nars.open_nar(row.nar_id)
        except (IcehouseError, sqlite3.Error) as exc:
            refusal = _refuse(exc, counters=self._nar, began=began, is_head=is_head, missing=missing)
            return await answer(send, refusal.head.status, refusal.head.headers, refusal.body, is_head=is_head)
        status, headers, part = plan_nar_answer(scope, row, nar.file_size)
        has_body = part is not None and not is_head
        self._note_nar(row, token_id, scope["headers"], find_peer(scope), has_body=has_body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        sent = 0
        try:
            if part is None or is_head:
                await send({"type": "http.response.body", "body": b""})
            else:
                read = nar.parts if takes_pieces(scope) else nar.blocks
                sent = await send_blocks(read(part.start, part.stop), receive, send)
        except ClientLeft:
            _log.debug("client left", cache=cache, nar_hash=nar_hash)
        except IcehouseError as exc:
            # The status is out; only a connection that ends too soon can still say that the body is not whole.
            level = _log.error if isinstance(exc, Corrupt) else _log.warning
            level("NAR could not be sent whole", cache=cache, nar_hash=nar_hash, error=str(exc))
            raise
        finally:
            self._nar.count(status, time.perf_counter() - began, sent)
            if has_body:
                self._count_nar(cache, sent)
        return None

    def _count_nar(self, cache: str, sent_bytes: int) -> None:
        traffic = self._traffic_of(cache)
        traffic.nars += 1
        traffic.sent_bytes += sent_bytes

    def _note_given(self, subject: Subject, count: int, body_bytes: int) -> None:
        """Note that a kept narinfo was given so often, the last time at most half a minute ago: as if it were now."""
        self._note_use(subject.path_id, self._clock(), count)
        subject.traffic.hits += count
        subject.traffic.sent_bytes += count * body_bytes

    def _note_nar(
        self, row: NarRow, token_id: int | None, headers: Iterable[Header], peer: str, *, has_body: bool
    ) -> None:
        assert row.path_id is not None  # noqa: S101  else there is no answer
        now = self._clock()
        if row.hidden_at is None:
            self._note_use(row.path_id, now, 1)
        if has_body:
            address = "" if token_id is not None else self._find_client(peer, headers)
            self._note_download(row.path_id, token_id, address, now)

    def _check(self, headers: Iterable[Header], peer: str, cache: str, *, has_cache: bool) -> int:
        address = self._find_client(peer, headers)
        return self._check_pull(find_value(headers, b"authorization"), address, cache, has_cache=has_cache)

    def _find_nar(self, headers: Iterable[Header], peer: str, cache: str, nar_hash: str) -> tuple[NarRow, int | None]:
        """The NAR, and the number of the token with which it is asked for, where it takes one."""
        try:
            digest = nix32.decode(nar_hash, 32)
        except InvalidFormat:
            digest = b""  # 52 letters can say a little more than 256 bits; no NAR has such a hash.
        row = self._queries.find_nar(cache, digest)
        token_id: int | None = None
        if row is None or not row.is_public:
            token_id = self._check(headers, peer, cache, has_cache=row is not None)
        assert row is not None  # noqa: S101  as above
        return row, token_id


def render_row(row: NarinfoRow, hash_part: str) -> bytes:
    """The narinfo of a visible path, as `icehouse.nix.narinfo.render_narinfo` writes it, made of the columns."""
    (_, store_dir, _, name, nar_hash, nar_size, file_hash, file_size, references, deriver, system, signatures, ca) = row
    deriver_line = f"Deriver: {deriver}\n" if deriver else ""
    system_line = f"System: {system}\n" if system else ""
    signature_lines = f"Sig: {signatures.replace(' ', _NEXT_SIGNATURE)}\n" if signatures else ""
    ca_line = f"CA: {ca}\n" if ca else ""
    return (
        f"StorePath: {store_dir}/{hash_part}-{name}\nURL: nar/{nar_hash}.nar.zst\nCompression: zstd\n"
        f"FileHash: sha256:{file_hash}\nFileSize: {file_size}\nNarHash: sha256:{nar_hash}\nNarSize: {nar_size}\n"
        f"References: {references}\n{deriver_line}{system_line}{signature_lines}{ca_line}"
    ).encode()


def render_cache_info(row: CacheInfoRow) -> bytes:
    """The text of ``nix-cache-info``."""
    return (f"StoreDir: {row.store_dir}\nWantMassQuery: {row.want_mass_query}\nPriority: {row.priority}\n").encode()


def plan_nar_answer(scope: Scope, row: NarRow, file_size: int) -> tuple[int, list[Header], ByteRange | None]:
    """Status and headers of the answer to a request for a NAR that is there, and the part of the file to send."""
    return plan_file_answer(scope, headers=_nar_headers(row), etag=_nar_etag(row), file_size=file_size)


def _nar_headers(row: NarRow) -> list[Header]:
    return [_NAR_TYPE, *([PUBLIC_FOREVER] if row.is_public else [PRIVATE_FOREVER, VARY])]


def _nar_etag(row: NarRow) -> bytes:
    return b'"%b"' % row.file_hash.hex().encode()


def _no_such_path(cache: bytes, hash_part: bytes) -> bytes:
    return b"No such store path. Why: GET /api/v1/caches/%b/why/%b\n" % (cache, hash_part)


def _refuse(
    error: Exception, *, counters: RouteCounters, began: float, is_head: bool, missing: bytes = _NO_CACHE
) -> SmallAnswer:
    match error:
        case Unauthenticated():
            head, body = _UNKNOWN_CALLER, _NO_CREDENTIALS
        case NotFound():
            head, body = _NOT_FOUND, missing
        case _:
            _log.error("hot route failed", route=counters.route, error=str(error))
            head, body = _FAILED, _OUR_FAULT
    counters.count(head.status, time.perf_counter() - began, 0 if is_head else len(body))
    return SmallAnswer(head, body)
