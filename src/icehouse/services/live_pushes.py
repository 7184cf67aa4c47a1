"""What is being pushed at this moment, kept in memory for people to look at."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Final

from icehouse.api.activity import PushView, UploadView
from icehouse.services.access import Entry

QUIET_SECONDS: Final = 30
"""How long a push without a request counts as under way. Between two of a push, a client reads and hashes."""

MAX_PUSHES: Final = 1_000
"""Beyond that, further ones are not shown."""

_SPEED_SECONDS: Final = 10


@dataclass(slots=True)
class _Upload:
    file: str | None
    began_at: int
    received_bytes: int = 0


@dataclass(slots=True)
class _Push:
    cache_name: str
    who: str
    began_at: int
    last_at: int
    received_bytes: int = 0
    published_paths: int = 0
    last_path: str | None = None
    uploads: list[_Upload] = field(default_factory=list[_Upload])
    marks: deque[tuple[int, int]] = field(default_factory=lambda: deque[tuple[int, int]](maxlen=_SPEED_SECONDS + 1))
    """Seconds of late in which something came, and how much had come before."""

    def receive(self, size: int, now: int) -> None:
        if not self.marks or self.marks[-1][0] != now:
            self.marks.append((now, self.received_bytes))
        self.received_bytes += size
        self.last_at = now

    def speed(self, now: int) -> int:
        """Bytes a second, of late."""
        late = next(((at, before) for at, before in self.marks if now - at <= _SPEED_SECONDS), None)
        return 0 if late is None else (self.received_bytes - late[1]) // max(1, now - late[0])


class Receiving:
    """An upload that is under way."""

    def __init__(self, push: _Push, upload: _Upload, clock: Callable[[], int]) -> None:
        self._push = push
        self._upload = upload
        self._clock = clock

    async def count(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces of the body, each counted as it passes."""
        async for piece in pieces:
            self._upload.received_bytes += len(piece)
            self._push.receive(len(piece), self._clock())
            yield piece


class LivePushes:
    """The pushes that this process has to do with, by cache and token. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], int], *, max_pushes: int = MAX_PUSHES) -> None:
        """*clock* gives seconds since the epoch."""
        self._clock = clock
        self._max_pushes = max_pushes
        self._pushes: dict[tuple[str, int | None], _Push] = {}

    @contextlib.contextmanager
    def receive(self, entry: Entry, file: str | None) -> Generator[Receiving]:
        """Show that somebody sends a body, until the end of the block. *file* is the name of a NAR; `None`: a pack."""
        push = self._find(entry)
        upload = _Upload(file, self._clock())
        push.uploads.append(upload)
        try:
            yield Receiving(push, upload, self._clock)
        finally:
            push.uploads.remove(upload)
            push.last_at = self._clock()

    def note_published(self, entry: Entry, base_names: Sequence[str]) -> None:
        """Show that paths became visible. A hash part does for a base name."""
        push = self._find(entry)
        push.published_paths += len(base_names)
        push.last_path = base_names[-1] if base_names else push.last_path

    def list_pushes(self) -> list[PushView]:
        """Those that are under way, the newest first."""
        now = self._clock()
        self._forget(now)
        shown = sorted(self._pushes.values(), key=lambda push: push.began_at, reverse=True)
        return [_view(push, now) for push in shown]

    def _find(self, entry: Entry) -> _Push:
        key = (entry.cache.name, None if entry.grant is None else entry.grant.token_id)
        now = self._clock()
        self._forget(now)
        push = self._pushes.get(key)
        if push is None:
            push = _Push(entry.cache.name, "" if entry.grant is None else entry.grant.description, now, now)
            if len(self._pushes) < self._max_pushes:
                self._pushes[key] = push
        push.last_at = now
        return push

    def _forget(self, now: int) -> None:
        over = [key for key, push in self._pushes.items() if not push.uploads and now - push.last_at > QUIET_SECONDS]
        for key in over:
            del self._pushes[key]


def _view(push: _Push, now: int) -> PushView:
    return PushView(
        cache=push.cache_name,
        who=push.who,
        began_at=push.began_at,
        received_bytes=push.received_bytes,
        bytes_per_second=push.speed(now),
        published_paths=push.published_paths,
        last_path=push.last_path,
        uploads=[
            UploadView(file=upload.file, began_at=upload.began_at, received_bytes=upload.received_bytes)
            for upload in push.uploads
        ],
    )
