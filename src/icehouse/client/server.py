"""A server, as its clients see it: one typed method for each request of the API.

What may pass by itself (a connection that broke, a server that restarts, too many requests) is tried again, with
growing waits or those that the server asks for. Everything else is one of our errors, in the server's own words.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, PyreqwestError
from pyreqwest.response import Response

from icehouse import __version__
from icehouse.api.audit import AuditPage
from icehouse.api.caches import CacheConfigure, CacheCreate, CacheSize, CacheView
from icehouse.api.collections import CollectionEvent, CollectionRequest, CollectionResult, PastCollection
from icehouse.api.keys import KeyAdd, KeyName, KeyRetire, KeyView, SigningProgress
from icehouse.api.paths import DeleteAnswer, PathsPage, PathSummary, PathView, RestoreAnswer, WhyAnswer
from icehouse.api.people import PeoplePage, PersonRevoke, PersonRevoked
from icehouse.api.pins import PinAnswer, PinDetails, PinPut, PinView
from icehouse.api.publish import (
    ChunksMissingAnswer,
    ChunksMissingRequest,
    MissingAnswer,
    MissingRequest,
    NarBody,
    NarResult,
    NarsAnswer,
    NarsRequest,
    PackAnswer,
    PathBody,
    PathsAnswer,
    PathsRequest,
    PromoteAnswer,
    PromoteRequest,
)
from icehouse.api.revocations import RevocationAnswer, RevocationCreate, RevocationView, UndoAnswer
from icehouse.api.server import Problem, ServerParameters
from icehouse.api.tokens import TokenCreate, TokenCreated, TokenView
from icehouse.api.trust import ExchangeAnswer, ExchangeRequest, TrustCreate, TrustView
from icehouse.client.causes import cause_of
from icehouse.client.job_tokens import JobTokens, explain
from icehouse.client.logins import Login
from icehouse.client.pacing import Pacer
from icehouse.errors import (
    Conflict,
    Denied,
    IcehouseError,
    InvalidFormat,
    NotFound,
    OverQuota,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

CONNECT_SECONDS: Final = 15
SILENCE_SECONDS: Final = 300
"""How long a server may say nothing: it may be putting a large NAR together."""

SLOW_SECONDS: Final = 10
"""After this time without any answer it is said that one is waited for."""

FIRST_ANSWER_SECONDS: Final = 60
"""How long it may take over its very first answer, where that is only read: what hangs is soon told from what works."""

_ATTEMPTS: Final = 8
_FIRST_ATTEMPTS: Final = 3
"""Until the server has answered once: it is more likely that its address is wrong than that it restarts."""

_RETRY_SECONDS: Final = 120
"""For how long a request is tried again. Who is asked to wait longer than this gives up at once, and says so."""

_MAX_WAIT_SECONDS: Final = 60
"""Between two tries, where the server does not say how long."""

_OK: Final = 200
_MULTIPLE_CHOICES: Final = 300
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_TOO_MANY: Final = 429
_SERVER_FAULT: Final = 500
_MAX_DIGITS: Final = 9
_JSON: Final = "application/json"

_ERRORS: Final[dict[int, Callable[[str], IcehouseError]]] = {
    400: InvalidFormat,
    401: Unauthenticated,
    403: Denied,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: Unsupported,
    422: InvalidFormat,
    507: OverQuota,
}

T = TypeVar("T")

Tell = Callable[[str], None]
"""Where a line about each request goes."""


class Server:
    """A server and what was sent to it. Any number of tasks of one event loop may use it; made by `connect`."""

    def __init__(
        self,
        client: Client,
        login: Login,
        *,
        pacer: Pacer | None = None,
        tell: Tell | None = None,
        warn: Tell | None = None,
    ) -> None:
        self._client = client
        self._pacer = pacer
        self._tell = tell
        self._warn = warn
        self._series = secrets.token_hex(4)
        self._request_count = 0
        self._login = login
        self._api = f"{login.url}/api/v1"
        self._job = None if login.job is None else JobTokens(login.job, login.url, self._exchange, self._ask)
        self._has_answered = False
        self.sent_bytes = 0
        """Bytes of request bodies that were sent, those of repeated tries included."""
        self.clock_difference: float | None = None
        """Seconds by which this machine's clock is ahead of the server's; `None`: no answer has told its time yet."""

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return self._login.url

    @property
    def bytes_per_second(self) -> int | None:
        """How fast it is sent to, at most."""
        return None if self._pacer is None else self._pacer.bytes_per_second

    async def parameters(self) -> ServerParameters:
        """How the server wants NARs cut, compressed and sent."""
        return await self._get("/server", ServerParameters)

    async def list_caches(self) -> list[CacheView]:
        """The caches that this token may pull from, and the public ones."""
        return await self._get("/caches", list[CacheView])

    async def create_cache(self, body: CacheCreate) -> CacheView:
        """Create a cache. Not tried again once it was sent."""
        return await self._post("/caches", body, CacheView, is_repeatable=False)

    async def show_cache(self, cache: str) -> CacheView:
        """A cache with its counts."""
        return await self._get(f"/caches/{_segment(cache)}", CacheView)

    async def configure_cache(self, cache: str, body: CacheConfigure) -> CacheView:
        """Change settings of a cache."""
        path = f"/caches/{_segment(cache)}"
        return self._parse(await self._request("PATCH", path, msgspec.json.encode(body), _JSON), CacheView, path)

    async def measure_cache(self, cache: str) -> CacheSize:
        """How much is visible in a cache."""
        return await self._get(f"/caches/{_segment(cache)}/size", CacheSize)

    async def delete_cache(self, cache: str) -> None:
        """Delete a cache with all that is in it."""
        await self._delete(f"/caches/{_segment(cache)}")

    async def collect(
        self, cache: str | None, *, is_dry_run: bool, show_progress: Callable[[str], None]
    ) -> CollectionResult:
        """Collect a cache, or all; or plan that. Not tried again once it was sent. Leaving early stops it."""
        path = "/collections" if cache is None else f"/caches/{_segment(cache)}/collections"
        body = msgspec.json.encode(CollectionRequest(is_dry_run=is_dry_run))
        async for line in self._stream_lines(path, body):
            event = self._parse(line, CollectionEvent, path)
            if event.progress is not None:
                show_progress(event.progress)
            if event.error is not None:
                raise (NotFound if event.is_not_found else Conflict)(event.error)
            if event.result is not None:
                return event.result
        raise Unavailable(f"{self.url}: the collection broke off; what it did by then is done")

    async def list_collections(self, cache: str | None) -> list[PastCollection]:
        """The newest collections of the past, at most 100: of all caches, or those that concern one."""
        path = "/collections" if cache is None else f"/caches/{_segment(cache)}/collections"
        return await self._get(path, list[PastCollection])

    async def list_tokens(self) -> list[TokenView]:
        """The tokens that this one may see."""
        return await self._get("/tokens", list[TokenView])

    async def show_own_token(self) -> TokenView:
        """What this token may do."""
        return await self._get("/tokens/self", TokenView)

    async def create_token(self, body: TokenCreate) -> TokenCreated:
        """Create a token. Not tried again once it was sent: its secret is in the one answer."""
        return await self._post("/tokens", body, TokenCreated, is_repeatable=False)

    async def revoke_token(self, token_id: int) -> None:
        """Revoke a token, at once and for good."""
        await self._delete(f"/tokens/{token_id}")

    async def list_people(self, query: Mapping[str, str]) -> PeoplePage:
        """People who logged in by a provider; a page of those that match a query, as the API names its parts."""
        return await self._get(f"/people?{urlencode(query)}", PeoplePage)

    async def revoke_person(self, person_id: int, *, keep_tokens: bool) -> PersonRevoked:
        """End the sessions of a person, and the tokens that they made for themselves."""
        return await self._post(f"/people/{person_id}/revoke", PersonRevoke(keep_tokens=keep_tokens), PersonRevoked)

    async def get_job_token(self) -> str:
        """The token of the job that this runs in.

        Raises:
            Unauthenticated: it gets none; the message says why.
        """
        token = None if self._job is None else await self._job.get()
        if token is None:
            raise Unauthenticated("this runs in no job" if self._job is None else str(self._job.refusal))
        return token

    async def get_token(self) -> str | None:
        """The token that requests carry; `None`: there is none."""
        return await self._credential()

    async def list_trust(self, cache: str) -> list[TrustView]:
        """The trust rules of a cache."""
        return await self._get(f"/caches/{_segment(cache)}/trust", list[TrustView])

    async def add_trust(self, cache: str, body: TrustCreate) -> TrustView:
        """Add a trust rule. Not tried again once it was sent."""
        return await self._post(f"/caches/{_segment(cache)}/trust", body, TrustView, is_repeatable=False)

    async def remove_trust(self, cache: str, rule_id: int) -> None:
        """Remove a trust rule, and end the tokens that jobs of its issuer have."""
        await self._delete(f"/caches/{_segment(cache)}/trust/{rule_id}")

    async def list_keys(self, cache: str) -> list[KeyView]:
        """The signing keys of a cache."""
        return await self._get(f"/caches/{_segment(cache)}/keys", list[KeyView])

    async def add_key(self, cache: str, body: KeyAdd) -> KeyView:
        """Make or import a signing key. Not tried again once it was sent."""
        return await self._post(f"/caches/{_segment(cache)}/keys", body, KeyView, is_repeatable=False)

    async def activate_key(self, cache: str, name: str) -> KeyView:
        """Let a key sign."""
        return await self._post(f"/caches/{_segment(cache)}/keys/activate", KeyName(name=name), KeyView)

    async def retire_key(self, cache: str, name: str, *, strip: bool) -> KeyView:
        """Let a key sign no more, and perhaps have its signatures removed."""
        return await self._post(f"/caches/{_segment(cache)}/keys/retire", KeyRetire(name=name, strip=strip), KeyView)

    async def signing_progress(self, cache: str) -> SigningProgress:
        """How far the server is with the signatures of a cache's paths."""
        return await self._get(f"/caches/{_segment(cache)}/keys/progress", SigningProgress)

    async def list_changes(self, query: Mapping[str, str]) -> AuditPage:
        """The newest entries of the audit log that match a query, as the API names its parts; a page of them."""
        return await self._get(f"/audit?{urlencode(query)}", AuditPage)

    async def promote(self, cache: str, source: str, hash_part: str) -> PromoteAnswer:
        """Publish a path of the cache *source* in *cache*; to be repeated while `left_nars` tells so."""
        path = f"/caches/{_segment(cache)}/promotions"
        body = msgspec.json.encode(PromoteRequest(source=source, hash_part=hash_part))
        return self._parse(await self._request("POST", path, body, _JSON, also=_CONFLICT), PromoteAnswer, path)

    async def revoke(self, body: RevocationCreate) -> RevocationAnswer:
        """Hold back what somebody published. Not tried again once it was sent."""
        return await self._post("/revocations", body, RevocationAnswer, is_repeatable=False)

    async def list_revocations(self) -> list[RevocationView]:
        """All revocations."""
        return await self._get("/revocations", list[RevocationView])

    async def undo_revocation(self, revocation_id: int) -> UndoAnswer:
        """End a revocation."""
        path = f"/revocations/{revocation_id}/undo"
        return self._parse(await self._request("POST", path), UndoAnswer, path)

    async def show_path(self, cache: str, hash_part: str) -> PathView:
        """A visible path."""
        return await self._get(f"/caches/{_segment(cache)}/paths/{_segment(hash_part)}", PathView)

    async def list_paths(self, cache: str, *, is_trash: bool) -> AsyncGenerator[list[PathSummary]]:
        """The visible paths of a cache, or those in its trash, by hash part, a page at a time."""
        path = f"/caches/{_segment(cache)}/paths?trash={'true' if is_trash else 'false'}"
        page = await self._get(path, PathsPage)
        yield page.paths
        while page.has_more and page.paths:
            after = page.paths[-1].store_path.partition("-")[0]
            page = await self._get(f"{path}&after={after}", PathsPage)
            yield page.paths

    async def restore_path(self, cache: str, hash_part: str) -> RestoreAnswer:
        """Make a path of the trash visible again."""
        path = f"/caches/{_segment(cache)}/paths/{_segment(hash_part)}/restore"
        return self._parse(await self._request("POST", path), RestoreAnswer, path)

    async def delete_path(self, cache: str, hash_part: str, *, with_referrers: bool) -> DeleteAnswer:
        """Move a path to the trash."""
        query = "?with_referrers=true" if with_referrers else ""
        path = f"/caches/{_segment(cache)}/paths/{_segment(hash_part)}{query}"
        return self._parse(await self._request("DELETE", path), DeleteAnswer, path)

    async def why(self, cache: str, hash_part: str) -> WhyAnswer:
        """Why a path is or is not there."""
        return await self._get(f"/caches/{_segment(cache)}/why/{_segment(hash_part)}", WhyAnswer)

    async def list_pins(self, cache: str) -> list[PinView]:
        """The pins of a cache."""
        return await self._get(f"/caches/{_segment(cache)}/pins", list[PinView])

    async def get_pin(self, cache: str, name: str) -> PinView:
        """A pin without its history."""
        return await self._get(f"{_pin(cache, name)}?before=1", PinView)

    async def show_pin(self, cache: str, name: str) -> PinDetails:
        """A pin with all its revisions, the newest first."""
        page = pin = await self._get(_pin(cache, name), PinDetails)
        revisions = list(page.revisions)
        while page.has_older and page.revisions:
            page = await self._get(f"{_pin(cache, name)}?before={revisions[-1].number}", PinDetails)
            revisions += page.revisions
        return msgspec.structs.replace(pin, revisions=revisions, has_older=False)

    async def put_pin(self, cache: str, name: str, body: PinPut) -> PinAnswer:
        """Put a pin on a path."""
        path = _pin(cache, name)
        return self._parse(await self._request("PUT", path, msgspec.json.encode(body), _JSON), PinAnswer, path)

    async def delete_pin(self, cache: str, name: str) -> None:
        """Remove a pin."""
        await self._delete(_pin(cache, name))

    async def find_missing(self, cache: str, hash_parts: Sequence[str]) -> list[str]:
        """Those of at most `max_hash_parts` hash parts that are not visible in the cache."""
        body = MissingRequest(list(hash_parts))
        return (await self._post(f"/caches/{_segment(cache)}/missing", body, MissingAnswer)).missing

    async def find_missing_chunks(self, cache: str, identities: Sequence[bytes]) -> list[int | None]:
        """For each of at most `max_identities` chunks its number, or None where the server lacks it."""
        body = ChunksMissingRequest(b"".join(identities))
        path = f"/caches/{_segment(cache)}/chunks/missing"
        answer = await self._post(path, body, ChunksMissingAnswer)
        known = int.from_bytes(answer.known, "little")
        if known.bit_count() != len(answer.numbers) or known.bit_length() > len(identities):
            raise InvalidFormat(
                f"{self.url}{path}: {known.bit_count()} chunks are marked as known and {len(answer.numbers)} have "
                "numbers; as many were expected"
            )
        numbers = iter(answer.numbers)
        return [next(numbers) if known >> index & 1 else None for index in range(len(identities))]

    async def send_pack(self, cache: str, pack: bytes) -> PackAnswer:
        """Send an upload: its index's length, its index, and its frames."""
        path = f"/caches/{_segment(cache)}/packs"
        return self._parse(await self._request("PUT", path, pack, "application/octet-stream"), PackAnswer, path)

    async def register_nars(self, cache: str, nars: Sequence[NarBody], *, is_verifying: bool) -> list[NarResult]:
        """Register NARs whose chunks are there. Some of the results may be pending.

        With *is_verifying* the server reads and proves also those that it has already.
        """
        path = f"/caches/{_segment(cache)}/nars"
        results = (await self._post(path, NarsRequest(list(nars), verify=is_verifying), NarsAnswer)).results
        if [result.nar_hash for result in results] != [nar.nar_hash for nar in nars]:
            raise InvalidFormat(f"{self.url}{path}: one result a NAR was expected, in the order sent")
        return results

    async def get_nar(self, cache: str, nar_hash: str) -> NarResult:
        """What became of a NAR that was pending. *nar_hash* is ``sha256:`` and 52 letters of Nix32."""
        letters = nar_hash.removeprefix("sha256:")
        return await self._get(f"/caches/{_segment(cache)}/nars/{_segment(letters)}", NarResult)

    async def publish_paths(self, cache: str, paths: Sequence[PathBody], externals: Sequence[PathBody]) -> PathsAnswer:
        """Publish paths, all together or (with `refused` in the answer) none."""
        path = f"/caches/{_segment(cache)}/paths"
        body = msgspec.json.encode(PathsRequest(list(paths), list(externals)))
        return self._parse(await self._request("POST", path, body, _JSON, also=_CONFLICT), PathsAnswer, path)

    async def _get(self, path: str, answer: type[T]) -> T:
        return self._parse(await self._request("GET", path), answer, path)

    async def _post(self, path: str, body: object, answer: type[T], *, is_repeatable: bool = True) -> T:
        data = msgspec.json.encode(body)
        return self._parse(await self._request("POST", path, data, _JSON, is_repeatable=is_repeatable), answer, path)

    async def _delete(self, path: str) -> None:
        """Delete what an answer without a body says is deleted: any program could answer with a page of its own."""
        if await self._request("DELETE", path):
            raise self._not_ours(path, "it has a body")

    def _not_ours(self, path: str, fault: str) -> InvalidFormat:
        return InvalidFormat(
            f"{self.url}{path} gave an answer that is not Icehouse's: {fault}; "
            "is that the address of an Icehouse server, and not much older or newer than this client?"
        )

    def _parse(self, data: bytes, answer: type[T], path: str) -> T:
        try:
            return msgspec.json.decode(data, type=answer)
        except msgspec.DecodeError as exc:
            raise self._not_ours(path, str(exc)) from exc

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str | None = None,
        *,
        also: int = _OK,
        is_repeatable: bool = True,
    ) -> bytes:
        """The body of a successful answer, or of one with the status *also*."""
        began = time.monotonic()
        attempts = _ATTEMPTS if self._has_answered else _FIRST_ATTEMPTS
        work = partial(self._attempt, method, path, body, content_type, also=also)
        try:
            return await work()
        except (RateLimited, Unavailable) as exc:
            failure = exc
        from icehouse.client.retries import retry  # noqa: PLC0415  most commands start without it, 12 ms sooner

        return await retry(
            work,
            after=failure,
            on=_wait_for if is_repeatable else _wait_before_sent,
            attempts=attempts,
            seconds=_RETRY_SECONDS - (time.monotonic() - began),
            wait_initial=0.2,
            wait_max=_MAX_WAIT_SECONDS,
        )

    async def _attempt(
        self, method: str, path: str, body: bytes | None, content_type: str | None, *, also: int
    ) -> bytes:
        cancelled_before = _count_cancellations()
        try:
            answer = await self._try_once(method, path, body, content_type, also=also)
        finally:
            # The HTTP client forgets a cancellation where its answer came in the same moment. Only what came
            # meanwhile counts: a task group that fails leaves a count behind until Python 3.13.
            if _count_cancellations() > cancelled_before:
                raise asyncio.CancelledError
        self._has_answered = True
        return answer

    async def _stream_lines(self, path: str, body: bytes) -> AsyncGenerator[bytes]:
        """The lines of an answer as they come, without those that are empty."""
        request_id = self._new_request_id()
        request = self._client.post(self._api + path).header("Content-Type", _JSON).body_bytes(body)
        request = request.header("X-Request-Id", request_id)
        if self._tell is not None:
            self._tell(f"POST {self.url}/api/v1{path}: waiting for its lines (request {request_id})")
        token = await self._credential()
        if token is not None:
            request = request.bearer_auth(token)
        try:
            async with request.build_streamed() as response:
                if not _OK <= response.status < _MULTIPLE_CHOICES:
                    data = bytes(await response.bytes())
                    raise _as_error(response, data, f"POST {self.url}/api/v1{path}")
                begun: list[bytes] = []
                has_whole = False
                while (piece := await response.body_reader.read()) is not None:
                    *lines, rest = bytes(piece).split(b"\n")
                    for line in lines:
                        whole = b"".join([*begun, line])
                        begun.clear()
                        if whole:
                            has_whole = True
                            yield whole
                    begun.append(rest)
                if not has_whole and any(begun):  # not a line of ours that broke off: another program's answer
                    yield b"".join(begun)
        except BuilderError as exc:
            raise InvalidFormat(f"{self.url} is not the address of a server: {exc.message}") from exc
        except PyreqwestError as exc:
            raise Unavailable(f"{self.url} cannot be reached: {cause_of(exc)}") from exc

    def _new_request_id(self) -> str:
        """An id that the server keeps, so that a request can be found in its log also if no answer came."""
        self._request_count += 1
        return f"{self._series}-{self._request_count}"

    async def _try_once(
        self, method: str, path: str, body: bytes | None, content_type: str | None, *, also: int
    ) -> bytes:
        token = await self._credential()
        try:
            return await self._send(method, path, body, content_type, token=token, also=also)
        except Unauthenticated as error:
            # A job's token may end early: its rule was removed, or the clocks of two machines differ.
            if self._job is None or (token is not None and not await self._job.drop(token)):
                raise
            another = await self._job.get()
            if another is None:
                raise explain(error, self._job.refusal) from error
            return await self._send(method, path, body, content_type, token=another, also=also)

    async def _credential(self) -> str | None:
        return self._login.token if self._job is None else await self._job.get()

    async def _exchange(self, request: ExchangeRequest, earlier: str | None) -> ExchangeAnswer:
        path = "/oidc/token"
        data = await self._send("POST", path, msgspec.json.encode(request), _JSON, token=earlier, also=_OK)
        return self._parse(data, ExchangeAnswer, path)

    async def _ask(self, url: str, token: str) -> bytes:
        """What is at *url*, which is not on this server."""
        try:
            response = await self._client.get(url).bearer_auth(token).build().send()
            data = bytes(await response.bytes())
        except PyreqwestError as exc:
            raise Unavailable(f"the CI gives no identity: {cause_of(exc)}") from exc
        if response.status != _OK:
            kind = Unavailable if response.status >= _SERVER_FAULT else Denied
            raise kind(f"the CI gives no identity: it answered with status {response.status}")
        return data

    async def _send(
        self, method: str, path: str, body: bytes | None, content_type: str | None, *, token: str | None, also: int
    ) -> bytes:
        request_id = self._new_request_id()
        request = self._client.request(method, self._api + path).header("X-Request-Id", request_id)
        if token is not None:
            request = request.bearer_auth(token)
        if body is not None:
            if self._pacer is None:
                request = request.body_bytes(body)
            else:
                request = request.header("Content-Length", str(len(body))).body_stream(self._pacer.pieces(body))
            self.sent_bytes += len(body)
        if content_type is not None:
            request = request.header("Content-Type", content_type)
        if method == "GET" and not self._has_answered:
            request = request.timeout(timedelta(seconds=FIRST_ANSWER_SECONDS))
        what = f"{method} {self.url}/api/v1{path}"
        began = time.monotonic()
        outcome = "broken off"
        slowness = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._tell_slowness)
        try:
            response = await request.build().send()
            data = bytes(await response.bytes())
            outcome = f"status {response.status}, {len(data)} bytes"
        except BuilderError as exc:
            raise InvalidFormat(f"{self.url} is not the address of a server: {exc.message}") from exc
        except PyreqwestError as exc:
            outcome = cause_of(exc)
            raise Unavailable(f"{self.url} cannot be reached: {outcome}") from exc
        finally:
            slowness.cancel()
            if self._tell is not None:
                sent = "" if body is None else f", {len(body)} bytes sent"
                milliseconds = round((time.monotonic() - began) * 1000)
                self._tell(f"{what}{sent}: {outcome}, in {milliseconds} ms (request {request_id})")
        self.clock_difference = _compare_clocks(response.get_header("Date"))
        if _OK <= response.status < _MULTIPLE_CHOICES or response.status == also:
            return data
        raise _as_error(response, data, what)

    def _tell_slowness(self) -> None:
        """Say once that nothing was heard yet: a person would else wonder what happens."""
        if self._warn is not None and not self._has_answered:
            self._warn(f"{self.url} has not answered for {SLOW_SECONDS} seconds; waiting")
            self._warn = None


