"""Asking a cache for paths as a Nix that knows nothing yet would."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Final

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from icehouse.api.caches import CacheView
from icehouse.client.causes import cause_of
from icehouse.errors import Denied, InvalidFormat, Unavailable
from icehouse.nix.narinfo import NarInfo, parse_narinfo
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.signing import PublicKey, fingerprint
from icehouse.nix.store_paths import StoreDir

_AT_ONCE: Final = 16
_ANSWER_SECONDS: Final = 30
_FIRST_PAUSE_SECONDS: Final = 0.2
_MAX_PAUSE_SECONDS: Final = 5.0
_MAX_NAMED: Final = 5
_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})

Unseen = dict[ValidPath, str]
"""Paths that cannot be substituted yet, each with the reason."""


async def wait_until_visible(
    url: str, view: CacheView, store_dir: StoreDir, paths: Sequence[ValidPath], *, token: str | None, seconds: float
) -> None:
    """Ask until each of *paths* could be substituted: its narinfo is right and signed, and its NAR is there.

    Args:
        url: where the cache is asked, without a slash at the end.
        view: the cache; its public keys are those that a client trusts.
        store_dir: the store directory of the paths.
        paths: what is asked for.
        token: the password of a private cache.
        seconds: how long, at most.

    Raises:
        Denied: the token may not pull.
        Unavailable: some are not visible after that time; the message names them.
    """
    keys = [PublicKey.parse(text) for text in view.public_keys]
    unseen: Unseen = dict.fromkeys(paths, "there was no answer")
    pause = _FIRST_PAUSE_SECONDS
    client = ClientBuilder().timeout(timedelta(seconds=_ANSWER_SECONDS)).follow_redirects(enable=False).build()
    try:
        async with asyncio.timeout(seconds), client:
            while True:
                unseen = await _find_unseen(_Question(client, url, token), store_dir, list(unseen), keys)
                if not unseen:
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
    except TimeoutError:
        named = [f"{info.store_path}: {reason}" for info, reason in list(unseen.items())[:_MAX_NAMED]]
        more = f"; and {len(unseen) - len(named)} more" if len(unseen) > len(named) else ""
        raise Unavailable(
            f"{url}: after {seconds:.0f} s Nix still could not substitute all that was pushed: {'; '.join(named)}{more}"
        ) from None


class _Question:
    """A cache that is asked, as Nix asks: with the token as password, if there is one."""

    def __init__(self, client: Client, url: str, token: str | None) -> None:
        self._client = client
        self._url = url
        self._token = token

    async def send(self, method: str, place: str) -> tuple[int, bytes]:
        """Status and body of an answer."""
        request = self._client.request(method, f"{self._url}/{place}")
        if self._token is not None:
            request = request.basic_auth("icehouse", self._token)
        response = await request.build().send()
        if response.status in _REFUSALS:
            raise Denied(f"{self._url} may not be read with this token: --wait needs one that may pull")
        return response.status, bytes(await response.bytes())


async def _find_unseen(
    question: _Question, store_dir: StoreDir, paths: Sequence[ValidPath], keys: Sequence[PublicKey]
) -> Unseen:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def ask(info: ValidPath) -> str | None:
        async with slots:
            try:
                return await _find_fault(question, store_dir, info, keys)
            except PyreqwestError as exc:
                return f"the cache cannot be reached: {cause_of(exc)}"

    reasons = await asyncio.gather(*(ask(info) for info in paths))
    return {info: reason for info, reason in zip(paths, reasons, strict=True) if reason is not None}


async def _find_fault(
    question: _Question, store_dir: StoreDir, info: ValidPath, keys: Sequence[PublicKey]
) -> str | None:
    """Why Nix could not substitute a path; `None`: it could."""
    status, body = await question.send("GET", f"{info.store_path.hash_part}.narinfo")
    if status != HTTPStatus.OK:
        return f"its narinfo is answered with status {status}"
    try:
        narinfo = parse_narinfo(body)
    except InvalidFormat as exc:
        return str(exc)
    if (narinfo.store_path, narinfo.nar_hash) != (info.store_path, info.nar_hash):
        return "its narinfo is of another path or NAR"
    if not _is_signed(narinfo, info, store_dir, keys):
        return "its narinfo has no good signature of a key of the cache"
    status, _ = await question.send("HEAD", narinfo.url)
    return None if status == HTTPStatus.OK else f"its NAR is answered with status {status}"


def _is_signed(narinfo: NarInfo, info: ValidPath, store_dir: StoreDir, keys: Sequence[PublicKey]) -> bool:
    signed = fingerprint(info, store_dir)
    return any(key.verify(signed, signature) for signature in narinfo.signatures for key in keys)
