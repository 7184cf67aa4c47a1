"""What the daemon is asked and answers at its socket: a line of JSON each way, and then the connection ends."""

import asyncio
from pathlib import Path
from typing import Final, Literal

import msgspec

from icehouse.errors import Conflict, InvalidFormat, Unavailable

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Some 100,000 paths."""


class DaemonRequest(msgspec.Struct, kw_only=True):
    """What is asked."""

    verb: Literal["push", "status", "stop"]
    paths: list[str] = []
    """Base names of store paths to push."""
    cache: str | None = None
    """Push to this one of the daemon's caches only."""
    timeout_seconds: int | None = None
    """How long to push before it stops."""


class CacheStatus(msgspec.Struct, kw_only=True):
    """What a daemon has for a cache."""

    cache: str
    waiting: int
    pushed: int
    """Since the queue was made; as all of these numbers."""
    refused: int
    gone: int
    trouble: str | None = None
    """Why nothing can be pushed at present."""
    refusals: list[str] = []
    """The newest reasons why paths were refused."""


class DaemonAnswer(msgspec.Struct, kw_only=True):
    """What it says."""

    error: str | None = None
    """Why it did not do it; then the rest says nothing."""
    store_dir: str = ""
    caches: list[CacheStatus] = []
    spools: list[str] = []
    """Folders from which the hook's files are taken."""
    trouble: str | None = None
    """Why nothing can be taken from them at present."""
    is_stopping: bool = False


async def ask_daemon(socket: Path, request: DaemonRequest) -> DaemonAnswer:
    """What the daemon at *socket* answers.

    Raises:
        Unavailable: nobody listens there, or it went away.
        Conflict: it says why not.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket, limit=MAX_LINE_BYTES)
    except OSError as exc:
        raise Unavailable(
            f"no daemon listens at {socket}: {exc.strerror}; start it with `icehouse daemon run`"
        ) from exc
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        await writer.drain()
        line = await reader.readline()
    except (OSError, ValueError) as exc:
        raise Unavailable(f"the daemon at {socket} went away: {exc}") from exc
    finally:
        writer.close()
    if not line.endswith(b"\n"):
        raise Unavailable(f"the daemon at {socket} went away before it answered")
    try:
        answer = msgspec.json.decode(line, type=DaemonAnswer)
    except msgspec.DecodeError as exc:
        raise InvalidFormat(f"{socket} gave an answer that is not this daemon's: {exc}") from exc
    if answer.error is not None:
        raise Conflict(answer.error)
    return answer