@asynccontextmanager
async def connect(
    login: Login, *, bytes_per_second: int | None = None, tell: Tell | None = None, warn: Tell | None = None
) -> AsyncGenerator[Server]:
    """The server of a login. Nothing is sent yet; connections close at the end of the context.

    Args:
        login: its address, and who asks.
        bytes_per_second: how fast bodies of requests are sent, all together, at most.
        tell: where a line about each request goes, with its id.
        warn: where a line goes if the server's first answer does not come.

    Raises:
        InvalidFormat: the login's address is malformed (with the first request).
    """
    client = (
        ClientBuilder()
        .user_agent(f"icehouse/{__version__}")
        .connect_timeout(timedelta(seconds=CONNECT_SECONDS))
        .read_timeout(timedelta(seconds=SILENCE_SECONDS))
        .follow_redirects(enable=False)
        .build()
    )
    async with client:
        pacer = None if bytes_per_second is None else Pacer(bytes_per_second)
        yield Server(client, login, pacer=pacer, tell=tell, warn=warn)


def _count_cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _segment(text: str) -> str:
    """One segment of a URL's path."""
    return quote(text, safe="")


def _pin(cache: str, name: str) -> str:
    """The path of a pin in the API."""
    return f"/caches/{_segment(cache)}/pins/{_segment(name)}"


def _wait_for(exc: Exception) -> bool | float:
    """How `retry` is to go on: not at all, with its own wait, or with the one that the server asked for."""
    match exc:
        case RateLimited() | Unavailable():
            seconds = exc.retry_after_seconds
            if seconds is None:
                return True
            # As many clients as were refused together must not come back together.
            return False if seconds > _RETRY_SECONDS else seconds * random.uniform(1, 1.1)  # noqa: S311  no secret
        case _:
            return False


def _wait_before_sent(exc: Exception) -> bool | float:
    """As `_wait_for`, for requests that must not be carried out twice: only where the server did nothing."""
    return _wait_for(exc) if isinstance(exc, RateLimited) else False


def _as_error(response: Response, data: bytes, what: str) -> IcehouseError:
    status = response.status
    explanation = _explanation(response, data)
    # Who was refused reads why; where it happened helps only if it is not our server that speaks, or not as it should.
    is_refusal = _BAD_REQUEST <= status < _SERVER_FAULT and explanation is not None
    if explanation is None:
        explanation = f"status {status}, and no explanation that an Icehouse server would give"
        if status == _NOT_FOUND:
            explanation += "; a server's address has no path behind it, such as a cache's name"
        elif status >= _SERVER_FAULT:
            explanation += "; what stands before the server answered in its place: is the server up?"
    text = explanation if is_refusal else f"{what}: {explanation}"
    if (kind := _ERRORS.get(status)) is not None:
        return kind(text)
    seconds = _retry_after(response.get_header("Retry-After"))
    if seconds is not None and seconds > _RETRY_SECONDS:
        text += f"; it asks to be left alone for {seconds} seconds"
    if status == _TOO_MANY:
        return RateLimited(text, retry_after_seconds=1 if seconds is None else seconds)
    if status >= _SERVER_FAULT:
        return Unavailable(text, retry_after_seconds=seconds)
    return Unsupported(text)


def _explanation(response: Response, data: bytes) -> str | None:
    try:
        problem = msgspec.json.decode(data, type=Problem)
    except msgspec.DecodeError:
        location = response.get_header("Location")
        if response.status < _BAD_REQUEST and location is not None:
            return f"the server redirects to {location}; log in with the address that it redirects to"
        return None
    if response.status >= _SERVER_FAULT:
        return f"{problem.detail} (request {problem.request_id})"
    return problem.detail


def _compare_clocks(date: str | None) -> float | None:
    """How far this machine's clock is ahead of a ``Date`` header, in seconds."""
    try:
        return None if date is None else time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _retry_after(text: str | None) -> int | None:
    """The seconds that a ``Retry-After`` header names, as a number or as a date."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text[:_MAX_DIGITS])
    behind = _compare_clocks(text)
    return None if behind is None else max(0, round(-behind))
